"""MindCube (Yin et al. 2025): asking a model its questions, and scoring answers and cognitive maps.

``rows`` reads files, ``answers`` and ``maps`` take letters and maps out of text, ``similarity`` is the official
comparison of maps and ``official`` the official result; ``exact`` and ``strict`` are the same without its defects.
``blind`` and ``floor`` say what can be had without looking. ``prompts`` and ``ask`` put the questions to a model.
"""
