"""Files are whole or absent, whatever happens while they are written."""

import json
import math
import os
from pathlib import Path

import pytest

from vagen.files import OutputError, atomic_folder, atomic_path, ensure_folder, write_json, write_text_atomically


def everything(folder: Path) -> dict[str, str | None]:
    """All that lies in a folder, hidden files too; ``None`` for folders."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_text() for path in folder.rglob("*")}


def fill(path: Path, text: str = "new", overwrite: bool = False) -> None:
    """Make a folder with a file and a folder in it, by ``atomic_folder``."""
    with atomic_folder(path, "inner/file", overwrite) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text(text)


# ------------------------------------------------------------------------------------------------------------- files


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent, "another file system could not take its place at once"
    assert everything(path.parent) == {"file.txt": "whole"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_that_fails_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    before = everything(tmp_path)

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert everything(tmp_path) == before, "something half-written is left, or the old is lost"


def test_a_file_replaces_the_old(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("a longer old text")
    write_text_atomically(path, "näh ✓\n")
    assert path.read_bytes() == "näh ✓\n".encode()
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass
    assert everything(tmp_path) == {"file": "old"}


def test_json_is_written_readable(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == value
    assert list(json.loads(text)) == ["b", "a"], "the order of keys is lost"
    assert text.endswith("}\n")
    assert text.count("\n") > 4


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"x": -math.inf}, {"x": {1, 2}}, Path("x")], ids=repr)
def test_what_is_no_json_is_refused_and_the_old_kept(tmp_path, value):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert everything(tmp_path) == {"x.json": "{}"}


# ----------------------------------------------------------------------------------------------------------- folders


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "some" / "where"
    with atomic_folder(path, "inner/file") as temporary:
        (temporary / "file").write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert everything(tmp_path / "some") == {"where": None, "where/file": "whole"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [False, True])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, error, old):
    if old:
        fill(tmp_path / "folder", "old")
    before = everything(tmp_path)

    def fail():
        with atomic_folder(tmp_path / "folder", "inner/file", overwrite=True) as temporary:
            (temporary / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert everything(tmp_path) == before, "something half-written is left, or the old is lost"


def test_a_folder_replaces_the_old_whole(tmp_path):
    fill(tmp_path / "folder", "old")
    (tmp_path / "folder" / "more").write_text("old too")
    before = everything(tmp_path)
    with pytest.raises(OutputError, match="it is taken; add --overwrite"):
        fill(tmp_path / "folder", "new")
    assert everything(tmp_path) == before
    fill(tmp_path / "folder", "new", overwrite=True)
    assert everything(tmp_path) == {"folder": None, "folder/inner": None, "folder/inner/file": "new"}


def test_leftovers_of_a_process_that_was_killed_do_not_get_in(tmp_path):
    """Its number may have come to another process."""
    leftover = tmp_path / f".folder.{os.getpid()}.part"
    leftover.mkdir()
    (leftover / "half").write_text("half")
    fill(tmp_path / "folder")
    assert everything(tmp_path) == {"folder": None, "folder/inner": None, "folder/inner/file": "new"}


def test_a_folder_behind_a_symbolic_link_is_replaced(tmp_path):
    """People link output folders to larger disks."""
    fill(tmp_path / "disk" / "folder", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "folder")
    fill(tmp_path / "link", "new", overwrite=True)
    assert (tmp_path / "link" / "inner" / "file").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="file"):
        fill(tmp_path / "file")
    assert everything(tmp_path) == {"file": "precious"}


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OutputError, match=r"report\.json"):
        write_json(tmp_path / "report.json", {})
    assert everything(tmp_path) == {"report.json": None}


def test_a_folder_of_another_kind_is_not_replaced(tmp_path):
    """A mistyped output must not delete somebody's work."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("precious")
    with pytest.raises(OutputError, match="inner/file"):
        fill(tmp_path / "home", overwrite=True)
    assert everything(tmp_path) == {"home": None, "home/thesis": "precious"}


@pytest.mark.parametrize("place", [".", ".."])
def test_places_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch, place):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(OutputError):
        fill(Path(place))


# ----------------------------------------------------------------------------------------------------- ensure_folder


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    assert ensure_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert everything(tmp_path) == {"a": None, "a/b": None}
    ensure_folder(tmp_path / "a")
    assert everything(tmp_path) == {"a": None, "a/b": None}


@pytest.mark.parametrize("below", ["file", "file/folder", "file/folder/folder"])
def test_a_folder_that_cannot_be_made_says_so(tmp_path, below):
    (tmp_path / "file").write_text("")
    for make in (ensure_folder, lambda path: write_json(path / "x.json", {}), lambda path: fill(path / "folder")):
        with pytest.raises(OutputError, match=rf"cannot write to {tmp_path / below}: .*; choose another output"):
            make(tmp_path / below)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_says_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write to"):
        ensure_folder(tmp_path)
