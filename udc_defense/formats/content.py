"""The bytes of a file that a stranger named: of a regular one, and not more of them than expected."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_content(path: Path | str, most: int) -> bytes:
    """All bytes of a regular file.

    Args:
        path: of the file. A pipe or a device, which may never end, is refused without waiting for it.
        most: bytes; larger files are refused before they are read.

    Raises:
        OSError: why it cannot be read; its `strerror` can be shown.
        ValueError: the path is none.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if state.st_size > most:
            raise OSError(errno.EFBIG, f"it has {state.st_size} bytes, more than the {most} allowed")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)
