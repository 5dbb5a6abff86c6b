"""The mathematics of multi-turn reinforcement learning: pure functions of named tensors."""
