"""Rescaled -> what the rates of its maps are made of: forward-mode differentiation of a kernel.

Rates of maps are maps, of what `Rates` finds. Scales of the kernel do not change, and the direction is multiplied by
those of the row.

The gradient of a distance such as the Euclidean one is an elementwise factor over the distance. The rate of that is

    (d factor - rate * gradient) / distance

and it is computed so: the rate is a sum over components of the gradient, which no scale of the embeddings takes out of
the range of a type, and what multiplies the factor's rate and the gradient are two scalars of the row.

Where a distance has no second derivative in a component, it is taken as 0: where it has no gradient, and that is taken
as 0, and where it is a p-norm with p < 2 of components one of which is 0. So is that of a loss where it is infinite, as
that of max(0, z)^(3/2) is at z = 0. A step and a sign have the derivative 0 everywhere, and so has the number of the
components that are the largest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import mpmath
import sympy as sp

from .evaluate import Point, evaluate
from .functions import (
    absolute,
    masked_ratio,
    product,
    quotient,
    rounded,
    signed,
    step,
)
from .kernel import Assignment, Reduction, RowKernel, Stage
from .rates import SIDES, Power, Rates
from .rescale import Rescaled
from .steps import DIGITS

_SLOPES = {sp.Symbol(name, real=True) for name in ("slope", "slope_pos", "slope_neg")}


@dataclass(frozen=True)
class _Split:
    """A weight that is above/below, where above is the slope in a distance, times a number, and below is of the row.

    distance: which one. inverse: 1/below. factor: the component that the weight multiplies. direction: the component
    factor/below, which is the gradient of the distance, over number. moved: the component that it is the gradient in.
    scale: of the factor, 1 for none.
    """

    weight: sp.Symbol
    above: sp.Expr
    below: sp.Expr
    number: sp.Expr
    distance: sp.Symbol
    inverse: Assignment
    factor: sp.Symbol
    direction: Assignment
    moved: sp.Expr
    scale: sp.Expr


def differentiated(program: Rescaled) -> RowKernel:
    """The kernel of a program with maps that are the rates of its own, and with all that these need."""
    forward = _Forward(program)
    return forward.assembled(tuple(forward.map(gradient) for gradient in program.kernel.maps))


class _Forward(Rates):
    """A program, and what is added to it so that the rates of its maps are known."""

    def __init__(self, program: Rescaled) -> None:
        super().__init__(program)
        self.norms: dict[sp.Symbol, sp.Symbol] = {}  # from 1/norm to the rate of the norm over the norm
        self.of_norms: list[tuple[Reduction, Assignment]] = []
        self.drags: dict[sp.Symbol, sp.Expr] = {}  # split weights times the rates of what they are divided by
        for component, value in tuple(self.components.items()):
            self._take_norm(component, value)
        self.splits = {weight: split for weight in self.kernel.weights if (split := self._split(weight))}
        for split in self.splits.values():
            self._take_distance(split)
        self.turns = {weight: turn for weight in self.kernel.weights if (turn := self._turn(weight)) != 0}

    def map(self, gradient: Assignment) -> Assignment:
        """The rate of a gradient's component."""
        parts = []
        inverse, last, inner = self._taken_apart(gradient.value)
        stretch = self.norms.get(inverse, sp.S.Zero)
        for weight in self.kernel.weights:
            if (factor := sp.diff(inner, weight)) == 0:
                continue
            split = self.splits.get(weight)
            at = factor.xreplace({split.factor: split.direction.symbol}) if split else factor
            parts.append(self.turns.get(weight, sp.S.Zero) * at)
            sign, magnitude = signed(factor)
            if power := self.powers.get(magnitude):
                parts += [sign * self._bent(power, weight), -weight * stretch * factor]
            else:
                parts.append(weight * (self.rate_of(factor) - stretch * factor))
        total = sp.Add(*parts)
        value = product(inverse * total, last) if last != 1 else inverse * total
        return Assignment(sp.Symbol(gradient.name.replace("grad", "h"), real=True), value if total != 0 else total)

    def assembled(self, maps: tuple[Assignment, ...]) -> RowKernel:
        """The program with all that was added."""
        *before, last = self.kernel.stages
        if self.of_norms:
            reductions, scalars = zip(*self.of_norms, strict=True)
            last = Stage((*last.reductions, *reductions), (*last.scalars, *scalars))
        last = replace(last, scalars=(*last.scalars, *self.inverses))
        more = Stage(tuple(self.reductions), tuple(self.scalars))
        kernel = replace(
            self.kernel,
            components=tuple(Assignment(symbol, value) for symbol, value in self.components.items()),
            stages=(*before, last, more),
            weights=(*self.kernel.weights, *self.turns.values()),
            maps=maps,
        )
        inside = [r.term for r in more.reductions]
        inside += [component.value for component in kernel.components_in(*inside)]
        if not sp.Tuple(*inside).free_symbols & {a.symbol for a in last.scalars}:  # one pass is enough
            both = Stage((*last.reductions, *more.reductions), (*last.scalars, *more.scalars))
            kernel = replace(kernel, stages=(*before, both))
        return kernel

    # ------------------------------------------------------------ norms, powers, distances, weights

    def _take_norm(self, component: sp.Symbol, value: sp.Expr) -> None:
        """The rate of a component that is one of a unit vector: part of it is along the vector."""
        value = value.replace(rounded, sp.Id)  # nothing is compared with its rate
        for inverse in value.free_symbols & set(self.values) - self.fixed:
            if (embedding := value / inverse).has(inverse):
                continue
            name, of = str(inverse).removeprefix("inverse_"), self.rate_of(embedding)
            stretch, rate = sp.Symbol(f"stretch_{name}", real=True), sp.Symbol(f"rate_{name}", real=True)
            self.of_norms.append((Reduction(stretch, component * of), Assignment(rate, inverse * stretch)))
            self.norms[inverse], self.rates[inverse] = rate, -inverse * rate
            self._name_component(component, inverse * of - rate * component)

    def _bent(self, power: Power, weight: sp.Symbol) -> sp.Symbol:
        """The rate of a power times a weight, which is not multiplied by what overflows if it is 0."""
        over, pace, bent = (sp.Symbol(power.name(of), real=True) for of in ("over", "pace", "bent"))
        self.components[over] = power.largest * _unless_0(weight)
        self.components[pace] = masked_ratio(power.exponent * self.rate_of(power.of), over)
        self.components[bent] = product(product(weight * pace, power.steep), power.steep)
        return bent

    def _split(self, weight: sp.Symbol) -> _Split | None:
        above, below = _over(self.values[weight])
        named = above.xreplace({s: self.values[s] for s in above.free_symbols & set(self.values) - _SLOPES})
        above = named if named.free_symbols & _SLOPES else above
        slopes = above.free_symbols & _SLOPES
        number = above / slopes.pop() if len(slopes) == 1 else above
        factors = {signed(sp.diff(self._taken_apart(m.value)[2], weight))[1] for m in self.kernel.maps} - {sp.S.Zero}
        sides = [which for which, at in SIDES.items() if self.kernel.maps[at].value.has(weight)]
        if number.free_symbols - self.fixed or not below.free_symbols - self.fixed or len(factors) * len(sides) != 1:
            return None
        (factor,), (distance,) = factors, sides
        own = self._sums_in(self.values.get(distance, below))
        if factor not in self.components or self._sums_in(below) != own or not self._has_gradient_over(below, distance):
            return None
        suffix = str(weight).removeprefix("weight")
        over = masked_ratio(sp.S.One, below) if _masked(self.values[weight]) else 1 / below
        inverse = Assignment(sp.Symbol(f"inverse{suffix}", real=True), over)
        direction = Assignment(sp.Symbol(f"direction{suffix}", real=True), inverse.symbol * factor)
        scale = sp.Mul(*(self.components[factor].free_symbols & self.scales))
        moved = self.powers[factor].of if factor in self.powers else factor
        return _Split(weight, above, below, number, distance, inverse, factor, direction, moved, scale)

    def _sums_in(self, expr: sp.Expr) -> set[sp.Symbol]:
        """The sums that a scalar of the row depends on."""
        inside = expr.free_symbols
        found = {symbol for symbol in inside if symbol in self.sums}
        return found.union(*(self._sums_in(self.values[symbol]) for symbol in inside if symbol in self.values))

    def _has_gradient_over(self, below: sp.Expr, distance: sp.Symbol) -> bool:
        """Whether the gradient of a distance is a factor over `below`, and not over something else that is like it.

        Then the distance's derivative in its sum, times `below`, is the same whatever the sum is.
        """
        value = self._written_out(self.values.get(distance, distance))
        slopes = {sp.diff(value, total) * self._written_out(below): total for total in self._sums_in(value)}

        def at(expr: sp.Expr, total: sp.Symbol, number: int) -> Any:
            others = sorted(expr.free_symbols - {total}, key=str)
            scalars = {symbol: mpmath.mpf(3 + which) / 2 for which, symbol in enumerate(others)}
            return evaluate(expr, Point(1, {}, {**scalars, total: mpmath.mpf(number)}))

        with mpmath.workdps(DIGITS):
            pairs = [(at(expr, total, 2), at(expr, total, 3)) for expr, total in slopes.items()]
            return all(abs(a - b) <= mpmath.mpf(10) ** (10 - DIGITS) * abs(a) for a, b in pairs)

    def _written_out(self, expr: sp.Expr) -> sp.Expr:
        """In sums, parameters and scales."""
        while inside := expr.free_symbols & self.values.keys():
            expr = expr.xreplace({symbol: self.values[symbol] for symbol in inside})
        return expr

    def _take_distance(self, split: _Split) -> None:
        """The rate of a distance: the sum over the components of its gradient, times their rates."""
        self.inverses.append(split.inverse)
        self.components[split.direction.symbol] = split.direction.value
        name, over = f"rate_{str(split.distance).removeprefix('d_')}", split.number / split.scale
        term = split.direction.symbol * self.rate_of(split.moved)
        total = Reduction(sp.Symbol(name if over == 1 else f"scaled_{name}", real=True), term)
        self.reductions.append(total)
        rate = over * total.symbol
        value = self.values.get(split.distance, sp.S.Zero)
        for symbol in value.free_symbols - self.fixed:
            if not (ratio := value / symbol).has(symbol):
                self.rates[symbol] = rate / ratio if ratio.free_symbols <= self.scales else masked_ratio(rate, ratio)
        self.rates[split.distance] = rate
        self.drags[split.weight] = self._drag(split)
        if not rate.is_Symbol:
            self.rates[split.distance] = self._name(name, rate)

    def _drag(self, split: _Split) -> sp.Expr:
        """A weight times the rate of what it is divided by.

        Of a power of a root, d/largest, that is above times the exponent times the rate of d, over the largest and then
        over the root.
        """
        root, exponent = split.below.as_base_exp()
        if exponent.is_number:
            return split.weight * self.rate_of(split.below)
        over = self.powers[split.factor].largest * _unless_0(split.above)
        pull = masked_ratio(exponent * self.rates[split.distance], over)
        return split.above * masked_ratio(self._name(self.powers[split.factor].name("pull"), pull), root)

    def _turn(self, weight: sp.Symbol) -> sp.Expr:
        """The rate of a weight, times below where it is split."""
        if split := self.splits.get(weight):
            rate = self.rate_of(split.above) - self.drags[weight]
        else:
            rate = self._with_scales_last(self.rate_of(self.values[weight]), f"scaled_{self._turn_of(weight)}")
        if rate == 0:
            self.rates[weight] = rate
            return rate
        turn = self._name(self._turn_of(weight), rate)
        self.rates[weight] = turn * split.inverse.symbol if split else turn
        return turn

    def _turn_of(self, weight: sp.Symbol) -> str:
        name = str(weight)
        return name.replace("weight", "turn") if "weight" in name else f"turn_{name}"

    def _with_scales_last(self, expr: sp.Expr, name: str) -> sp.Expr:
        """A product that is divided by powers of scales as a scalar of its own that is, by one after the other."""
        powers = expr.as_powers_dict() if expr.is_Mul else {}
        below = [scale for scale in sorted(self.scales, key=str) for _ in range(-min(powers.get(scale, 0), 0))]
        rest = expr * sp.Mul(*below)
        if not below or rest.free_symbols & self.scales:
            return expr
        return reduce(quotient, below, rest if len(below) == 1 else self._name(name, rest))

    def _taken_apart(self, value: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """The value of a map as (1/norm, scale that is multiplied last, the rest), 1 for what there is not."""
        value, last = value.args if isinstance(value, product) else (value, sp.S.One)
        inverse = sp.Mul(*(value.free_symbols & set(self.norms) if value.is_Mul else ()))
        return inverse, last, value / inverse


def _unless_0(weight: sp.Expr) -> sp.Expr:
    """0 for a weight of 0, and 1 for any other: what is divided by it with a mask does not overflow for nothing."""
    return step(absolute(weight))


def _masked(value: sp.Expr) -> sp.Expr | None:
    """The factor of a product that is a masked ratio."""
    found = [factor for factor in sp.Mul.make_args(value) if isinstance(factor, masked_ratio)]
    return found[0] if len(found) == 1 else None


def _over(value: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A value as (above, below)."""
    if ratio := _masked(value):
        return value / ratio * ratio.args[0], ratio.args[1]
    above, below = value.as_numer_denom()
    return above, below
