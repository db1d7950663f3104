"""The slots of the NumPy templates: passes over a block of rows that leave arrays for each other.

A block is read once. What a pass computes of its components, and the maps need again, is kept in arrays of the size
of the block; one that only the map of one gradient needs is kept in the memory of that gradient.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import sympy as sp

from ..functions import product
from ..kernel import Assignment, Reduction, RowKernel, Stage
from ..rescale import Rescaled
from .base import slots
from .numpy import ShortNumpyPrinter


@dataclass(frozen=True)
class Kept:
    """A component that is kept for the maps.

    home: the place of the gradient in whose memory it is; None for one that needs memory of its own.
    wide: in double precision, because sums are.
    """

    component: Assignment
    home: int | None
    wide: bool

    @property
    def name(self) -> str:
        return self.component.name


def slots_of(rescaled: Rescaled, vectors: Sequence[str], part: str) -> dict[str, Any]:
    """The slots of a program on rows of some vectors; `part` names what a map is made of where it takes several lines.

    kept: the arrays that the passes fill, by name; kept_said: what these are. kept_in, kept_alone: where they are when
    gradients are computed in arrays `into`, and when only losses are. read, again: vectors that the maps read, with
    their places in a block, and components that the maps compute anew.
    """
    kernel = replace(rescaled.kernel, maps=in_order(rescaled.kernel.maps))
    scales = frozenset(rescaled.scales.values())
    kept = kept_of(rescaled)
    held = {one.component for one in kept}
    of_row = {*kernel.constants, *kernel.weights, *scales}
    in_maps = ShortNumpyPrinter(of_row=of_row)
    reduced = kernel.components_in(*(reduction.term for reduction in kernel.reductions))
    in_passes = ShortNumpyPrinter(
        {symbol.name: f"{symbol.name}[:, None]" for symbol in kernel.constants},
        of_row,
        norms=not any(_is_wide(component, kernel) for component in reduced),  # unit vectors depend on no order
    )
    printed = slots(replace(rescaled, kernel=kernel), ShortNumpyPrinter(), in_passes, in_maps)
    known: set[Assignment] = set()
    for stage, of in zip(printed["stages"], kernel.stages, strict=True):
        new = [c for c in kernel.components_in(*(r.term for r in of.reductions)) if c not in known]
        known |= set(new)
        stage.update(_pass(of, new, rescaled, held, in_passes))
        stage["scalars"] = in_pairs(_taken_into_rows(stage["scalars"], kernel))
    values = tuple(one.value for one in kernel.maps)
    again = replace(kernel, components=tuple(c for c in kernel.components if c not in held)).components_in(*values)
    used = sp.Tuple(*values, *(component.value for component in again)).free_symbols
    read = [name for name in vectors if name in {symbol.name for symbol in used}]
    names = [one.name for one in kept]
    return {
        **printed,
        "reduced_by": {text.partition("(")[0] for stage in printed["stages"] for _, text in stage["reductions"]},
        "saved": [symbol.name for symbol in (*(c for c in kernel.constants if c in used), *kernel.weights)],
        "scale_names": [symbol.name for symbol in rescaled.scales.values() if symbol in used],
        "read": [(name, f"block[{vectors.index(name)}]") for name in read],
        "kept": names,
        "kept_said": fill(f"Leaves what is needed of the components once more in {', '.join(names)}.", 84),
        "kept_in": _memory(kept, "into[0].shape"),
        "kept_alone": _memory([replace(one, home=None) for one in kept], "block[0].shape"),
        "again": [line for one in again for line in _computed(one, False, scales, in_maps)],
        "maps": [line for one in kernel.maps for line in _map(one, in_maps, part)],
    }


def _pass(
    stage: Stage,
    new: Sequence[Assignment],
    rescaled: Rescaled,
    held: Collection[Assignment],
    printer: ShortNumpyPrinter,
) -> dict[str, Any]:
    """The lines of a pass: components that no pass before had, reductions, and components with the scales of these."""
    scales = frozenset(rescaled.scales.values())
    unknown = {rescaled.scales[r.name] for r in stage.reductions if r.name in rescaled.scales}
    extra: list[str] = []
    return {
        "reductions": [_reduction(one, printer, extra) for one in stage.reductions],
        "components": [line for one in new for line in _computed(one, one in held, scales, printer, unknown)] + extra,
        "rescaled": _rescaled(new, held, unknown, printer) + extra,
    }


def _taken_into_rows(scalars: Iterable[tuple[str, str]], kernel: RowKernel) -> list[tuple[str, str]]:
    """Scalars of the rows, where some may be a parameter, which is one number."""
    parameters = {parameter.name for parameter in kernel.parameters}
    return [(name, f"np.full(len(x), {value})" if value in parameters else value) for name, value in scalars]


def in_pairs(scalars: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Scalars, where the sigmoids of a number and of its negative, one after the other, are of one call."""
    found: list[tuple[str, str]] = []
    for name, value in scalars:
        negative = re.fullmatch(r"_sigmoid\(-(\w+)\)", value)
        if negative and found and found[-1][1] == f"_sigmoid({negative[1]})":
            found[-1] = (f"{found[-1][0]}, {name}", f"_sigmoids({negative[1]})")
        else:
            found.append((name, value))
    return found


def bracketed(opened: str, members: Sequence[str], closed: str, indent: int) -> str:
    """Members in brackets as a formatter sets them: in one line of 88 columns, or one in each."""
    line = f"{opened}{', '.join(members)}{closed}"
    if indent + len(line) <= 88:
        return line
    inside = "".join(f"{' ' * (indent + 4)}{member},\n" for member in members)
    return f"{opened}\n{inside}{' ' * indent}{closed}"


