"""PTX text as frozen dataclasses: a module of kernels, a kernel of instructions, an instruction of operands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from . import types
from .errors import UnsupportedError
from .types import Type

# ---------------------------------------------------------------- what there is


@dataclass(frozen=True)
class Register:
    """A register, or its negation where `negated`; a name that is not declared is a special register."""

    name: str
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """A constant. A float is given by its bits, with their number in `bits`; an integer has bits 0."""

    value: int
    bits: int = 0


@dataclass(frozen=True)
class Symbol:
    """The address of a variable, or a label."""

    name: str


@dataclass(frozen=True)
class Address:
    """[base + offset]"""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True)
class Vector:
    """{a, b, ...}"""

    parts: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """first|second: two results of one instruction."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Sink:
    """A result that is not wanted, written _."""


Operand = Register | Immediate | Symbol | Address | Vector | Pair | Sink


@dataclass(frozen=True)
class Instruction:
    """One statement: `opcode`.`modifiers` operands, done where `guard` holds. source: 'file:line', if known."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    line: int
    text: str
    source: str = ""


@dataclass(frozen=True)
class Variable:
    """A variable of a state space: 'global', 'const', 'shared', 'local' or 'param'.

    size: in bytes; 0 for shared memory whose size the launch gives. initial: its bytes, if it has any.
    """

    name: str
    space: str
    align: int
    size: int
    type: Type
    initial: bytes | None = None


@dataclass(frozen=True)
class Kernel:
    """One entry of a module. labels: the index of the instruction that each stands before."""

    name: str
    parameters: tuple[Variable, ...]
    registers: dict[str, Type] = field(repr=False)
    variables: tuple[Variable, ...] = field(repr=False)
    instructions: tuple[Instruction, ...] = field(repr=False)
    labels: dict[str, int] = field(repr=False)


@dataclass(frozen=True)
class Module:
    """A parsed text. kernels: by their mangled names. target: such as 'sm_75'."""

    target: str
    kernels: dict[str, Kernel]


# ---------------------------------------------------------------- text to statements

_NAME = r"[A-Za-z_$%][\w$]*"
_LINE_DIRECTIVE = re.compile(r"\.(?:version|target|address_size|file|loc)\b[^\n]*")
_LABEL = re.compile(rf"({_NAME}):(?!:)")
_SPACE = re.compile(r"\s+")
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"[^"\n]*"', re.DOTALL)


@dataclass
class _Text:
    """A cursor over the text without comments; lines are those of the original."""

    text: str
    at: int = 0
    line: int = 1

    def skip(self) -> bool:
        """Skip white space; whether anything is left."""
        if found := _SPACE.match(self.text, self.at):
            self.take(found.end())
        return self.at < len(self.text)

    def take(self, end: int) -> str:
        taken = self.text[self.at : end]
        self.line += taken.count("\n")
        self.at = end
        return taken

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self.text, self.at):
            self.take(found.end())
        return found

    def until(self, stop: str) -> str:
        """The text up to one of the characters `stop`, which is not taken."""
        found = re.compile(f"[{re.escape(stop)}]").search(self.text, self.at)
        if not found:
            raise UnsupportedError(f"line {self.line}: the text ends without any of {stop!r}")
        return self.take(found.start())

    def statement(self) -> str:
        """The text up to the semicolon that ends the statement."""
        taken = self.until(";")
        self.take(self.at + 1)
        return _SPACE.sub(" ", taken).strip()

    def block(self) -> str:
        """The text between the brace at the cursor and the one that closes it."""
        depth, start = 0, self.at
        for found in re.compile(r"[{}]").finditer(self.text, self.at):
            depth += 1 if found[0] == "{" else -1
            if depth == 0:
                return self.take(found.end())[1:-1]
        raise UnsupportedError(f"line {self.line}: the block at offset {start} is not closed")


def parse(text: str) -> Module:
    """Read a module. What is not known, and may matter, raises `UnsupportedError` with its line."""
    files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.MULTILINE))
    # comments go, strings stay; newlines stay where they are
    cursor = _Text(_COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else "\n" * m[0].count("\n"), text))
    target = ""
    variables: dict[str, Variable] = {}
    kernels: dict[str, Kernel] = {}
    while cursor.skip():
        line = cursor.line
        if directive := cursor.match(_LINE_DIRECTIVE):
            if directive[0].startswith(".target"):
                target = directive[0].split()[1].rstrip(",")
            continue
        head = cursor.until("(;{=")
        words = head.split()
        if ".entry" in words:
            kernel = _kernel(cursor, words[words.index(".entry") + 1], variables, files)
            kernels[kernel.name] = kernel
        elif ".func" in words:
            _skip_function(cursor)
        elif ".section" in words:
            cursor.until("{")
            cursor.block()
        elif any(space in words for space in (".global", ".const", ".shared", ".extern")):
            variable = _variable(head + cursor.statement_with_braces(), line)
            variables[variable.name] = variable
        elif not words or words[0] in (".pragma", ".alias", ".weak"):
            cursor.statement()
        else:
            raise UnsupportedError(f"line {line}: {' '.join(words)!r} is not known at the level of a module")
    return Module(target, kernels)
