"""A user's own loss: an expression and its parameters, or a small TOML file, as an entry like those of the catalogue.

The text is data in the language of `expression`. What an entry of the catalogue states is found by `examine` instead.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import keyword
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .catalogue import DOMAINS, LOSSES, Loss, Parameter, is_reserved
from .errors import DefinitionError, UsageError
from .examine import with_singularities
from .expression import FUNCTIONS, REDUCTIONS, syntax_tree

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
        return with_singularities(replace(loss, definition=one_line) if source and loss.formula.written_out else loss)
    except DefinitionError as error:
        hint = "; a parameter is declared by --param NAME=DEFAULT:'>0'" if "unknown name" in str(error) else ""
        raise DefinitionError(f"{error}{hint}") from None
