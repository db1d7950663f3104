"""What holds of a gradient besides its formula: upper bounds, and its behaviour where the loss has a kink."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import mpmath
import sympy as sp

from . import symbols
from .catalogue import PAIRS, Loss, Objective, Singularity
from .errors import StepError
from .functions import step
from .highprecision import distance_value, if_defined, loss_value, objective_value, zeros
from .symbols import EMBEDDINGS

S, _Q = (sp.Symbol(name, positive=True) for name in "sq")
_PARTS = 64  # of the range of s, at which a bound is checked


@dataclass(frozen=True)
class Bound:
    """The length of dL/d(`variable`) is at most `limit` everywhere.

    length: that length, of s alone apart from parameters. Checked on construction over the range of s, 0 < s < 1:
    raises `StepError` for a limit that is exceeded, or that is not reached at `s`.
    s: the value of s at which it comes closest; None if that is wherever the loss is active.
    """

    variable: str
    limit: sp.Expr
    s: sp.Expr | None
    length: sp.Expr = field(repr=False)

    def __post_init__(self) -> None:
        if not _is_closely_bounded(sp.cancel(self.length / self.limit), sp.S.Zero if self.s is None else self.s):
            raise StepError(f"{self.limit} does not bound {self.quantity}, or not closely")

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


@cache  # several bounds of an objective differ in a constant factor
def _is_closely_bounded(ratio: sp.Expr, at: sp.Expr) -> bool:
    """Whether the absolute value of `ratio` is at most 1 over the range of s, and 1 at one value of it."""
    values = (sp.Rational(part, _PARTS) for part in range(1, _PARTS))
    return bool(abs(ratio.xreplace({S: at})) == 1 and all(abs(ratio.xreplace({S: s})) <= 1 for s in values))


@dataclass(frozen=True)
class Kink:
    """A set of points at which the loss is not differentiable, and the value taken there.

    convex: the loss rises on both sides (the Frechet subdifferential contains the convention's 0); if not, it falls on
    both sides, the Frechet subdifferential is empty and 0 is only a Clarke element. None where the loss jumps.
    taken: which derivative is taken, if it is not 0: of the pieces that meet, that of one, or the mean.
    locus: what is 0 there, of a loss.
    """

    where: str
    why: str
    convex: bool | None
    taken: str = ""
    locus: sp.Expr | None = None

    @property
    def stated(self) -> str:
        """The points, with what is taken there if it is not 0."""
        return f"{self.where}, but there {self.taken}" if self.taken else self.where

    @property
    def shape(self) -> str:
        if self.convex is None:
            return "jump: a zero vector has no direction, and is its own unit vector"
        if self.taken:
            return f"{'convex' if self.convex else 'concave'} kink: {self.taken}"
        return "convex kink: 0 is a subgradient" if self.convex else "concave kink: 0 is only a Clarke subgradient"


def bound_slope(slope: sp.Expr, abbreviations: Collection[sp.Symbol]) -> Bound | None:
    """The supremum of |dL/d(d_pos)|, which is `slope`, written in `abbreviations`.

    None for a slope that is not a polynomial in s and q = 1 - s, or a step times one.
    """
    steps = dict.fromkeys(slope.atoms(step), sp.S.One)
    on = slope.xreplace(steps).xreplace({_Q: 1 - S})
    constants, polynomial = sp.factor_terms(on).as_independent(S, as_Add=False)
    if slope.has(step) and slope.xreplace(dict.fromkeys(steps, sp.S.Zero)) != 0:
        return None  # it is not largest where all steps are 1
    if constants.free_symbols & {*abbreviations, *symbols.DISTANCES}:
        return None
    if not polynomial.is_polynomial(S) or polynomial.free_symbols - {S}:
        return None
    stationary = [root for root in sp.roots(sp.Poly(polynomial, S).diff()) if root.is_real and 0 < root < 1]
    candidates = [sp.S.Zero, *sorted(stationary), sp.S.One] if polynomial.has(S) else [sp.S.One]
    at = max(candidates, key=lambda c: abs(polynomial.xreplace({S: c})))
    limit = abs(constants * polynomial.xreplace({S: at}))
    return Bound("d_pos", limit, at if polynomial.has(S) else None, on)


def find_kinks(objective: Objective) -> tuple[Kink, ...]:
    """The kinks that the catalogue states for an objective, each confirmed by one-sided derivatives at 50 digits.

    A loss may be smooth where its distance is not; then there is no kink. Raises `StepError` for an entry of the
    catalogue that is differentiable at a point that it calls singular.
    """
    with mpmath.workdps(60):
        zero = (_jump_at_zero(objective),) if objective.of_units else ()
        return (*_kinks_of_distance(objective), *_kinks_of_loss(objective.loss), *zero)


def _kinks_of_distance(objective: Objective) -> Iterator[Kink]:
    for singularity in objective.distance.singularities:
        yield from _kinks_at(objective, singularity)


def _kinks_at(objective: Objective, singularity: Singularity) -> Iterator[Kink]:
    """What happens where one of the distances is singular."""
    anchor, near = [mpmath.mpf(1) / 3, mpmath.mpf(2) / 7], [mpmath.mpf(2) / 5, mpmath.mpf(1) / 4]
    start = [component + mpmath.mpf(singularity.apart) for component in anchor]
    if singularity.mirrored:
        start.reverse()

    def beside(t: Any) -> list[Any]:
        return [start[0] + t, start[1] + 2 * t]

    if _is_convex(lambda t: distance_value(objective.distance, anchor, beside(t), {})) is None:
        raise StepError(f"{objective.distance.name}: stated as singular at {singularity.where}, but it is smooth")
    for first, second in (PAIRS[which] for which in objective.loss.distances):

        def along(t: Any, first: str = first, second: str = second) -> Any:
            vectors = {**dict.fromkeys(EMBEDDINGS, near), first: anchor, second: beside(t)}
            return objective_value(objective, **vectors, parameters={})

        convex = if_defined(partial(_is_convex, along))  # where the loss has no value, its own singularities say so
        if convex is not None:
            names = {"x": first, "y": second}
            if objective.of_units:
                names = {name: f"unit_{embedding}" for name, embedding in names.items()}
            where = re.sub(r"\b[xy](?![a-zA-Z])", partial(_renamed, names), singularity.where)
            yield Kink(where, singularity.why, convex, singularity.taken)


def _renamed(names: Mapping[str, str], word: re.Match[str]) -> str:
    return names[word[0]]


def _jump_at_zero(objective: Objective) -> Kink:
    """Where an embedding that is normalized is 0: the loss beside it depends on the side."""
    anchor, near, away = [mpmath.mpf(1) / 3, mpmath.mpf(-2) / 7], [mpmath.mpf(2) / 5, mpmath.mpf(-1) / 4], mpmath.mpf(0)
    h = mpmath.mpf(10) ** -20

    def apart(name: str) -> Any:
        """By how much the loss differs on two sides of 0 in an embedding."""
        others = {"x": anchor, "x_pos": near, "x_neg": near[::-1]}
        ahead, behind = (objective_value(objective, **{**others, name: [t, away]}, parameters={}) for t in (h, -h))
        return abs(ahead - behind)

    # a loss may be flat where one of the distances is small
    if all(apart(name) < mpmath.mpf(10) ** -10 for name in EMBEDDINGS):
        raise StepError(f"{objective.title}: it does not jump where an embedding is 0")
    why = "a zero vector has no direction; it is taken as its own unit vector"
    return Kink("x = 0, x_pos = 0 or x_neg = 0", why, None)


def _kinks_of_loss(loss: Loss) -> Iterator[Kink]:
    for singularity in loss.singularities:
        found = (
            convex
            for at in zeros(loss, singularity.locus, {})
            for across in range(len(at))
            if (convex := _is_convex(partial(_loss_along, loss, at, across))) is not None
        )
        convex = next(found, None)
        if convex is None:
            raise StepError(f"{loss.name}: stated as singular at {singularity.where}, but it is smooth")
        locus = symbols.locus_of(loss, singularity.locus)
        yield Kink(singularity.where, singularity.why, convex, singularity.taken, locus)


def _loss_along(loss: Loss, at: tuple[Any, ...], across: int, t: Any) -> Any:
    """The loss with one of the distances moved by t."""
    d_pos, d_neg, *others = (distance + t * (which == across) for which, distance in enumerate(at))
    return loss_value(loss, d_pos, d_neg, {}, *others)


def _is_convex(along: Callable[[Any], Any]) -> bool | None:
    """Whether a function has a convex kink at 0, or a concave one; None if its one-sided derivatives agree."""
    h = mpmath.mpf(10) ** -20
    here = along(mpmath.mpf(0))
    jump = (along(h) - here) / h + (along(-h) - here) / h
    return None if abs(jump) < mpmath.mpf(10) ** -10 else bool(jump > 0)
