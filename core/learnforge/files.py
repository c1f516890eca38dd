"""Files that survive a kill: written to a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from learnforge.errors import RunError

_LEFT_OVER_SECONDS = 3600
"""Age from which a file that is half written is nobody's any more: writing one takes seconds."""
_REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.ENOENT: "its folder is gone; put it back, or choose another",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission is denied; choose another folder or change its permissions",
    errno.EPERM: "permission is denied; choose another folder or change its permissions",
}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it, and rename it to `path`.

    Whatever stood at `path` stays whole until the rename, and a failure leaves no temporary file behind.

    Raises:
        RunError: The disk is full, read-only, or refuses; finished files are untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # some libraries write files that others cannot read
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        _forget(temporary)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON atomically, with a checksum by which `read_record` knows what was damaged since."""
    plain = json.loads(json.dumps(data))
    write_json(path, {**plain, "checksum": fingerprint(plain)})


def read_record(path: Path) -> dict[str, Any]:
    """Return what `write_record` wrote.

    Raises:
        RunError: The file is not what was written, or cannot be read.
        FileNotFoundError: There is none.
    """
    try:
        require_regular(path)
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("checksum", None) == fingerprint(data):
            return data
        fault = "its checksum is none, as an older learnforge wrote it, or of something else"
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
    raise RunError(f"{path} is damaged, {fault}. Put a copy of it back, or run the recipe again")


def refusal(path: Path, error: OSError) -> RunError:
    """Return the error that says why the disk refused `path` and what to do about it."""
    reason = _REFUSALS.get(error.errno or 0, error.strerror or str(error))
    return RunError(
        f"cannot write {path}: {reason}. What was finished before stays loadable; run again to go on."
    )


def home_path(path: str | Path) -> Path:
    """Return a path whose `~` is the home folder; one of nobody stays as it is written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def stage_folder(folder: Path, name: object) -> Path:
    """Return a stage's folder in that of its run; a name from a record that is damaged, or a stranger's, must
    not lead elsewhere.

    Raises:
        RunError: No stage can have the name.
    """
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise RunError(
            f"the record of {folder} is damaged: {name!r} is no name of a stage; run the recipe again"
        )
    return folder / name


def vet_folder(folder: Path) -> None:
    """Refuse links in a run's folder that lead out of it, since what a run writes must not land elsewhere,
    and take away what killed processes left half written.

    Raises:
        RunError: There is one.
    """
    real = folder.resolve()
    for top, folders, files in os.walk(folder):
        for path in (Path(top, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(real):
                words = "is a link that leads out of the run's folder; put what it leads to in its place"
                raise RunError(f"{path} {words}, or take it away")
            # a draft of `write_atomically`, with the number of its process
            if path.match(".*.[0-9]*.tmp") and time.time() - path.lstat().st_mtime > _LEFT_OVER_SECONDS:
                _forget(path)


def make_folder(path: Path) -> None:
    """Make a folder, and those around it; nothing happens where there is one.

    Raises:
        RunError: The disk refuses, or a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


def fingerprint(data: Any) -> str:
    """Return the SHA-256 (hex) of JSON-able data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()  # names of files may be any bytes


def hash_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    require_regular(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_regular(path: Path) -> None:
    """Refuse what is no regular file: reading a named pipe waits for ever.

    Raises:
        OSError: It is there, and is none.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _forget(temporary: Path) -> None:
    try:
        remove(temporary)
    except OSError:
        # a read-only folder refuses the removal too; the first error is the one to report
        return


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder for flushing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
