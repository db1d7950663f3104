"""What the targets in C++ share: a printer, and the slots of the templates in `templates/cpp`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter, ShortLines
from .base import slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import sympy as sp

    from ..kernel import RowKernel
    from ..rescale import Rescaled


class CppPrinter(InfixPrinter):
    """Expressions in the scalar type T; functions are those of `functions.jinja`."""

    functions = {
        "sqrt": "square_root",
        "pow": "power",
        "exp": "exponential",
        "log": "logarithm",
        "log1p": "log_of_one_plus",
        "expm1": "exponential_minus_one",
        "tanh": "hyperbolic_tangent",
        "hypot": "hypotenuse",
        "logaddexp": "log_of_sum_of_exponentials",
        "Abs": "magnitude",
        "absolute": "magnitude",
        "signum": "sign",
    }

    def _print_Integer(self, expr: Any) -> tuple[str, int]:
        text = self.integer(int(expr))
        return text, ATOM

    def integer(self, value: int) -> str:
        return f"T({value})"

    def decimal(self, text: str) -> str:
        return f"T({text})"

    def _print_rounded(self, expr: Any) -> tuple[str, int]:
        return self.call("rounded_product", *expr.args[0].as_two_terms()), ATOM


class ShortCppPrinter(ShortLines, CppPrinter):
    """For lines of 120 columns, of which the longest declarations leave this room."""

    room = 107


class MapPrinter(ShortCppPrinter):
    """The same for lines that declare nothing."""

    room = 115


_LEAST = {"at least 1": ">= 1", "positive": "> 0", "nonnegative": ">= 0", "real": "> -INFINITY"}
"""What stands behind a parameter in the test of its domain."""


def row_slots(kernel: RowKernel) -> dict[str, Any]:
    """The slots of `row.jinja`: functions that sum, evaluate and differentiate one row, with scales for the sums."""
    from ..rescale import rescale

    stored = (*kernel.constants, kernel.loss, *kernel.weights)
    return {**_slots(rescale(kernel), stored), "least": _LEAST}


def product_slots(kernel: RowKernel) -> dict[str, Any] | None:
    """The slots of `product.jinja`, the same for the Hessian-vector product; none where there is no product."""
    from ..hvp import product_of

    product = product_of(kernel)
    if product is None:
        return None
    stored = (*product.kernel.constants, *product.kernel.weights)
    return {**_slots(product, stored), "functions": product.kernel.functions}


def _slots(rescaled: Rescaled, stored: Iterable[sp.Symbol]) -> dict[str, Any]:
    """The slots of functions on a row; `stored` is what they leave in its `Row`."""
    kernel = rescaled.kernel
    kept = {symbol.name: f"row.{symbol.name}" for symbol in stored}
    scales = {symbol.name: f"scale.{name}" for name, symbol in rescaled.scales.items()}
    sums = {reduction.name: f"sums.{reduction.name}" for reduction in kernel.reductions}
    parameters = {parameter.name: f"parameters.{parameter.name}" for parameter in kernel.parameters}
    printed = slots(
        rescaled,
        ShortCppPrinter(sums | parameters | kept | scales),
        ShortCppPrinter(kept | scales),
        MapPrinter(kept | scales),
    )
    for stage in printed["stages"]:
        stage["uses"] = [
            name for name in ("scale", "parameters") if any(f"{name}." in text for _, text in stage["scalars"])
        ]
        found = [(kept[name], sums[name]) for name, _ in stage["reductions"] if name in kept]
        stage["scalars"] = [*found, *_declared(stage["scalars"], kept)]
    return printed


def _declared(assignments: Sequence[tuple[str, str]], kept: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is kept by its place, and variables where they get their first value, constant if it is their only one."""
    names = [name for name, _ in assignments]
    for at, (name, value) in enumerate(assignments):
        declaration = "" if name in names[:at] else "T " if name in names[at + 1 :] else "const T "
        yield kept.get(name, f"{declaration}{name}"), value
