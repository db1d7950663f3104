"""The NumPy target: one module of plain NumPy, executed by importing its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter, ShortLines
from .base import Product, Settings, Target

if TYPE_CHECKING:
    import sympy as sp

    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.checks import Method
    from ..verify.report import Report

_HELPERS = ("sigmoid", "sigmoids", "softplus", "select", "attains", "masked_ratio", "masked_power", "raised")
_REDUCED_BY = {"sum": "_sum", "max": "_largest"}
_LEAST = {"at least 1": "1 <= ", "positive": "0 < ", "nonnegative": "0 <= ", "real": "-np.inf < "}
"""What stands before a parameter in the test of its domain."""


class NumpyPrinter(InfixPrinter):
    """Expressions on arrays: scalars of a row have shape (rows,) or (rows, 1), components (rows, columns).

    of_row: the symbols that are the same for all components of a row.
    norms: whether sums of squares are computed without an array of squares, in an order that depends on the machine.
    """

    functions = {
        "sqrt": "np.sqrt",
        "pow": "np.power",
        "exp": "np.exp",
        "log": "np.log",
        "Abs": "np.abs",
        "sign": "np.sign",
        "absolute": "np.abs",
        "signum": "np.sign",
        **{name: f"np.{name}" for name in ("log1p", "expm1", "tanh", "hypot", "logaddexp")},
        **{name: f"_{name}" for name in _HELPERS},
    }

    def __init__(
        self, names: Mapping[str, str] | None = None, of_row: Iterable[sp.Symbol] = (), norms: bool = False
    ) -> None:
        super().__init__(names)
        self.of_row, self.norms = frozenset(of_row), norms

    def _print_positive_part(self, expr: Any) -> tuple[str, int]:
        return f"np.maximum({self(expr.args[0])}, 0.0)", ATOM

    def _print_step(self, expr: Any) -> tuple[str, int]:
        return f"np.heaviside({self(expr.args[0])}, 0.0)", ATOM

    def power(self, base: sp.Expr, exponent: sp.Expr) -> tuple[str, int]:
        if exponent.free_symbols & self.of_row and not base.free_symbols <= self.of_row:
            return self.call("_raised", base, exponent), ATOM
        return super().power(base, exponent)

    def reduction(self, term: sp.Expr, kind: str) -> str:
        """A term reduced over the columns."""
        if self.norms and kind == "sum" and term.is_Pow and term.exp == 2:
            return f"_sum_of_squares({self(term.base)})"
        return f"{_REDUCED_BY[kind]}({self(term)})"

    def into(self, array: str, value: sp.Expr) -> list[str]:
        """The statements that compute `value` into an array that is there, the last operation without a temporary."""
        if value.is_Add:
            *first, last = self.terms(value)
            if first[0].startswith("-"):
                return [*self.into(array, -value), f"np.negative({array}, out={array})"]
            operation = "subtract" if last.startswith("-") else "add"
            return [f"np.{operation}({' '.join(first)}, {last[2:]}, out={array})"]
        if value.is_Mul:
            row, rest = value.as_independent(*(value.free_symbols - self.of_row), as_Add=False)
            if row != 1:
                return [f"np.multiply({self(rest)}, {self(row)}, out={array})"]
        text = self(value)
        if value.is_Function and text.startswith("np."):
            return [f"{text[:-1]}, out={array})"]
        return [f"{array}[...] = {text}"]


class ShortNumpyPrinter(ShortLines, NumpyPrinter):
    """For lines of assignments, the most indented ones of which stand in loops of loops."""

    room = 76

    def lines(self, name: str, value: sp.Expr, last: str = "") -> list[tuple[str, str]]:
        """The same; of a call that is too long the longest argument comes first."""
        from sympy import Symbol

        from ..functions import masked_ratio

        if not isinstance(value, masked_ratio) or len(f"{last or name} = {self(value)}") <= self.room:
            return super().lines(name, value, last)
        longest = max(value.args, key=lambda argument: len(self(argument)))
        call = value.func(*(Symbol(name) if argument is longest else argument for argument in value.args))
        return [*super().lines(name, longest), (last or name, self(call))]

    def into(self, array: str, value: sp.Expr, part: str = "") -> list[str]:
        """The same, of a value that is too long for a line by way of an array called `part`."""
        statements = super().into(array, value)
        if not part or max(map(len, statements)) <= self.room:
            return statements
        return [f"{name} = {text}" for name, text in self.lines(part, value, f"{array}[...]")]


class NumpyTarget(Target):
    name = "numpy"
    title = "one NumPy module: value, value_and_grad, hvp"
    templates = {"layer.py.jinja": "{stem}.py"}
    executable = True

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..hvp import hessian_product
        from ..rescale import rescale
        from .numpy_rows import bracketed, slots_of

        embeddings = ("x", "x_pos", "x_neg")
        own = slots_of(rescale(kernel), embeddings, "g")
        product = slots_of(hessian_product(kernel), (*embeddings, *(f"d{name}" for name in embeddings)), "h")
        return {
            **own,
            "product": product,
            "bracketed": bracketed,
            "squares": any("square" in function for stage in own["stages"] for _, function in stage["scales"]),
            "least": _LEAST,
            "helpers": [name for name in _HELPERS if f"_{name}(" in f"{own}{product}"],
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        import numpy as np

        from ..rescale import rescale
        from ..verify.checks import DIMS, run_checks
        from ..verify.curvature import run_product_checks
        from ..verify.mixing import mixing_checks
        from ..verify.report import Report
        from ..verify.weighting import REDUCTIONS, weighting_checks

        module, of, dtypes = load(product), product.objective, product.settings.dtypes
        values, invariant = product.settings.values(of), product.derivation.translation_invariant
        full_range, dims = rescale(product.kernel).full_range, DIMS if thorough else ()
        run, products = runner(module), product_runner(module)
        checks = run_checks(of, run, dtypes, values, invariant, dims=dims, full_range=full_range)
        checks += run_product_checks(of, products, dtypes, values, invariant, dims=dims, full_range=full_range)
        for dtype in dtypes:
            checks += mixing_checks(of, run, dtype, values, full_range, products)
        weighted = [weighting_checks(run, dtype, values, ("none", *REDUCTIONS)) for dtype in dtypes]
        return Report(self.name, f"run (NumPy {np.__version__})", (*checks, *chain(*weighted)))

    def methods(self, product: Product) -> AbstractContextManager[Sequence[Method]]:
        import numpy as np

        from ..verify.checks import Method

        runners = dict.fromkeys(product.settings.dtypes, runner(load(product)))
        return nullcontext([Method(self.name, f"the generated module, NumPy {np.__version__}", runners)])


def load(product: Product) -> ModuleType:
    """The product as a module, executed from its rendered text."""
    file = product.files[0]
    module = ModuleType(product.objective.stem)
    exec(compile(file.text, file.path, "exec"), module.__dict__)
    return module


def runner(module: ModuleType) -> Any:
    """A `WeightedRunner` on a generated module; the loss is NaN where its two functions do not agree."""
    import numpy as np

    def run(
        x: Any,
        x_pos: Any,
        x_neg: Any,
        parameters: Mapping[str, float],
        reduction: str = "none",
        weights: Any = None,
    ) -> tuple[Any, Sequence[Any]]:
        loss, gradients = module.value_and_grad(x, x_pos, x_neg, reduction=reduction, weights=weights, **parameters)
        alone = module.value(x, x_pos, x_neg, reduction=reduction, weights=weights, **parameters)
        return np.where(np.equal(loss, alone), loss, np.nan), gradients

    return run


def product_runner(module: ModuleType) -> Any:
    """A `verify.curvature.ProductRunner` on a generated module."""

    def run(
        embeddings: Sequence[Any], direction: Sequence[Any], parameters: Mapping[str, float], reduction: str = "none"
    ) -> Any:
        return module.hvp(*embeddings, *direction, reduction=reduction, **parameters)

    return run
