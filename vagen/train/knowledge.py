"""How sure a policy is of the states that it acts in: the perplexity of their true text given what it has been shown.

As SPA has it (Chen et al. 2025), beside that of guessing among what could be written at all. Where responses describe
the state, the context is that of the response: the whole prompt and the opening of the description. Elsewhere the
policy is asked for the state as in the cloze ``o0 -> s0``. The measures are those of :mod:`vagen.rl.diagnostics`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vagen.cloze.build import build
from vagen.cloze.grammar import named
from vagen.cloze.sample import Sample, simulator
from vagen.data.examples import spread
from vagen.mdp import Trajectory
from vagen.policy.chat import Chat, Encoded, common_start
from vagen.policy.constrain import Automaton, Constrainer
from vagen.policy.generate import score_encoded
from vagen.rl.diagnostics import random_guess_perplexity, state_perplexity
from vagen.rollout.responses import Response, Strategy, Tags, write_response
from vagen.rollout.turns import Rollout, Turn

_MARK = "\0"  # stands for the state in a response


class Knowledge:
    """Measures one policy.

    Args:
        strategy: of its responses.
        most: so many states are asked about at once.
    """

    def __init__(self, chat: Chat, strategy: Strategy, most: int):
        self._chat, self._most = chat, most
        blank = Response("", thought="", observation=_MARK, reasoning="", prediction="")
        before, mark, _ = write_response(blank, strategy, Tags()).partition(_MARK)
        self._opening = before if mark else None
        self._constrainer: Constrainer | None = None

    def measure(self, episodes: Sequence[Rollout]) -> dict[str, float]:
        """``state/…`` of states from all over the episodes; nothing where no state is known.

        ``perplexity_token`` and ``perplexity_cell``: of the policy, per token of the text and per cell of the board.
        ``guess_token`` and ``guess_cell``: of one that chooses evenly among the tokens that may come next in a valid
        state, and among the contents of a cell.
        """
        asked = [
            (episode, turn)
            for episode in episodes
            for turn in episode.turns
            if turn.steps < len(episode.trajectory.snapshots) and _is_known(episode.trajectory)
        ]
        if not asked:
            return {}
        asked = spread(asked, self._most)
        samples = [_sample(self._chat, episode, turn) for episode, turn in asked]
        contexts = [self._context(sample, turn) for sample, (_, turn) in zip(samples, asked, strict=True)]
        scores = score_encoded(self._chat, contexts)
        total = sum(float(found[0] - found[1:].sum()) for found in scores)
        tokens = sum(len(row[0].answer) - sum(len(other.answer) for other in row[1:]) for row in contexts)
        contents = [count for sample in samples for count in _contents(sample)]
        self._constrainer = self._constrainer or Constrainer(self._chat)
        choices = [count for s in samples for count in _choices(self._chat, s, self._constrainer.for_sample(s))]
        return {
            "state/perplexity_token": state_perplexity(torch.tensor([total]), units=tokens),
            "state/perplexity_cell": state_perplexity(torch.tensor([total]), units=len(contents)),
            "state/guess_token": random_guess_perplexity(choices),
            "state/guess_cell": random_guess_perplexity(contents),
        }

    def _context(self, sample: Sample, turn: Turn) -> list[Encoded]:
        """The state after its context, and that context's own part of the response, if it has any."""
        chat = self._chat
        if self._opening is None:
            pictures = turn.pictures[-1:]
            return [Encoded(chat.prompt(sample, pictures), chat.answer_tokens(sample.answer)[:-1], pictures)]
        before = chat.answer_tokens(self._opening)[:-1]
        whole = chat.answer_tokens(self._opening + sample.answer)[:-1]
        shared = common_start(before, whole)  # a token may reach from the opening into the state
        return [Encoded(turn.prompt, tokens, turn.pictures) for tokens in (whole, whole[:shared])]


def _is_known(trajectory: Trajectory) -> bool:
    return simulator(trajectory.world).knows_state


def _sample(chat: Chat, episode: Rollout, turn: Turn) -> Sample:
    """The question for the state in which a turn began, with its answer."""
    of = episode.trajectory
    snapshot = of.snapshots[turn.steps]
    window = Trajectory(of.world, of.split, of.seed, of.behaviour, (snapshot, snapshot), (0,), (0.0,))
    return build("state_estimation", named("state_estimation"), window, chat.policy.format.representation)


def _choices(chat: Chat, sample: Sample, automaton: Automaton) -> list[int]:
    """How many tokens could stand at each place of a sample's answer."""
    position, counts = automaton.start, []
    for token in chat.answer_tokens(sample.answer)[:-1].tolist():
        counts.append(len(automaton.allowed(position)))
        position = automaton.advance(position, token)
    return counts


def _contents(sample: Sample) -> list[int]:
    """How many contents each cell of a sample's board could have."""
    schema = sample.world.schema
    return [len(schema.contents)] * (schema.width * schema.height)
