"""MindCube (Yin et al. 2025): asking a model its questions, and scoring answers and cognitive maps.

``answers`` takes letters out of text, ``official`` gives the official result, and ``strict`` the same without its
defects. ``blind`` and ``floor`` say what can be had without looking. ``ask`` puts the questions to a model. What the
questions are is said in :mod:`vagen.mindcube`.
"""
