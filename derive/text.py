"""Formulas and derivations as plain text, for terminals, comments in generated code, and `repr`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .printing import TextPrinter

if TYPE_CHECKING:
    from .differentiate import Derivation


to_text = TextPrinter()
"""`to_text(expr)` is `expr` on one line."""


def formulas(derivation: Derivation) -> list[tuple[str, str]]:
    """Name and value of everything that the gradients are written in, then of the gradients."""
    distance, loss = derivation.distance, derivation.loss
    used = loss.value.result.free_symbols.union(*(lemma.result.free_symbols for lemma in loss.slopes.values()))
    rows = [("d(x, y)", to_text(distance.value))]
    rows += [("d_pos, d_neg", "d(x, x_pos), d(x, x_neg)")]
    for symbol, meaning in loss.abbreviations.items():
        if symbol in used or symbol.name.startswith("z"):
            rows.append((symbol.name, to_text(meaning)))
    rows.append(("L", to_text(loss.value.result)))
    rows += [(f"dL/d{name}[k]", to_text(lemma.result)) for name, lemma in derivation.gradients.items()]
    return rows


def table(rows: list[tuple[str, str]], separator: str = " = ") -> list[str]:
    """Rows as lines with their first columns lined up."""
    width = max(len(left) for left, _ in rows)
    return [f"{left:<{width}}{separator}{right}" for left, right in rows]


def describe(derivation: Derivation) -> str:
    """What was derived, for people."""
    objective = derivation.objective
    lines = [f"{objective.loss.name} on {objective.distance.name}: {len(derivation.steps)} checked steps", ""]
    lines += table(formulas(derivation))
    notes = [(kink.where, f"{kink.shape}; {kink.convention}") for kink in derivation.kinks]
    notes += [(step.rule, step.reason) for step in derivation.invariants]
    notes += [(f"{b.quantity} <= {to_text(b.limit)}", f"comes closest {b.approached}") for b in derivation.bounds]
    if notes:
        lines += ["", *table(notes, ": ")]
    return "\n".join(lines)
