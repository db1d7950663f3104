"""RowKernel -> the same program on differences that are multiplied by scales.

A sum of squares leaves the range of a float type long before the distance does: in float32 it is 0 below 1e-23 and
infinity above 1e19. Powers of two bring the squares into the range, and disappear again from everything that leaves
the row. With all scales 1 the program is the one that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import mpmath
import sympy as sp

from . import symbols
from .errors import StepError
from .functions import Node, masked_ratio
from .kernel import X_NEG, X_POS, Assignment, Reduction, RowKernel, X, agree, run
from .steps import DIGITS, Setting


class quotient(Node):  # noqa: N801 - SymPy functions are named as they print
    """a/b, divided where it stands: (a/b)/b must not become a/b^2, which may overflow."""

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        a, b = values
        return a / b

    def definition(self) -> sp.Expr:
        return self.args[0] / self.args[1]


@dataclass(frozen=True)
class Rescaled:
    """A row kernel whose differences are multiplied by scales, positive numbers.

    scales: for each reduction, by name, the symbol of its scale; none where the kernel cannot be rescaled.
    folded: for each weight the factor that makes it the weight of differences without scales.
    full_range: results are right wherever distances are representable, and not only their squares: the loss depends on
        the difference of the distances alone, and that is one sum, or the distances are homogeneous of degree 1.
    """

    kernel: RowKernel
    scales: Mapping[str, sp.Symbol]
    folded: Mapping[sp.Symbol, sp.Expr]
    full_range: bool = False


@cache
def rescale(kernel: RowKernel) -> Rescaled:
    """The kernel with a scale for each reduction.

    Its terms have to be homogeneous in differences that no other reduction has, and the gradients linear in such;
    otherwise the kernel is returned as it is, without scales. Raises `StepError` if the result, evaluated at 50 digits
    with any scales, does not give what the kernel gives.
    """
    owners = _owners(kernel)
    found = owners and _with_scales(kernel, owners)
    if not found:
        return Rescaled(kernel, {}, dict.fromkeys(kernel.weights, sp.S.One))
    _check(found, kernel)
    return found


def scale_of(reduction: Reduction) -> sp.Symbol:
    """The symbol of its scale."""
    return sp.Symbol(f"scale_{reduction.name}", positive=True)


def _owners(kernel: RowKernel) -> dict[sp.Symbol, sp.Symbol]:
    """The scale of each difference; empty if there cannot be one."""
    owners: dict[sp.Symbol, sp.Symbol] = {}
    for reduction in kernel.reductions:
        for difference in kernel.differences_in(reduction.term):
            if owners.setdefault(difference.symbol, scale_of(reduction)) != scale_of(reduction):
                return {}
    return owners


def _with_scales(kernel: RowKernel, owners: Mapping[sp.Symbol, sp.Symbol]) -> Rescaled | None:
    degrees = {
        reduction: degree
        for reduction in kernel.reductions
        if (degree := _degree(reduction.term, owners, scale_of(reduction))) is not None
    }
    folded = {w: factor for w in kernel.weights if (factor := _folded(w, kernel, owners)) is not None}
    if len(degrees) < len(kernel.reductions) or len(folded) < len(kernel.weights):
        return None
    scalars, homogeneous = _scalars(kernel, degrees, folded)
    if any(
        power.exp not in (-1, 1) for a in scalars for power in a.value.atoms(sp.Pow) if power.base in owners.values()
    ):
        return None  # such a power may leave the range
    differences = (
        replace(a, value=sp.Mul(owners[a.symbol], a.value, evaluate=False)) if a.symbol in owners else a
        for a in kernel.differences
    )
    scaled_kernel = replace(kernel, differences=tuple(differences), scalars=tuple(scalars))
    scales = {reduction.name: scale_of(reduction) for reduction in kernel.reductions}
    return Rescaled(scaled_kernel, scales, folded, _is_of_difference(kernel, homogeneous))


def _scalars(
    kernel: RowKernel, degrees: Mapping[Reduction, int], folded: Mapping[sp.Symbol, sp.Expr]
) -> tuple[list[Assignment], set[sp.Symbol]]:
    """The scalars with scales, and the distances of degree 1 among them.

    Such a distance is of the scaled differences first, which weights divide by, and then divided by the scale. Any
    other sum is divided by the powers of its scale before it is used.
    """
    scalars: list[Assignment] = []
    true: dict[sp.Symbol, sp.Expr] = {}
    distances: dict[sp.Symbol, sp.Expr] = {}
    for assignment in kernel.scalars:
        for reduction, degree in degrees.items():
            total, scale = reduction.symbol, scale_of(reduction)
            if total not in assignment.value.free_symbols or total in true:
                continue
            if (assignment.value.xreplace({total: total / scale**degree}) * scale).has(scale):
                true[total] = sp.Symbol(f"unscaled_{reduction.name}", real=True)
                scalars.append(Assignment(true[total], _divided(total, scale, degree)))
            else:
                scaled = sp.Symbol(f"scaled_{assignment.name.removeprefix('d_')}", real=True)
                scalars.append(Assignment(scaled, assignment.value))
                distances[assignment.symbol] = scaled / scale
                assignment = replace(assignment, value=scaled / scale)
        is_weight = assignment.symbol in folded
        value = assignment.value.xreplace({**true, **distances} if is_weight else true)
        if is_weight:
            value = _homogeneous(value, map(scale_of, degrees)) / folded[assignment.symbol]
        scalars.append(replace(assignment, value=value))
    return scalars, set(distances)


def _is_of_difference(kernel: RowKernel, homogeneous: set[sp.Symbol]) -> bool:
    """Whether the loss depends on d_pos - d_neg alone, which is one sum or made of distances of degree 1."""
    distances = {symbols.d_pos, symbols.d_neg}
    if not any(a.value.free_symbols & distances for a in kernel.scalars):
        return [r.symbol.is_nonnegative for r in kernel.reductions] == [None]
    rest = (a for a in kernel.scalars if a.symbol not in kernel.weights and a.value != symbols.d_pos - symbols.d_neg)
    return homogeneous == distances and not any(a.value.free_symbols & distances for a in rest)


def _degree(term: sp.Expr, owners: Mapping[sp.Symbol, sp.Symbol], scale: sp.Symbol) -> int | None:
    """p, if the term is multiplied by scale^p where its differences are multiplied by the scale."""
    if term.free_symbols & {X, X_POS, X_NEG}:
        return None
    ratio = sp.cancel(term.xreplace({symbol: scale * symbol for symbol in owners}) / term)
    power = sp.degree(ratio, scale) if ratio.is_polynomial(scale) else None
    return None if power is None or ratio != scale**power else int(power)


def _folded(weight: sp.Symbol, kernel: RowKernel, owners: Mapping[sp.Symbol, sp.Symbol]) -> sp.Expr | None:
    """The power of a scale that takes a weight of scaled differences back to one of the differences."""
    powers = set()
    for gradient in kernel.maps:
        factor = sp.diff(gradient.value, weight)
        if factor != 0:
            (scale, *others) = {owners[symbol] for symbol in factor.free_symbols & set(owners)} or {sp.S.One}
            degree = None if others else _degree(factor, owners, scale)
            powers.add(None if degree is None else scale**degree)
    return powers.pop() if len(powers) == 1 else None


def _divided(symbol: sp.Symbol, scale: sp.Symbol, times: int) -> sp.Expr:
    return _divided(quotient(symbol, scale), scale, times - 1) if times else symbol


def _homogeneous(expr: sp.Expr, among: Iterable[sp.Symbol]) -> sp.Expr:
    """masked_ratio(a, b/c) is c*masked_ratio(a, b)."""
    scales = tuple(among)

    def rewritten(ratio: sp.Expr) -> sp.Expr:
        above, below = ratio.args
        for scale in scales:
            if below.has(scale) and not (below * scale).has(scale):
                return scale * masked_ratio(above, below * scale)
        return ratio

    return expr.replace(lambda e: isinstance(e, masked_ratio), rewritten)


def _check(rescaled: Rescaled, kernel: RowKernel) -> None:
    constants = (symbols.parameter(p) for p in kernel.parameters)
    setting = Setting(tuple(symbols.EMBEDDINGS), (*constants, *rescaled.scales.values()))
    with mpmath.workdps(DIGITS + 20):
        for point in setting.points():
            (loss, gradients), (wanted, expected) = run(rescaled.kernel, point), run(kernel, point)
            try:
                agree([loss, *chain(*gradients.values())], [wanted, *chain(*expected.values())])
            except StepError as error:
                raise StepError(f"rescaling changes the kernel of {kernel.objective.stem}: {error}") from None
