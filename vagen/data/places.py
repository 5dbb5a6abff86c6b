"""Where folders of shards are: on this machine, behind an address, or what a command prints.

Entries of ``shards`` become *places*, from which files are read by name. An entry is one of

* a folder, a glob of folders (``data/*/train``), or alternatives (``data/{a,b}/train``, ``{00..07}``),
* ``http://`` and ``https://``, the address that the files' names are appended to,
* ``hf://datasets/OWNER/NAME[@REVISION]/FOLDER``, a dataset repository of the Hugging Face Hub,
* ``s3://``, ``gs://``, ``file://`` and ``memory://``, through fsspec,
* ``pipe:COMMAND``, a shell command in which ``{file}`` stands for the name of the file that it is to print.

Commands are only ever those of the command line or the configuration: a manifest can name files and nothing else. This
module knows nothing about what the files hold.
"""

from __future__ import annotations

import os
import re
import shlex
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import glob
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import fsspec
from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from webdataset.gopen import gopen

MANIFEST = "manifest.json"
HTTP, HUB, FSSPEC, PIPE = ("http", "https"), "hf", ("s3", "gs", "file", "memory"), "pipe:"
TRIES = 3
SECONDS_TO_ANSWER = 60.0
SECONDS_BETWEEN_TRIES = 1.0


class DataError(ValueError):
    """Shards that cannot be used; the message names the file, what is wrong and what to do."""


class UnreadableError(DataError):
    """A file that cannot be read: it is not there, or nobody answers."""


@dataclass(frozen=True)
class Place(ABC):
    """A folder of shards, wherever it is.

    Attributes:
        entry: the entry of ``shards`` it comes from, as written.
        address: where it is; after globs and braces are expanded.
    """

    entry: str
    address: str

    #: Whether reading it again is as cheap as reading a copy.
    local = False

    def __str__(self) -> str:
        return self.address

    def file(self, name: str) -> str:
        """What a file is called in messages."""
        return f"{self.address.rstrip('/')}/{name}"

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            UnreadableError: it cannot be read.
        """


class Folder(Place):
    """A folder of this machine."""

    local = True

    def read(self, name: str) -> bytes:
        try:
            return (Path(self.address) / name).read_bytes()
        except OSError as error:
            raise UnreadableError(f"cannot read {self.file(name)} ({error.strerror})") from None


class Web(Place):
    """Files of a web server. Reading is tried again where the connection fails, not where the server says no."""

    def read(self, name: str) -> bytes:
        address = f"{self.address.rstrip('/')}/{quote(name)}"
        for attempt in range(1, TRIES + 1):
            try:
                with urllib.request.urlopen(address, timeout=SECONDS_TO_ANSWER) as response:
                    return response.read()
            except HTTPError as error:
                if error.code < 500 or attempt == TRIES:
                    raise UnreadableError(f"cannot read {address} ({error.code} {error.reason})") from None
            except (OSError, HTTPException) as error:
                if attempt == TRIES:
                    raise UnreadableError(f"cannot read {address} ({error or type(error).__name__})") from None
            time.sleep(SECONDS_BETWEEN_TRIES * attempt)
        raise AssertionError("the last try returns or raises")


class Store(Place):
    """An object store, through fsspec."""

    def read(self, name: str) -> bytes:
        try:
            with fsspec.open(self.file(name), "rb") as file:
                return file.read()  # type: ignore[union-attr]
        except OSError as error:
            raise UnreadableError(f"cannot read {self.file(name)} ({error or type(error).__name__})") from None
        except ImportError as error:
            raise DataError(f"cannot read {self.file(name)}: {error}") from None


@dataclass(frozen=True)
class Repository(Place):
    """A folder of a dataset repository. Its files are kept in ``cache``, as the Hub's own tools keep them."""

    repository: str
    revision: str | None
    folder: str
    cache: Path

    def read(self, name: str) -> bytes:
        try:
            found = hf_hub_download(
                self.repository,
                f"{self.folder}/{name}".strip("/"),
                repo_type="dataset",
                revision=self.revision,
                cache_dir=self.cache,
            )
            return Path(found).read_bytes()
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UnreadableError(f"cannot read {self.file(name)} ({_first_line(error)})") from None


class Pipe(Place):
    """What a shell command prints, ``{file}`` in it replaced."""

    def file(self, name: str) -> str:
        return f"{name} of {self.address}"

    def read(self, name: str) -> bytes:
        command = self.address.removeprefix(PIPE).replace("{file}", shlex.quote(name))
        try:
            with gopen(PIPE + command) as stream:  # type: ignore[union-attr]
                return stream.read()
        except OSError:
            raise UnreadableError(f"cannot read {self.file(name)} (the command failed)") from None


