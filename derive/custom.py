"""A user's own loss: an expression and its parameters, or a small TOML file, as an entry like those of the catalogue.

The text is data in the language of `expression`. What an entry of the catalogue states is found here instead: where
the loss has kinks, and where it does not exist. A loss that cannot be a layer is refused, with the point that shows it.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import keyword
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import mpmath

from .catalogue import DOMAINS, LOSSES, Loss, Parameter, Singularity, is_reserved
from .errors import DefinitionError, UsageError
from .expression import FUNCTIONS, REDUCTIONS, syntax_tree
from .highprecision import DISTANCES as _GRID
from .highprecision import loss_value, smooth_piece, zeros

_CPP_WORDS = (
    "alignas alignof and asm auto bool break case catch char class compl concept const constexpr continue decltype "
    "default delete do double else enum errno explicit export extern false float for friend goto if inline int long "
    "mutable namespace new noexcept not nullptr operator or private protected public register requires restrict return "
    "short signed sizeof static struct switch template this throw true try typedef typeid typename union unsigned "
    "using virtual void volatile while xor"
)
# ---------------------------------------------------------------- from text


def is_expression(text: str) -> bool:
    """Whether what follows ``--loss`` is a formula and not a name, which may be misspelt."""
    return not re.fullmatch(r"[\w-]+", text) or bool(re.search(r"\bd_(pos|neg)\b", text))


def is_file(text: str) -> bool:
    """Whether what follows ``--loss`` is the path of a TOML file."""
    return text.endswith(".toml")


def losses_from(
    texts: Sequence[str], given: Sequence[str] = (), name: str = ""
) -> tuple[list[str | Loss], dict[str, float]]:
    """What follows each ``--loss``, formulas and files as losses and names as they are; and changed defaults.

    given: what follows each ``--param``, which declares a formula's parameters and changes a default of a file's.
    name: of the one loss that is new.
    Raises `UsageError` for a parameter or a name that belongs to none, and as `own_loss` does.
    """
    own = [text for text in dict.fromkeys(texts) if is_file(text) or is_expression(text)]
    if not own and (given or name):
        option = "param" if given else "name"
        raise UsageError(f"--{option} belongs to a loss of your own, given as --loss EXPRESSION or --loss FILE.toml")
    if name and len(own) > 1:
        raise UsageError(f"--name is the name of one loss, but there are {len(own)} of your own")
    made: dict[str, Loss] = {}
    changed: dict[str, float] = {}
    used: set[str] = set()
    for text in own:
        if is_file(text):
            loss = made[text] = _from_file(text, name)
            for one in given:
                key, _, value = (part.strip() for part in one.partition("="))
                parameter = next((p for p in loss.parameters if p.name == key), None)
                if parameter and ":" in value:
                    raise UsageError(f"--param {one}: {text} declares {key}; NAME=DEFAULT changes its default")
                if parameter:
                    changed[key] = parameter.check(_number(one, value))
        else:
            words = set(re.findall(r"\w+", text))
            mine = [one for one in given if one.partition("=")[0].strip() in words]
            loss = made[text] = _entry(text, tuple(map(_parameter, mine)), ("--loss", _on_one_line(text)), name=name)
        used |= {p.name for p in loss.parameters}
    for one in given:
        if one.partition("=")[0].strip() not in used:
            raise UsageError(f"--param {one}: no loss has the parameter {one.partition('=')[0].strip()!r}")
    return [made.get(text, text) for text in texts], changed


def own_loss(
    expression: str,
    parameters: Mapping[str, str | float] | None = None,
    *,
    name: str = "",
    title: str = "",
    reference: str = "",
) -> Loss:
    """A loss of the distances d_pos and d_neg, to be used wherever one of the catalogue can be.

    parameters: for each the default and the domain, such as ``{"tau": "0.5:>0"}``; a number alone may be any real one.

    >>> own_loss("log(1 + exp((d_pos - d_neg)/tau))", {"tau": "0.5:>0"}, name="soft-margin").singularities
    ()

    Raises `DefinitionError` for a formula that is refused, with the place and the reason, or at which point.
    """
    declared = tuple(_parameter(f"{key}={value}") for key, value in (parameters or {}).items())
    return _entry(expression, declared, ("--loss", _on_one_line(expression)), name, title, reference)


def _from_file(path: str, name: str) -> Loss:
    """The loss of a TOML file: expression, and what else it says of name, title, reference and parameters."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file, seen from {Path.cwd()}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    try:
        fields = {key: content.pop(key, "") for key in ("name", "title", "expression", "reference")}
        tables = content.pop("parameters", {})
        for key in content:
            raise UsageError(f"unknown key {key!r}; known: {', '.join(fields)}, parameters")
        for key, value in fields.items():
            if not isinstance(value, str):
                raise UsageError(f"{key} is not a string")
        if not fields["expression"].strip():
            raise UsageError("it has no expression")
        if not isinstance(tables, dict):
            raise UsageError("parameters is not a table")
        declared = tuple(_parameter_of_table(key, table) for key, table in tables.items())
        own_name = fields["name"] or Path(path).stem.replace("_", "-").lower()
        loss = _entry(fields["expression"], declared, (), name or own_name, fields["title"], fields["reference"])
        return replace(loss, source=("--loss", path, *(("--name", name) if name else ())))
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None


