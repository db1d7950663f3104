"""What an entry of the catalogue states is found in the formula of a loss of one's own.

Where the loss has kinks, and where it does not exist. A loss that cannot be a layer is refused, with the point that
shows it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import mpmath

from .catalogue import Loss, Parameter, Singularity
from .errors import DefinitionError
from .highprecision import DISTANCES as _GRID
from .highprecision import loss_value, smooth_piece, zeros

_DIGITS = 40
_INFINITE = "the value is infinite"
_H = mpmath.mpf(10) ** -20


@dataclass(frozen=True)
class _Corner:
    """A subexpression at whose zeros the formula changes: from one piece to another, or by not existing.

    taken: what the derivative is where the pieces meet.
    """

    text: str
    where: str
    taken: str = ""
    is_pole: bool = False


def with_singularities(loss: Loss) -> Loss:
    """The loss with its kinks and with the points at which it does not exist.

    Raises `DefinitionError` for a loss that is constant, jumps, is infinitely steep, does not exist between points at
    which it does, or does not use one of its names.
    """
    formula = loss.formula.written_out
    names = {node.id for node in ast.walk(formula) if isinstance(node, ast.Name)}
    for which, purpose in (("d_pos", "pulls no positive nearer"), ("d_neg", "pushes no negative away")):
        if which not in names:
            raise DefinitionError(f"loss {loss.name!r}: {which} does not appear; a loss without it {purpose}")
    for parameter in loss.parameters:
        if parameter.name not in names:
            raise DefinitionError(f"loss {loss.name!r}: the parameter {parameter.name} is not used")
    with mpmath.workdps(_DIGITS):
        for values in _settings(loss.parameters):
            _refuse_missing_values(_Examined(loss, values))
        examined = _Examined(loss, {})
        _refuse_constants(examined)
        corners = _corners(formula)
        found = [kink for corner in corners if (kink := _kink(examined, corner))]
        return replace(loss, singularities=tuple(dict.fromkeys(found)), undefined=tuple(_undefined(examined)))


def _settings(parameters: Sequence[Parameter]) -> Iterator[dict[str, Any]]:
    """Values to examine with: the defaults, and each parameter at others of its domain."""
    yield {}
    for p in parameters:
        for value in (4 * p.default, p.default / 4, -p.default, 0):
            if p.holds(value):
                yield {p.name: mpmath.mpf(value)}


@dataclass(frozen=True)
class _Examined:
    """A loss at some values of its parameters, which tells why it has no value at a point."""

    loss: Loss
    parameters: Mapping[str, Any]

    def at(self, d_pos: Any, d_neg: Any, piece: Callable[[Any, Any], Any] | None = None) -> Any:
        """The value, of the loss or of a piece of it, or a text that says why there is none."""
        try:
            mpmath.mp.trap_complex = True
            value = piece(d_pos, d_neg) if piece else loss_value(self.loss, d_pos, d_neg, self.parameters)
        except (ArithmeticError, ValueError) as error:
            return next(iter(getattr(error, "__notes__", ())), str(error))
        finally:
            mpmath.mp.trap_complex = False
        return value if mpmath.isfinite(value) else _INFINITE

    def zeros(self, corner: _Corner) -> Iterator[tuple[Any, Any]]:
        """Some points at which a corner's expression is 0."""
        return zeros(self.loss, corner.text, self.parameters)

    def point(self, d_pos: Any, d_neg: Any) -> str:
        """A point, for people."""
        values = {**self.parameters, "d_pos": d_pos, "d_neg": d_neg}
        return ", ".join(f"{name} = {_short(value)}" for name, value in values.items())

    def refuse(self, what: str, d_pos: Any, d_neg: Any) -> None:
        raise DefinitionError(f"loss {self.loss.name!r}: {what} at {self.point(d_pos, d_neg)}")


def _short(value: Any) -> str:
    return str(mpmath.nstr(value, 6, strip_zeros=True)).removesuffix(".0")


