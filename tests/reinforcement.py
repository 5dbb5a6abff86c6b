"""The smallest training with a warm-up, reinforcement and validation, for tests of studies that run several."""

from typing import Any

TINY: dict[str, Any] = {
    "model": {
        "tiny": {"hidden_size": 32, "layers": 1, "vision_hidden_size": 32, "vision_layers": 1, "image_size": 32},
    },
    "clozes": {"representation": "grid", "explain": False, "weights": {"inverse_dynamics": 1}},
    "train": {"steps": 2, "micro_rows": 4, "report_to": []},
    "rl": {
        "rollouts": {
            "worlds": ["frozenlake-4x4"],
            "groups": 2,
            "members": 2,
            "strategy": "no_think",
            "context": "no_concat",
            "turns": 2,
            "tokens": 4,
        },
        "warmup": {"steps": 2, "episodes": 6, "rows": 2, "clozes": 1},
        "evaluation": {"every": 1, "episodes": 4},
        "diagnostics": {"every": 0},
    },
}
