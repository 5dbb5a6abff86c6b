"""MindCube's questions as data (Yin et al. 2025): what is asked, what is right, and what an output is worth.

``rows`` reads files, ``prompts`` and ``targets`` write what is asked and the right output, ``maps`` takes cognitive
maps out of text, ``similarity`` is the official comparison of maps and ``exact`` the same without its defects;
``outputs`` judges outputs for rewards. Knows no model; benchmark scores are :mod:`vagen.evaluate.mindcube`.
"""
