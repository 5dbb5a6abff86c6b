"""Checkpoints to resume from: whole or absent, known to belong to their run, and the newest and the best kept.

A checkpoint is written to a hidden folder, listed in a manifest, brought to the disk, and only then renamed; whatever
is killed in between leaves the hidden folder, which the next start removes. It holds DeepSpeed's own files, which are
pickles and can do anything when they are loaded: therefore only files that the manifest lists, of the run whose id it
carries, lying in the run's own folder, are. Knows nothing about models beyond that they can be saved.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from vagen.config import ConfigError
from vagen.files import write_json, write_text_atomically
from vagen.policy.policy import Policy
from vagen.train.engine import Engine, barrier, make_universal
from vagen.train.run import CHECKPOINTS, MANIFEST, MODEL, step_of

LATEST, BEST = "latest", "best.json"
STATE = "loop.json"  # in a checkpoint: what its loop has to know besides


@dataclass(frozen=True)
class Best:
    """The best validation so far.

    Attributes:
        step: after which it was measured.
        metric: its name; higher is better.
        value: of the metric.
    """

    step: int
    metric: str
    value: float


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        run: id of the run it belongs to.
        step: after which it was taken.
        rows: of the stream that were used up to it, over all processes and workers: the next row has this number.
        processes: that took it.
        zero_stage: of the files.
        best: the best validation until then, if there was one.
        files: size in bytes of every file, by its path in the folder.
    """

    run: str
    step: int
    rows: int
    processes: int
    zero_stage: int
    best: Best | None
    files: dict[str, int]


