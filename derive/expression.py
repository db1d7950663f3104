"""Formulas as data: a small whitelisted language, parsed once and read by any algebra.

A definition is text such as ``sqrt(sum((x - y)**2))``, optionally preceded by ``name = expression`` lines. It is
parsed with Python's `ast` and never evaluated as Python. What it means is up to the `Algebra` that reads it: SymPy
differentiates it, mpmath evaluates it at 50 digits, and neither sees what the other made of it.
"""

from __future__ import annotations

import ast
import copy
import inspect
import operator
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

from .errors import DefinitionError

MAX_LENGTH = 2000
MAX_DEPTH = 40
MAX_EXPONENT = 64
REDUCTIONS = ("sum", "max")
FUNCTIONS: Mapping[str, int] = MappingProxyType(
    {"exp": 1, "log": 1, "log1p": 1, "sqrt": 1, "abs": 1, "tanh": 1, "max": 2, "min": 2, "where": 3}
)
"""How many arguments each function takes. The first of `where` is a comparison: ``where(a < b, value, otherwise)``."""

_Operation = Callable[[Any, Any], Any]
_OPERATORS: dict[type[ast.operator], _Operation] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS = {ast.Lt: (True, False), ast.LtE: (False, True), ast.Gt: (False, False), ast.GtE: (True, True)}
"""For each comparison: whether left and right change places, and the two values, to make it ``left - right > 0``."""

