"""Verification of weights of rows, and of the mean over the active rows: those whose weighted loss is not 0.

It takes no reference: by the losses and gradients of the rows, which have been compared with one, the results of a
weighted batch are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..formats import FORMATS
from .checks import BOUND, EMBEDDINGS
from .regimes import Array
from .report import Check

REDUCTIONS = ("sum", "mean", "mean-active")
DIM = 25  # no access of several components fits
_ORDINARY, _AT_REST = 6, 2  # rows
_FAR = 2.0**13  # times the others is a negative of a row at rest

Results = tuple[Any, Sequence[Array]]


class WeightedRunner(Protocol):
    """A `checks.Runner` that takes weights of shape (rows,), and has the reduction 'mean-active'."""

    def __call__(
        self,
        x: Array,
        x_pos: Array,
        x_neg: Array,
        parameters: Mapping[str, float],
        reduction: str = "none",
        weights: Array | None = None,
    ) -> Results: ...


def weighting_checks(
    runner: WeightedRunner, dtype: str, parameters: Mapping[str, float], reductions: Sequence[str] = REDUCTIONS
) -> tuple[Check, ...]:
    """Everything that is asked of weights. reductions: those that take weights."""
    try:
        with np.errstate(all="ignore"):
            weighting = _Weighting(runner, dtype, parameters, reductions)
            return weighting.checks() if len(weighting.loss) else ()
    except Exception as error:  # the code under test may raise anything, and that is a finding
        detail = f"{type(error).__name__}: {error}"
        return (Check("weights", "runs", dtype, 1, 0, unit="errors", detail=detail),)


class _Weighting:
    """One runner, a batch, and what its rows come to without weights: those rows that come to numbers."""

    def __init__(
        self, runner: WeightedRunner, dtype: str, parameters: Mapping[str, float], reductions: Sequence[str]
    ) -> None:
        self.runner, self.dtype, self.parameters, self.reductions = runner, dtype, parameters, reductions
        self.computed_in = FORMATS[dtype].computed_in
        x, x_pos, x_neg = batch = _batch(dtype)
        loss, gradients = runner(x, x_pos, x_neg, parameters)
        finite = np.isfinite(loss) & np.all(np.isfinite(gradients), axis=(0, 2))
        self.batch = [embedding[finite] for embedding in batch]
        self.loss = np.asarray(loss[finite], np.float64)
        self.gradients = np.asarray([gradient[finite] for gradient in gradients], np.float64)

    def checks(self) -> tuple[Check, ...]:
        rows = np.arange(len(self.loss))
        # at most 1, so that nothing overflows
        weights = FORMATS[self.computed_in].rounded((1 + rows / 7) / 2 * (rows % 3 != 1)).astype(np.float64)
        results = {reduction: self.run(reduction, weights) for reduction in self.reductions}
        errors = [self.error(found, reduction, weights) for reduction, found in results.items()]
        return (
            Check("weights", "any", self.dtype, float(np.max(errors)), BOUND),
            self.exactly("powers of 2", self.differing_powers(2.0 ** -(rows % 4))),
            self.exactly("0 for rows of NaN and Inf", self.differing_masked(results, weights)),
            self.exactly("no row is active", self.nonzero_without_active()),
        )

    def exactly(self, regime: str, differing: int) -> Check:
        return Check("weights", regime, self.dtype, differing, 0, unit="numbers")

    def run(self, reduction: str, weights: Array, batch: Sequence[Array] | None = None) -> Results:
        x, x_pos, x_neg = batch or self.batch
        return self.runner(x, x_pos, x_neg, self.parameters, reduction, weights.astype(self.computed_in))

    def error(self, found: Results, reduction: str, weights: Array) -> float:
        """In ULPs, of a loss at the size of what is added, of a gradient at that of its row's largest."""
        losses = weights * self.loss
        active = losses != 0
        factor = {"mean": 1 / len(losses), "mean-active": 1 / max(int(np.sum(active)), 1)}.get(reduction, 1.0)
        factors = factor * weights * (active if reduction == "mean-active" else 1)
        gradients = factors[:, None] * self.gradients
        wanted, added = (losses, np.abs(losses)) if reduction == "none" else (np.sum(losses), np.sum(np.abs(losses)))
        of_loss = _ulps(found[0], factor * wanted, factor * added, self.computed_in)
        of_gradients = _ulps(found[1], gradients, np.max(np.abs(gradients), axis=(0, 2))[:, None], self.dtype)
        return float(np.maximum(of_loss, of_gradients))

    def differing_powers(self, weights: Array) -> int:
        """How many gradients, above the range of subnormal numbers, are not exactly those times their weights."""
        wanted = weights[:, None] * self.gradients
        normal = np.minimum(np.abs(wanted), np.abs(self.gradients)) >= FORMATS[self.dtype].tiny
        found = np.asarray(self.run("sum", weights)[1], np.float64)
        return int(np.count_nonzero((found != wanted) & normal))

    def differing_masked(self, clean: Mapping[str, Results], weights: Array) -> int:
        """How many numbers change where rows of weight 0 hold NaN and infinity, and how many hide that others do."""
        out, masked, shown = weights == 0, *([embedding.copy() for embedding in self.batch] for _ in range(2))
        for embedding, bad in zip(masked, (np.nan, np.inf, -np.inf), strict=True):
            embedding[out] = bad
        shown[0][:, 0] = np.nan
        differ = 0
        for reduction, (loss, gradients) in clean.items():
            found, of = self.run(reduction, weights, masked)
            differ += _differing(found, loss) + _differing(of, gradients) + _differing(np.asarray(of)[:, out])
            found, of = self.run(reduction, weights, shown)
            own = [np.asarray(of)[:, ~out, 0], found[~out] if reduction == "none" else found]
            differ += sum(int(np.count_nonzero(~np.isnan(numbers))) for numbers in own)
        return differ

    def nonzero_without_active(self) -> int:
        """How many numbers are not 0 where no row has a weight, and where of those that have one none has a loss."""
        nothing, at_rest = np.zeros(len(self.loss)), np.where(self.loss == 0, 1.0, 0.0)
        results = [self.run(reduction, nothing) for reduction in self.reductions]
        results.append(self.run("mean-active", at_rest))
        return sum(_differing(loss) + _differing(gradients) for loss, gradients in results)


def _batch(dtype: str) -> list[Array]:
    """Rows whose distances are of order 1, that to the positive being the larger one, and then rows at rest."""
    random = np.random.Generator(np.random.PCG64(DIM))
    shape = _ORDINARY + _AT_REST, DIM
    x, x_pos, x_neg = (random.uniform(-1, 1, shape) / math.sqrt(DIM) for _ in EMBEDDINGS)
    x_neg[:_ORDINARY] = (x + x_neg)[:_ORDINARY] / 2
    x_pos[_ORDINARY:], x_neg[_ORDINARY:] = x[_ORDINARY:], _FAR * x_neg[_ORDINARY:]
    return [FORMATS[dtype].rounded(array) for array in (x, x_pos, x_neg)]


def _ulps(found: Any, wanted: Any, size: Any, dtype: str) -> float:
    error = np.abs(np.asarray(found, np.float64) - wanted) / (FORMATS[dtype].eps * size + FORMATS[dtype].tiny)
    return float(np.max(error))


def _differing(found: Any, wanted: Any = 0.0) -> int:
    return int(np.count_nonzero(~(np.asarray(found) == np.asarray(wanted))))
