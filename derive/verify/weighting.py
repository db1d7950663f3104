"""Verification of weights of rows, and of the mean over the active rows: those whose weighted loss is not 0.

It takes no reference: by the losses and gradients of the rows, which have been compared with one, the results of a
weighted batch are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

from ..formats import FORMATS
from .checks import BOUND, EMBEDDINGS
from .regimes import Array
from .report import Check

REDUCTIONS = ("sum", "mean", "mean-active")
DIM = 25  # no access of several components fits
_ORDINARY, _AT_REST = 7, 2  # rows; more of them are active than not, so that no count is that of the others
_FAR = 2.0**13  # times the others is a negative of a row at rest

Results = tuple[Any, Sequence[Array]]


@dataclass(frozen=True, eq=False)
class Asked:
    """What a runner is asked for: a reduction of the rows of a batch, with weights or without."""

    reduction: str
    weights: Array | None
    batch: Sequence[Array]


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
        return (Check.finding("weights", "runs", dtype, error),)


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
        powers, nothing, at_rest = 2.0 ** -(rows % 4), np.zeros(len(rows)), np.where(self.loss == 0, 1.0, 0.0)
        masked, spoilt = self.masked(weights == 0), self.spoilt()
        active = [reduction for reduction in self.reductions if reduction == "mean-active"]
        found = self.run(
            {
                **{("any", of): Asked(of, self.given(weights), self.batch) for of in self.reductions},
                ("powers", "sum"): Asked("sum", self.given(powers), self.batch),
                **{("masked", of): Asked(of, self.given(weights), masked) for of in self.reductions},
                ("spoilt", "alone"): Asked("none", None, spoilt),
                **{("spoilt", of): Asked(of, self.given(weights), spoilt) for of in self.reductions},
                **{("nothing", of): Asked(of, self.given(nothing), self.batch) for of in self.reductions},
                ("at rest", "mean-active"): Asked("mean-active", self.given(at_rest), self.batch),
                **{("none given", of): Asked(of, None, self.batch) for of in active},
            }
        )

        def of(what: str) -> dict[str, Results]:
            return {reduction: results for (which, reduction), results in found.items() if which == what}

        without = [self.error(results, which, np.ones(len(rows))) for which, results in of("none given").items()]
        nonzero = [_nonzero(part) for which in ("nothing", "at rest") for part in chain(*of(which).values())]
        return (
            Check("weights", "any", self.dtype, self.worst(of("any"), weights), BOUND),
            self.exactly("powers of 2", self.differing_powers(found["powers", "sum"], powers)),
            Check("weights", "0 for rows of NaN and Inf", self.dtype, self.masked_error(of("masked"), weights), BOUND),
            self.exactly("NaN in other rows", self.hidden(of("spoilt"), weights)),
            # nor where no row has a loss of those that have a weight
            self.exactly("no row is active", sum(nonzero)),
            # other reductions are compared with the rows by `checks`
            Check("weights", "none given", self.dtype, max(without, default=0.0), BOUND),
        )

    def exactly(self, regime: str, differing: int) -> Check:
        return Check("weights", regime, self.dtype, differing, 0, unit="numbers")

    def given(self, weights: Array) -> Array:
        return weights.astype(self.computed_in)

    def run(self, asked: Mapping[tuple[str, str], Asked]) -> dict[tuple[str, str], Results]:
        """The results of everything, by a runner that takes as long for many as for one all at once."""
        at_once = getattr(self.runner, "at_once", self.one_by_one)
        return dict(zip(asked, at_once(tuple(asked.values()), self.parameters), strict=True))

    def one_by_one(self, asked: Sequence[Asked], parameters: Mapping[str, float]) -> list[Results]:
        found = []
        for one in asked:
            x, x_pos, x_neg = one.batch
            found.append(self.runner(x, x_pos, x_neg, parameters, one.reduction, one.weights))
        return found

    def masked(self, out: Array) -> tuple[Array, ...]:
        """The batch with rows that hold NaN and infinity."""
        masked = tuple(embedding.copy() for embedding in self.batch)
        for embedding, bad in zip(masked, (np.nan, np.inf, -np.inf), strict=True):
            embedding[out] = bad
        return masked

    def spoilt(self) -> tuple[Array, ...]:
        """The batch with NaN in every row."""
        x, x_pos, x_neg = (embedding.copy() for embedding in self.batch)
        x[:, 0] = np.nan
        return x, x_pos, x_neg

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

    def worst(self, found: Mapping[str, Results], weights: Array) -> float:
        return float(np.max([self.error(results, reduction, weights) for reduction, results in found.items()]))

    def differing_powers(self, found: Results, weights: Array) -> int:
        """How many gradients, above the range of subnormal numbers, are not exactly those times their weights."""
        wanted = weights[:, None] * self.gradients
        normal = np.minimum(np.abs(wanted), np.abs(self.gradients)) >= FORMATS[self.dtype].tiny
        return int(np.count_nonzero((np.asarray(found[1], np.float64) != wanted) & normal))

    def masked_error(self, found: Mapping[str, Results], weights: Array) -> float:
        """The error where rows of weight 0 hold NaN and infinity; infinite where their gradients are not exactly 0."""
        if any(np.any(np.asarray(gradients)[:, weights == 0]) for _, gradients in found.values()):
            return math.inf
        return self.worst(found, weights)

    def hidden(self, found: Mapping[str, Results], weights: Array) -> int:
        """How many numbers are not NaN that are without weights, or whose gradients are, where the weight is not 0."""
        counted = weights != 0
        losses, gradients = found["alone"]
        bad = np.isnan(gradients)[:, counted]
        bad_loss = np.isnan(losses)[counted] | np.any(bad, axis=(0, 2))
        hidden = 0
        for reduction in self.reductions:
            loss, of = found[reduction]
            is_bad, kept = (bad_loss, loss[counted]) if reduction == "none" else (np.any(bad_loss), loss)
            hidden += int(np.count_nonzero(is_bad & ~np.isnan(kept)))
            hidden += int(np.count_nonzero(bad & ~np.isnan(np.asarray(of)[:, counted])))
        return hidden


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


def _nonzero(found: Any) -> int:
    return int(np.count_nonzero(found))
