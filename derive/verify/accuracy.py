"""How accurate generated code is, beside the formulas that it stands for: errors in ULPs, regime by regime.

What is generated has to stay within a bound wherever verification looks. The naive formula and PyTorch's autograd,
which evaluate the definition as it is written, are measured in the same way, and have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..catalogue import Objective
from ..differentiate import Derivation
from ..errors import DeriveTripletError
from ..formats import FORMATS
from ..rescale import rescale
from ..targets.base import Product
from ..targets.registry import targets_for
from .checks import BOUND, EMBEDDINGS, AtOnce, Method, Worst, differing_beside_bad_rows, is_worse, point, worst_errors
from .naive import autograd, lacks_torch, naive
from .regimes import NOT_JUDGED, Array, Regime, regimes, unjudged
from .report import aligned, plain

_BAD_ROWS = "beside NaN and Inf rows", "wrong numbers"
_BAD_SHAPE = (4, 7)
_MEANING = "ULPs are at the scale of the terms that are added up; nan and inf are results where a number is right"


@dataclass(frozen=True)
class Column:
    """What was measured of one method on one float type.

    errors: in each regime, those of the loss and of each gradient.
    beside_bad_rows: how many numbers are not right where rows of a batch hold NaN and infinity: of other rows those
        that change, of these those that do not become NaN.
    where: the largest of all errors: of what, in which regime, at which distances and parameters.
    """

    method: Method
    dtype: str
    errors: tuple[tuple[str, tuple[Worst, ...]], ...]
    beside_bad_rows: int
    worst: Worst
    where: str

    def is_within(self, bound: float) -> bool:
        """Whether all errors are at most `bound`, and bad rows spoil no others."""
        return self.worst.error <= bound and not self.beside_bad_rows

    def complaint(self, bound: float) -> str:
        """What is wrong if it is not within `bound`."""
        if self.worst.error <= bound:
            return f"{self.beside_bad_rows} numbers are wrong beside rows of NaN and Inf"
        found = f"{self.worst.shown} ULPs" if math.isfinite(self.worst.error) else self.worst.shown
        return f"{found}, beyond the bound of {bound:g} ULPs: {self.where}"

    @property
    def _cells(self) -> Iterator[str]:
        yield from (worst.shown for _, errors in self.errors for worst in errors)
        yield str(self.beside_bad_rows)


@dataclass(frozen=True, repr=False)
class Accuracy:
    """The errors of code that was generated for an objective, and of what it is compared with.

    bound: the largest error in ULPs that generated code may have.
    notes: what was not measured.
    """

    objective: Objective
    bound: float
    columns: tuple[Column, ...]
    lacking: tuple[Method, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Column, ...]:
        """The columns of generated code that exceed the bound."""
        return tuple(c for c in self.columns if c.method.ours and not c.is_within(self.bound))

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def complaints(self) -> list[str]:
        """What fails, each in a line."""
        return [
            f"{self.objective.title}, {column.method.name}, {column.dtype}: {column.complaint(self.bound)}"
            for column in self.failures
        ]

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.dtype for column in self.columns))

    def of(self, method: str, dtype: str) -> Column:
        """The column of a method; raises `KeyError` if it was not measured."""
        return {(column.method.name, column.dtype): column for column in self.columns}[method, dtype]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "norm": self.objective.distance.name,
            "loss": self.objective.loss.name,
            "normalize": self.objective.normalize,
            "bound": self.bound,
            "passed": self.passed,
            "columns": [self._column_as_dict(column) for column in self.columns],
            "missing": {method.name: method.lacks for method in self.lacking},
            "notes": list(self.notes),
        }

    def _column_as_dict(self, column: Column) -> dict[str, Any]:
        return {
            "method": column.method.name,
            "about": column.method.about,
            "dtype": column.dtype,
            "generated": column.method.ours,
            "passed": column.is_within(self.bound) if column.method.ours else None,
            "worst": plain(column.worst.error),
            "where": column.where,
            "beside_bad_rows": column.beside_bad_rows,
            "errors": [
                {"regime": regime, **{worst.of: plain(worst.error) for worst in errors}}
                for regime, errors in column.errors
            ],
        }

    def __repr__(self) -> str:
        return f"<Accuracy of {self.objective.title}: {'within' if self.passed else 'EXCEEDS'} {self.bound:g} ULPs>"

    def __str__(self) -> str:
        """For each float type a table with a line per regime and quantity, and what is worst in it."""
        lines = list[str]()
        for dtype in self.dtypes:
            columns = [column for column in self.columns if column.dtype == dtype]
            lines += [f"{self.objective.title}, {dtype}: largest errors in ULPs", "", *_table(columns), ""]
            lines += [*aligned([self._summary(column) for column in columns], [1]), ""]
        methods = {column.method.name: column.method.about for column in self.columns}
        missing = {method.name: f"missing: {method.lacks}" for method in self.lacking}
        lines += aligned([*methods.items(), *missing.items()], [])
        return "\n".join([*lines, "", _MEANING, *self.notes])

    def _summary(self, column: Column) -> tuple[str, ...]:
        verdict = "no bound"
        if column.method.ours:
            verdict = f"{'ok, at most' if column.is_within(self.bound) else 'EXCEEDS'} {self.bound:g}"
        return column.method.name, column.worst.shown, verdict, column.where


def _table(columns: Sequence[Column]) -> list[str]:
    of = [(regime, worst.of) for regime, errors in columns[0].errors for worst in errors]
    cells = zip(*(column._cells for column in columns), strict=True)
    head = ("regime", "of", *(column.method.name for column in columns))
    rows = ((*names, *of_row) for names, of_row in zip([*of, _BAD_ROWS], cells, strict=True))
    return aligned([head, *rows], range(2, len(head)))


def measure(products: Sequence[Product], progress: Callable[[str], object] = lambda text: None) -> Accuracy:
    """The accuracy of products of one derivation and the same parameters, at the bound that they accept.

    progress: is told what is being done.
    Raises `DeriveTripletError` where none of the products can be run here, or one cannot go on.
    """
    (first, *_) = products
    dtypes = sorted({dtype for p in products for dtype in p.settings.dtypes}, key=list(FORMATS).index)
    with ExitStack() as stack:
        methods: list[Method] = []
        for product in products:
            progress(f"building {product.objective.title}, {product.target}")
            methods += stack.enter_context(targets_for(product.target)[product.target].methods(product))
        if all(method.lacks for method in methods):
            raise DeriveTripletError("nothing to measure: " + "; ".join(f"{m.name}: {m.lacks}" for m in methods))
        methods += [_naive(first.derivation, dtypes), _autograd(first.objective, dtypes)]
        columns = tuple(_columns([m for m in methods if not m.lacks], first, dtypes, progress))
    return Accuracy(
        first.objective,
        max(BOUND, first.settings.accuracy),
        columns,
        tuple(method for method in methods if method.lacks),
        tuple(_notes(first, dtypes)),
    )


def _naive(derivation: Derivation, dtypes: Iterable[str]) -> Method:
    about = f"the definition as it is written and its derivative, NumPy {np.__version__}"
    try:
        return Method("naive", about, {dtype: naive(derivation, dtype) for dtype in dtypes}, ours=False)
    except NotImplementedError as error:
        return Method("naive", about, ours=False, lacks=str(error))


def _autograd(objective: Objective, dtypes: Iterable[str]) -> Method:
    if lacks := lacks_torch():
        return Method("torch", "", ours=False, lacks=lacks)
    import torch

    about = f"the definition as it is written, autograd of PyTorch {torch.__version__.partition('+')[0]}"
    return Method("torch", about, {dtype: autograd(objective, dtype) for dtype in dtypes}, ours=False)


def _columns(
    methods: Sequence[Method], product: Product, dtypes: Iterable[str], progress: Callable[[str], object]
) -> Iterator[Column]:
    parameters = product.settings.values(product.objective)
    for dtype in dtypes:
        batches = tuple(_batches(product, dtype))
        for method in methods:
            if dtype in method.runners:
                progress(f"measuring {product.objective.title}, {method.name}, {dtype}")
                try:
                    with np.errstate(all="ignore"):
                        yield _column(method, product.objective, dtype, batches, parameters)
                except Exception as error:  # the code under test may raise anything
                    raise DeriveTripletError(f"{method.name}, {dtype}: {type(error).__name__}: {error}") from error


def _batches(product: Product, dtype: str) -> Iterator[Regime]:
    full_range = rescale(product.kernel).full_range
    return regimes(product.objective, dtype, product.settings.values(product.objective), full_range=full_range)


def _column(
    method: Method, objective: Objective, dtype: str, batches: Sequence[Regime], parameters: Mapping[str, float]
) -> Column:
    runner = method.runners[dtype]
    at_once = AtOnce(runner, batches)
    errors = [worst_errors(objective, at_once, regime, dtype) for regime in batches]
    regime, worst = batches[0], errors[0][0]
    for other, error in ((batch, e) for batch, each in zip(batches, errors, strict=True) for e in each):
        if is_worse(error.error, worst.error):
            regime, worst = other, error
    where = f"{worst.of}, {regime.name}: {point(objective, regime, worst.row)}"

    def results(batch: Sequence[Array]) -> list[Array]:
        x, x_pos, x_neg = batch
        loss, gradients = runner(x, x_pos, x_neg, parameters)
        return [loss, *gradients]

    of_regimes = tuple((batch.name, each) for batch, each in zip(batches, errors, strict=True))
    return Column(method, dtype, of_regimes, differing_beside_bad_rows(results, _ordinary(dtype)), worst, where)


def _ordinary(dtype: str) -> list[Array]:
    random = np.random.Generator(np.random.PCG64(0))
    return [FORMATS[dtype].rounded(random.uniform(-1, 1, _BAD_SHAPE)) for _ in EMBEDDINGS]


def _notes(product: Product, dtypes: Sequence[str]) -> Iterator[str]:
    values = product.settings.values(product.objective)
    if left_out := unjudged(product.objective, dtypes, values):
        yield f"{NOT_JUDGED}: {', '.join(left_out)}"
    if not rescale(product.kernel).full_range:
        yield "not measured: distances whose squares are beyond the type, where the code does not promise to be right"
