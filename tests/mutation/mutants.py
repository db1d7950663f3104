"""Small errors in texts: each mutant is the text with one operator, number, comparison or statement changed.

What is not run is left alone: docstrings, annotations, decorators, the texts of messages, assertions, imports for
types, and in templates comments and tags. So is `strict` of `zip`, which only says that lengths are equal.
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
    """`text` is the whole text with `old`, which stands on `line`, replaced by `new`.

    within: the lines of the statement that it is in.
    """

    line: int
    old: str
    new: str
    text: str
    within: range = range(0)

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
    for node, new, within in _mutations(ast.parse(text), range(0)):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        changed = (code[:first] + new.encode() + code[last:]).decode()
        found.setdefault(changed, Mutant(node.lineno, code[first:last].decode(), new, changed, within))
    return sorted(found.values(), key=lambda mutant: mutant.line)


_Mutation = tuple[ast.expr | ast.stmt, str]


def _mutations(node: ast.AST, within: range) -> Iterator[tuple[ast.expr | ast.stmt, str, range]]:
    children: Iterable[ast.AST]
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None) or getattr(node, "cases", None)
        head = max(node.lineno, _line(body[0]) - 1) if body else node.end_lineno or 0
        within = range(node.lineno, head + 1)
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.keyword(arg="strict") | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.FunctionDef(body=body) | ast.ClassDef(body=body):
            children = body
        case ast.AnnAssign(value=value):
            children = [value] if value else []
        case _:
            yield from ((changed, new, within) for changed, new in _own(node))
            children = ast.iter_child_nodes(node)
    for child in children:
        yield from _mutations(child, within)


def _line(node: ast.AST) -> int:
    return node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno  # type: ignore[attr-defined]


def _own(node: ast.AST) -> Iterator[_Mutation]:
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
        case ast.Raise(exc=ast.Call(func=ast.Name(id="AssertionError"))):
            return  # what is never reached
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue():
            yield node, "pass"


def _changed(node: ast.expr, **fields: object) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return f"({ast.unparse(changed)})"


_CHANGED = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "%": "/",
    "<": "<=",
    ">": ">=",
    "<=": "<",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "+=": "-=",
    "-=": "+=",
    "*=": "/=",
    "/=": "*=",
    "|=": "&=",
    "&&": "||",
    "||": "&&",
    "min": "max",
    "max": "min",
    "true": "false",
    "false": "true",
    "pos": "neg",
    "neg": "pos",
}
_OF_TEXT = re.compile(
    r"(?<= )(?:[-+*/%<>]|[<>!=]=|[-+*/|]=|&&|\|\|)(?= )"  # operators, which formatted code has spaces around
    r"|(?<=[ (])-(?=[\w.])"  # signs
    r"|(?<![\w.])\d+(?![\w.])|(?<![\w.])\d+\.\d*(?:e[-+]?\d+)?f?"  # numbers
    r"|\b(?:min|max|true|false)\b|(?<=_)(?:pos|neg)\b"
)
_STATEMENT = re.compile(
    r"(?:if \(.*\) |case .*: )?(?:break|continue|return|(?:[\w.>*:\[\]-]|->)+(?: [-+*/|]?= |\()).*;$"
)
_LEFT_ALONE = re.compile(
    r"//.*|/\*.*?\*/|^ *\* .*|#(?!pragma unroll).*|\btemplate <.*|\"(?:[^\"\\\n]|\\.)*\"|^ *typedef .*", re.MULTILINE
)
_TAGS = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<#.*?#>|<%.*?%>|<<(?! ?<).*?>>", re.DOTALL)


def text_mutants_of(text: str, tags: bool = False, comment: str = "") -> list[Mutant]:
    """Every mutant of C++, or of a text that is no code: an operator, a sign, a number or a name changed, or no line.

    tags: whether the text is a template, whose tags stay. comment: what begins one, where it is not C++.
    """
    left_alone = re.compile(rf"{comment}.*|\"[^\"\n]*\"") if comment else _LEFT_ALONE
    code = _TAGS.sub(_hidden, text) if tags else text
    code = left_alone.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), code)
    found: list[Mutant] = []
    at = 0
    for number, (line, bare) in enumerate(zip(text.splitlines(True), code.splitlines(True), strict=True), start=1):
        changes = [(match.span(), _changed_word(match[0], bare, match.end())) for match in _OF_TEXT.finditer(bare)]
        if _STATEMENT.match(bare.strip()) and bare.count("(") == bare.count(")"):
            first = len(bare) - len(bare.lstrip())
            changes.append(((first, len(line.rstrip("\n"))), ";"))
        for (first, last), new in changes:
            shown = line[max(0, first - 20) : first], line[last : last + 20]
            changed = text[: at + first] + new + text[at + last :]
            found.append(Mutant(number, line[first:last].join(shown), new.join(shown), changed))
        at += len(line)
    return found


def _hidden(match: re.Match[str]) -> str:
    """A tag as a name, or as nothing where it is none, in as many characters."""
    name = match[0].startswith(("{{", "<<"))
    return "".join("\n" if character == "\n" else "J" if name else " " for character in match[0])


def _changed_word(old: str, line: str, end: int) -> str:
    if old == "-" and line[end] != " ":
        return ""
    if old.isdigit():
        return str(int(old) + 1)
    return _CHANGED.get(old) or (f"(1024 * {old})" if float(old.rstrip("f")) else "1.0")
