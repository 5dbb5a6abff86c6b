"""What can be wrong with a model."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that cannot be loaded or used so; the message names it and the remedy."""
