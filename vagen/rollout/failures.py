"""What is a world's own error, and what is ours.

Worlds are other people's code, whose errors nobody can list, and one of them must not end a run of days. So whatever
comes out of a call of a world's own methods counts as its failure, unless it is a :class:`WorldError`: that is bad
input, an action that does not exist as well as a split that cannot be made, and ends the run. What is done with a
world's answers stands outside, so that errors of this package rise.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from worlds import WorldError


class WorldFailure(RuntimeError):  # noqa: N818 - an error is its cause
    """A world raised an error of its own. The message names it and the line of code; it is the cause of this one."""


class WorldsCode:
    """While this context is open nothing but calls of a world's methods may be made.

    Raises:
        WorldFailure: one of them raised an error of its own.
    """

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, WorldError):
            raised = traceback.extract_tb(trace)[-1]
            place = f"{Path(raised.filename).name}:{raised.lineno}"
            raise WorldFailure(f"{type(error).__name__}: {error} ({place})") from error
