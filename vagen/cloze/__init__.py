"""Cloze tests over MDP tuples: the grammar, how samples are built, and how answers are scored."""