@dataclass(frozen=True)
class RandomStates:
    """Where the sources of random numbers of a process are, each in its own format; bytes as hexadecimal digits."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, tuple[int, ...], int, int, float]
    torch: str
    cuda: str | None


_MANIFEST = TypeAdapter(Manifest)
_RANDOM = TypeAdapter(RandomStates)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: its folder.
        id: its id.
        rank, ranks: of this process.
    """

    def __init__(self, run: Path, id: str, rank: int, ranks: int):
        self.folder = run / CHECKPOINTS
        self._id, self._rank, self._ranks = id, rank, ranks

    def write(
        self,
        engine: Engine,
        policy: Policy,
        step: int,
        rows: int,
        best: Best | None,
        keep: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a checkpoint; all processes call this, and it is there when any of them returns.

        Args:
            rows: of the stream that are used up.
            keep: how many of the newest to keep beside the best.
            state: what else the loop has to know to go on, as plain data.
        """
        name = f"step-{step:06d}"
        part = self.folder / f".{name}.part"
        if self._rank == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        barrier()
        engine.save(self.folder, part.name)
        write_json(part / _random_file(self._rank), asdict(random_states()))
        weights = engine.model_state()
        if self._rank == 0:
            policy.save(part / MODEL, weights)
            if state is not None:
                write_json(part / STATE, dict(state))
        barrier()
        if self._rank == 0:
            sizes = {file.relative_to(part).as_posix(): file.stat().st_size for file in _files(part)}
            manifest = Manifest(self._id, step, rows, self._ranks, engine.zero_stage, best, sizes)
            write_json(part / MANIFEST, asdict(manifest))
            _to_disk(part)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            part.rename(self.folder / name)
            _to_disk(self.folder)
            self._point_at(manifest)
            self._prune(keep, best)
        barrier()

    def newest(self) -> Manifest | None:
        """The newest whole checkpoint; None if there is none yet.

        Raises:
            ConfigError: it is not one of this run, or not as it was written.
        """
        found = self._whole()
        return self._checked(found[-1]) if found else None

    def state(self, manifest: Manifest) -> bytes:
        """The state that was kept with a checkpoint, as JSON."""
        return (self.folder / f"step-{manifest.step:06d}" / STATE).read_bytes()

    def spread_otherwise(self, manifest: Manifest) -> bool:
        """Whether another number of processes took a checkpoint, and spread its states over them."""
        return manifest.zero_stage > 0 and manifest.processes != self._ranks

    def load(self, engine: Engine, manifest: Manifest) -> None:
        """Put an engine, and the sources of random numbers, into the state of a checkpoint; all processes call this.

        Where it is spread otherwise, the engine must be one that loads universal checkpoints: it is turned into one
        first.
        """
        folder = self.folder / f"step-{manifest.step:06d}"
        if self.spread_otherwise(manifest):
            universal = self.folder / f".{folder.name}.universal.part"
            if self._rank == 0:
                make_universal(folder, universal)
            barrier()
            engine.load(self.folder, universal.name)
            barrier()
            if self._rank == 0:
                shutil.rmtree(universal)
        else:
            engine.load(self.folder, folder.name)
        file = folder / _random_file(self._rank)
        if file.exists():  # there may be more processes now than took it
            restore_random_states(_RANDOM.validate_json(file.read_bytes()))

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        for part in self.folder.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def _point_at(self, manifest: Manifest) -> None:
        """Say which is the newest, for DeepSpeed's tools, and which the best, for people."""
        write_text_atomically(self.folder / LATEST, f"step-{manifest.step:06d}")
        if manifest.best is not None:
            best = asdict(manifest.best)
            write_json(self.folder / BEST, {**best, "checkpoint": f"step-{manifest.best.step:06d}"})

    def _prune(self, keep: int, best: Best | None) -> None:
        """Remove all but the newest and the best."""
        for old in self._whole()[:-keep]:
            if best is None or step_of(old) != best.step:
                doomed = old.with_name(f".{old.name}.part")  # a half-removed one must not be taken for whole
                old.rename(doomed)
                shutil.rmtree(doomed)

    def _whole(self) -> list[Path]:
        """The folders of checkpoints, oldest first; what has no manifest counts for nothing."""
        found = (path.parent for path in self.folder.glob(f"step-*/{MANIFEST}"))
        return sorted((folder for folder in found if step_of(folder) >= 0), key=step_of)

    def _checked(self, folder: Path) -> Manifest:
        for file in (folder, folder / MANIFEST, folder.parent):
            if file.is_symlink():
                raise ConfigError(f"{file} is a link: checkpoints are loaded from the run's own folder only")
        try:
            manifest = _MANIFEST.validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            raise ConfigError(f"{folder / MANIFEST} cannot be read: remove {folder} to go on from before") from None
        if manifest.run != self._id:
            raise ConfigError(
                f"{folder} belongs to another run and is not loaded, since checkpoints can carry code: remove it"
            )
        if manifest.step != step_of(folder):
            raise ConfigError(f"{folder} is the checkpoint of step {manifest.step} under another name: rename it back")
        present = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
        for name, file in present.items():
            if not stat.S_ISREG(file.lstat().st_mode):
                raise ConfigError(f"{file} is no plain file: checkpoints are loaded from the run's own folder only")
            if name != MANIFEST and name not in manifest.files:
                raise ConfigError(f"{file} is not in the manifest of its checkpoint: remove it")
        for name, size in manifest.files.items():
            if name not in present or present[name].stat().st_size != size:
                raise ConfigError(
                    f"{folder / name} is missing or has another size than it was written with: "
                    f"remove {folder} to go on from the checkpoint before"
                )
        return manifest


def seed_random(seed: int) -> None:
    """Seed what a model may draw from while it trains (dropout); data are drawn from seeds of their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> RandomStates:
    """The states of all sources of random numbers of this process."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return RandomStates(
        python=(version, numbers, gauss),
        numpy=(str(kind), tuple(np.asarray(keys).tolist()), *rest),  # type: ignore[arg-type]
        torch=torch.get_rng_state().numpy().tobytes().hex(),
        cuda=torch.cuda.get_rng_state().numpy().tobytes().hex() if torch.cuda.is_available() else None,
    )


def restore_random_states(states: RandomStates) -> None:
    """The reverse of :func:`random_states`."""
    random.setstate(states.python)
    kind, keys, position, has_gauss, cached = states.numpy
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(states.torch))
    if states.cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(states.cuda))


def _bytes(digits: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(digits)), dtype=torch.uint8)


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.json"


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a real folder itself; links are not followed."""
    for path, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(path) / name).is_symlink())):
            yield Path(path) / name


def _to_disk(folder: Path) -> None:
    """Have the contents of a folder written to the disk: a renamed folder must not outlive its files."""
    for path, _, files in os.walk(folder):
        for name in (*files, "."):
            descriptor = os.open(Path(path) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
