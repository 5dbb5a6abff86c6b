"""TRL's step of GRPO, for ``rl_step.py``: run in the peers' environment by :mod:`worker`.

``GRPOTrainer`` in single precision, without gradient checkpointing and without a reference model, as ours; it
generates by ``transformers``. A response earns its number of different words: something that differs within a group.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from typing import Any

import datasets  # type: ignore[import-not-found]
from clozes import WORLD, make_chat
from rl_ours import LEARNING_RATE, arguments
from train_trl import AS_OURS, Turns, png
from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]
from worker import Serving

from worlds import make

CONTENT = [{"type": "image"}, {"type": "text", "text": ""}]  # as our rollouts show a state that needs no words


def main() -> None:
    args = arguments()
    serving = Serving()
    chat = make_chat(args.size)
    rows = dataset(args.groups)
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=args.groups * args.members,
            num_generations=args.members,
            max_completion_length=args.tokens,
            temperature=1.0,
            beta=0.0,
            learning_rate=LEARNING_RATE,
            **AS_OURS,
        )
        text = chat.policy.processor.apply_chat_template(rows[0]["prompt"], tokenize=False, add_generation_prompt=True)
        prompt = chat.policy.processor(text=[text], images=[rows[0]["images"]])["input_ids"][0]
        about = {
            "prompt_tokens": len(prompt),
            "versions": {package: version(package) for package in ("trl", "datasets", "accelerate")},
        }
        trainer = GRPOTrainer(
            model=chat.policy.model.train(),
            reward_funcs=different_words,
            args=settings,
            train_dataset=rows,
            processing_class=chat.policy.processor,
            callbacks=[Turns(serving, args.groups * args.members, lambda: about)],
        )
        trainer.train()


def different_words(completions: list[Any], **_: Any) -> list[float]:
    """A reward per response."""
    return [float(len(set(completion[0]["content"].split()))) for completion in completions]


def dataset(groups: int) -> Any:
    """First states of episodes, in TRL's format of prompts with images."""
    world = make(WORLD)
    frames = [world.reset(seed=seed)[0] for seed in range(groups)]
    columns = {
        "prompt": [[{"role": "user", "content": CONTENT}]] * groups,
        "images": [[{"bytes": png(frame), "path": None}] for frame in frames],
    }
    return datasets.Dataset.from_dict(columns).cast_column("images", datasets.List(datasets.Image()))


if __name__ == "__main__":
    main()
