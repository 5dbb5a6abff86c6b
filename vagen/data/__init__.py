"""Trajectories on disk, and the stream of cloze samples made from them."""
