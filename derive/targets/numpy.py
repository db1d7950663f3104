"""The NumPy target: one module of plain NumPy, executed by importing its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter
from .base import Product, Settings, Target, slots

if TYPE_CHECKING:
    import sympy as sp

    from ..differentiate import Derivation
    from ..kernel import Assignment, RowKernel
    from ..verify.checks import Method
    from ..verify.report import Report

_HELPERS = ("sigmoid", "softplus", "select", "masked_ratio")
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


def _map(gradient: Assignment, printer: NumpyPrinter) -> tuple[str, str, str]:
    """A gradient's name and printed value, and the scale by which that is multiplied last; '' for none."""
    from ..functions import product

    value, scale = gradient.value.args if isinstance(gradient.value, product) else (gradient.value, "")
    return gradient.name, printer(value), str(scale)


class NumpyTarget(Target):
    name = "numpy"
    title = "one NumPy module: value, value_and_grad"
    templates = {"layer.py.jinja": "{stem}.py"}
    executable = True

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..rescale import rescale

        rescaled = rescale(kernel)
        scales = rescaled.scales.values()
        parameters = {parameter.name for parameter in kernel.parameters}
        embeddings = {name: f"{name}[:, k]" for name in ("x", "x_pos", "x_neg")}
        of_row = {symbol.name: f"{symbol.name}[:, None]" for symbol in kernel.constants}
        own = slots(
            rescaled, NumpyPrinter(), NumpyPrinter(embeddings | of_row, scales), NumpyPrinter(embeddings, scales)
        )
        for stage in own["stages"]:  # a parameter that is taken into the rows
            stage["scalars"] = [(n, f"np.full(len(x), {v})" if v in parameters else v) for n, v in stage["scalars"]]
        return {
            **own,
            "maps": [_map(gradient, NumpyPrinter(embeddings, scales)) for gradient in rescaled.kernel.maps],
            "squares": any("square" in function for stage in own["stages"] for _, function in stage["scales"]),
            "least": _LEAST,
            "helpers": [name for name in _HELPERS if name in kernel.functions],
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        import numpy as np

        from ..rescale import rescale
        from ..verify.checks import DIMS, run_checks
        from ..verify.report import Report
        from ..verify.weighting import REDUCTIONS, weighting_checks

        run, values = runner(load(product)), product.settings.values(product.objective)
        checks = run_checks(
            product.objective,
            run,
            product.settings.dtypes,
            values,
            product.derivation.translation_invariant,
            dims=DIMS if thorough else (),
            full_range=rescale(product.kernel).full_range,
        )
        weighted = [weighting_checks(run, dtype, values, ("none", *REDUCTIONS)) for dtype in product.settings.dtypes]
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
