"""Train and evaluate vision-language models as world models, by cloze tests over Markov decision processes.

An agent understands its world if it can fill in any missing link of (o, s, a, r, o', s', done), not only name the next
action. Worlds whose exact state is known ask the questions and check the answers.
"""

__version__ = "0.1.0"
