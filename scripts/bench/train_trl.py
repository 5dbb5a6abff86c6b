"""TRL's training step on the same clozes, for ``cloze_train.py``: run in the peers' environment by :mod:`worker`.

``SFTTrainer`` with what vision-language models need, in single precision and without gradient checkpointing, as
ours; a step is an update from all clozes, whose images it decodes and whose prompts it writes itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import BytesIO
from typing import Any, ClassVar

import datasets  # type: ignore[import-not-found]
import torch
from clozes import LAYOUTS, make_chat, trajectories
from PIL import Image
from train_step import LEARNING_RATE, MAX_NORM, arguments
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]
from worker import Serving

from vagen.cloze.sample import Sample
from vagen.conversations import conversation
from vagen.policy.batches import draw

EPOCH = 64  # steps
#: Settings of TRL's trainers: single precision on the CPU, until the benchmark ends, and nothing written meanwhile.
AS_OURS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "max_steps": 10**9,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "optim": "adamw_torch_fused",
}


def main() -> None:
    args = arguments()
    serving = Serving()
    chat = make_chat(args.size)
    asked = [LAYOUTS[args.layout](window, args.clozes).samples for window in trajectories(args.windows)]
    samples = [sample for some in asked for sample in some]
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=args.at_once,
            gradient_accumulation_steps=len(samples) // args.at_once,
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_NORM,
            max_length=None,
            **AS_OURS,
        )
        trainer = InOrder(
            model=chat.policy.model.train(),
            args=settings,
            train_dataset=dataset(samples),
            processing_class=chat.policy.processor,
            callbacks=[Turns(serving, len(samples), lambda: about(sum(InOrder.first)))],
        )
        trainer.train()


class InOrder(SFTTrainer):
    """Takes the samples as they come, so that each step has all of them, and notes the losses of the first.

    A pass is given the sum over its tokens by the number of those of the step: these add up to the mean.
    """

    first: ClassVar[list[float]] = []

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if len(InOrder.first) < self.args.gradient_accumulation_steps:
            InOrder.first.append((result[0] if isinstance(result, tuple) else result).item())
        return result


def about(loss: float) -> dict[str, Any]:
    """What the benchmark is to know of TRL."""
    return {"loss": loss, "versions": {package: version(package) for package in ("trl", "datasets", "accelerate")}}


class Turns(TrainerCallback):
    """Lets a trainer go on for a step whenever it is asked for.

    Args:
        units: of work in a step.
        about: what the benchmark is to know once the first step is done.
    """

    def __init__(self, serving: Serving, units: int, about: Callable[[], dict[str, Any]]):
        self._serving, self._units, self._about, self._begun = serving, units, about, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._begun:
            self._serving.done(self._units)
        else:
            self._serving.ready(**self._about())
            self._begun = True
        if not self._serving.asked():
            control.should_training_stop = True


def dataset(samples: Sequence[Sample]) -> Any:
    """In TRL's format of prompts and completions, images as PNG, as 🤗 datasets keeps them."""
    rows = []
    for sample, pictures in zip(samples, draw(samples), strict=True):
        messages = conversation(sample, False, sample.answer)
        for message in messages:
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
        images = [{"bytes": png(picture.pixels), "path": None} for picture in pictures]
        rows.append({"prompt": messages[:-1], "completion": messages[-1:], "images": images})
    columns = {name: [row[name] for row in rows] * EPOCH for name in rows[0]}
    made = datasets.Dataset.from_dict(columns)
    return made.cast_column("images", datasets.List(datasets.Image()))


def png(pixels: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
