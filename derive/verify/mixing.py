"""Rows of all sizes in one batch: each comes to what it comes to among its like, to the last bit.

Rows whose sums leave the range of the type are added up again with scales, the others are not. Of a batch with rows of
both kinds that is decided, and has to be undone, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..catalogue import Objective
from .checks import Runner
from .curvature import ProductRunner, product_cases
from .regimes import Array, regimes
from .report import Check

_DIM = 3
_ORDINARY = (0.1, 10.0)
"""Between these are the largest components of embeddings, and of their differences, that are not small nor large."""


def mixing_checks(
    objective: Objective,
    runner: Runner,
    dtype: str,
    parameters: Mapping[str, float],
    full_range: bool = False,
    products: ProductRunner | None = None,
) -> tuple[Check, ...]:
    """For code that takes rows together: rows of all regimes, and with products of their directions as well."""

    def gradients(rows: Sequence[Array]) -> Sequence[Array]:
        loss, of = runner(rows[0], rows[1], rows[2], parameters)
        return [loss, *of]

    every = regimes(objective, dtype, parameters, (), full_range)
    alike = [one.embeddings for one in every if one.x.shape[1] == _DIM and one.parameters == parameters]
    checks = [_check("rows of all sizes", gradients, alike, dtype)]
    if run := products:

        def of_directions(rows: Sequence[Array]) -> Sequence[Array]:
            return run(rows[:3], rows[3:], parameters)

        cases = [c for c in product_cases(objective, dtype, parameters, (), full_range) if c.parameters == parameters]
        length = len(cases[0].embeddings[0])
        moving = [[row[None] for row in (*c.embeddings, *c.direction)] for c in cases if len(c.direction[0]) == length]
        checks.append(_check("Hessian times v: rows of all sizes", of_directions, moving, dtype))
    return tuple(checks)


def _check(
    name: str, results: Callable[[Sequence[Array]], Sequence[Array]], batches: Sequence[Sequence[Array]], dtype: str
) -> Check:
    rows = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    try:
        with np.errstate(all="ignore"):
            x, x_pos, x_neg = rows[:3]
            sizes = [np.max(np.abs(part), axis=1) for part in (*rows, x - x_pos, x - x_neg)]
            # what is done about rows that are too large may hide what is not done about small ones, and the reverse
            chosen = (slice(None), np.max(sizes, axis=0) <= _ORDINARY[1], np.min(sizes, axis=0) >= _ORDINARY[0])
            differing = sum(n for which in chosen for n in _differing(results, [part[which] for part in rows]))
    except Exception as error:  # the code under test may raise anything, and that is a finding
        return Check.finding(name, "bit for bit", dtype, error)
    return Check(name, "bit for bit", dtype, differing, 0, unit="numbers")


def _differing(results: Callable[[Sequence[Array]], Sequence[Array]], rows: Sequence[Array]) -> Iterator[int]:
    """For each row, how many of its numbers are others than those of a batch of its copies, of the one in its place.

    In another place powers, of which a processor computes some at once, are not rounded in the same way.
    """
    together: Sequence[Any] = results(rows)
    for at in range(len(rows[0])):
        copies = [np.repeat(part[at : at + 1], len(part), axis=0) for part in rows]
        for mixed, own in zip(together, results(copies), strict=True):
            yield int(np.count_nonzero(~((mixed[at] == own[at]) | (np.isnan(mixed[at]) & np.isnan(own[at])))))
