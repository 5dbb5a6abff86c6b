"""Launcher for clusters: ``deepspeed scripts/train.py --config CONFIG [--section.key=value ...]``.

The same loop as ``vagen train``; this file only lets a launcher find it.
"""

import sys

from vagen.cli import main

if __name__ == "__main__":
    # DeepSpeed's launcher adds --local_rank=N; the rank is read from the environment instead.
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    sys.exit(main(["train", *arguments]))
