"""The one place where files are written: whole or not at all, by one run at a time, a full disk in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from udc_defense.errors import OutputError, UDCDefenseError

LOCK = ".lock"

_protected: set[tuple[int, int]] = set()  # device and number of files that must stay as they are


@contextlib.contextmanager
def writing(path: Path | str, kept: str = "") -> Iterator[None]:
    """Around whatever writes to `path`, with what a library makes of a full disk: `OSError`, or errors of its own.

    Args:
        path: in the sentence.
        kept: what is not lost, at the end of it.

    Raises:
        OutputError: the body failed.
    """
    try:
        yield
    except UDCDefenseError:
        raise
    # safetensors and torch raise errors of their own, torch a RuntimeError; a path with a null byte is a ValueError.
    except Exception as error:
        raise OutputError(f"{path}: cannot be written ({_reason(error)}){kept}.") from error


@contextlib.contextmanager
def protecting() -> Iterator[None]:
    """Until its end, no file that `protect` names is written over."""
    before = set(_protected)
    try:
        yield
    finally:
        _protected.clear()
        _protected.update(before)


def protect(paths: Iterable[Path]) -> None:
    """Refuse to write over these files, however their paths are spelled."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            _protected.add(_identity(path))


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def check_free(path: Path) -> None:
    """Refuse a path that `protect` names.

    Raises:
        OutputError: it is one.
    """
    with contextlib.suppress(OSError, ValueError):
        if _protected and _identity(path) in _protected:
            raise OutputError(f"{path}: is an input of this command; name another place to write to.")


def write_file(path: Path | str, data: bytes) -> None:
    """Write a file in one step: a full disk or a kill leaves the old file, never half a new one.

    Raises:
        OutputError: it cannot be written, or is an input.
    """
    path = Path(path)
    check_free(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()


def write_json(path: Path | str, value: Any, *, indent: int = 1, sort_keys: bool = False) -> None:
    """Write a value as JSON likewise.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, (json.dumps(value, indent=indent, sort_keys=sort_keys) + "\n").encode())


def append(path: Path, data: bytes) -> None:
    """Add to a file, and the file to the disk; a kill can cut `data` short, nothing else.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    with writing(path, "; what was finished is kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` once it is whole; left out where the body fails.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        with writing(folder, "; what was finished is kept"):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this process: another one that wants it is refused until the body ends or the process does.

    Raises:
        OutputError: another process has it, or it cannot be written.
    """
    path, is_new = folder / LOCK, not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file, owner = _take(path)
    with file:
        if owner not in ("", str(os.getpid())):  # a run that this process has left open is no other one
            raise OutputError(f"{folder}: process {owner} writes there; wait for it, or name another folder.")
        try:
            yield
        finally:
            if not owner:
                path.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # it holds something now
                    folder.rmdir()


def _take(path: Path) -> tuple[TextIO, str]:
    """The lock file, open, and the process that has it; nobody else where it is ours now. A kill frees it."""
    import fcntl  # systems without flock have no such module

    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            return file, file.read().strip() or "of another run"
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file, ""
        file.close()  # its owner has removed it in between


def _reason(error: Exception) -> str:
    """Why it failed, without the inner life of a library."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    for number in (28, 27, 122):  # of the system, inside the text of another
        if os.strerror(number) in str(error):
            return os.strerror(number)
    if "enforce fail" in str(error):  # torch, which knows no more
        return "the disk may be full"
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