def _refuse_missing_values(examined: _Examined) -> None:
    """Between points at which a distance is 0 there has to be a value; there, it may be missing."""
    missing = [point for point in product(_GRID[1:], repeat=2) if isinstance(examined.at(*point), str)]
    if missing:
        reason = min((examined.at(*point) for point in missing), key=lambda why: why == _INFINITE)
        examined.refuse(reason, *_simplest_point(examined, reason))
    for corner in _corners(examined.loss.formula.written_out):
        if corner.is_pole:
            for d_pos, d_neg in examined.zeros(corner):
                near = [examined.at(d_pos + sign * _H, d_neg) for sign in (1, -1)]
                if any(isinstance(value, str) or abs(value) > 1 / mpmath.sqrt(_H) for value in near):
                    examined.refuse(f"division by zero, {corner.text} = 0,", d_pos, d_neg)


def _simplest_point(examined: _Examined, reason: str) -> tuple[Any, Any]:
    """A point without a value for the same reason that is as easy to recompute as there is one."""
    values = _GRID if "negative" in reason else _GRID[1:]  # where a distance is 0 it may be divided by
    points = (point for point in product(values, repeat=2) if examined.at(*point) == reason)
    return min(points, key=lambda point: (sum(value not in (0, 1) for value in point), sum(point)))


def _refuse_constants(examined: _Examined) -> None:
    values = {point: examined.at(*point) for point in product(_GRID[1:], repeat=2)}
    moves = {
        "d_pos": any(values[a, c] != values[b, c] for (a, b), c in product(pairwise(_GRID[1:]), _GRID[1:])),
        "d_neg": any(values[c, a] != values[c, b] for (a, b), c in product(pairwise(_GRID[1:]), _GRID[1:])),
    }
    if not any(moves.values()):
        raise DefinitionError(f"loss {examined.loss.name!r}: it is constant, so its gradient is 0 everywhere")
    for which, does in moves.items():
        if not does:
            raise DefinitionError(f"loss {examined.loss.name!r}: it does not depend on {which}")


# ---------------------------------------------------------------- kinks


def _corners(formula: ast.expr) -> list[_Corner]:
    """What max, min, abs and where compare with 0, and what is divided by, in the order of the text."""
    found = []
    for node in ast.walk(formula):
        match node:
            case ast.Call(func=ast.Name(id="max" | "min"), args=[first, second]):
                a, b = sorted((first, second), key=lambda argument: not isinstance(argument, ast.Constant))
                call = ast.unparse(node)
                found.append(
                    _between(
                        *(b, a),
                        f"the slope of {call} is taken as "
                        + ("0" if isinstance(a, ast.Constant) else f"that of {ast.unparse(a)}"),
                    )
                )
            case ast.Call(func=ast.Name(id="abs"), args=[z]):
                found.append(
                    _Corner(ast.unparse(z), f"{ast.unparse(z)} = 0", f"the slope of |{ast.unparse(z)}| is taken as 0")
                )
            case ast.Call(func=ast.Name(id="where"), args=[ast.Compare(left=a, comparators=[b]), *_]):
                found.append(_between(a, b, "the slope of the value that holds there is taken"))
            case ast.BinOp(op=ast.Div(), right=below):
                found.append(_Corner(ast.unparse(below), "", is_pole=True))
    return list(dict.fromkeys(found))


def _between(a: ast.expr, b: ast.expr, taken: str) -> _Corner:
    """Where a = b."""
    if isinstance(b, ast.Constant) and b.value == 0:
        return _Corner(ast.unparse(a), f"{ast.unparse(a)} = 0", taken)
    return _Corner(ast.unparse(ast.BinOp(a, ast.Sub(), b)), f"{ast.unparse(a)} = {ast.unparse(b)}", taken)


