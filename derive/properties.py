"""What holds of a gradient besides its formula: upper bounds, and its behaviour where the loss has a kink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from .catalogue import Objective
from .errors import StepError
from .functions import step
from .highprecision import locus_value, loss_value, objective_value

_CONVENTION = "the derivative is taken as 0"


@dataclass(frozen=True)
class Bound:
    """The length of dL/d(`variable`) is at most `limit` everywhere.

    s: the value of s at which it comes closest; None if that is wherever the loss is active.
    """

    variable: str
    limit: sp.Expr
    s: sp.Expr | None

    @property
    def quantity(self) -> str:
        return f"|dL/d{self.variable}|"

    @property
    def is_attained(self) -> bool:
        """Whether the limit is a value, and not only approached at an end of the range of s."""
        return self.s is None or bool(0 < self.s < 1)

    @property
    def approached(self) -> str:
        """Where the quantity comes closest to the limit."""
        if self.s is None:
            return "wherever the loss is active"
        return f"at s = {self.s}" if self.is_attained else f"as s -> {self.s}"


@dataclass(frozen=True)
class Kink:
    """A set of points at which the loss is not differentiable, and the value taken there.

    convex: the loss rises on both sides (the Frechet subdifferential contains the convention's 0); if not, it falls on
    both sides, the Frechet subdifferential is empty and 0 is only a Clarke element.
    """

    where: str
    why: str
    convex: bool
    convention: str = _CONVENTION

    @property
    def shape(self) -> str:
        return "convex kink: 0 is a subgradient" if self.convex else "concave kink: 0 is only a Clarke subgradient"


def bound_slope(slope: sp.Expr) -> tuple[sp.Expr, sp.Expr | None] | None:
    """The supremum of |slope| and the value of s where it is approached.

    None for a slope that is not a polynomial in s, q = 1 - s and steps.
    """
    s, q = (sp.Symbol(name, positive=True) for name in "sq")
    steps = dict.fromkeys(slope.atoms(step), sp.S.One)
    on = slope.xreplace(steps).subs(q, 1 - s)
    constants, polynomial = sp.factor_terms(on).as_independent(s, as_Add=False)
    if any(symbol.name.startswith(("d_", "z", "s", "q")) for symbol in constants.free_symbols):
        return None
    if not polynomial.is_polynomial(s) or polynomial.free_symbols - {s}:
        return None
    stationary = [root for root in sp.roots(sp.diff(polynomial, s), s) if root.is_real and 0 < root < 1]
    candidates = [sp.S.Zero, *sorted(stationary), sp.S.One] if polynomial.has(s) else [sp.S.One]
    at = max(candidates, key=lambda c: abs(polynomial.subs(s, c)))
    limit = abs(constants * polynomial.subs(s, at))
    return limit, at if polynomial.has(s) else None


def find_kinks(objective: Objective) -> tuple[Kink, ...]:
    """The kinks that the catalogue states for an objective, each confirmed by one-sided derivatives at 50 digits.

    Raises `StepError` when the loss is differentiable at a point that the catalogue calls singular.
    """
    kinks = []
    with mpmath.workdps(60):
        anchor, near = [mpmath.mpf(1) / 3, mpmath.mpf(-2) / 7], [mpmath.mpf(2) / 5, mpmath.mpf(-1) / 4]
        for singularity in objective.distance.singularities:
            for where, embeddings in (
                (singularity.where.replace("y", "x_pos"), lambda moved: (anchor, moved, near)),
                (singularity.where.replace("y", "x_neg"), lambda moved: (anchor, near, moved)),
            ):

                def along(t: Any, embeddings: Callable[..., Any] = embeddings) -> Any:
                    x, x_pos, x_neg = embeddings([anchor[0] + t, anchor[1] + 2 * t])
                    return objective_value(objective, x, x_pos, x_neg, {})

                kinks.append(Kink(where, singularity.why, _is_convex(along, f"{objective.stem} at {where}")))
        loss, d_neg = objective.loss, mpmath.mpf(1)
        for singularity in loss.singularities:
            d_pos = mpmath.findroot(
                lambda d, locus=singularity.locus: locus_value(loss, locus, d, d_neg, {}), (mpmath.mpf(0), d_neg)
            )

            def across(t: Any, at: Any = d_pos) -> Any:
                return loss_value(loss, at + t, d_neg, {})

            where = singularity.where
            kinks.append(Kink(where, singularity.why, _is_convex(across, f"{objective.stem} at {where}")))
    return tuple(kinks)


def _is_convex(along: Callable[[Any], Any], what: str) -> bool:
    h = mpmath.mpf(10) ** -20
    here = along(mpmath.mpf(0))
    jump = (along(h) - here) / h + (along(-h) - here) / h
    if abs(jump) < mpmath.mpf(10) ** -10:
        raise StepError(f"{what}: stated as singular, but the one-sided derivatives agree")
    return bool(jump > 0)
