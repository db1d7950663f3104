"""Formulas and derivations as plain text, for terminals, comments in generated code, and `repr`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from .functions import Node, absolute, signum
from .printing import TextPrinter

if TYPE_CHECKING:
    import sympy as sp

    from .catalogue import Loss
    from .differentiate import Derivation


to_text = TextPrinter({f"norm_{name}": f"|{name}|" for name in ("x", "x_pos", "x_neg")})
"""`to_text(expr)` is `expr` on one line."""


@cache  # every target has them in its comments
def formulas(derivation: Derivation) -> tuple[tuple[str, str], ...]:
    """Name and value of everything that the gradients are written in, then of the gradients."""
    from sympy import IndexedBase

    from .catalogue import PAIRS
    from .normalization import at_units
    from .symbols import UNITS, definition_of, x, y

    distance, loss = derivation.distance, derivation.loss
    results = [loss.value.result, *(lemma.result for lemma in loss.slopes.values())]
    names = loss.used
    nodes = set().union(*(expr.atoms(Node) for expr in (*results, *names.values())))
    nodes |= {node for lemma in distance.gradients.values() for node in lemma.result.atoms(Node) - _plain(lemma.result)}
    rows = [("d(x, y)", to_text(definition_of(distance.distance, x, y)))]
    of = {name: name for name in derivation.gradients}
    if normalization := derivation.normalization:
        if distance.distance.on_units:
            rows.append(("", to_text(distance.value.xreplace({x: UNITS["x"], y: IndexedBase("unit_y", real=True)}))))
        units = {name: f"unit_{name}" for name in of}
        rows.append((", ".join(units.values()), ", ".join(f"{name}/|{name}|" for name in of)))
        if derivation.objective.normalize:
            of = units
    ends = {which: (of[first], of[second]) for which in loss.loss.distances for first, second in [PAIRS[which]]}
    rows.append((", ".join(ends), ", ".join(f"d({first}, {second})" for first, second in ends.values())))
    rows += sorted({(f"{_called(node)}({', '.join(node.variables)})", node.spelled_out) for node in nodes})
    rows += [(symbol.name, to_text(meaning)) for symbol, meaning in names.items()]
    rows.append(("L", to_text(loss.value.result)))
    if normalization:
        rows += [(f"g_{name}[k]", to_text(at_units(lemma.result))) for name, lemma in derivation.gradients.items()]
    rows += [(f"dL/d{name}[k]", to_text(lemma.result)) for name, lemma in derivation.outcome.gradients.items()]
    return tuple(rows)


def _plain(expr: sp.Expr) -> set[Node]:
    """The nodes that need no explanation: magnitudes and signs."""
    return set(expr.atoms(absolute, signum))


def _called(node: Node) -> str:
    name = type(node).__name__
    return TextPrinter.functions.get(name, name)


def missing(loss: Loss) -> list[str]:
    """Where a loss has no value or no derivative: nothing is promised there."""
    return [f"not defined, and not verified, at {of.where}: {of.why}" for of in loss.undefined]


def table(rows: Sequence[tuple[str, str]], separator: str = " = ") -> list[str]:
    """Rows as lines with their first columns lined up; a formula that is too long takes several."""
    width = max(len(left) for left, _ in rows)
    below = " " * (width + len(separator))
    return [
        f"{below}{piece}" if at else f"{left:<{width}}{separator}{piece}"
        for left, right in rows
        for at, piece in enumerate(_broken(right, _LONGEST - len(below)))
    ]


_LONGEST = 113  # behind the " *     " of a comment, that is 120


def _broken(formula: str, width: int) -> list[str]:
    """A formula in pieces of at most `width`, if it can be.

    Broken before a term, or else behind the * of a long one, or else before a sum that divides; or so in parentheses.
    """
    pieces = [formula]
    term, factor, divisor = (r" (?=[+-] )", " "), (r"(?<=\*)", ""), (r"(?<=/)(?=sum_)", "")
    for (separator, between), depth in ((term, 0), (factor, 0), (divisor, 0), (term, 1), (factor, 1), (divisor, 1)):
        parts = [_filled(_parts(p, separator, depth), between, width) if len(p) > width else [p] for p in pieces]
        pieces = [piece for part in parts for piece in part]
    return pieces


def _parts(formula: str, separator: str, depth: int) -> list[str]:
    """A formula taken apart at a separator in so many parentheses at most."""
    places = [at.span() for at in re.finditer(separator, formula) if _parentheses(formula, at.start()) <= depth]
    starts, ends = [0, *(end for _, end in places)], [*(start for start, _ in places), len(formula)]
    return [formula[start:end] for start, end in zip(starts, ends, strict=True)]


def _parentheses(formula: str, at: int) -> int:
    """In how many parentheses a place of a formula is."""
    return formula.count("(", 0, at) - formula.count(")", 0, at)


def _filled(parts: list[str], between: str, width: int) -> list[str]:
    """The parts put together again, as many to a line as it has room for."""
    lines = parts[:1]
    for part in parts[1:]:
        longer = f"{lines[-1]}{between}{part}"
        lines[-1:] = [longer] if len(longer) <= width else [lines[-1], part]
    return lines


def describe(derivation: Derivation) -> str:
    """What was derived, for people."""
    objective = derivation.objective
    lines = [f"{objective.title}: {len(derivation.steps)} checked steps", ""]
    lines += table(formulas(derivation))
    if objective.loss.undefined:
        lines += ["", *missing(objective.loss)]
    if derivation.kinks:
        lines += ["", "not differentiable, and the derivative taken as 0, at"]
        lines += [f"    {line}" for line in table([(kink.where, kink.shape) for kink in derivation.kinks], "  ")]
    holds = [(step.rule, step.reason) for step in derivation.invariants]
    holds += [(f"{bound.quantity} <= {to_text(bound.limit)}", bound.approached) for bound in derivation.bounds]
    if holds:
        lines += ["", "everywhere else" if derivation.kinks else "everywhere"]
        lines += [f"    {line}" for line in table(holds, "  ")]
    return "\n".join(lines)
