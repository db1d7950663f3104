"""What the targets in C++ share: a printer, and the slots of the templates in `templates/cpp`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter
from .base import slots

if TYPE_CHECKING:
    from ..kernel import RowKernel


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


_LEAST = {"at least 1": ">= 1", "positive": "> 0", "nonnegative": ">= 0", "real": "> -INFINITY"}
"""What stands behind a parameter in the test of its domain."""


def row_slots(kernel: RowKernel) -> dict[str, Any]:
    """The slots of `row.jinja`: functions that sum, evaluate and differentiate one row, with scales for the sums."""
    from ..rescale import rescale

    rescaled = rescale(kernel)
    kept = {symbol.name: f"row.{symbol.name}" for symbol in (*kernel.constants, kernel.loss, *kernel.weights)}
    scales = {symbol.name: f"scale.{name}" for name, symbol in rescaled.scales.items()}
    sums = {reduction.name: f"sums.{reduction.name}" for reduction in kernel.reductions}
    parameters = {parameter.name: f"parameters.{parameter.name}" for parameter in kernel.parameters}
    printed = slots(rescaled, CppPrinter(sums | parameters | kept | scales), CppPrinter(kept | scales))
    for stage in printed["stages"]:
        stage["uses"] = [
            name for name in ("scale", "parameters") if any(f"{name}." in text for _, text in stage["scalars"])
        ]
        stage["scalars"] = [(kept.get(name, f"const T {name}"), value) for name, value in stage["scalars"]]
    return {**printed, "least": _LEAST}
