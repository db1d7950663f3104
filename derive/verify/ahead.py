"""The reference of a verification, computed by a process of its own while this one imports SymPy and derives.

It needs the definitions only, and its results are taken for what they are computed from: what is not among them, and
everything where that process fails, is computed where it is needed.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import Any

from ..requests import Request

_WHAT = ("references", "products")
_begun: _Process | None = None


class _Process:
    """A process that computes references and then products, and their results as far as they were taken."""

    def __init__(self, request: Request) -> None:
        reading, writing = os.pipe()
        self.number = os.fork()
        if not self.number:
            try:
                os.close(reading)
                _compute(request, writing)
            finally:
                os._exit(0)
        os.close(writing)
        self.results = os.fdopen(reading, "rb")
        self.taken: list[str] = []


def begin(request: Request) -> None:
    """Start the process, where there is a processor for it and something else to do: SymPy has to be imported."""
    global _begun
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1 and "sympy" not in sys.modules:
        _begun = _Process(request)


def computed(what: str) -> Mapping[Any, Any]:
    """What the process has computed of one of `_WHAT`, when it is first asked for; nothing if there is none."""
    process = _begun
    if process is None or what in process.taken:
        return {}
    found: Mapping[Any, Any] = {}
    try:
        while what not in process.taken:
            process.taken.append(_WHAT[len(process.taken)])
            found = pickle.load(process.results)
    except (EOFError, pickle.UnpicklingError):  # it has failed
        process.taken = list(_WHAT)
    return found


def _compute(request: Request, writing: int) -> None:
    from .checks import remember
    from .curvature import remember_products

    objective, settings = request.objective, request.settings
    values = settings.values(objective)
    # a pipe holds little: what is found is sent by a thread, for it may be long until it is asked for
    with os.fdopen(writing, "wb", buffering=0) as results, ThreadPoolExecutor(1) as sender:
        for compute in (remember, remember_products):
            found: dict[Any, Any] = {}
            for dtype in settings.dtypes:
                found |= compute(objective, dtype, values, (), full_range=True)
            sender.submit(_send, pickle.dumps(found), results)


def _send(message: bytes, results: FileIO) -> None:
    rest = memoryview(message)
    while rest:
        rest = rest[results.write(rest) :]
