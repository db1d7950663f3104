"""What the targets in C++ share: a printer, and the slots of the templates in `templates/cpp`; C shares the latter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter, ShortLines
from .base import slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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


LEAST = {"at least 1": ">= 1", "positive": "> 0", "nonnegative": ">= 0", "real": "> -INFINITY"}
"""What stands behind a parameter in the test of its domain."""


@dataclass(frozen=True)
class Places:
    """Where functions on a row find what is known of it, and the type of the variables that they declare."""

    row: str = "row."
    scale: str = "scale."
    sums: str = "sums."
    parameters: str = "parameters."
    real: str = "T"


def row_slots(kernel: RowKernel) -> dict[str, Any]:
    """The slots of `row.jinja`: functions that sum, evaluate and differentiate one row, with scales for the sums."""
    from ..rescale import rescale

    return {**_slots(rescale(kernel)), "least": LEAST}


def product_slots(kernel: RowKernel) -> dict[str, Any]:
    """The slots of `product.jinja`, the same for the Hessian-vector product."""
    from ..hvp import hessian_product

    product = hessian_product(kernel)
    return {**_slots(product), "functions": product.kernel.functions}


def _slots(rescaled: Rescaled) -> dict[str, Any]:
    printed = placed_slots(rescaled, Places(), ShortCppPrinter, MapPrinter)
    for stage in printed["stages"]:
        stage["uses"] = [
            name for name in ("scale", "parameters") if any(f"{name}." in text for _, text in stage["scalars"])
        ]
    return printed


def placed_slots(
    rescaled: Rescaled,
    places: Places,
    printer: Callable[[Mapping[str, str]], InfixPrinter],
    map_printer: Callable[[Mapping[str, str]], InfixPrinter],
) -> dict[str, Any]:
    """The slots of functions on a row, which leave what is found out about it in its places."""
    kernel = rescaled.kernel
    stored = (*kernel.constants, kernel.loss, *kernel.weights)
    kept = {symbol.name: f"{places.row}{symbol.name}" for symbol in stored}
    scales = {symbol.name: f"{places.scale}{name}" for name, symbol in rescaled.scales.items()}
    sums = {reduction.name: f"{places.sums}{reduction.name}" for reduction in kernel.reductions}
    parameters = {parameter.name: f"{places.parameters}{parameter.name}" for parameter in kernel.parameters}
    printed = slots(
        rescaled,
        printer(sums | parameters | kept | scales),
        printer(kept | scales),
        map_printer(kept | scales),
    )
    for stage in printed["stages"]:
        found = [(kept[name], sums[name]) for name, _ in stage["reductions"] if name in kept]
        stage["scalars"] = [*found, *declared(stage["scalars"], kept, places.real)]
    return printed


def declared(assignments: Sequence[tuple[str, str]], kept: Mapping[str, str], real: str) -> Iterator[tuple[str, str]]:
    """What is kept by its place, and variables where they get their first value, constant if it is their only one."""
    names = [name for name, _ in assignments]
    for at, (name, value) in enumerate(assignments):
        declaration = "" if name in names[:at] else f"{real} " if name in names[at + 1 :] else f"const {real} "
        yield kept.get(name, f"{declaration}{name}"), value
