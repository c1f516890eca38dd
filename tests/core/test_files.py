"""Files survive failures: the old one stays whole, nothing temporary is left, the error says what to do."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import nullcontext

import pytest

from learnforge.errors import RunError
from learnforge.files import (
    fingerprint,
    hash_file,
    make_folder,
    read_record,
    remove,
    write_atomically,
    write_json,
    write_record,
    write_text,
)


def raising(error):
    """Return a function that raises whatever it is called with."""

    def call(*arguments, **options):
        raise error

    return call


def test_write_text_makes_folders_and_keeps_unicode(tmp_path):
    """Missing folders are made, text is UTF-8, and only the file itself is left."""
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "größer ×2\n")
    assert path.read_bytes() == "größer ×2\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["note.txt"]


def test_write_json_keeps_the_order_of_keys(tmp_path):
    """JSON has the keys in the order given, readable characters, and a last newline."""
    write_json(tmp_path / "x.json", {"b": 1, "a": "ü"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": "ü", "b": 1}
    assert text.index('"b"') < text.index('"a"')
    assert "ü" in text
    assert text.endswith("\n")


def test_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    """A writer that breaks half-way leaves the old content and no temporary file, whatever it raises."""
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def half(temporary):
        temporary.write_text("ne")
        raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_leaves_the_old_file_and_no_other(tmp_path):
    """Ctrl-C in the middle of a write passes through and leaves the folder as it was."""
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def interrupted(temporary):
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_new_content_is_flushed_before_it_takes_the_name(tmp_path, monkeypatch):
    """The file is flushed to the disk, then renamed, then its folder is flushed."""
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("flush"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    write_text(tmp_path / "x.txt", "new")
    assert steps == ["flush", "rename", "flush"]


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("fsync", errno.ENOSPC, "the disk is full; free some space"),
        ("fsync", errno.EDQUOT, "the disk quota is used up; free some space"),
        ("mkdir", errno.EROFS, "the file system is read-only; choose another folder"),
        ("replace", errno.EACCES, "permission is denied; choose another folder or change its permissions"),
        ("replace", errno.EPERM, "permission is denied; choose another folder or change its permissions"),
        ("fsync", errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_disk_that_refuses_is_a_run_error(tmp_path, monkeypatch, call, code, words):
    """A refusal of the disk is a RunError with path, reason and advice, and the old file stays."""
    path = tmp_path / "x.txt"
    if call != "mkdir":
        write_text(path, "old")
    else:
        path = tmp_path / "sub" / "x.txt"
    monkeypatch.setattr(os, call, raising(OSError(code, os.strerror(code))))
    with pytest.raises(RunError, match=f"cannot write .*x.txt: {words}. What was finished before stays"):
        write_text(path, "new")
    monkeypatch.undo()
    assert [p.read_text() for p in tmp_path.iterdir() if p.is_file()] == ["old"] * (call != "mkdir")


def test_folder_that_refuses_removal_too_reports_the_first_error(tmp_path, monkeypatch):
    """Where the temporary file cannot even be removed, the error is still the one of the write."""
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "full")))
    monkeypatch.setattr(os, "unlink", raising(OSError(errno.EROFS, "read-only")))
    with pytest.raises(RunError, match="the disk is full"):
        write_text(tmp_path / "x.txt", "new")


def test_fingerprint_does_not_depend_on_the_order_of_keys():
    """Order of keys is no difference, at any depth; order of a list and any value is one."""
    data = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert fingerprint(data) == fingerprint({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert fingerprint(data) != fingerprint({"a": 1, "b": {"c": [2, 1], "d": None}})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert fingerprint({}) == hashlib.sha256(b"{}").hexdigest()


def test_hash_file_is_sha256(tmp_path):
    """The hash is SHA-256 of the bytes."""
    (tmp_path / "x").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert hash_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_remove_takes_files_folders_and_nothing(tmp_path):
    """A file, a full folder and a missing path are all removed; a link goes, its target stays."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_text("x")
    for name in ("link", "folder", "missing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [kept]


def _says(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_record_comes_back_and_knows_what_was_damaged_since(tmp_path):
    """Every bit counts; what JSON cannot tell apart, such as tuples from lists, comes back as JSON has it."""
    file = tmp_path / "record.json"
    data = {"name": "é", "numbers": (1, 2.5, float("inf")), "table": {"b": None, "a": True}}
    write_record(file, data)
    assert read_record(file) == {**data, "numbers": [1, 2.5, float("inf")]}
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        # a tab in the place of a line break changes nothing that is said
        with nullcontext() if _says(changed) == _says(whole) else pytest.raises(RunError, match="is damaged"):
            read_record(file)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000, "\x00\xff", '{"checksum": "0"}'])
def test_what_is_no_record_is_told(tmp_path, text):
    """With the file's name and what to do."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json is damaged, .*Put a copy of it back, or run the recipe"):
        read_record(tmp_path / "run.json")


def test_a_pipe_is_not_waited_for(tmp_path):
    """A record that is a named pipe is damaged, and no file to hash."""
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RunError, match="it is no regular file"):
        read_record(tmp_path / "run.json")
    with pytest.raises(OSError, match="it is no regular file"):
        hash_file(tmp_path / "run.json")


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path):
    """And what cannot be made at all."""
    make_folder(tmp_path / "new" / "inner")
    write_text(tmp_path / "new" / "inner" / "file", "text")
    with pytest.raises(RunError, match="cannot write"):
        make_folder(tmp_path / "new" / "inner" / "file" / "below")
    with pytest.raises(RunError, match="the name is too long; choose a shorter one"):
        make_folder(tmp_path / ("x" * 300))