def places(entries: Sequence[str | Path], cache: Path) -> list[Place]:
    """The places that entries of ``shards`` stand for, in order, globs sorted.

    Args:
        cache: the folder for what comes from elsewhere.

    Raises:
        DataError: an entry that is none, or a glob that finds nothing.
    """
    return [place for entry in entries for place in _places_of(entry, cache)]


def place_of(entry: str | Path, cache: Path) -> Place:
    """The place of an entry that is to be one only."""
    found = places([entry], cache)
    if len(found) > 1:
        raise DataError(f"{entry} is {len(found)} folders of shards; name one")
    return found[0]


def _places_of(entry: str | Path, cache: Path) -> list[Place]:
    text = str(entry)
    if text.startswith(PIPE) and not isinstance(entry, Path):
        if "{file}" not in text:
            raise DataError(f"{text}: a command needs {{file}}, such as 'pipe:ssh host cat shards/{{file}}'")
        return [Pipe(text, text)]
    if isinstance(entry, Path) or os.path.exists(text):  # Path.exists raises where a name is too long
        return [Folder(text, text)]
    try:
        addresses = list(braceexpand(text))
    except UnbalancedBracesError:
        addresses = [text]
    found = [place for address in addresses for place in _expanded(text, address, cache)]
    return list(dict.fromkeys(found))


def _expanded(entry: str, address: str, cache: Path) -> Iterator[Place]:
    """The places of an address without alternatives."""
    if address.endswith(".tar"):
        raise DataError(f"{address} is a shard: name the folder that holds it and its {MANIFEST}")
    scheme, mark, _ = address.partition("://")
    if not mark:
        folders = _globbed(entry, address) if _is_glob(address) else [address]
        yield from (Folder(entry, folder) for folder in folders)
    elif scheme in HTTP:
        if _is_glob(address):
            raise DataError(f"{entry}: web servers do not list their folders; write alternatives, {{a,b}}")
        yield Web(entry, address)
    elif scheme == HUB:
        yield from _repositories(entry, address, cache)
    elif scheme in FSSPEC and "::" not in address:
        yield from (Store(entry, found) for found in (_stored(entry, address) if _is_glob(address) else [address]))
    else:
        known = ", ".join(f"{name}://" for name in (*HTTP, HUB, *FSSPEC))
        raise DataError(f"{entry}: shards cannot be read from {scheme}://; give a folder, {known} or pipe:COMMAND")


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _globbed(entry: str, pattern: str) -> list[str]:
    found = sorted(str(Path(path).parent) for path in glob(f"{pattern}/{MANIFEST}", recursive=True))
    if not found:
        raise DataError(f"{entry} finds no folder with a {MANIFEST}; `vagen collect` makes some")
    return found


def _stored(entry: str, pattern: str) -> list[str]:
    try:
        system, path = fsspec.core.url_to_fs(f"{pattern.rstrip('/')}/{MANIFEST}")
        found = sorted(map(system.unstrip_protocol, system.glob(path)))
    except (OSError, ImportError) as error:
        raise DataError(f"{entry}: {error}") from None
    if not found:
        raise DataError(f"{entry} finds no folder with a {MANIFEST}")
    return [path.removesuffix(f"/{MANIFEST}") for path in found]


_HUB = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.*))?")


def _repositories(entry: str, address: str, cache: Path) -> Iterator[Place]:
    match = _HUB.fullmatch(address.rstrip("/"))
    if match is None:
        raise DataError(f"{entry}: write hf://datasets/OWNER/NAME/FOLDER, with @REVISION after the name if you like")
    repository, revision, folder = match["repository"], match["revision"], match["folder"] or ""
    folders = _listed(entry, repository, revision, folder) if _is_glob(folder) else [folder]
    for name in folders:
        where = address.removesuffix(folder) + name
        yield Repository(entry, where, repository, revision, name, cache / "hub")


def _listed(entry: str, repository: str, revision: str | None, pattern: str) -> list[str]:
    """The folders of a repository that match; ``*`` stands for anything, slashes included."""
    try:
        files = HfApi().list_repo_files(repository, repo_type="dataset", revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(f"{entry}: cannot list {repository} ({_first_line(error)})") from None
    folders = sorted(file.removesuffix(f"/{MANIFEST}") for file in files if file.endswith(f"/{MANIFEST}"))
    found = [folder for folder in folders if fnmatchcase(folder, pattern)]
    if not found:
        raise DataError(f"{entry} finds no folder with a {MANIFEST}")
    return found


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
