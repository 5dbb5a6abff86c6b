"""The report card's questions of the validation split, asked while a model trains: accuracies only, and a share each.

Knows nothing about training, or about the other processes beyond how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vagen.cloze.grammar import named
from vagen.cloze.sample import Sample
from vagen.cloze.scoring import score
from vagen.config import Config, ConfigError
from vagen.evaluate.worldmodel import draw_samples
from vagen.policy.batches import draw
from vagen.policy.chat import Chat
from vagen.policy.generate import generate

MEAN = "eval/accuracy"


class Validation:
    """Samples of the validation split, the same each time.

    Args:
        config: of the run; ``train.validation`` says what to ask.
        worlds: the model is trained on.
        clozes: it is trained with, which are asked where the configuration names none.

    Attributes:
        cells: (world, cloze) of each row of the results.

    Raises:
        ConfigError: the metric to find the best checkpoint by is not among those measured.
        WorldError, ClozeError: too few samples can be had, or a cloze cannot be built.
    """

    def __init__(self, config: Config, worlds: Sequence[str], clozes: Sequence[str]):
        settings = config.train.validation
        self.cells = [(world, cloze) for world in worlds for cloze in settings.clozes or clozes]
        metrics = [MEAN, *(f"eval/{world}/{cloze}/accuracy" for world, cloze in self.cells)]
        if settings.best not in metrics:
            raise ConfigError(
                f"train.validation.best={settings.best!r} is not measured: choose one of {', '.join(metrics)}"
            )
        form, history = config.clozes.representation, config.clozes.history
        self._samples: list[list[Sample]] = [
            draw_samples(world, cloze, named(cloze), settings.n, settings.seed, "val", form, history=history)
            for world, cloze in self.cells
        ]
        self._batch = settings.batch

    def __call__(self, chat: Chat, rank: int, ranks: int) -> torch.Tensor:
        """(cells, 2) float64: right answers and samples, of every ``ranks``-th sample from the ``rank``-th on."""
        shares = [samples[rank::ranks] for samples in self._samples]
        return torch.tensor([[_right(chat, share, self._batch), len(share)] for share in shares], dtype=torch.float64)


def _right(chat: Chat, samples: Sequence[Sample], batch: int) -> float:
    """How many samples a model answers rightly."""
    if not samples:
        return 0.0
    pictures = draw(samples)
    prompts = [(chat.prompt(sample, shown), shown) for sample, shown in zip(samples, pictures, strict=True)]
    # Room for half as much again as any right answer: the length must not give the answer away.
    longest = max(len(chat.answer_tokens(sample.answer)) for sample in samples)
    answers = generate(chat, prompts, longest + longest // 2 + 4, batch)
    return float(sum(score(sample, answer).correct for sample, answer in zip(samples, answers, strict=True)))