def in_order(maps: Sequence[Assignment]) -> tuple[Assignment, ...]:
    """The gradients; where they sum to 0, the first comes last and is made of the others."""
    first, *others = maps
    if first.value == 0 or sp.expand(sp.Add(*(one.value for one in maps))) != 0:
        return tuple(maps)
    return (*others, Assignment(first.symbol, sp.Add(*(-one.symbol for one in others))))


def kept_of(rescaled: Rescaled) -> tuple[Kept, ...]:
    """The components that passes compute for the maps, but for mere multiples of vectors: those at home come first."""
    kernel, maps = rescaled.kernel, in_order(rescaled.kernel.maps)
    in_passes = set(kernel.components_in(*(reduction.term for reduction in kernel.reductions)))
    places = {one.symbol: place for place, one in enumerate(rescaled.kernel.maps)}
    used = {one.symbol: one.value.free_symbols for one in maps}
    kept: list[Kept] = []
    for component in reversed(kernel.components):
        users = [gradient for gradient, symbols in used.items() if component.symbol in symbols]
        if not users or component not in in_passes or _apart(component, rescaled.scales.values())[1].is_Symbol:
            for gradient in users:
                used[gradient] = used[gradient] | component.value.free_symbols
            continue
        wide, home = _is_wide(component, kernel), places[users[0]]
        alone = wide or len(users) > 1 or home in (other.home for other in kept)
        kept.insert(0, Kept(component, None if alone else home, wide))
    return tuple(sorted(kept, key=lambda one: (one.home is None, one.wide)))


def _is_wide(component: Assignment, kernel: RowKernel) -> bool:
    """Whether scalars of the row, which are in double precision, are in a component, or in one that it is made of."""
    inside = kernel.components_in(component.symbol)
    return bool(sp.Tuple(*(one.value for one in inside)).free_symbols & set(kernel.constants))


def _memory(kept: Sequence[Kept], shape: str) -> list[str]:
    """The members of the list of the arrays that are kept."""
    homes = [f"into[{one.home}]" for one in kept if one.home is not None]
    alone = [one for one in kept if one.home is None]
    counts = ((sum(not one.wide for one in alone), ", x.dtype"), (sum(one.wide for one in alone), ""))
    return [*homes, *(f"*np.empty(({count}, *{shape}){dtype})" for count, dtype in counts if count)]


def _apart(component: Assignment, scales: Iterable[sp.Symbol]) -> tuple[sp.Symbol | None, sp.Expr]:
    """The scale of a component, if it has one, and what that multiplies."""
    scale = next((factor for factor in component.value.args if factor in scales), None)
    return (scale, component.value / scale) if scale and component.value.is_Mul else (None, component.value)


def _computed(
    component: Assignment,
    held: bool,
    scales: Iterable[sp.Symbol],
    printer: ShortNumpyPrinter,
    unknown: Collection[sp.Symbol] = (),
) -> list[str]:
    """The lines that compute a component, without a scale that is not known yet; `held` in an array that is there."""
    scale, value = _apart(component, scales)
    known = scale is not None and scale not in unknown
    if held:
        return [*printer.into(component.name, value, "part"), *_scaled(component.name, scale, held)[: int(known)]]
    if known and len(simple := f"{component.name} = _scaled({printer(value)}, {scale})") <= printer.room:
        return [simple]
    return [*_plain(printer.lines(component.name, value)), *_scaled(component.name, scale, held)[: int(known)]]


def _scaled(name: str, scale: sp.Symbol | None, held: bool) -> list[str]:
    """The line that multiplies a component by its scale."""
    return [f"_scaled({name}, {scale}, out={name})" if held else f"{name} = _scaled({name}, {scale})"]


def _rescaled(
    components: Iterable[Assignment],
    held: Collection[Assignment],
    scales: Iterable[sp.Symbol],
    printer: ShortNumpyPrinter,
) -> list[str]:
    """The lines that multiply the components of a pass by their scales, and compute anew what is made of these."""
    lines: list[str] = []
    changed: set[sp.Symbol] = set()
    for one in components:
        scale, value = _apart(one, scales)
        if scale:
            lines += _scaled(one.name, scale, one in held)
        elif value.free_symbols & changed:
            lines += _computed(one, one in held, scales, printer)
        else:
            continue
        changed.add(one.symbol)
    return lines


def _map(one: Assignment, printer: ShortNumpyPrinter, part: str) -> list[str]:
    """The lines of a map; a scale by which it is multiplied last is so in a line of its own."""
    if not isinstance(one.value, product):
        return printer.into(one.name, one.value, part)
    value, scale = one.value.args
    return [*_plain(printer.lines(part, value)), f"{one.name}[...] = _scaled({part}, {scale})"]


def _reduction(one: Reduction, printer: ShortNumpyPrinter, extra: list[str]) -> tuple[str, str]:
    """The name of a reduction and its value; a term that is too long for that is computed by lines that are added."""
    text = printer.reduction(one.term, one.kind)
    if len(f"{one.name} = {text}") <= printer.room:
        return one.name, text
    extra += _plain(printer.lines(named := f"of_{one.name}", one.term))
    return one.name, printer.reduction(sp.Symbol(named), one.kind)


def _plain(assignments: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name} = {value}" for name, value in assignments]