_DECIMAL = re.compile(r"([0-9_.]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_LARGEST = 1e300


def _constant(node: ast.expr) -> float | None:
    """About the value of an expression without names, so that its size is known before it is computed exactly."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(operand=operand):
            value = _constant(operand)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _constant(left), _constant(right)
            if a is None or b is None:
                return None
            try:
                return float(_OPERATORS[type(op)](a, b))
            except OverflowError:
                return float("inf")
            except (ZeroDivisionError, TypeError, ValueError):
                return None
    return None


def _is_sensible(text: str) -> bool:
    """Whether a literal is a decimal number of a size that floats have; 0.0 is, 1e-999 is not."""
    literal = _DECIMAL.fullmatch(text)
    if literal is None:
        return False
    value = abs(float(text))
    return 1 / _LARGEST < value < _LARGEST or (value == 0 and not literal[1].strip("0_."))


def syntax_tree(text: str) -> ast.Module:
    """The text as Python reads it. What Python warns of, such as ``2if``, is outside the language anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


@dataclass(frozen=True)
class Algebra:
    """What the words of a definition mean.

    number: the value of a decimal literal, given as text so that 0.1 stays exact.
    functions: the value of each function in `FUNCTIONS`. ``where(z, value, otherwise)`` is the value where z > 0; the
        last two are given as functions without arguments, because one of them may not exist where the other does.
        ``max`` and ``min`` get a literal number first, if one of their arguments is one.
    reduce: ``reduce(kind, term)`` combines ``term(k)`` over all components k; kind is in `REDUCTIONS`.
    """

    number: Callable[[str], Any]
    functions: Mapping[str, Callable[..., Any]]
    reduce: Callable[[str, Callable[[Any], Any]], Any]


@dataclass(slots=True)  # not frozen: there is one for every component of every vector
class _Scope:
    """What names mean while a formula is read; `vectors` are functions from index to component.

    known: the values of subexpressions that the formula has more than once, by their text.
    """

    algebra: Algebra
    names: dict[str, Any]
    vectors: Mapping[str, Callable[[Any], Any]]
    known: dict[str, Any] = field(default_factory=dict)

    def inside(self) -> _Scope:
        """The scope inside a reduction, which is at one component after the other."""
        return _Scope(self.algebra, dict(self.names), self.vectors)

    def at(self, k: Any) -> _Scope:
        """Go to component k."""
        for name, component in self.vectors.items():
            self.names[name] = component(k)
        self.known.clear()
        return self


_Meaning = Callable[[_Scope], Any]


@dataclass(frozen=True)
class Definition:
    """A parsed formula over named scalars and vectors.

    Vectors stand for their k-th component and may appear only inside a one-argument ``sum(...)`` or ``max(...)``,
    which runs over the components.

    Raises `DefinitionError` for anything outside the language, naming the position and the reason.
    """

    text: str
    scalars: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _Validator(self).check(self._tree)

    def __reduce__(self) -> tuple[type[Definition], tuple[Any, ...]]:
        """Another process reads the text again, for functions cannot be sent."""
        return type(self), (self.text, self.scalars, self.vectors)

    @cached_property
    def source(self) -> str:
        """The text without its common indentation; positions in errors count from here."""
        return inspect.cleandoc(self.text)

    @cached_property
    def _tree(self) -> ast.Module:
        if len(self.text) > MAX_LENGTH:
            raise DefinitionError(f"the formula has {len(self.text)} characters; at most {MAX_LENGTH} are allowed")
        try:
            return syntax_tree(self.source)
        except UnicodeError:
            raise DefinitionError("not a formula: it has bytes that are no text") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = ""
            if isinstance(error, SyntaxError) and error.lineno is not None:
                where = f" at line {error.lineno}, column {error.offset}"
            raise DefinitionError(f"not a formula{where}: {error.args[0] if error.args else error}") from None

    def read(
        self,
        algebra: Algebra,
        scalars: Mapping[str, Any],
        vectors: Mapping[str, Callable[[Any], Any]] | None = None,
        bind: Callable[[str, Any], Any] = lambda name, value: value,
    ) -> Any:
        """The value of the formula in `algebra`; a vector is given as a function from index to component.

        ``bind(name, value)`` is what a name defined on a line of its own stands for in the lines after it.
        """
        scope = _Scope(algebra, dict(scalars), vectors or {})
        bindings, value = self._program
        for name, bound in bindings:
            scope.names[name] = bind(name, bound(scope))
        return value(scope)

    @cached_property
    def _program(self) -> tuple[list[tuple[str, _Meaning]], _Meaning]:
        """The names that the definition introduces with their meanings, and the meaning of its last line."""
        bindings = []
        for statement in self._tree.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    bindings.append((name, self._meaning(value)))
                case ast.Expr(value=value):
                    return bindings, self._meaning(value)
        raise AssertionError("validated: the last line is an expression")

    @cached_property
    def written_out(self) -> ast.expr:
        """The formula as one expression, in which no name is left that the text introduces.

        Raises `DefinitionError` for one that becomes too long.
        """
        meanings: dict[str, ast.expr] = {}
        sizes: dict[str, int] = {}
        for statement in self._tree.body:
            value = statement.value  # type: ignore[attr-defined] # validated: an assignment or an expression
            parts = [sizes.get(n.id, 1) if isinstance(n, ast.Name) else 1 for n in ast.walk(value)]
            if sum(parts) > MAX_LENGTH:
                raise DefinitionError(f"the formula has more than {MAX_LENGTH} parts when its names are written out")
            inserted = _Insertion(meanings).visit(copy.deepcopy(value))
            if isinstance(statement, ast.Assign):
                (target,) = statement.targets
                meanings[ast.unparse(target)], sizes[ast.unparse(target)] = inserted, sum(parts)
        written_out: ast.expr = ast.fix_missing_locations(inserted)
        return written_out

    @cached_property
    def _counts(self) -> Counter[str]:
        """How often the formula has each operation and call."""
        return Counter(self._text(node) for node in ast.walk(self._tree) if isinstance(node, ast.BinOp | ast.Call))

    def _text(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.source, node) or ""

    def _meaning(self, node: ast.expr) -> _Meaning:
        """The value of a node, computed once for all nodes of the same text."""
        meaning, text = self._own_meaning(node), self._text(node)
        if self._counts[text] < 2:
            return meaning

        def remembered(scope: _Scope) -> Any:
            if text not in scope.known:
                scope.known[text] = meaning(scope)
            return scope.known[text]

        return remembered

    def _own_meaning(self, node: ast.expr) -> _Meaning:
        match node:
            case ast.Constant():
                text = self._text(node)
                return lambda scope: scope.algebra.number(text)
            case ast.Name(id=name):
                return lambda scope: scope.names[name]
            case ast.UnaryOp(operand=operand):
                negated = self._meaning(operand)
                return lambda scope: -negated(scope)
            case ast.BinOp(left=left, op=op, right=right):
                return self._operation(node, _OPERATORS[type(op)], self._meaning(left), self._meaning(right))
            case ast.Call(func=ast.Name(id="where"), args=[ast.Compare() as condition, value, otherwise]):
                return self._selection(condition, self._meaning(value), self._meaning(otherwise))
            case ast.Call(func=ast.Name(id=kind), args=[term]) if kind in REDUCTIONS:
                return self._reduction(kind, self._meaning(term))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._call(node, name, [self._meaning(argument) for argument in _numbers_first(name, args)])
        raise AssertionError(f"validated node {ast.dump(node)}")

    def _reduction(self, kind: str, term: _Meaning) -> _Meaning:
        def meaning(scope: _Scope) -> Any:
            inside = scope.inside()
            return scope.algebra.reduce(kind, lambda k: term(inside.at(k)))

        return meaning

    def _operation(self, node: ast.expr, operation: _Operation, first: _Meaning, second: _Meaning) -> _Meaning:
        def meaning(scope: _Scope) -> Any:
            a, b = first(scope), second(scope)
            try:
                return operation(a, b)
            except (ArithmeticError, ValueError) as error:
                error.add_note(_place(node, error))
                raise

        return meaning

    def _call(self, node: ast.expr, name: str, arguments: Sequence[_Meaning]) -> _Meaning:
        def meaning(scope: _Scope) -> Any:
            values = [argument(scope) for argument in arguments]
            try:
                return scope.algebra.functions[name](*values)
            except (ArithmeticError, ValueError) as error:
                error.add_note(_place(node, error))
                raise

        return meaning

    def _selection(self, condition: ast.Compare, value: _Meaning, otherwise: _Meaning) -> _Meaning:
        (op,), (right,) = condition.ops, condition.comparators
        swap_sides, swap_values = _COMPARISONS[type(op)]
        first, second = self._meaning(condition.left), self._meaning(right)
        if swap_sides:
            first, second = second, first
        if swap_values:
            value, otherwise = otherwise, value

        def meaning(scope: _Scope) -> Any:
            difference = first(scope) - second(scope)
            return scope.algebra.functions["where"](difference, lambda: value(scope), lambda: otherwise(scope))

        return meaning


def _place(node: ast.expr, error: Exception) -> str:
    """Where a node is that has no value, and why."""
    return f"line {node.lineno}, column {node.col_offset + 1}: {_reason(node, error)}"


def _reason(node: ast.expr, error: Exception) -> str:
    """Why a node has no value."""
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else "a fractional power"
    return f"{name} of a number below -1" if name == "log1p" else f"{name} of a negative number"


def _numbers_first(name: str, arguments: Sequence[ast.expr]) -> list[ast.expr]:
    """The arguments of a function, for max and min with a number first: that is what they take where both are equal."""
    return sorted(arguments, key=lambda node: _constant(node) is None) if name in ("max", "min") else list(arguments)


class _Insertion(ast.NodeTransformer):
    """Puts meanings where their names stand."""

    def __init__(self, meanings: Mapping[str, ast.expr]) -> None:
        self.meanings = meanings

    def visit_Name(self, node: ast.Name) -> ast.expr:
        meaning: ast.expr = copy.deepcopy(self.meanings.get(node.id, node))
        return meaning


class _Validator:
    """Accepts exactly the language; everything else is refused by position."""

    def __init__(self, definition: Definition) -> None:
        self.known = set(definition.scalars)
        self.vectors = set(definition.vectors)
        self.source = definition.source

    def check(self, tree: ast.Module) -> None:
        if not tree.body or not isinstance(tree.body[-1], ast.Expr):
            raise DefinitionError("the formula has no value: its last line must be an expression")
        for statement in tree.body[:-1]:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    if name in self.known | self.vectors | {*FUNCTIONS, *REDUCTIONS}:
                        self._refuse(statement, f"{name!r} already has a meaning; choose another name")
                    self._expression(value, depth=0, inside=False)
                    self.known.add(name)
                case _:
                    self._refuse(statement, "only 'name = expression' may stand before the last line")
        self._expression(tree.body[-1].value, depth=0, inside=False)

    def _expression(self, node: ast.expr, depth: int, inside: bool) -> None:
        if depth > MAX_DEPTH:
            self._refuse(node, f"nested deeper than {MAX_DEPTH}")
        children: list[ast.expr] = []
        match node:
            case ast.Constant(value=bool() | complex() | str() | bytes() | None):
                self._refuse(node, "only numbers are constants")
            case ast.Constant(value=int() | float()):
                if not _is_sensible(ast.get_source_segment(self.source, node) or ""):
                    self._refuse(node, "numbers are decimal, of a size between 1e-300 and 1e300")
            case ast.Name(id=name) if name in self.vectors:
                if not inside:
                    self._refuse(node, f"the vector {name!r} may only appear inside sum(...) or max(...)")
            case ast.Name(id=name):
                if name not in self.known:
                    self._refuse(node, f"unknown name {name!r}; known: {', '.join(sorted(self.known | self.vectors))}")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                children = [operand]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                self._expression(left, depth + 1, inside)
                self._expression(right, depth + 1, inside)
                if (
                    isinstance(op, ast.Pow)
                    and (value := _constant(right)) is not None
                    and not abs(value) <= MAX_EXPONENT
                ):
                    self._refuse(right, f"exponents go up to {MAX_EXPONENT}")
                if (value := _constant(node)) is not None and not abs(value) < _LARGEST:
                    self._refuse(node, "the number is too large")
            case ast.Call(func=ast.Name(id=kind), args=[term], keywords=[]) if kind in REDUCTIONS:
                if not self.vectors & {n.id for n in ast.walk(term) if isinstance(n, ast.Name)}:
                    self._refuse(node, f"{kind} has no vector to run over")
                self._expression(term, depth + 1, inside=True)
            case ast.Call(func=ast.Name(id=name), args=args) if name in REDUCTIONS and name != "max":
                self._refuse(node, f"{name} takes 1 argument")
            case ast.Call(func=ast.Name(id=name), keywords=[_, *_]) if name in FUNCTIONS:
                self._refuse(node, f"{name} takes no named arguments")
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                wanted = FUNCTIONS[name]
                if len(args) != wanted:
                    self._refuse(node, f"{name} takes {wanted} argument{'s' * (wanted > 1)}, not {len(args)}")
                children = [*self._compared(args[0]), *args[1:]] if name == "where" else args
            case ast.Call(func=ast.Name(id=name)):
                known = ", ".join(sorted({*FUNCTIONS, *REDUCTIONS}))
                self._refuse(node, f"{name!r} is not one of the functions {known}")
            case ast.Compare():
                self._refuse(
                    node,
                    "Compare is not part of the formula language, but for where(a < b, value, otherwise)",
                )
            case ast.BinOp(op=ast.BitXor()):
                self._refuse(node, "BitXor is not part of the formula language; a power is written a**b")
            case _:
                self._refuse(node, f"{type(node).__name__} is not part of the formula language")
        for child in children:
            self._expression(child, depth + 1, inside)

    def _compared(self, condition: ast.expr) -> list[ast.expr]:
        """The two sides of the condition of a where."""
        if not (isinstance(condition, ast.Compare) and [type(op) in _COMPARISONS for op in condition.ops] == [True]):
            self._refuse(condition, "the condition of where(...) is one comparison by <, <=, > or >=")
        return [condition.left, *condition.comparators]

    @staticmethod
    def _refuse(node: ast.AST, reason: str) -> NoReturn:
        raise DefinitionError(f"line {node.lineno}, column {node.col_offset + 1}: {reason}")  # type: ignore[attr-defined]
