"""Derivation -> RowKernel.

The gradients of a derivation are taken apart into weights, which are the same for all components of a row, and
elementwise factors; a few passes then make the program short and accurate. At the end the kernel is run at 50 digits
and has to give what was derived.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mpmath
import sympy as sp

from . import symbols
from .differentiate import Derivation
from .errors import StepError
from .evaluate import evaluate
from .functions import attains, hypot, masked_ratio, product, quotient, signed
from .kernel import X_NEG, X_POS, Assignment, Reduction, RowKernel, Stage, X, agree, run
from .largest import by_largest
from .lemmas import Term
from .normalization import Normalization
from .reductions import REDUCTIONS, kind_of, term_of
from .steps import DIGITS, Step
from .symbols import d_neg, d_pos
from .units import on_units

# the differences that translation-invariant distances are made of
U, V, W = (sp.Symbol(name, real=True) for name in "uvw")
_DIFFERENCES = {U: X - X_POS, V: X - X_NEG, W: X_NEG - X_POS}
_DELTA, _LOSS, _SLOPE = (sp.Symbol(name, real=True) for name in ("delta", "loss", "slope"))


def lower(derivation: Derivation) -> RowKernel:
    """The row kernel of a derivation.

    Raises `StepError` if the kernel, evaluated at 50 digits, does not give the derivation's loss and gradients.
    """
    reductions, distances = _reductions(derivation)
    loss, slopes = derivation.loss, derivation.loss.slopes
    opposite = len(slopes) == 2 and slopes[d_neg].result == -slopes[d_pos].result
    scalars = [*distances]
    scalars += [Assignment(symbol, meaning) for symbol, meaning in loss.abbreviations.items()]
    scalars.append(Assignment(_LOSS, loss.value.result))
    slope_names = {which: sp.Symbol(f"slope_{str(which)[2:]}", real=True) for which in slopes}
    if opposite:
        slope_names = {d_pos: _SLOPE, d_neg: -_SLOPE}
    scalars += [
        Assignment(name, slopes[which].result) for which, name in slope_names.items() if isinstance(name, sp.Symbol)
    ]
    weights, picks, maps = _weights_and_maps(derivation, slope_names)
    kernel = RowKernel(
        objective=derivation.objective,
        components=(*(Assignment(symbol, meaning) for symbol, meaning in _DIFFERENCES.items()), *picks),
        stages=(Stage(tuple(reductions), (*scalars, *weights)),),
        loss=_LOSS,
        weights=tuple(weight.symbol for weight in weights),
        maps=tuple(maps),
    )
    kernel = _without_dead_code(_with_common_subexpressions(_in_difference_of_distances(kernel, derivation)))
    kernel = _in_passes(by_largest(kernel))
    _check(kernel, derivation, derivation)
    if derivation.normalization:
        kernel = on_units(kernel)
        _check(kernel, derivation, derivation.normalization)
    return kernel


# ---------------------------------------------------------------- phase 1


def _reductions(derivation: Derivation) -> tuple[list[Reduction], list[Assignment]]:
    """The sums and maxima in the distances and their gradients, and the distances as functions of them."""
    reductions, distances = [], []
    for which in derivation.loss.slopes:
        names = _sum_names(derivation, which)
        for total, symbol in names.items():
            term = term_of(total, symbols.k).xreplace(names)
            reductions.append(Reduction(symbol, _component(term), kind_of(total)))
        value = _in_roots(symbols.said_of(which, derivation.distance.value).xreplace(names))
        sums = (s for s in names.values() if s.name.startswith("sum_"))
        distances += [Assignment(_root(s), sp.sqrt(s)) for s in sums if value.has(_root(s))]
        distances.append(Assignment(which, _without_cancelling(value)))
    return reductions, distances


def _root(total: sp.Symbol) -> sp.Symbol:
    return sp.Symbol(total.name.replace("sum", "root"), nonnegative=True)


def _in_roots(expr: sp.Expr) -> sp.Expr:
    """sqrt(sum + b^2) as the hypotenuse of sqrt(sum) and b: sums of squares leave the range of a type before these."""

    def rewritten(power: sp.Pow) -> sp.Expr:
        totals = [term for term in power.base.args if term.is_Symbol and term.name.startswith("sum_")]
        leg = sp.sqrt(power.base - sp.Add(*totals))
        return hypot(_root(totals[0]), leg) ** (2 * power.exp) if len(totals) == 1 and leg.is_Symbol else power

    return expr.replace(lambda e: e.is_Pow and abs(e.exp) == sp.S.Half and e.base.is_Add, rewritten)


def _without_cancelling(distance: sp.Expr) -> sp.Expr:
    """hypot(a, b) - b as a*(a/(hypot(a, b) + b)), in which nothing is subtracted."""
    for hypotenuse in distance.atoms(hypot):
        a, b = hypotenuse.args
        if distance == hypotenuse - b:
            return product(a, quotient(a, hypotenuse + b))
    return distance


def _sum_names(derivation: Derivation, which: sp.Symbol) -> dict[sp.Expr, sp.Symbol]:
    """A symbol for each sum or maximum in d_pos, d_neg or another distance, `which`, and in its gradients."""
    distance = derivation.distance
    coefficients = (term.coefficient for terms in distance.terms.values() for term in terms)
    found = sp.Tuple(distance.value, *coefficients).atoms(*REDUCTIONS)
    totals: dict[str, list[sp.Expr]] = {}
    for total in sorted(found, key=sp.default_sort_key):
        totals.setdefault(_called(total), []).append(total)
    names = {}
    for word, alike in totals.items():
        for number, total in enumerate(alike, start=1):
            suffix = f"{number}_" if len(alike) > 1 else ""
            of = f"{word}_{suffix}{str(which).removeprefix('d_')}"
            names[symbols.said_of(which, total)] = sp.Symbol(of, nonnegative=True, positive=word == "count" or None)
    return names


def _called(total: sp.Expr) -> str:
    """How the names of reductions like this one begin."""
    return "count" if isinstance(total.function, attains) else kind_of(total)


def _component(elementwise: sp.Expr) -> sp.Expr:
    """A component-wise expression in the component symbols."""
    k = symbols.k
    embeddings = {symbols.x[k]: X, symbols.x_pos[k]: X_POS, symbols.x_neg[k]: X_NEG}
    return _in_differences(elementwise.xreplace(embeddings))


def _in_differences(expr: sp.Expr) -> sp.Expr:
    """`expr` in u = x - x_pos, v = x - x_neg and w = x_neg - x_pos, if it depends on nothing else."""
    for symbol, meaning in _DIFFERENCES.items():
        first, second = (X, meaning - X) if meaning.has(X) else (X_NEG, meaning - X_NEG)
        written = expr.xreplace({first: symbol - second})
        if not written.has(X, X_POS, X_NEG):
            return written
    return sp.Add(*map(_in_differences, expr.args)) if expr.is_Add else expr


# ---------------------------------------------------------------- phases 2 and 3


def _weights_and_maps(
    derivation: Derivation, slope_names: dict[sp.Symbol, sp.Expr]
) -> tuple[list[Assignment], list[Assignment], list[Assignment]]:
    """A weight for each coefficient that differs in more than its sign, and the gradients as their sums.

    Between these, a name for each elementwise factor that asks which components are the largest.
    """
    weights: dict[sp.Expr, sp.Symbol] = {}
    parts: dict[str, list[tuple[sp.Expr, sp.Expr]]] = {}
    picks: dict[sp.Expr, sp.Symbol] = {}
    order = ("x_pos", "x_neg", "x")
    sums = {total: name for which in derivation.loss.slopes for total, name in _sum_names(derivation, which).items()}
    coefficients = {
        name: [_coefficient(t, derivation, slope_names, sums) for t in derivation.terms[name]] for name in order
    }
    magnitudes = {signed(c)[1] for name in order for c in coefficients[name]}
    for name in order:
        parts[name] = []
        for term, coefficient in zip(derivation.terms[name], coefficients[name], strict=True):
            _, magnitude = signed(coefficient)
            if magnitude not in weights:
                shared = name == "x" or str(term.slope)[2:] in name
                suffix = name.removeprefix("x") if shared else f"_{str(term.slope)[2:]}"
                suffix *= len(magnitudes) > 1
                taken = {symbol.name for symbol in weights.values()}
                names = (f"weight{suffix}{number or ''}" for number in range(len(taken) + 1))
                weights[magnitude] = sp.Symbol(next(free for free in names if free not in taken), real=True)
            sign = 1 if magnitude == coefficient else -1
            elementwise = _component(term.elementwise.xreplace(sums))
            if elementwise.has(attains):
                taken = {symbol.name for symbol in picks.values()}
                names = (f"pick_{str(term.slope)[2:]}{number or ''}" for number in range(len(taken) + 1))
                free = next(own for own in names if own not in taken)
                elementwise = picks.setdefault(elementwise, sp.Symbol(free, real=True))
            parts[name].append((sign * weights[magnitude], elementwise))
    assignments = [Assignment(symbol, _masked(magnitude)) for magnitude, symbol in weights.items()]
    maps = [
        Assignment(sp.Symbol(f"grad_{name}", real=True), sp.Add(*(w * factor for w, factor in parts[name])))
        for name in symbols.EMBEDDINGS
    ]
    return assignments, [Assignment(symbol, factor) for factor, symbol in picks.items()], maps


def _coefficient(
    term: Term, derivation: Derivation, slope_names: dict[sp.Symbol, sp.Expr], sums: dict[sp.Expr, sp.Symbol]
) -> sp.Expr:
    """The coefficient of a term, with the slope that is a factor of it by its name, and sums and maxima by theirs."""
    slope = derivation.loss.slopes[term.slope].result
    factor = sp.cancel(term.coefficient.xreplace(sums) / slope)
    if _divides(factor) and not _divides(term.coefficient):
        return term.coefficient.xreplace(sums)  # the slope vanishes with the distance: there is nothing to mask
    return factor * slope_names[term.slope]


def _divides(coefficient: sp.Expr) -> bool:
    """Whether it is divided by a distance."""
    return any(power.is_negative and base in symbols.DISTANCES for base, power in coefficient.as_powers_dict().items())


def _masked(coefficient: sp.Expr) -> sp.Expr:
    """A coefficient divided by a distance, with the convention 0 where the distance is 0."""
    may_vanish = {
        *symbols.DISTANCES,
        *(symbol for symbol in coefficient.free_symbols if symbol.name.startswith("sum_")),
    }
    powers = coefficient.as_powers_dict().items()
    vanishing = [b**-p for b, p in powers if not p.is_nonnegative and not b.is_positive and b.free_symbols & may_vanish]
    below = sp.Mul(*vanishing)
    return coefficient if below == 1 else masked_ratio(coefficient * below, below)


# ---------------------------------------------------------------- passes over a kernel


def _in_difference_of_distances(kernel: RowKernel, derivation: Derivation) -> RowKernel:
    """The loss and its slopes in delta = d_pos - d_neg, where they depend on nothing else.

    Where the distance is itself a sum, or a number times one, delta is one sum too. For squared distances that is
    sum((x_neg - x_pos)*((x - x_pos) + (x - x_neg))): it keeps the digits that the difference of two nearly equal sums
    loses.
    """
    end = max(at for at, a in enumerate(kernel.scalars) if a.symbol in symbols.DISTANCES) + 1
    distances, rest = kernel.scalars[:end], kernel.scalars[end:]
    rewritten = tuple(a if a.symbol in kernel.weights else replace(a, value=_in_delta(a.value)) for a in rest)
    if any(a.value.has(*symbols.DISTANCES) for a in rewritten if a.symbol not in kernel.weights):
        return kernel
    factor, total = derivation.distance.value.as_coeff_Mul()
    if not isinstance(total, sp.Sum):
        return kernel.with_scalars((*distances, Assignment(_DELTA, d_pos - d_neg), *rewritten))
    pos, neg = kernel.reductions
    reduction = Reduction(_DELTA, sp.factor(factor * (pos.term - neg.term)).xreplace({U - V: W, V - U: -W}))
    values = derivation.setting.abbreviations
    Step(
        "difference of sums",
        values[d_pos] - values[d_neg],
        sp.Sum(_indexed(reduction.term), (symbols.i, 1, symbols.n)),
        "the difference of two sums is the sum of the differences",
        derivation.setting,
    )
    return kernel.with_scalars((*distances, *rewritten), [reduction])


def _in_delta(expr: sp.Expr) -> sp.Expr:
    if not expr.has(d_pos, d_neg):
        return expr
    written = sp.expand(expr.xreplace({d_pos: _DELTA + d_neg}))
    return expr if written.has(d_neg) else sp.together(written)


def _indexed(term: sp.Expr) -> sp.Expr:
    i = symbols.i
    written = term.xreplace(_DIFFERENCES)
    return written.xreplace({X: symbols.x[i], X_POS: symbols.x_pos[i], X_NEG: symbols.x_neg[i]})


def _with_common_subexpressions(kernel: RowKernel) -> RowKernel:
    """Scalars with repeated subexpressions named; the elementwise parts are left as they are."""
    names = (sp.Symbol(f"t{number}", real=True) for number in range(10**6))
    shared, values = sp.cse([a.value for a in kernel.scalars], symbols=names, order="canonical")
    powers: dict[sp.Symbol, sp.Expr] = {}
    for symbol, value in shared:
        if value.is_Pow and value.base.is_Symbol:
            powers[symbol] = value.xreplace(powers)
    values = [value.xreplace(powers) for value in values]  # a name for s*s or 1/temperature would not be read faster
    pending = [Assignment(symbol, value.xreplace(powers)) for symbol, value in shared if symbol not in powers]
    scalars: list[Assignment] = []
    for assignment, value in zip(kernel.scalars, values, strict=True):
        needed = value.free_symbols
        for temporary in reversed(pending):
            if temporary.symbol in needed:
                needed = needed | temporary.value.free_symbols
        scalars += [temporary for temporary in pending if temporary.symbol in needed]
        pending = [temporary for temporary in pending if temporary.symbol not in needed]
        scalars.append(replace(assignment, value=value))
    return kernel.with_scalars(scalars)


def _without_dead_code(kernel: RowKernel) -> RowKernel:
    """Only what leads to the loss and the gradients; a slope that a weight merely renames disappears."""
    needed = {kernel.loss, *kernel.weights, *kernel.used(gradient.value for gradient in kernel.maps)}
    kept: list[Assignment] = []
    for assignment in reversed(kernel.scalars):
        if assignment.symbol in needed:
            needed |= assignment.value.free_symbols
            kept.insert(0, assignment)
    reductions = tuple(r for r in kernel.reductions if r.symbol in needed)
    expressions = [r.term for r in reductions] + [m.value for m in kernel.maps]
    return replace(kernel, stages=(Stage(reductions, tuple(kept)),), components=kernel.components_in(*expressions))


def _in_passes(kernel: RowKernel) -> RowKernel:
    """The kernel with a stage of its own for reductions of terms that use what their stage finds out about the row."""
    stages: list[Stage] = []
    for stage in kernel.stages:
        known = {*(a.symbol for a in stage.scalars), *(r.symbol for r in stage.reductions)}
        late = tuple(r for r in stage.reductions if kernel.used([r.term]) & known)
        needed = kernel.used(r.term for r in late)
        for assignment in reversed(stage.scalars):
            needed |= assignment.value.free_symbols if assignment.symbol in needed else set()
        if late:
            early = tuple(a for a in stage.scalars if a.symbol in needed)
            stages.append(Stage(tuple(r for r in stage.reductions if r not in late), early))
            stage = Stage(late, tuple(a for a in stage.scalars if a not in early))
        stages.append(stage)
    return replace(kernel, stages=tuple(stages))


# ---------------------------------------------------------------- the kernel says what the derivation says


def _check(kernel: RowKernel, derivation: Derivation, of: Derivation | Normalization) -> None:
    """The loss of the derivation and the gradients of a part of it, against what the kernel computes."""
    with mpmath.workdps(DIGITS + 20):
        for point in of.setting.points():
            loss, gradients = run(kernel, point)
            expected = [evaluate(derivation.loss.value.result, point)]
            found: list[Any] = [loss]
            for name, lemma in of.gradients.items():
                for index in range(point.dimension):
                    expected.append(evaluate(lemma.result, point.at(symbols.k, index + 1)))
                    found.append(gradients[name][index])
            try:
                agree(found, expected)
            except StepError as error:
                raise StepError(f"the kernel of {kernel.objective.stem} is not what was derived: {error}") from None
