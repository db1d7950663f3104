"""Other processes that go on from what this one has imported and computed."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def processors() -> int:
    """How many processes can work at once: 1 where there is no fork, or beside what has threads, and inside of a fork.

    Beside the threads of JAX or PyTorch, which hold locks, a process cannot go on as two.
    """
    alone = sys.platform != "linux" or _is_forked or _is_worker() or _THREADED & sys.modules.keys()
    return 1 if alone else len(os.sched_getaffinity(0))


_THREADED = {"jax", "torch"}
_is_forked = False


def _is_worker() -> bool:
    """Whether `multiprocessing` has made this process, which has imported it then; importing it here takes time."""
    pool = sys.modules.get("multiprocessing.process")
    return pool is not None and pool.parent_process() is not None


class Forked:
    """A process that carries out jobs, one after the other, and their results in this order."""

    def __init__(self, jobs: Iterable[Callable[[], Any]]) -> None:
        reading, writing = os.pipe()
        self._number = os.fork()
        if not self._number:
            try:
                os.close(reading)
                _carry_out(jobs, writing)
            finally:
                os._exit(0)
        os.close(writing)
        self._results = os.fdopen(reading, "rb")

    def result(self) -> Any:
        """The result of the next job. Raises `EOFError` if the process failed before, or there are no more jobs."""
        try:
            return pickle.load(self._results)
        except pickle.UnpicklingError as error:
            raise EOFError(str(error)) from None

    def end(self) -> None:
        """Wait until the process has ended."""
        self._results.close()
        os.waitpid(self._number, 0)


def _carry_out(jobs: Iterable[Callable[[], Any]], writing: int) -> None:
    global _is_forked
    _is_forked = True
    # a pipe holds little: results are sent by a thread, for it may be long until they are asked for
    waiting: SimpleQueue[bytes] = SimpleQueue()
    with os.fdopen(writing, "wb", buffering=0) as results:
        sender = Thread(target=_send, args=(waiting, results))
        sender.start()
        try:
            for job in jobs:
                waiting.put(pickle.dumps(job()))
        finally:
            waiting.put(b"")
            sender.join()


def _send(waiting: SimpleQueue[bytes], results: FileIO) -> None:
    with suppress(BrokenPipeError):  # nobody waits for them any more
        while rest := memoryview(waiting.get()):
            while rest:
                rest = rest[results.write(rest) :]


def apart(job: Callable[[], _Result]) -> _Result:
    """What a job returns that may not survive. Raises `EOFError` if it does not, where there are forks."""
    if not hasattr(os, "fork"):
        return job()
    process = Forked([job])
    try:
        found: _Result = process.result()
        return found
    finally:
        process.end()


def each(jobs: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """What jobs return, in their order; all but the first by processes of their own, if there are processors for them.

    Raises what the first job raises that fails: a job is done here that another process could not do.
    """
    if processors() == 1:
        return [job() for job in jobs]
    others = [Forked([job]) for job in jobs[1:]]
    try:
        found = [job() for job in jobs[:1]]
        for job, other in zip(jobs[1:], others, strict=True):
            try:
                found.append(other.result())
            except EOFError:
                found.append(job())
        return found
    finally:
        for other in others:
            other.end()