def _parameter_of_table(name: str, table: object) -> Parameter:
    """A parameter as TOML states it: a number, or a table with default, domain and meaning."""
    fields = dict(table) if isinstance(table, dict) else {"default": table}
    default, domain, meaning = fields.pop("default", None), fields.pop("domain", ""), fields.pop("meaning", "")
    if fields:
        raise UsageError(f"parameter {name}: unknown key {next(iter(fields))!r}; known: default, domain, meaning")
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise UsageError(f"parameter {name}: its default is not a number")
    return _parameter(f"{name}={default!r}:{domain}", str(meaning))


def _parameter(text: str, meaning: str = "") -> Parameter:
    """NAME=DEFAULT or NAME=DEFAULT:DOMAIN as a parameter."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(f"--param {text}: expected NAME=DEFAULT or NAME=DEFAULT:DOMAIN, such as tau=0.5:'>0'")
    default, _, domain = value.partition(":")
    kind = next((kind for kind, sign in DOMAINS.items() if sign == domain.replace(" ", "")), "")
    if not kind:
        raise UsageError(f"--param {text}: the domain is {domain!r}; expected '>0', '>=0', or none for any real number")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise UsageError(f"--param {text}: a name is of lower-case letters, digits and underscores, a letter first")
    if (
        name in {*FUNCTIONS, *REDUCTIONS, *_CPP_WORDS.split(), *dir(builtins)}
        or keyword.iskeyword(name)
        or is_reserved(name)
    ):
        raise UsageError(f"a parameter cannot be called {name!r}: generated code uses that word")
    return Parameter(name, _number(text, default), kind, meaning or "a parameter of the loss")


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--param {option}: {text.strip()!r} is not a number") from None


def _on_one_line(expression: str) -> str:
    """A formula as it fits into a command: without comments, and its lines with semicolons between them."""
    text = re.sub(r"#.*", "", inspect.cleandoc(expression))
    if "\n" not in text:
        return text.strip()
    try:
        statements = [ast.get_source_segment(text, statement) or "" for statement in syntax_tree(text).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text  # it will be refused
    return "; ".join(" ".join(statement.replace("\\\n", " ").split()) for statement in statements)


def _default_name(expression: str) -> str:
    """Readable, and another one for every formula: its words, and a few digits of its hash."""
    words = re.sub(r"[^a-z0-9]+", "-", expression.lower()).strip("-")[:28].strip("-")
    words = words if words[:1].isalpha() else f"loss-{words}".strip("-")
    whole = " ".join(expression.split()).encode(errors="backslashreplace")  # bytes that are no UTF-8 are refused later
    return f"{words}-{hashlib.sha256(whole).hexdigest()[:6]}"


def _entry(
    expression: str,
    parameters: tuple[Parameter, ...],
    source: tuple[str, ...],
    name: str = "",
    title: str = "",
    reference: str = "",
) -> Loss:
    one_line = _on_one_line(expression)
    if name and source:
        source = (*source, "--name", name)
    name = name or _default_name(one_line)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 60:
        raise UsageError(
            f"{name!r} cannot be the name of a loss: lower-case words and digits with hyphens between them"
        )
    if name in LOSSES or name == "all":
        raise UsageError(f"{name!r} is a loss of the catalogue; choose another --name")
    for at, parameter in enumerate(parameters):
        if parameter.name in {p.name for p in parameters[:at]}:
            raise UsageError(f"the parameter {parameter.name} is declared twice")
    loss = Loss(name, title or "a loss of one's own", expression, reference, parameters, source=source)
    try:
        # a place in an error is one of the text as it was written, and what a command makes is made of one line
        return _examined(replace(loss, definition=one_line) if source and loss.formula.written_out else loss)
    except DefinitionError as error:
        hint = "; a parameter is declared by --param NAME=DEFAULT:'>0'" if "unknown name" in str(error) else ""
        raise DefinitionError(f"{error}{hint}") from None


# ---------------------------------------------------------------- what is found in the formula

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


def _examined(loss: Loss) -> Loss:
    """The loss with its kinks and with the points at which it does not exist.

    Raises `DefinitionError` for a loss that is constant, jumps, does not exist between points where it does, or does
    not use one of its names.
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

    Raises `DefinitionError` if the loss jumps there.
    """
    if corner.is_pole:
        return None
    for point in examined.zeros(corner):
        for across in ((1, 0), (0, 1)):
            behind, here, ahead = (
                examined.at(point[0] + t * across[0], point[1] + t * across[1]) for t in (-_H, 0 * _H, _H)
            )
            if any(isinstance(value, str) for value in (behind, here, ahead)):
                continue
            size = 1 + abs(behind) + abs(ahead)
            if abs(ahead - behind) > mpmath.mpf(10) ** -12 * size:
                examined.refuse(f"it jumps, from {_short(behind)} to {_short(ahead)}, where {corner.where},", *point)
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
