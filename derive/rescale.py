"""RowKernel -> the same program on components that are multiplied by scales.

A sum of squares leaves the range of a float type long before the distance does: in float32 it is 0 below 1e-23 and
infinity above 1e19. Powers of two bring the squares into the range, and disappear again from everything that leaves
the row. With all scales 1 the program is the one that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

import mpmath
import sympy as sp

from . import symbols
from .errors import StepError
from .functions import attains, masked_ratio, product, quotient
from .kernel import X_NEG, X_POS, Assignment, Reduction, RowKernel, Stage, X, agree, run
from .normalization import dimensions_of
from .steps import DIGITS, Setting


@dataclass(frozen=True)
class Rescaled:
    """A row kernel whose components are multiplied by scales, positive numbers.

    scales: for reductions, by name, the symbol of their scale; none where the kernel cannot be rescaled.
    full_range: results are right wherever distances are representable, and not only their squares: the loss depends on
        the difference of the distances alone, and that is one sum, or the distances are homogeneous of degree 1.
    """

    kernel: RowKernel
    scales: Mapping[str, sp.Symbol]
    full_range: bool = False

    @property
    def saved_count(self) -> int:
        """How many numbers forward leaves for backward of a row: what the maps need to know, and the scales."""
        return len(self.kernel.saved) + len(self.scales)


@cache
def rescale(kernel: RowKernel) -> Rescaled:
    """The kernel with a scale for each reduction that has components of its own.

    Its terms have to be homogeneous in the components that reductions own, and the gradients linear in them; otherwise
    the kernel is returned as it is, without scales. Raises `StepError` if the result, evaluated at 50 digits with any
    scales, does not give what the kernel gives.
    """
    named = _with_embeddings_named(kernel)
    owners = _owners(named)
    found = owners and _with_scales(named, owners)
    if not found:
        return Rescaled(kernel, {}, bool(kernel.maxima) and _is_of_delta(kernel))
    _check(found, kernel)
    return found


def scale_of(reduction: Reduction) -> sp.Symbol:
    """The symbol of its scale."""
    return sp.Symbol(f"scale_{reduction.name}", positive=True)


def _with_embeddings_named(kernel: RowKernel) -> RowKernel:
    """Embeddings that are reduced as they are, as components, so that they can have a scale."""
    reduced = sp.Tuple(*(reduction.term for reduction in kernel.reductions)).free_symbols
    names = {e: sp.Symbol(f"scaled_{e.name}", real=True) for e in (X, X_POS, X_NEG) if e in reduced}
    if not names:
        return kernel

    def named(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
        return tuple(replace(a, value=a.value.xreplace(names)) for a in assignments)

    return replace(
        kernel,
        components=(*(Assignment(symbol, e) for e, symbol in names.items()), *named(kernel.components)),
        stages=tuple(
            replace(stage, reductions=tuple(replace(r, term=r.term.xreplace(names)) for r in stage.reductions))
            for stage in kernel.stages
        ),
        maps=named(kernel.maps),
    )


def _owners(kernel: RowKernel) -> dict[sp.Symbol, sp.Symbol]:
    """The scale of each component that a reduction owns, being the first that is written in it; empty for conflicts.

    A component that is a multiple by row scalars has its size from them; it has no scale, and no reduction in which it
    stands owns anything.
    """
    owners: dict[sp.Symbol, sp.Symbol] = {}
    sizes = {component.symbol: component.value.free_symbols & set(kernel.constants) for component in kernel.components}
    # the largest component leaves no range, nor does the number of those that are
    sums = [r for r in kernel.reductions if r.kind == "sum" and not isinstance(r.term, attains)]
    written = {r: [symbol for symbol in sizes if symbol in r.term.free_symbols] for r in sums}
    for reduction, inside in sorted(written.items(), key=lambda item: len(item[1])):
        if any(sizes[symbol] for symbol in inside):
            continue
        unowned = [symbol for symbol in inside if symbol not in owners]
        if unowned and len(unowned) < len(inside):
            return {}
        owners |= dict.fromkeys(unowned, scale_of(reduction))
    return owners


def _with_scales(kernel: RowKernel, owners: Mapping[sp.Symbol, sp.Symbol]) -> Rescaled | None:
    degrees = {reduction: _degree(reduction.term, owners) for reduction in kernel.reductions}
    folded = {weight: _folded(weight, kernel, owners) for weight in kernel.weights}
    if None in degrees.values() or None in folded.values():
        return None
    stages, forms, homogeneous = _scaled_stages(kernel, degrees, folded)
    values = (a.value for stage in stages for a in stage.scalars)
    if any(p.exp not in (-1, 1) for value in values for p in value.atoms(sp.Pow) if p.base in owners.values()):
        return None  # such a power may leave the range
    scaled_kernel = replace(
        kernel,
        components=tuple(_scaled_component(a, owners, forms) for a in kernel.components),
        stages=tuple(stages),
        maps=tuple(replace(a, value=_in_place(a.value, forms)) for a in kernel.maps),
    )
    scales = {r.name: scale_of(r) for r in kernel.reductions if scale_of(r) in owners.values()}
    return Rescaled(scaled_kernel, scales, _is_of_difference(kernel, homogeneous, scales))


def _scaled_stages(
    kernel: RowKernel, degrees: Mapping[Reduction, sp.Expr], folded: Mapping[sp.Symbol, sp.Expr]
) -> tuple[list[Stage], dict[sp.Symbol, sp.Expr], set[sp.Symbol]]:
    """The stages with scales, what becomes of scalars of degree -1, and the distances of degree 1.

    Such a distance is of the scaled components first, which weights divide by, and then divided by the scale; a scalar
    of degree -1 stays that of the scaled components. Any other reduction is divided by its scales before it is used.
    """
    owned = {scale_of(reduction) for reduction in kernel.reductions}
    true: dict[sp.Symbol, sp.Expr] = {}  # for all that comes after
    in_weights = {r.symbol: r.symbol / degree for r, degree in degrees.items() if degree != 1}
    inverses: dict[sp.Symbol, sp.Expr] = {}
    distances: set[sp.Symbol] = set()
    stages: list[Stage] = []
    for stage in kernel.stages:
        scalars: list[Assignment] = []
        for assignment in stage.scalars:
            symbol, value = assignment.symbol, assignment.value
            if symbol in folded:
                value = _homogeneous(value.xreplace({**in_weights, **true}), owned) / folded[symbol]
                in_weights[symbol] = symbol * folded[symbol]
                scalars.append(Assignment(symbol, value))
                continue
            new = {r: d for r, d in degrees.items() if d != 1 and r.symbol in value.free_symbols - set(true)}
            scaled = _homogeneous(value.xreplace({r.symbol: r.symbol / d for r, d in new.items()}), owned)
            of = scaled.free_symbols & owned
            if len(of) == 1 and not (scaled * (scale := next(iter(of)))).has(scale):
                own = sp.Symbol(f"scaled_{assignment.name.removeprefix('d_')}", real=True)
                scalars.append(Assignment(own, value.xreplace(true)))
                value = in_weights[symbol] = own / scale
                distances.add(symbol)
            elif len(of) == 1 and not (scaled / scale).has(scale):
                value = (scaled / scale).xreplace(true)
                true[symbol] = inverses[symbol] = symbol * scale
            elif of:
                for reduction, degree in new.items():
                    true[reduction.symbol] = sp.Symbol(f"unscaled_{reduction.name}", real=True)
                    scalars.append(Assignment(true[reduction.symbol], _divided(reduction.symbol, degree)))
                value = value.xreplace(true)
            else:
                value = scaled.xreplace(true)
            scalars.append(Assignment(symbol, value))
        stages.append(replace(stage, scalars=tuple(scalars)))
    return stages, inverses, distances


def _scaled_component(
    component: Assignment, owners: Mapping[sp.Symbol, sp.Symbol], inverses: Mapping[sp.Symbol, sp.Expr]
) -> Assignment:
    own = {symbol: symbol / scale for symbol, scale in owners.items()}
    value = component.value.xreplace({**own, **inverses})
    if component.symbol in owners:
        value = sp.Mul(owners[component.symbol], value, evaluate=False)
    return replace(component, value=value)


def _in_place(value: sp.Expr, inverses: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """A map with its scalars of degree -1 as they are without scales, multiplied last: before, they might overflow."""
    for symbol, unscaled in inverses.items():
        if value.has(symbol):
            value = product(value, unscaled / symbol)
    return value


def _is_of_difference(kernel: RowKernel, homogeneous: set[sp.Symbol], scales: Collection[str]) -> bool:
    """Whether the loss depends on d_pos - d_neg alone, which is one sum or made of scalars of degree 1."""
    if kernel.maxima:  # sums are of components over the largest, which needs no scales
        return _is_of_delta(kernel)
    distances = set(symbols.DISTANCES)
    if not any(a.value.free_symbols & distances for a in kernel.scalars):
        return [r.symbol.is_nonnegative for r in kernel.stages[-1].reductions if r.name in scales] == [None]
    last = kernel.stages[-1]
    rest = [a for a in last.scalars if a.symbol not in kernel.weights and a.value != symbols.d_pos - symbols.d_neg]
    reduced = {r.symbol for r in last.reductions}
    made_of_sums = {a.symbol for a in rest if a.value.free_symbols & reduced}
    return homogeneous == made_of_sums and not any(a.value.free_symbols & distances for a in rest)


def _is_of_delta(kernel: RowKernel) -> bool:
    """Whether nothing but d_pos - d_neg depends on the distances."""
    rest = [a.value for a in kernel.scalars if a.value != symbols.d_pos - symbols.d_neg]
    return not any(value.free_symbols & set(symbols.DISTANCES) for value in rest)


def _degree(term: sp.Expr, owners: Mapping[sp.Symbol, sp.Symbol]) -> sp.Expr | None:
    """By what a term is multiplied, a product of scales, where its components are multiplied by theirs."""
    if term.free_symbols & {X, X_POS, X_NEG}:
        return None
    ratio = sp.cancel(term.xreplace({symbol: scale * symbol for symbol, scale in owners.items()}) / term)
    scales = set(owners.values())
    return ratio if ratio.free_symbols <= scales and ratio.is_polynomial(*scales) and not ratio.is_Add else None


def _folded(weight: sp.Symbol, kernel: RowKernel, owners: Mapping[sp.Symbol, sp.Symbol]) -> sp.Expr | None:
    """By what a weight of scaled components is multiplied to be one of the components, the same for all its factors."""
    factors = [factor for gradient in kernel.maps if (factor := sp.diff(gradient.value, weight)) != 0]
    found = {_degree(factor, owners) for factor in factors}
    return found.pop() if len(found) == 1 else None


def _divided(symbol: sp.Expr, degree: sp.Expr) -> sp.Expr:
    """Divided by one scale after the other."""
    for scale, times in sorted(degree.as_powers_dict().items(), key=str):
        for _ in range(int(times)):
            symbol = quotient(symbol, scale)
    return symbol


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


def setting_of(program: Rescaled, vectors: Iterable[str]) -> Setting:
    """What a program is examined in: any rows of these vectors, any parameters, and any scales."""
    kernel = program.kernel
    return Setting(
        tuple(vectors),
        (*map(symbols.parameter, kernel.parameters), *program.scales.values()),
        dimensions=dimensions_of(kernel.objective),
        least=symbols.least(kernel.parameters),
    )


def _check(rescaled: Rescaled, kernel: RowKernel) -> None:
    setting = setting_of(rescaled, symbols.EMBEDDINGS)
    with mpmath.workdps(DIGITS + 20):
        for point in setting.points():
            (loss, gradients), (wanted, expected) = run(rescaled.kernel, point), run(kernel, point)
            try:
                agree([loss, *chain(*gradients.values())], [wanted, *chain(*expected.values())])
            except StepError as error:
                raise StepError(f"rescaling changes the kernel of {kernel.objective.stem}: {error}") from None
