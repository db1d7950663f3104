"""The NumPy target: one module of plain NumPy, executed by importing its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter, ShortLines
from .base import Product, Settings, Target, slots

if TYPE_CHECKING:
    import sympy as sp

    from ..differentiate import Derivation
    from ..kernel import Assignment, Reduction, RowKernel
    from ..rescale import Rescaled
    from ..verify.checks import Method
    from ..verify.report import Report

_HELPERS = ("sigmoid", "softplus", "select", "masked_ratio", "masked_power")
_REDUCED_BY = {"sum": "_sum", "max": "_largest"}
_LEAST = {"at least 1": "1 <= ", "positive": "0 < ", "nonnegative": "0 <= ", "real": "-np.inf < "}
"""What stands before a parameter in the test of its domain."""


class NumpyPrinter(InfixPrinter):
    """Expressions on arrays: scalars of a row have shape (rows,), components (rows, columns).

    scales: the symbols by which components are multiplied only where they are not 1.
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

    def __init__(self, names: Mapping[str, str] | None = None, scales: Iterable[sp.Symbol] = ()) -> None:
        super().__init__(names)
        self.scales = frozenset(scales)

    def _print_positive_part(self, expr: Any) -> tuple[str, int]:
        return f"np.maximum({self(expr.args[0])}, 0.0)", ATOM

    def _print_step(self, expr: Any) -> tuple[str, int]:
        return f"np.heaviside({self(expr.args[0])}, 0.0)", ATOM

    def _print_Mul(self, expr: Any) -> tuple[str, int]:
        scale = next((factor for factor in expr.args if factor in self.scales), None)
        return (f"_scaled({self(expr / scale)}, {scale})", ATOM) if scale else super()._print_Mul(expr)

    def reduction(self, term: sp.Expr, kind: str) -> str:
        """A term reduced over the columns."""
        return f"{_REDUCED_BY[kind]}({self(term)})"


class ShortNumpyPrinter(ShortLines, NumpyPrinter):
    """For lines of assignments, the most indented ones of which stand in loops of loops."""

    room = 76


def _slots(rescaled: Rescaled, vectors: Iterable[str], part: str) -> dict[str, Any]:
    """The slots of a program on rows of some vectors; `part` names what a map is made of where it takes several lines.

    The maps are assignments to the columns k of arrays of their names.
    """
    names = {name: f"{name}[:, k]" for name in vectors}
    of_row = {symbol.name: f"{symbol.name}[:, None]" for symbol in rescaled.kernel.constants}
    parameters = {parameter.name for parameter in rescaled.kernel.parameters}
    scales = rescaled.scales.values()
    mapped, reduced = ShortNumpyPrinter(names, scales), ShortNumpyPrinter(names | of_row, scales)
    printed = slots(rescaled, ShortNumpyPrinter(), reduced, mapped)
    for stage, of in zip(printed["stages"], rescaled.kernel.stages, strict=True):
        stage["reductions"] = [_reduction(one, reduced, stage["components"]) for one in of.reductions]
        # a parameter that is taken into the rows
        stage["scalars"] = [(n, f"np.full(len(x), {v})" if v in parameters else v) for n, v in stage["scalars"]]
    return {
        **printed,
        "scale_names": [f"scale_{name}" for name in rescaled.scales],
        "maps": [line for one in rescaled.kernel.maps for line in _map(one, mapped, part)],
    }


def _reduction(one: Reduction, printer: ShortLines, components: list[tuple[str, str]]) -> tuple[str, str]:
    """The name of a reduction and what is added to it; a term that is too long for that is one more component."""
    from sympy import Symbol

    text = printer.reduction(one.term, one.kind)
    if len(f"{one.name} += {text}") <= printer.room:
        return one.name, text
    components += printer.lines(named := f"of_{one.name}", one.term)
    return one.name, printer.reduction(Symbol(named), one.kind)


def _map(one: Assignment, printer: ShortLines, part: str) -> list[tuple[str, str]]:
    """The lines of a map; a scale by which it is multiplied last is so in a line of its own."""
    from ..functions import product

    called = f"{one.name}[:, k]"
    if not isinstance(one.value, product):
        return printer.lines(part, one.value, called)
    value, scale = one.value.args
    return [*printer.lines(part, value), (called, f"_scaled({part}, {scale})")]


class NumpyTarget(Target):
    name = "numpy"
    title = "one NumPy module: value, value_and_grad, hvp"
    templates = {"layer.py.jinja": "{stem}.py"}
    executable = True

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..hvp import product_of
        from ..rescale import rescale

        embeddings, second = ("x", "x_pos", "x_neg"), product_of(kernel)
        own = _slots(rescale(kernel), embeddings, "g")
        functions = kernel.functions | (second.kernel.functions if second else frozenset())
        return {
            **own,
            "product": second and _slots(second, (*embeddings, *(f"d{name}" for name in embeddings)), "h"),
            "squares": any("square" in function for stage in own["stages"] for _, function in stage["scales"]),
            "least": _LEAST,
            "helpers": [name for name in _HELPERS if name in functions],
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        import numpy as np

        from ..hvp import product_of
        from ..rescale import rescale
        from ..verify.checks import DIMS, run_checks
        from ..verify.curvature import run_product_checks
        from ..verify.mixing import mixing_checks
        from ..verify.report import Report
        from ..verify.weighting import REDUCTIONS, weighting_checks

        module, of, dtypes = load(product), product.objective, product.settings.dtypes
        values, invariant = product.settings.values(of), product.derivation.translation_invariant
        full_range, dims = rescale(product.kernel).full_range, DIMS if thorough else ()
        run = runner(module)
        checks = run_checks(of, run, dtypes, values, invariant, dims=dims, full_range=full_range)
        products = product_runner(module) if product_of(product.kernel) else None
        if products:
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
