"""Our step of GRPO, for ``rl_step.py``: run as a process of its own by :mod:`worker`."""

from __future__ import annotations

import argparse

from clozes import SIZES, WORLD, make_chat
from worker import Serving

from vagen.config import Config, Rl
from vagen.policy.chat import Chat, Picture
from vagen.rollout.prompts import Observation
from vagen.rollout.rollouts import begin_conversation, settings_of
from worlds import make

LEARNING_RATE = 1e-5


def main() -> None:
    args = arguments()
    serving = Serving()
    from vagen.train.engine import start_processes  # DeepSpeed prints when it is imported
    from vagen.train.rl import Learner, State, make_engine

    start_processes()
    chat = make_chat(args.size, packed=True)
    config, rl = settings(args)
    engine, actor = make_engine(config, rl, chat.policy)
    chat.policy.model.train()
    learner = Learner(config, rl, None, engine, actor, chat.policy, 0, 1)
    state, step = State(), 0

    def work() -> int:
        nonlocal state, step
        values, state = learner.step(step, state)
        assert "grad_norm" in values, "nothing was learned in this step"
        step += 1
        return args.groups * args.members

    serving.serve(work, prompt_tokens=prompt_tokens(chat, rl))


def arguments() -> argparse.Namespace:
    """Of the processes that train, ours and the peer's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    return parser.parse_args()


def settings(args: argparse.Namespace) -> tuple[Config, Rl]:
    """GRPO without a reference on episodes of one turn, of which every group is learned from.

    A step is one update, before which nothing is measured, as with TRL's default settings.
    """
    rollouts = {
        "worlds": [WORLD],
        "groups": args.groups,
        "members": args.members,
        "turns": 1,
        "tokens": args.tokens,
        "strategy": "no_think",
    }
    config = Config.model_validate(
        {
            "optimizer": {"lr": LEARNING_RATE, "schedule": "constant", "warmup_steps": 0},
            "train": {"micro_rows": args.groups},
            "rl": {"rollouts": rollouts, "policy": {"old": "own"}, "diagnostics": {"every": 0}},
        }
    )
    assert config.rl is not None
    return config, config.rl


def prompt_tokens(chat: Chat, rl: Rl) -> int:
    """Of an episode's first turn; all episodes begin with as many."""
    world = make(WORLD)
    frame, _ = world.reset(seed=0)
    conversation = begin_conversation(chat, world, settings_of(chat, rl.rollouts))
    prompt, _ = conversation.observe(Observation(Picture.of(frame), ""))
    return len(prompt.ids)


if __name__ == "__main__":
    main()
