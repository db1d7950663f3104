"""Small errors in Python text: each mutant is the text with one operator, number, comparison or statement changed.

What a reader does not run is left alone: docstrings, annotations, decorators, the texts of messages, and assertions.
"""

from __future__ import annotations

import ast
import copy
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "pos": "neg", "neg": "pos"}


@dataclass(frozen=True)
class Mutant:
    """`text` is the whole text with `old`, which stands on `line`, replaced by `new`."""

    line: int
    old: str
    new: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"


def sample(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Some of them, in the order of the text, and always the same ones."""
    chosen = random.Random(seed).sample(range(len(mutants)), min(count, len(mutants)))
    return [mutants[at] for at in sorted(chosen)]


def mutants_of(text: str) -> list[Mutant]:
    """Every mutant of a Python text, in its order."""
    code = text.encode()  # columns of `ast` count bytes
    starts = [0, *accumulate(map(len, code.splitlines(keepends=True)))]
    found: dict[str, Mutant] = {}
    for node, new in _mutations(ast.parse(text)):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        changed = (code[:first] + new.encode() + code[last:]).decode()
        found.setdefault(changed, Mutant(node.lineno, code[first:last].decode(), new, changed))
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _mutations(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    children: Iterable[ast.AST]
    match node:
        case ast.JoinedStr() | ast.Assert():
            return
        case ast.FunctionDef(body=body) | ast.ClassDef(body=body):
            children = body
        case ast.AnnAssign(value=value):
            children = [value] if value else []
        case _:
            yield from _own(node)
            children = ast.iter_child_nodes(node)
    for child in children:
        yield from _mutations(child)


def _own(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """The mutants of a node itself, as texts that stand in its place."""
    match node:
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield node, _changed(node, op=_OPERATORS[type(op)]())
        case ast.BoolOp(op=op):
            yield node, _changed(node, op=_OPERATORS[type(op)]())
        case ast.Compare(ops=[op, *rest]) if type(op) in _OPERATORS:
            yield node, _changed(node, ops=[_OPERATORS[type(op)](), *rest])
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield node, str(not value)
        case ast.Constant(value=int() | float() as value):
            yield node, repr(value + 1)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in _NAMES and isinstance(node.ctx, ast.Load):
            field = "id" if isinstance(node, ast.Name) else "attr"
            yield node, _changed(node, **{field: _NAMES[name]})[1:-1]
        case ast.IfExp(test=test):
            yield node, _changed(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant | ast.Compare):
            yield test, f"(not ({ast.unparse(test)}))"
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue():
            yield node, "pass"


def _changed(node: ast.expr, **fields: object) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return f"({ast.unparse(changed)})"


_OF_C = re.compile(r"(?<= )[-+*/<>](?= )|(?<= )(?:[<>!=]=|[-+]=)(?= )|\bT\([01]\)|(?<=[ (])-(?=\w)|&&|\|\|")
_CHANGED = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "<": "<=",
    ">": ">=",
    "<=": "<",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "+=": "-=",
    "-=": "+=",
    "&&": "||",
    "||": "&&",
    "T(0)": "T(1)",
    "T(1)": "T(2)",
}


def c_mutants_of(text: str) -> list[Mutant]:
    """Every mutant of a C++ text: an operator, a sign, or a 0 or 1 changed, outside of comments and directives."""
    found, at = [], 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        code = "" if line.lstrip().startswith(("#", "template")) else line.split("//")[0]
        for match in _OF_C.finditer(code):
            old, (first, last) = match[0], match.span()
            new = "" if old == "-" and code[last] != " " else _CHANGED[old]
            shown = code[max(0, first - 20) : first], code[last : last + 20]
            changed = text[: at + first] + new + text[at + last :]
            found.append(Mutant(number, old.join(shown), new.join(shown), changed))
        at += len(line)
    return found