def _kink(examined: _Examined, corner: _Corner) -> Singularity | None:
    """What happens where two pieces of the formula meet; None if nothing does, or if they never meet.

    Raises `DefinitionError` if the loss jumps there, or its slope is infinite.
    """
    if corner.is_pole:
        return None
    for point in examined.zeros(corner):
        for across in ((1, 0), (0, 1)):

            def values(h: Any, point: Any = point, across: Any = across) -> list[Any]:
                return [examined.at(point[0] + t * across[0], point[1] + t * across[1]) for t in (-h, 0 * h, h)]

            found, nearer = values(_H), values(_H / 1000)
            if any(isinstance(value, str) for value in (*found, *nearer)):
                continue
            behind, here, ahead = found
            size = 1 + abs(behind) + abs(ahead)
            change, less = (abs(after - at) + abs(at - before) for before, at, after in (found, nearer))
            # a jump does not become less with the step; a slope does, in proportion to it where it is finite
            if change > mpmath.mpf(10) ** -12 * size and less > change / 2:
                examined.refuse(f"it jumps, from {_short(behind)} to {_short(ahead)}, where {corner.where},", *point)
            if change > 100 * _H * size and change / 2 >= less > change / 999:
                examined.refuse(f"its slope is infinite where {corner.where},", *point)
            forward, backward = (ahead - here) / _H, (here - behind) / _H
            if abs(forward - backward) > mpmath.mpf(10) ** -10 * (1 + abs(forward) + abs(backward)):
                return Singularity(corner.text, corner.where, _WHY, "" if _is_flat(examined, point) else corner.taken)
    return None


_WHY = "two pieces of the formula meet with different slopes"


def _is_flat(examined: _Examined, point: tuple[Any, Any]) -> bool:
    """Whether both slopes of the piece that is taken at a point are 0."""
    piece = smooth_piece(examined.loss, *point, examined.parameters)
    here = piece(*point)
    return all(
        abs(piece(point[0] + a * _H, point[1] + b * _H) - here) < _H * mpmath.mpf(10) ** -10
        for a, b in ((1, 0), (0, 1))
    )


# ---------------------------------------------------------------- where a distance is 0


def _undefined(examined: _Examined) -> Iterator[Singularity]:
    """Where a distance is 0 and the loss, or its derivative, does not exist."""
    zero = mpmath.mpf(0)
    sides = {
        ("d_pos", "d_pos = 0"): [(zero, other) for other in _GRID[1:]],
        ("d_neg", "d_neg = 0"): [(other, zero) for other in _GRID[1:]],
    }
    found = [
        Singularity(locus, where, why)
        for (locus, where), points in sides.items()
        if (why := next((why for point in points if (why := _why_undefined(examined, *point))), ""))
    ]
    yield from found
    if not found and (why := _why_undefined(examined, zero, zero)):
        yield Singularity("d_pos + d_neg", "d_pos = d_neg = 0", why)


def _why_undefined(examined: _Examined, d_pos: Any, d_neg: Any) -> str:
    """Why there is no value or no derivative at a point with a distance of 0; '' if there are both."""
    here = examined.at(d_pos, d_neg)
    if isinstance(here, str):
        return re.sub(r"^line \d+, column \d+: ", "", here)
    piece = smooth_piece(examined.loss, d_pos, d_neg, examined.parameters)

    def slope(a: int, b: int, h: Any) -> Any:
        ahead = examined.at(d_pos + a * h, d_neg + b * h, piece)
        return mpmath.nan if isinstance(ahead, str) else (ahead - here) / h

    first, second, both, uneven = (slope(a, b, _H) for a, b in ((1, 0), (0, 1), (1, 1), (2, 1)))
    size = mpmath.mpf(10) ** -8 * (1 + abs(first) + abs(second))
    for a, b, found in ((1, 0, first), (0, 1, second)):
        if not abs(found - slope(a, b, _H / 1000)) <= size:
            return "the slope is infinite"
    if not (abs(both - first - second) <= size and abs(uneven - 2 * first - second) <= size):
        return "the slope depends on the direction"
    beyond = examined.at(d_pos - _H * (d_pos == 0), d_neg - _H * (d_neg == 0), piece)
    return "there is no formula for negative distances to compare with" if isinstance(beyond, str) else ""
