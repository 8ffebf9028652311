"""Jobs in processes of one thread each: rows are written as they are known, never lost to a kill, never repeated."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch

from udc_defense.errors import UDCDefenseError
from udc_defense.evaluation.jobs import Job, rows_of
from udc_defense.evaluation.rows import append, key_of, read_parts

J = TypeVar("J")
R = TypeVar("R")


def run_jobs(
    jobs: Sequence[Job], partial: Path, workers: int, known: Sequence[Mapping[str, Any]] = ()
) -> Iterator[tuple[int, int]]:
    """Compute what is missing in `partial` (JSON lines), job by job; yields (jobs done, jobs of all).

    Args:
        jobs: one per image and setting.
        partial: grows by one line per job; read back to resume.
        workers: processes of one thread each; 0 computes in this one.
        known: rows that are there already, of the same weights.

    Raises:
        UDCDefenseError: an image or a checkpoint cannot be used.
    """
    done = {key_of(row) for row in (*known, *read_parts(partial))}
    missing = [job for job in (job.without(done) for job in jobs) if job.purifications]
    count = len(jobs) - len(missing)
    yield count, len(jobs)
    for rows in computed(rows_of, missing, workers):
        append(partial, rows)
        count += 1
        yield count, len(jobs)


def computed(function: Callable[[J], R], jobs: Sequence[J], workers: int) -> Iterator[R]:
    """What a function makes of each job, as it is known: in processes of one thread each, or with 0 in this one.

    Raises:
        UDCDefenseError: a process was ended.
    """
    if not jobs or workers == 0:
        yield from map(function, jobs)
        return
    # Spawned, not forked: torch's thread pool does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            for future in as_completed([pool.submit(function, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UDCDefenseError(
                f"one of {workers} processes was ended, perhaps for want of memory; what was finished is kept."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """One thread; Ctrl-C ends it in silence, and a parent that was killed takes it along."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
