"""RowKernel -> the same program with p-norms taken of components over the largest of them.

sum(|u|^p) leaves the range of a type long before its p-th root does. One more stage comes before: the largest |u|, m.
With the shares r = |u|/m, which are at most 1 and one of which is 1, the norm is m*sum(r^p)^(1/p) and its gradient
sign(u)*(r/sum(r^p)^(1/p))^(p - 1), whatever m is. What the weights multiply, sign(u)*r^(p - 1), is a component.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from .functions import attains, masked_ratio, signum
from .kernel import Assignment, Reduction, RowKernel, Stage


def by_largest(kernel: RowKernel) -> RowKernel:
    """The kernel with a stage before it for sums of |.|^p, where p is a parameter; itself if there are none.

    That stage also takes the parameter into the row, where elementwise terms find it.
    """
    (stage,) = kernel.stages
    norms = [_Norm(r) for r in stage.reductions if r.term.is_Pow and r.term.exp.is_Symbol]
    if not norms:
        return kernel
    exponents = {p: sp.Symbol(f"exponent_{p}", positive=True) for p in dict.fromkeys(norm.p for norm in norms)}
    elementwise = {**{norm.size: norm.share for norm in norms}, **exponents}
    distances = {norm.power: norm.largest * norm.root for norm in norms}
    over_largest = {a.symbol: norm.root for norm in norms for a in stage.scalars if a.value == norm.power}
    powers = {norm.signed_power(exponents[norm.p]): norm.powers for norm in norms}
    return replace(
        kernel,
        components=(
            *kernel.components,
            *(Assignment(norm.share, masked_ratio(norm.size, norm.largest)) for norm in norms),
            *(Assignment(symbol, value) for value, symbol in powers.items()),
        ),
        stages=(
            Stage(
                tuple(Reduction(norm.most, norm.size, "max") for norm in norms),
                (
                    *(Assignment(norm.largest, norm.most) for norm in norms),
                    *(Assignment(symbol, p) for p, symbol in exponents.items()),
                ),
            ),
            Stage(
                tuple(replace(r, term=r.term.xreplace(elementwise)) for r in stage.reductions),
                (
                    *(Assignment(norm.root, norm.power) for norm in norms),
                    *(
                        replace(a, value=a.value.xreplace(over_largest if a.symbol in kernel.weights else distances))
                        for a in stage.scalars
                    ),
                ),
            ),
        ),
        maps=tuple(replace(a, value=a.value.xreplace(elementwise).subs(powers)) for a in kernel.maps),
    )


class _Norm:
    """The names of what belongs to one sum of powers: of sum_pos, largest_pos, share_pos, power_pos and root_pos."""

    def __init__(self, reduction: Reduction) -> None:
        suffix = reduction.name.removeprefix("sum")
        self.size, self.p = reduction.term.as_base_exp()
        self.power = reduction.symbol ** (1 / self.p)
        self.most, self.largest, self.root = (
            sp.Symbol(name + suffix, positive=True) for name in ("max", "largest", "root")
        )
        self.share = sp.Symbol(f"share{suffix}", nonnegative=True)
        self.powers = sp.Symbol(f"power{suffix}", real=True)

    def signed_power(self, p: sp.Symbol) -> sp.Expr:
        (of,) = self.size.args
        return self.share ** (p - 1) * signum(of)


def cancelling(kernel: RowKernel) -> set[sp.Symbol]:
    """The maxima that nothing depends on which a kernel computes, as nothing does of components over the largest."""
    divisors = {c.value.args[1] for c in kernel.components if isinstance(c.value, masked_ratio)}
    values = {a.value for a in kernel.scalars if a.symbol in divisors}
    return {reduction.symbol for reduction in kernel.maxima if reduction.symbol in values}


def counted(kernel: RowKernel) -> dict[sp.Symbol, Reduction]:
    """By the symbol of a maximum the reduction that is the number of its terms that are the largest."""
    values = {a.symbol: a.value for a in kernel.scalars}
    counts = [r for r in kernel.reductions if isinstance(r.term, attains)]
    return {values.get(most, most): count for count in counts for most in count.term.args[1:]}
