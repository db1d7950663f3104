"""The rates of the numbers of a program, by the chain rule: what forward.py makes a kernel's derivative of.

The rate of a number is how fast it changes as the embeddings move in a direction, (dx, dx_pos, dx_neg). Rates of sums
are sums, and rates of scalars are scalars; those that are needed more than once get a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType

import sympy as sp

from . import symbols
from .functions import finite_at_kinks, masked_power, masked_ratio, product, quotient, sigmoid, signed, signum
from .kernel import INPUTS, X_NEG, X_POS, Assignment, Reduction, RowKernel, X
from .largest import cancelling, counted
from .rescale import Rescaled

DIRECTION: Mapping[str, sp.Symbol] = MappingProxyType({f"d{name}": sp.Symbol(f"d{name}", real=True) for name in INPUTS})
"""The components of the direction, by the names of the vectors."""
_RATES = dict(zip((X, X_POS, X_NEG), DIRECTION.values(), strict=True))


@dataclass(frozen=True)
class Power:
    """A component that is sign(of)*share^exponent, where share is |of|/largest.

    Its rate is exponent*(rate of `of`)/largest*share^(exponent - 1). A negative power of 0 is taken as 0.
    """

    component: sp.Symbol
    exponent: sp.Expr
    of: sp.Symbol
    largest: sp.Symbol

    @property
    def steep(self) -> sp.Symbol:
        """The root of the power in the rate, which is in the range of a type wherever share is."""
        return sp.Symbol(self.name("steep"), real=True)

    def name(self, of: str) -> str:
        """What something else of the same distance is called."""
        return str(self.component).replace("power", of)


class Rates:
    """A program, and the rates of its numbers, as far as they have been asked for.

    components, inverses, reductions, scalars: what the program is to compute besides, for them.
    """

    def __init__(self, program: Rescaled) -> None:
        self.kernel = program.kernel
        self.scales = frozenset(program.scales.values())
        self.values = {a.symbol: a.value for a in self.kernel.scalars}
        self.sums = {r.symbol: r.term for r in self.kernel.reductions if r.kind == "sum"}
        self.maxima, self.counts = {r.symbol: r for r in self.kernel.maxima}, counted(self.kernel)
        self.fixed = self._fixed()
        self.roots = dict(_roots(self.kernel))
        self.components: dict[sp.Symbol, sp.Expr] = {}
        self.rates: dict[sp.Symbol, sp.Expr] = {**dict.fromkeys(self.fixed, sp.S.Zero), **_RATES}
        self.inverses: list[Assignment] = []
        self.powers: dict[sp.Symbol, Power] = {}
        self.reductions: list[Reduction] = []
        self.scalars: list[Assignment] = []
        for component in self.kernel.components:
            self._take_component(component.symbol, component.value)

    def _fixed(self) -> set[sp.Symbol]:
        """What does not change: scales, parameters, counts, some maxima, and what is made of these.

        A maximum does change, but what is computed from components over it does not depend on it (`largest`): any rate
        of it gives the same product, and none is what there is to compute. The check of the product shows that.
        """
        fixed = {*self.scales, *map(symbols.parameter, self.kernel.parameters), *cancelling(self.kernel)}
        fixed |= {count.symbol for count in self.counts.values()}
        for scalar in self.kernel.scalars:
            fixed |= {scalar.symbol} if scalar.value.free_symbols <= fixed else set()
        return fixed

    def _take_component(self, component: sp.Symbol, value: sp.Expr) -> None:
        """A component as it is, or as a signed power of another one over the largest: only one power is computed."""
        for sign in value.atoms(signum):
            share, exponent = (value / sign).as_base_exp()
            if share not in self.components:  # it is what counts a component among the largest
                continue
            power = Power(component, exponent, sign.args[0], self.components[share].args[1])
            self.components[power.steep] = masked_power(share, (exponent - 1) / 2)
            self.powers[component] = power
            value = sign * product(product(share, power.steep), power.steep)
        self.components[component] = value

    def rate_of(self, expr: sp.Expr) -> sp.Expr:
        """By the chain rule at the symbols."""
        expr = expr.xreplace(self.roots)
        free = sorted(expr.free_symbols, key=str)
        total = sp.Add(*(sp.diff(expr, symbol) * self._rate(symbol) for symbol in free))
        found = min(sp.factor_terms(total), sp.factor(total), key=sp.count_ops)
        found = found.replace(lambda e: isinstance(e, sigmoid), self._by_name)
        return finite_at_kinks(found, self.values).replace(lambda e: isinstance(e, sp.Mul), self._in_turn)

    def _in_turn(self, value: sp.Mul) -> sp.Expr:
        """a/b^3 as ((a/b)/b)/b: the power leaves the range of a type long before the quotient does."""
        powers = [f for f in value.args if f.is_Pow and f.base in self.values and f.exp.is_Integer and f.exp <= -3]
        below = (power.base for power in powers for _ in range(-int(power.exp)))
        return reduce(quotient, below, value / sp.Mul(*powers))

    def _rate(self, symbol: sp.Symbol) -> sp.Expr:
        if symbol not in self.rates:
            self.rates[symbol] = self._new_rate(symbol)
        return self.rates[symbol]

    def _new_rate(self, symbol: sp.Symbol) -> sp.Expr:
        name = f"rate_{str(symbol).removeprefix('d_')}"
        if symbol in self.components:
            power = self.powers.get(symbol)
            rate = self._rate_of_power(power) if power else self._rate_of_component(self.components[symbol])
            return self._name_component(symbol, rate) if rate != 0 else rate
        if symbol in self.maxima:
            return self._rate_of_maximum(self.maxima[symbol])
        if symbol in self.sums:
            if (term := self.rate_of(self.sums[symbol])) == 0:
                return term
            self.reductions.append(Reduction(sp.Symbol(name, real=True), term))
            return self.reductions[-1].symbol
        value = self.values[symbol]
        if roots := {root: factor for root, of in self.roots.items() if (factor := symbol / of).is_number}:
            ((root, factor),) = roots.items()
            rate = masked_ratio(factor**2 * self._rate(root.base), 2 * symbol)
        else:
            rate = self.rate_of(value)
        short = not rate.args or isinstance(value, sigmoid)
        # scales are divided by last: a product that is 0 for another factor might overflow before
        scaled = rate.free_symbols & self.scales and symbol not in SIDES
        return rate if short or scaled else self._name(name, rate)

    def _rate_of_maximum(self, largest: Reduction) -> sp.Expr:
        """The mean of the rates of the terms that are the largest, as the derivative is that of their derivatives."""
        count = self.counts[largest.symbol]
        picks = {c.value: c.symbol for c in self.kernel.components if c.value.has(count.term)}
        term = (count.term * self.rate_of(largest.term)).subs(picks)
        self.reductions.append(Reduction(sp.Symbol(f"scaled_rate_{largest.name}", real=True), term))
        return self.reductions[-1].symbol / count.symbol

    def _rate_of_component(self, value: sp.Expr) -> sp.Expr:
        """As the component is written, if it is linear."""
        free = value.free_symbols - self.fixed
        if sp.expand(sp.Add(*(sp.diff(value, s) * s for s in free)) - value) == 0 and not value.atoms(sp.Function):
            return value.xreplace({s: self._rate(s) for s in free})
        return self.rate_of(value)

    def _name(self, name: str, value: sp.Expr) -> sp.Symbol:
        self.scalars.append(Assignment(symbol := sp.Symbol(name, real=True), value))
        return symbol

    def _name_component(self, component: sp.Symbol, rate: sp.Expr) -> sp.Expr:
        self.components[named := sp.Symbol(f"d{component}", real=True)] = rate
        self.rates[component] = named
        return named

    def _by_name(self, node: sigmoid) -> sp.Expr:
        """A sigmoid of z or -z by the name that derivations give it."""
        (z,) = node.args
        sign, argument = signed(z)
        if not (argument.is_Symbol and argument.name.startswith("z")):
            return node
        named = sp.Symbol(("s" if sign > 0 else "q") + argument.name[1:], positive=True)
        if named not in self.values:
            self.values[named] = node
            self.inverses.append(Assignment(named, node))
        return named

    def _rate_of_power(self, power: Power) -> sp.Expr:
        rate = masked_ratio(power.exponent * self.rate_of(power.of), power.largest)
        return product(product(rate, power.steep), power.steep)


SIDES = {symbols.d_pos: 1, symbols.d_neg: 2}
"""Which of the maps is the gradient in the embedding that a distance is to."""


def _roots(kernel: RowKernel) -> Iterator[tuple[sp.Expr, sp.Expr]]:
    """The roots of sums, each as a number times the scalar that it is."""
    for assignment in kernel.scalars:
        for reduction in kernel.reductions:
            if (number := assignment.value / sp.sqrt(reduction.symbol)).is_number and number:
                yield sp.sqrt(reduction.symbol), assignment.symbol / number
