"""What the targets in C++ share: a printer, and the slots of the templates in `templates/cpp`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter
from .base import slots

if TYPE_CHECKING:
    from ..kernel import RowKernel


class CppPrinter(InfixPrinter):
    """Expressions in the scalar type T; functions are those of `functions.jinja`."""

    functions = {"sqrt": "square_root", "exp": "exponential", "log": "logarithm", "Abs": "magnitude"}

    def _print_Integer(self, expr: Any) -> tuple[str, int]:
        text = self.integer(int(expr))
        return text, ATOM

    def integer(self, value: int) -> str:
        return f"T({value})"


def row_slots(kernel: RowKernel) -> dict[str, Any]:
    """The slots of `row.jinja`: functions that sum, evaluate and differentiate one row."""
    component = CppPrinter({weight.name: f"row.{weight.name}" for weight in kernel.weights})
    scalar = CppPrinter(
        {reduction.name: f"sums.{reduction.name}" for reduction in kernel.reductions}
        | {parameter.name: f"parameters.{parameter.name}" for parameter in kernel.parameters}
    )
    return slots(kernel, scalar, component)
