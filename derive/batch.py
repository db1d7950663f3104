"""Requests carried out, many at once where that pays: each process takes all requests of a distance.

What a process makes is handed on in the order of the requests, so that output and files do not depend on how many
processors there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from . import api
from .catalogue import Objective
from .forked import processors
from .requests import Request
from .targets.base import GeneratedFile, Settings
from .text import describe, formulas
from .verify.report import Report

_BAR = 24  # columns


@dataclass(frozen=True)
class Made:
    """A request carried out: what of a product is written and told, which another process can be sent.

    description, formulas, steps: of the derivation. report: of the verification, if there was one.
    """

    objective: Objective
    target: str
    settings: Settings
    files: tuple[GeneratedFile, ...]
    command: str
    lacks: str
    description: str
    formulas: Mapping[str, str]
    steps: int
    report: Report | None


Tell = Callable[[str], None]
"""Shows a line for as long as it holds."""


def make(request: Request, verified: bool | None = None, tell: Tell = lambda text: None) -> Made:
    """Derive, generate and verify what is requested. verified: thoroughly, or not at all; None for quickly.

    Raises as `differentiate`, `generate` and `verify` do.
    """
    about = f"{request.objective.title}, {request.target}"
    tell(f"deriving {about}")
    product = api.product_of(request)
    derivation = product.derivation
    tell(f"verifying {about}")
    return Made(
        product.objective,
        product.target,
        product.settings,
        product.files,
        product.command,
        product.lacks,
        describe(derivation),
        dict(formulas(derivation)),
        len(derivation.steps),
        None if verified is False else api.verify(product, thorough=bool(verified)),
    )


def make_all(
    requests: Sequence[Request], verified: bool | None = None, tell: Tell = lambda text: None
) -> Iterator[Made]:
    """What `make` makes of each, in order, in several processes where there are processors for them.

    tell: is told how far it is. Raises what the first request raises that fails, after handing out those before.
    """
    total, parts = len(requests), _parts(requests, processors())
    workers = min(len(parts), processors())
    if workers < 2:
        for done, request in enumerate(requests):
            made = make(request, verified, partial(_tell_progress, tell, done, total))
            tell("")
            yield made
        return
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, get_context("fork"))
    try:
        pending = {pool.submit(_make_each, [requests[at] for at in part], verified): part for part in parts}
        of_request = {at: (future, place) for future, part in pending.items() for place, at in enumerate(part)}
        for at in range(total):
            future, place = of_request[at]
            while not future.done():
                done = sum(len(part) for other, part in pending.items() if other.done())
                _tell_progress(tell, done, total, f"{done} of {total}")
                wait([other for other in pending if not other.done()], return_when=FIRST_COMPLETED)
            tell("")
            of_part, error = future.result()
            if place == len(of_part) and error:
                raise error
            yield of_part[place]
    finally:
        pool.shutdown(cancel_futures=True)


def _parts(requests: Sequence[Request], processes: int) -> list[list[int]]:
    """What one process takes: all requests of a distance, which is derived once; of an objective if there are few."""
    for key in (attrgetter("objective.metric"), attrgetter("objective"), id):
        parts: dict[Any, list[int]] = {}
        for at, request in enumerate(requests):
            parts.setdefault(key(request), []).append(at)
        if len(parts) > processes:
            break
    # proofs on unit vectors take longest, so that they begin
    return sorted(parts.values(), key=lambda part: not requests[part[0]].objective.of_units)


def _make_each(requests: Sequence[Request], verified: bool | None) -> tuple[list[Made], Exception | None]:
    """What is made of requests before one fails, and how that does."""
    made: list[Made] = []
    try:
        for request in requests:
            made.append(make(request, verified))  # noqa: PERF401
    except Exception as error:  # another process raises it, when its turn comes
        return made, error
    return made, None


def _tell_progress(tell: Tell, done: int, total: int, text: str) -> None:
    """A bar, where there is more than one, and the text."""
    filled = _BAR * done // total
    tell(f"[{'#' * filled}{'-' * (_BAR - filled)}] {text}" if total > 1 else text)
