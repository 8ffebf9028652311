"""Work in a process of its own, forked so that it needs no imports; a test may have it killed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def exit_status(work: Callable[[], object]) -> int:
    """What the process that runs `work` ends with: 0, 1 after an exception, negative for a signal."""
    if (child := os.fork()) != 0:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
