"""Training: the engine, the cloze loop, and launching several processes."""
