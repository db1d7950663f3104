"""The names in generated code, and what a document calls them."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from . import symbols
from .kernel import Reduction, RowKernel
from .latex import (
    AT_UNITS,
    EMBEDDINGS,
    NORMS,
    UNITS,
    aligned,
    broken,
    escape,
    to_latex,
    width,
)


def _inner(a: str, b: str) -> str:
    return rf"\langle {a}, {b} \rangle"


_IN_THE_DOCUMENT = {
    "delta": r"\Delta",
    "loss": "L",
    "slope": r"\partial L / \partial d_{+}",
    "pick_pos": "e_{+}",
    "pick_neg": "e_{-}",
    "pick_swap": r"e_{\pm}",
    **{f"grad_{name}": rf"\partial L / \partial {latex}_{{k}}" for name, latex in EMBEDDINGS.items()},
    **{f"square_{name}": f"{latex}^{{2}}" for name, latex in NORMS.items()},
    **{f"inverse_{name}": f"{latex}^{{-1}}" for name, latex in NORMS.items()},
    **{f"unit_{name}": f"{latex}_{{k}}" for name, latex in UNITS.items()},
    **{f"along_{name}": _inner(latex, UNITS[name]) for name, latex in AT_UNITS.items()},
}


_IN_THE_TABLE = 48  # the width of the values of a dictionary
_REDUCED_BY = {"sum": r"\sum_{k=1}^{n}", "max": r"\max_{k}"}


def dictionary_of(kernel: RowKernel) -> tuple[tuple[str, str, str], ...]:
    """The names in the generated code, what a document calls them, and their values."""
    named = {sp.Symbol(name, real=True): f"{latex}_{{k}}" for name, latex in EMBEDDINGS.items()}
    rows: list[tuple[sp.Symbol, str]] = []

    def enter(symbol: sp.Symbol, value: str, known: str = "") -> None:
        known = known or _IN_THE_DOCUMENT.get(symbol.name) or ("" if "_" in symbol.name[2:] else to_latex(symbol))
        rows.append((symbol, value))
        named.setdefault(symbol, known or rf"\texttt{{{escape(symbol.name)}}}")

    def enter_components() -> None:
        """Those whose value is known by now."""
        known = {*named, *map(symbols.parameter, kernel.parameters)}
        for a in kernel.components:
            if a.symbol not in named and a.value.free_symbols <= known:
                known.add(a.symbol)
                enter(a.symbol, to_latex(a.value, named))

    for stage in kernel.stages:
        enter_components()
        for r in stage.reductions:
            enter(r.symbol, f"{_REDUCED_BY[r.kind]} {to_latex(r.term, named)}", _inner_product(r, named))
        for a in stage.scalars:
            enter(a.symbol, to_latex(a.value, named))
    enter_components()
    for a in kernel.maps:
        whole = to_latex(a.value, named)
        enter(a.symbol, whole if width(whole) <= _IN_THE_TABLE else aligned(broken(a.value, named)))
    return tuple((escape(symbol.name), named[symbol], value) for symbol, value in rows)


def _inner_product(reduction: Reduction, named: Mapping[sp.Expr, str]) -> str:
    """What to call the sum of a unit vector times something else; nothing if it is no such sum."""
    for name in sorted(UNITS, key=len, reverse=True):  # x_pos begins with x
        if reduction.name.startswith(f"dot_{name}_"):
            return _inner(UNITS[name], to_latex(reduction.term / sp.Symbol(f"unit_{name}", real=True), named))
    return ""
