"""The memory of a server that stays: what a run took goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys

ARENAS = 2  # of glibc's heap; by default eight per core, each of which keeps what was freed in it
M_ARENA_MAX = -8  # malloc.h


def settle() -> None:
    """Call it once, when everything is loaded."""
    # Counted among the old objects, the 600,000 that stay would put off the collection of what runs leave behind until
    # that is a quarter of them.
    gc.collect()
    gc.freeze()
    _glibc("mallopt", M_ARENA_MAX, ARENAS)


def release() -> None:
    """Call it after each run."""
    gc.collect()
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    """Other C libraries have no such function."""
    if sys.platform == "linux" and (found := getattr(ctypes.CDLL(None), function, None)):
        found(*arguments)
