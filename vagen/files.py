"""Files that are whole or absent, never half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class OutputError(ValueError):
    """A place that cannot be written to; the message says why."""


def ensure_folder(path: Path) -> Path:
    """Make a folder, with its parents, and make sure it can be written to.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}; choose another output") from None
    return path


def check_file(path: Path) -> Path:
    """The absolute path of a file that can be written, its folder made; to be called before long work, too.

    Raises:
        OutputError: the place cannot be written to, or is a folder.
    """
    path = path.resolve()
    if path.is_dir():
        raise OutputError(f"cannot write to {path}: it is a folder; name a file")
    ensure_folder(path.parent)
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    Raises:
        OutputError: the place cannot be written to, or is a folder.
    """
    path = check_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: Path, marker: str, overwrite: bool) -> Path:
    """The absolute path of a folder that is free or may be replaced; to be called before long work, too.

    Args:
        marker: a file that every folder of this kind has. One without it is not replaced even where that is
            asked for: a mistyped output must not delete somebody's work.
        overwrite: replace a folder that is not empty.

    Raises:
        OutputError: the place is taken.
    """
    path = path.resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not (path / marker).is_file():
            raise OutputError(
                f"cannot write to {path}: it exists and has no {marker}; choose another output or remove it"
            )
        if not overwrite:
            raise OutputError(f"cannot write to {path}: it is taken; add --overwrite or choose another output")
    if path == Path.cwd() or path in Path.cwd().parents:
        raise OutputError(f"cannot write to {path}: it is the working folder or holds it; choose a folder below")
    return path


@contextmanager
def atomic_folder(path: Path, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    Args:
        marker, overwrite: see :func:`check_folder`.

    Raises:
        OutputError: the place cannot be written to, or is taken.
    """
    path = check_folder(path, marker, overwrite)
    ensure_folder(path.parent)
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{role}") for role in ("part", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _follow_umask(temporary)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _follow_umask(folder: Path) -> None:
    """Give every file the permissions of a new one: some libraries write files that only their owner may read."""
    probe = folder / f".{os.getpid()}.probe"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def write_text_atomically(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON; refuses NaN, which is no JSON."""
    write_text_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
