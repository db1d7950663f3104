"""PTX text as frozen dataclasses: a module of kernels, a kernel of instructions, an instruction of operands."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
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


class Module:
    """A text whose declarations have been read; the bodies of kernels are when they are asked for.

    target: such as 'sm_75'. names: of the kernels, as they stand in the text.
    """

    def __init__(
        self,
        target: str,
        files: dict[str, str],
        variables: dict[str, Variable],
        functions: dict[str, _Function],
        entries: dict[str, _Function],
    ) -> None:
        self.target = target
        self.names = tuple(entries)
        self._files = files
        self._variables = variables
        self._functions = functions
        self._entries = entries

    def kernel(self, name: str) -> Kernel:
        """KeyError if there is none of that name."""
        return _Body(self._files, self._functions, self._variables).kernel(self._entries[name])


# ---------------------------------------------------------------- text to statements

_NAME = r"[A-Za-z_$%][\w$]*"
_LINE_DIRECTIVE = re.compile(r"\.(?:version|target|address_size|file|loc)\b[^\n]*")
_LABEL = re.compile(rf"({_NAME}):(?!:)")
_SPACE = re.compile(r"\s+")
_SECTION = re.compile(r"\.section\s+[\w.$]+\s*(?=\{)")
_WORDS = re.compile(r"(?:[.\w$%]+\s*)+")
_SPACES = ("global", "const", "shared", "local", "param")
_VARIABLE = re.compile(
    rf"(?P<words>[^=\[]*?)\s(?P<name>{_NAME})\s*(?P<extents>(?:\[\s*\d*\s*\]\s*)*)(?:=(?P<initial>.*))?", re.DOTALL
)
_INSTRUCTION = re.compile(
    r"(?:@(?P<not>!?)\s*(?P<guard>[\w$%]+)\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>.*)", re.DOTALL
)
_CALL = re.compile(
    rf"(?:\((?P<results>[^)]*)\)\s*,\s*)?(?P<name>{_NAME})\s*(?:,\s*\((?P<arguments>[^)]*)\))?", re.DOTALL
)
_ADDRESS = re.compile(r"(?P<base>[^+\s]+?)\s*(?P<offset>[+-]\s*-?\s*\w+)?")
_OPERAND = re.compile(r"(?:\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,])+")
_LABEL_OR_BRACE = re.compile(rf"[{{}}]|(?<![\w$%])(?P<label>{_NAME}):(?!:)")
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
        ends = [end for character in stop if (end := self.text.find(character, self.at)) >= 0]
        if not ends:
            raise UnsupportedError(f"line {self.line}: the text ends without any of {stop!r}")
        return self.take(min(ends))

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

    def initializer(self) -> str:
        """The rest of a declaration, whose braces may hold anything but statements."""
        taken = self.until(";")
        self.take(self.at + 1)
        return taken


def parse(text: str) -> Module:
    """Read a module. What is not known, and may matter, raises `UnsupportedError` with its line."""
    paths = re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.MULTILINE)
    files = {number: re.split(r"[\\/]", path)[-1] for number, path in paths}
    # comments go, strings stay, and so do the line breaks
    cursor = _Text(_COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else " " + "\n" * m[0].count("\n"), text))
    target = ""
    variables: dict[str, Variable] = {}
    functions: dict[str, _Function] = {}
    entries: dict[str, _Function] = {}
    while cursor.skip():
        line = cursor.line
        if directive := cursor.match(_LINE_DIRECTIVE):
            if directive[0].startswith(".target"):
                target = directive[0].split()[1].rstrip(",")
            continue
        if cursor.match(_SECTION):
            cursor.block()
            continue
        words = _WORDS.match(cursor.text, cursor.at)
        declared = words[0].split() if words else []
        if ".entry" in declared or ".func" in declared:
            function = _function(cursor)
            (entries if ".entry" in declared else functions)[function.name] = function
        elif {".global", ".const", ".shared"} & set(declared):
            variable = _variable(cursor.initializer(), line)
            variables[variable.name] = variable
        elif declared and declared[0] in (".pragma", ".alias"):
            cursor.statement()
        else:
            raise UnsupportedError(f"line {line}: {cursor.until(chr(10) + ';').strip()!r} is not known here")
    return Module(target, files, variables, functions, {name: one for name, one in entries.items() if one.body})


# ---------------------------------------------------------------- declarations


@dataclass(frozen=True)
class _Function:
    """An entry or a function before its body is read; body is None where only the name is declared."""

    name: str
    parameters: tuple[Variable, ...]
    results: tuple[Variable, ...]
    body: str | None
    line: int


def _function(cursor: _Text) -> _Function:
    """[.visible] .entry name (parameters) directives { body }, or .func (results) name (parameters) { body }"""
    results: tuple[Variable, ...] = ()
    heading = _declared_names(cursor.until("({;"))
    if not heading:
        results = _list(cursor)
        heading = _declared_names(cursor.until("({;"))
    parameters = _list(cursor) if cursor.text[cursor.at] == "(" else ()
    cursor.until("{;")
    line = cursor.line
    body = cursor.block() if cursor.text[cursor.at] == "{" else None
    if body is None:
        cursor.take(cursor.at + 1)
    return _Function(heading[-1], parameters, results, body, line)


def _declared_names(heading: str) -> list[str]:
    return [word for word in heading.split() if re.fullmatch(_NAME, word)]


def _list(cursor: _Text) -> tuple[Variable, ...]:
    """(variable, variable, ...)"""
    cursor.until("(")
    line = cursor.line
    inside = cursor.take(cursor.text.index(")", cursor.at) + 1)[1:-1]
    return tuple(_variable(part, line) for part in inside.split(",") if part.strip())


def _variable(text: str, line: int) -> Variable:
    """[.visible] .global .align 4 .f32 name[8] = {...}, and the like."""
    found = _VARIABLE.fullmatch(text.strip())
    words = found["words"].split() if found else []
    space = next((word[1:] for word in words if word[1:] in _SPACES), "")
    type_ = next((types.find(word[1:]) for word in words if types.is_type(word[1:])), None)
    if found is None or not space or type_ is None:
        raise UnsupportedError(f"line {line}: the declaration {' '.join(text.split())!r} is not known")
    vector = next((int(word[2:]) for word in words if word in (".v2", ".v4")), 1)
    extents = re.findall(r"\[\s*(\d*)\s*\]", found["extents"])
    count = vector * int(np.prod([int(extent or 0) for extent in extents], dtype=np.int64))
    align = int(words[words.index(".align") + 1]) if ".align" in words and ".ptr" not in words else type_.size * vector
    initial = _initial(found["initial"], type_, count, line) if found["initial"] else None
    return Variable(found["name"], space, align, count * type_.size, type_, initial)


def _initial(text: str, type_: Type, count: int, line: int) -> bytes:
    """The bytes of an initializer of numbers; what it leaves out is 0."""
    raw = b""
    for word in text.replace("{", " ").replace("}", " ").replace(",", " ").split():
        value = _operand(word, frozenset(), lambda name: name, line)
        if not isinstance(value, Immediate):
            raise UnsupportedError(f"line {line}: an initializer other than numbers, {word!r}")
        raw += immediate_bits(value, type_).to_bytes(type_.size, "little")
    return raw.ljust(count * type_.size, b"\0")


# ---------------------------------------------------------------- bodies


class _Body:
    """Reads the body of a kernel. Scopes in braces, and functions that are called, which become part of it,
    have names of their own: theirs are renamed.
    """

    def __init__(self, files: dict[str, str], functions: dict[str, _Function], variables: dict[str, Variable]) -> None:
        self.files = files
        self.functions = functions
        self.globals = variables
        self.registers: dict[str, Type] = {}
        self.variables: dict[str, Variable] = {}
        self.labels: dict[str, int] = {}
        self.instructions: list[Instruction] = []
        self.scopes: list[dict[str, str]] = []
        self.calling: list[str] = []
        self.made = 0
        self.source = ""

    def kernel(self, entry: _Function) -> Kernel:
        for parameter in entry.parameters:
            self.variables[parameter.name] = parameter
        self.scopes = [{parameter.name: parameter.name for parameter in entry.parameters}]
        self.read(entry, end=None)
        used = {name for instruction in self.instructions for name in _symbols(instruction.operands)}
        reached = [variable for name, variable in self.globals.items() if name in used]
        own = [variable for variable in self.variables.values() if variable.space != "param"]
        return Kernel(
            entry.name,
            entry.parameters,
            self.registers,
            (*reached, *own),
            tuple(self.instructions),
            self.labels,
        )

    def read(self, function: _Function, end: str | None) -> None:
        """The statements of a function; a `ret` goes to the label `end`, if there is one."""
        cursor = _Text(function.body or "", line=function.line)
        depth = len(self.scopes)
        self.open(cursor.text, 0)
        while cursor.skip():
            line = cursor.line
            character = cursor.text[cursor.at]
            if character in "{}":
                cursor.take(cursor.at + 1)
                if character == "{":
                    self.open(cursor.text, cursor.at)
                else:
                    self.scopes.pop()
            elif label := cursor.match(_LABEL):
                self.labels[self.name(label[1])] = len(self.instructions)
            elif directive := cursor.match(_LINE_DIRECTIVE):
                self.locate(directive[0])
            else:
                self.statement(cursor.statement(), line, end)
        del self.scopes[depth:]

    def open(self, text: str, start: int) -> None:
        """A scope; its labels are declared at once, because branches may come before them."""
        scope: dict[str, str] = {}
        self.scopes.append(scope)
        depth = 0
        for found in _LABEL_OR_BRACE.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(found[0], 0)
            if depth < 0:
                break
            if depth == 0 and found["label"]:
                scope[found["label"]] = self.fresh(found["label"])

    def fresh(self, name: str) -> str:
        """A name that nothing else has."""
        self.made += 1
        return name if len(self.scopes) <= 2 and not self.calling else f"{name}@{self.made}"

    def name(self, name: str) -> str:
        """What a name means in the innermost scope that declares it."""
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name

    def locate(self, directive: str) -> None:
        """`.loc file line column ...`: where the instructions that follow come from."""
        if words := re.match(r"\.loc\s+(\d+)\s+(\d+)", directive):
            self.source = f"{self.files.get(words[1], '?')}:{words[2]}"

    def statement(self, text: str, line: int, end: str | None) -> None:
        if not text:
            return
        first = "." + re.split(r"[.\s]+", text)[1] if text[0] == "." else ""
        if first == ".reg":
            self.declare_registers(text, line)
        elif first in (".local", ".shared", ".param"):
            variable = _variable(text, line)
            renamed = self.fresh(variable.name)
            # parameters of a call are memory of the thread
            space = "local" if first == ".param" else variable.space
            self.scopes[-1][variable.name] = renamed
            self.variables[renamed] = replace(variable, name=renamed, space=space)
        elif first == ".pragma":
            return
        else:
            self.instruction(text, line, end)

    def declare_registers(self, text: str, line: int) -> None:
        kind, *names = text.removeprefix(".reg").replace(",", " ").split()
        if not types.is_type(kind[1:]):
            raise UnsupportedError(f"line {line}: registers of type {kind!r} are not supported")
        for name in names:
            many = re.fullmatch(r"(.+)<(\d+)>", name)
            for one in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]:
                self.scopes[-1][one] = renamed = self.fresh(one)
                self.registers[renamed] = types.find(kind[1:])

    def instruction(self, text: str, line: int, end: str | None) -> None:
        found = _INSTRUCTION.fullmatch(text)
        if not found:
            raise UnsupportedError(f"line {line}: {text!r} is no instruction")
        opcode, *modifiers = found["opcode"].split(".")
        guard = Register(self.name(found["guard"]), bool(found["not"])) if found["guard"] else None
        if opcode == "call" and self.inline(found["operands"], guard, line):
            return
        operands: tuple[Operand, ...]
        if opcode == "ret" and end:
            opcode, modifiers, operands = "bra", [], (Symbol(end),)
        elif opcode == "call":
            operands = ()
        else:
            operands = tuple(_operand(part, self.registers, self.name, line) for part in _split(found["operands"]))
        self.instructions.append(Instruction(opcode, tuple(modifiers), operands, guard, line, text, self.source))

    def inline(self, text: str, guard: Register | None, line: int) -> bool:
        """Put the body of the function called here; False for one without a body."""
        found = _CALL.fullmatch(text.strip())
        function = self.functions.get(found["name"]) if found else None
        if not found or not function or function.body is None:
            return False
        if function.name in self.calling:
            raise UnsupportedError(f"line {line}: {function.name} calls itself")
        given = [self.name(name) for name in re.findall(_NAME, f"{found['results'] or ''} {found['arguments'] or ''}")]
        names = [variable.name for variable in (*function.results, *function.parameters)]
        if len(given) != len(names):
            raise UnsupportedError(f"line {line}: {function.name} is called with {len(given)} parameters")
        self.made += 1
        end = f"{function.name}@{self.made}"
        if guard:
            skip = replace(guard, negated=not guard.negated)
            self.instructions.append(Instruction("bra", (), (Symbol(end),), skip, line, text, self.source))
        outer, self.scopes, source = self.scopes, [dict(zip(names, given, strict=True))], self.source
        self.calling.append(function.name)
        self.read(function, end)
        self.calling.pop()
        self.scopes, self.source = outer, source
        self.labels[end] = len(self.instructions)
        return True


def _symbols(operands: tuple[Operand, ...]) -> Iterator[str]:
    """Names of the variables in operands."""
    for operand in operands:
        if isinstance(operand, Symbol):
            yield operand.name
        elif isinstance(operand, Address) and isinstance(operand.base, Symbol):
            yield operand.base.name
        elif isinstance(operand, Vector):
            yield from _symbols(operand.parts)


# ---------------------------------------------------------------- operands


def _split(text: str) -> list[str]:
    """The operands of an instruction, apart at the commas outside brackets and braces."""
    return [part.strip() for part in _OPERAND.findall(text) if part.strip()]


def _operand(text: str, registers: Collection[str], meaning: Callable[[str], str], line: int) -> Operand:
    """One operand; `meaning` renames what a scope has renamed."""

    def read(part: str) -> Operand:
        return _operand(part.strip(), registers, meaning, line)

    renamed = meaning(text)
    if renamed in registers:  # as most operands are
        return Register(renamed)
    if text == "_":
        return Sink()
    if text[0] == "{":
        return Vector(tuple(read(part) for part in text[1:-1].split(",")))
    if text[0] == "[":
        found = _ADDRESS.fullmatch(text[1:-1].strip())
        if not found:
            raise UnsupportedError(f"line {line}: the address {text!r} is not supported")
        base = read(found["base"])
        offset = int(re.sub(r"\s", "", found["offset"]).replace("+-", "-").rstrip("U"), 0) if found["offset"] else 0
        if not isinstance(base, Register | Symbol | Immediate):
            raise UnsupportedError(f"line {line}: the address {text!r} is not supported")
        return Address(base, offset)
    if "|" in text:
        first, second = text.split("|")
        return Pair(read(first), read(second))
    if text[0] == "!":
        return Register(meaning(text[1:].strip()), negated=True)
    if text == "WARP_SZ":
        return Immediate(32)
    if number := _number(text):
        return number
    if not re.fullmatch(rf"{_NAME}(?:\.[\w.]+)?", text):
        raise UnsupportedError(f"line {line}: the operand {text!r} is not supported")
    return Register(renamed) if text[0] == "%" else Symbol(renamed)


def _number(text: str) -> Immediate | None:
    if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
        return Immediate(int(found[1] or found[2], 16), 32 if found[1] else 64)
    if found := re.fullmatch(r"([+-]?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)U?", text):
        digits = found[2]
        octal = len(digits) > 1 and digits[1] in "01234567" and digits[0] == "0"
        value = int(digits, 8 if octal else 0)
        return Immediate(-value if found[1] == "-" else value)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", text):
        return Immediate(int(np.float64(text).view(np.uint64)), 64)
    return None


def immediate_bits(constant: Immediate, type_: Type) -> int:
    """The bits of a constant read as a type: floats are converted between their widths, integers wrap."""
    if constant.bits and type_.is_float and type_.bits != constant.bits:
        held = np.uint64(constant.value).view(np.float64) if constant.bits == 64 else _single(constant.value)
        if type_.bits == 16:
            raise UnsupportedError(f"a constant of {constant.bits} bits for {type_.name}")
        return int(type_.dtype.type(held).view(type_.stored))
    return constant.value & ((1 << 8 * type_.size) - 1)


def _single(bits: int) -> np.float32:
    return np.uint32(bits).view(np.float32)
