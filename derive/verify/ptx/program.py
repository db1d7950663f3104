"""A kernel made ready to run: each instruction as a function on the threads that execute it together.

What a thread does by itself comes from the table in `instructions`; here are its operands, the accesses to memory,
and the instructions that are about several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import instructions, types
from .arithmetic import choose
from .errors import DivergenceError, Fault, OutOfBoundsError, TrapError, UnsupportedError
from .frame import WARP, Frame, Group
from .memory import Access, Region
from .parse import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Operand,
    Pair,
    Register,
    Sink,
    Symbol,
    Vector,
    immediate_bits,
)
from .types import Array, Type, unsigned

_FULL = 0xFFFFFFFF
_WINDOW = 60  # generic addresses: the bits from here on tell the space
_SPACES = {"global": 0, "const": 0, "shared": 1, "local": 2}


Reader = Callable[[Frame, Group], Array]
Writer = Callable[[Frame, Group, Array], None]
Action = Callable[[Frame, Group], None]
Members = Callable[[Frame, Group], Array]


@dataclass(frozen=True)
class Code:
    """An instruction, ready to run.

    kind: 'lane' (every thread for itself), 'warp' (with the lanes of the mask that `members` gives), 'barrier',
    'branch' (to `target`) or 'end'.
    """

    instruction: Instruction
    kind: str
    run: Action | None = None
    guard: Reader | None = None
    members: Members | None = None
    target: int = 0


class Program:
    """A kernel, ready to run. An instruction that is not supported is an error only when a thread gets there."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.offsets: dict[str, int] = {}
        self.spaces = {variable.name: variable.space for variable in (*kernel.parameters, *kernel.variables)}
        at = 0
        for parameter in kernel.parameters:
            at = -(-at // parameter.align) * parameter.align
            self.offsets[parameter.name] = at
            at += parameter.size
        self.parameter_bytes = at
        self._codes: list[Code | None] = [None] * len(kernel.instructions)

    def __repr__(self) -> str:
        return f"Program({self.name!r}, {len(self)} instructions)"

    def __len__(self) -> int:
        return len(self._codes)

    def code(self, at: int) -> Code:
        """An instruction, made ready when a thread first gets there."""
        code = self._codes[at]
        if code is None:
            code = self._codes[at] = self.decode(self.kernel.instructions[at])
        return code

    def decode(self, instruction: Instruction) -> Code:
        guard = self.reader(instruction.guard, types.find("pred")) if instruction.guard else None
        opcode = instruction.opcode
        try:
            if opcode == "bra":
                (label,) = instruction.operands
                if not isinstance(label, Symbol) or label.name not in self.kernel.labels:
                    raise UnsupportedError("a branch to no label")
                return Code(instruction, "branch", guard=guard, target=self.kernel.labels[label.name])
            if opcode in ("ret", "exit"):
                return Code(instruction, "end", guard=guard)
            if opcode in ("bar", "barrier") and "warp" not in instruction.modifiers:
                return Code(instruction, "barrier", self.barrier(instruction), guard)
            if opcode in _WARP_WIDE or opcode == "bar":
                members, run = _WARP_WIDE[opcode](self, instruction)
                return Code(instruction, "warp", run, guard, members)
            return Code(instruction, "lane", self.lane(instruction), guard)
        except UnsupportedError as error:
            return Code(instruction, "lane", _refusal(f"{error}"), guard)
        except (ValueError, KeyError, IndexError) as error:  # operands that the form of an instruction does not have
            return Code(instruction, "lane", _refusal(f"its operands ({type(error).__name__}: {error})"), guard)

    def lane(self, instruction: Instruction) -> Action:
        """The action of an instruction that each thread does for itself."""
        opcode = instruction.opcode
        if opcode in _SPECIAL:
            return _SPECIAL[opcode](self, instruction)
        if opcode == "mov" and any(isinstance(operand, Vector) for operand in instruction.operands):
            return self.move_vector(instruction)
        if opcode not in instructions.TABLE:
            raise UnsupportedError("the opcode")
        operation = instructions.build(instruction)
        first, *rest = instruction.operands
        results = (first.first, first.second) if isinstance(first, Pair) else (first,)
        sources = [self.reader(source, type_) for source, type_ in zip(rest, operation.sources, strict=True)]
        writers = [self.writer(result, type_) for result, type_ in zip(results, operation.results, strict=True)]
        function = operation.function
        if len(writers) == 1:
            (write,) = writers

            def run(frame: Frame, group: Group) -> None:
                write(frame, group, function(*[source(frame, group) for source in sources])[0])

            return run

        def run_many(frame: Frame, group: Group) -> None:
            values = function(*[source(frame, group) for source in sources])
            for write, value in zip(writers, values, strict=True):
                write(frame, group, value)

        return run_many

    # ------------------------------------------------------------ operands

    def reader(self, operand: Operand, type_: Type) -> Reader:
        """Reads an operand as a type: an array with one element per thread of the group, or with one for all."""
        if isinstance(operand, Immediate):
            bits = int(operand.value != 0) if type_.kind == "pred" else immediate_bits(operand, type_)
            constant = types.decode(np.array([bits], type_.stored), type_)
            return lambda frame, group: constant
        if isinstance(operand, Symbol):
            name = operand.name
            if name not in self.spaces:
                raise UnsupportedError(f"the address of {name}")
            return lambda frame, group: np.array([frame.symbols[name]], np.int64).astype(type_.dtype)
        if not isinstance(operand, Register):
            raise UnsupportedError(f"the operand {operand}")
        name = operand.name
        declared = self.kernel.registers.get(name)
        if declared is None:
            return lambda frame, group: frame.special(name)[group.at].astype(type_.stored).view(type_.dtype)
        stored = declared.stored
        if declared.size < type_.size or (declared.kind == "pred") != (type_.kind == "pred"):
            raise UnsupportedError(f"{name} as {type_.name}")
        if operand.negated:
            return lambda frame, group: ~frame.register(name, stored)[group.at]
        if stored == type_.stored and type_.count == 1 and type_.kind != "bf":
            dtype = type_.dtype
            return lambda frame, group: frame.register(name, stored)[group.at].view(dtype)
        return lambda frame, group: types.decode(frame.register(name, stored)[group.at], type_)

    def writer(self, operand: Operand, type_: Type) -> Writer:
        if isinstance(operand, Sink):
            return lambda frame, group, values: None
        if not isinstance(operand, Register) or operand.name not in self.kernel.registers:
            raise UnsupportedError(f"a result in {operand}")
        name = operand.name
        stored = self.kernel.registers[name].stored
        if stored.itemsize < type_.stored.itemsize:
            raise UnsupportedError(f"a result of {type_.name} in {name}")

        def write(frame: Frame, group: Group, values: Array) -> None:
            frame.register(name, stored, group.count)[group.at] = types.encode(values, type_, stored)

        return write

    def address(self, operand: Operand) -> Reader:
        """The addresses that an operand in brackets means, one per thread."""
        if not isinstance(operand, Address):
            raise UnsupportedError(f"{operand} as an address")
        offset, base = operand.offset, operand.base
        if isinstance(base, Symbol):
            name = base.name
            if name not in self.spaces:
                raise UnsupportedError(f"the address of {name}")
            return lambda frame, group: np.full(group.count, frame.symbols[name] + offset)
        if isinstance(base, Immediate):
            value = base.value
            return lambda frame, group: np.full(group.count, value + offset)
        wide = self.kernel.registers[base.name].bits == 64
        read = self.reader(base, types.find("s64" if wide else "u32"))

        def addresses(frame: Frame, group: Group) -> Array:
            total: Array = read(frame, group).astype(np.int64) + offset
            return total

        return addresses

    def move_vector(self, instruction: Instruction) -> Action:
        """mov between one register and the parts of it, the low ones first."""
        (word,) = instruction.modifiers
        whole = types.find(word)
        to, source = instruction.operands
        if isinstance(to, Vector):
            part = types.find(f"b{whole.bits // len(to.parts)}")
            read = self.reader(source, whole)
            writers = [self.writer(one, part) for one in to.parts]

            def unpack(frame: Frame, group: Group) -> None:
                parts = np.ascontiguousarray(read(frame, group)).view(part.stored).reshape(-1, len(writers))
                for number, write in enumerate(writers):
                    write(frame, group, parts[:, number])

            return unpack
        if not isinstance(source, Vector):
            raise UnsupportedError("its operands")
        part = types.find(f"b{whole.bits // len(source.parts)}")
        readers = [self.reader(one, part) for one in source.parts]
        write = self.writer(to, whole)

        def pack(frame: Frame, group: Group) -> None:
            parts = np.broadcast_arrays(*[read(frame, group) for read in readers])
            write(frame, group, np.stack(parts, axis=-1).view(whole.stored)[:, 0].view(whole.dtype))

        return pack

    # ------------------------------------------------------------ memory

    def load(self, instruction: Instruction) -> Action:
        form = _MemoryForm(instruction, self)
        to, where, *_ = instruction.operands
        parts = to.parts if isinstance(to, Vector) else (to,)
        form.expect(len(parts))
        type_, addresses = form.type, self.address(where)
        writers = [self.writer(part, type_) for part in parts]
        fetch = _parameters if form.space == "param" else _fetch

        def run(frame: Frame, group: Group) -> None:
            values = fetch(frame, group, form.space, addresses(frame, group), type_.size, len(writers))
            for number, write in enumerate(writers):
                write(frame, group, types.decode(values[:, number], type_))

        return run

    def store(self, instruction: Instruction) -> Action:
        form = _MemoryForm(instruction, self)
        where, source, *_ = instruction.operands
        parts = source.parts if isinstance(source, Vector) else (source,)
        form.expect(len(parts))
        if form.space in ("param", "const"):
            raise UnsupportedError(f"a store to .{form.space}")
        bits = types.find(f"b{8 * form.type.size}")
        addresses = self.address(where)
        readers = [self.reader(part, bits if isinstance(part, Register) else form.type) for part in parts]

        def run(frame: Frame, group: Group) -> None:
            columns = [read(frame, group).view(bits.stored) for read in readers]
            values = np.stack([np.broadcast_to(column, group.count) for column in columns], axis=1)
            size = bits.size * len(columns)
            for region, at, places, access in _places(
                frame, group, form.space, addresses(frame, group), bits.size, size
            ):
                region.write(places, values if at is None else values[at], access, frame.memory.checks)

        return run

    def atomic(self, instruction: Instruction) -> Action:
        """Threads one after the other, in order. Their order on a GPU is any."""
        form = _MemoryForm(instruction, self)
        reduces = instruction.opcode == "red"
        kind = next((word for word in instruction.modifiers if word in _ATOMICS), None)
        if kind is None or form.type.count != 1 or form.space not in ("global", "shared", "generic"):
            raise UnsupportedError("its form")
        to, where, *sources = (Sink(), *instruction.operands) if reduces else instruction.operands
        type_, addresses, function = form.type, self.address(where), _ATOMICS[kind]
        write = self.writer(to, type_)
        readers = [self.reader(source, type_) for source in sources]

        def run(frame: Frame, group: Group) -> None:
            values = [np.broadcast_to(read(frame, group), group.count) for read in readers]
            old = np.empty(group.count, type_.stored)
            size = type_.size
            for region, at, places, access in _places(frame, group, form.space, addresses(frame, group), size, size):
                chosen = np.arange(group.count) if at is None else at
                data = region.update(places, size, access, frame.memory.checks).view(type_.dtype)
                for number, index in zip(chosen.tolist(), (places // size).tolist(), strict=True):
                    held = data[index : index + 1].copy()
                    old[number : number + 1] = held.view(type_.stored)
                    data[index : index + 1] = function(held, *(value[number : number + 1] for value in values))
            write(frame, group, types.decode(old, type_))

        return run

    def convert_address(self, instruction: Instruction) -> Action:
        """cvta between a state space and generic addresses."""
        words = list(instruction.modifiers)
        back = "to" in words
        space = next((word.partition("::")[0] for word in words if word.partition("::")[0] in _SPACES), None)
        if space is None or words[-1] != "u64":
            raise UnsupportedError("its form")
        to, source = instruction.operands
        type_ = types.find("u64")
        read, write = self.reader(source, type_), self.writer(to, type_)
        window = np.uint64(_SPACES[space] << _WINDOW)
        if back:
            return lambda frame, group: write(frame, group, read(frame, group) - window)
        return lambda frame, group: write(frame, group, read(frame, group) + window)

    def is_in_space(self, instruction: Instruction) -> Action:
        (word,) = instruction.modifiers
        number = _SPACES[word.partition("::")[0]]
        to, source = instruction.operands
        read, write = self.reader(source, types.find("u64")), self.writer(to, types.find("pred"))
        return lambda frame, group: write(frame, group, read(frame, group) >> np.uint64(_WINDOW) == number)

    # ------------------------------------------------------------ barriers

    def barrier(self, instruction: Instruction) -> Action:
        """What a barrier of the block does when it opens: nothing, or a reduction over the block."""
        words = [word for word in instruction.modifiers if word not in ("cta", "aligned")]
        operands = list(instruction.operands)
        if words == ["sync"]:
            self.whole_block(operands[1:])
            return lambda frame, group: None
        if words[:1] != ["red"] or len(words) != 3 or words[1] not in ("popc", "and", "or"):
            raise UnsupportedError(f".{words[0]}")
        to, _, *counts, predicate = operands
        self.whole_block(counts)
        read = self.reader(predicate, types.find("pred"))
        write = self.writer(to, types.find("u32" if words[1] == "popc" else "pred"))
        reduce = {"popc": np.add, "and": np.logical_and, "or": np.logical_or}[words[1]].reduce

        def run(frame: Frame, group: Group) -> None:
            values = np.full(frame.lanes, words[1] == "and")
            values[group.lanes] = read(frame, group)
            result = reduce(values.reshape(-1, frame.block), axis=1, dtype=np.uint32 if words[1] == "popc" else bool)
            write(frame, group, result[group.lanes // frame.block])

        return run

    def whole_block(self, counts: Sequence[Operand]) -> None:
        if counts:
            raise UnsupportedError("a barrier for part of a block")

    # ------------------------------------------------------------ the lanes of a warp

    def shuffle(self, instruction: Instruction) -> tuple[Members, Action]:
        _, mode, _ = instruction.modifiers
        to, source, by, limits, mask = instruction.operands
        first, second = (to.first, to.second) if isinstance(to, Pair) else (to, Sink())
        word, pred = types.find("b32"), types.find("pred")
        write, write_valid = self.writer(first, word), self.writer(second, pred)
        read, read_by, read_limits = (self.reader(operand, word) for operand in (source, by, limits))
        members = self.reader(mask, word)

        def chosen(lane: Array, by: Array, limits: Array) -> tuple[Array, Array]:
            """The lane of the warp that each reads from, and whether that is in its segment; else it is its own."""
            by, clamp, segment = by & 31, limits & 31, limits >> 8 & 31
            lowest = lane & segment
            highest = lowest | (clamp & ~segment)
            wanted = {
                "up": lambda: lane - by,
                "down": lambda: lane + by,
                "bfly": lambda: lane ^ by,
                "idx": lambda: lowest | (by & ~segment),
            }[mode]()
            valid = wanted >= highest if mode == "up" else wanted <= highest
            return np.where(valid, wanted, lane), valid

        # where all lanes shuffle in the same way, it is known now
        known = None
        if isinstance(by, Immediate) and isinstance(limits, Immediate):
            known = chosen(np.arange(WARP), _integers(by), _integers(limits))

        def run(frame: Frame, group: Group) -> None:
            if known is None:
                by, limits = (reader(frame, group).astype(np.int64) for reader in (read_by, read_limits))
                lane, valid = chosen(group.lane, by, limits)
            else:
                lane, valid = (of_lane[group.lane] for of_lane in known)
            sources = group.first + lane
            masks = members(frame, group)
            wrong = ~group.here[sources]
            if not (masks.shape == (1,) and masks[0] == _FULL):
                wrong |= masks.astype(np.int64) >> lane & 1 == 0
            if wrong.any():
                worst = int(np.argmax(wrong))
                named = bool(np.broadcast_to(masks.astype(np.int64), group.count)[worst] >> lane[worst] & 1)
                why = "takes no part" if named else "is not in its member mask"
                message = f"the shuffle reads from lane {int(lane[worst])}, which {why}"
                raise Fault(DivergenceError, message, int(group.lanes[worst]))
            values = np.empty(frame.lanes, np.uint32)
            values[group.at] = read(frame, group)
            write(frame, group, values[sources])
            write_valid(frame, group, valid)

        return members, run

    def vote(self, instruction: Instruction) -> tuple[Members, Action]:
        if instruction.modifiers[0] != "sync":
            raise UnsupportedError("a vote without .sync")
        _, mode, _ = instruction.modifiers
        to, predicate, mask = instruction.operands
        write = self.writer(to, types.find("b32" if mode == "ballot" else "pred"))
        read, members = self.reader(predicate, types.find("pred")), self.reader(mask, types.find("b32"))

        def run(frame: Frame, group: Group) -> None:
            holds = np.broadcast_to(read(frame, group), group.count)
            warp = group.lanes // WARP
            named = members(frame, group) & frame.bits(group.lanes)[warp]
            yes = frame.bits(group.lanes[holds])[warp] & named
            if mode == "ballot":
                write(frame, group, yes)
            else:
                holds_for = {"all": yes == named, "any": yes != 0, "uni": (yes == 0) | (yes == named)}
                write(frame, group, holds_for[mode])

        return members, run

    def match(self, instruction: Instruction) -> tuple[Members, Action]:
        mode, _, word = instruction.modifiers
        to, source, mask = instruction.operands
        first, second = (to.first, to.second) if isinstance(to, Pair) else (to, Sink())
        write, write_all = self.writer(first, types.find("b32")), self.writer(second, types.find("pred"))
        read, members = self.reader(source, types.find(word)), self.reader(mask, types.find("b32"))

        def run(frame: Frame, group: Group) -> None:
            values = np.zeros(frame.lanes, types.find(word).dtype)
            values[group.at] = read(frame, group)
            own, start = values[group.lanes], group.lanes - group.lanes % WARP
            equal = np.zeros(group.count, np.uint32)
            for lane in range(WARP):
                equal |= (values[start + lane] == own).astype(np.uint32) << np.uint32(lane)
            named = members(frame, group) & frame.bits(group.lanes)[group.lanes // WARP]
            every = (equal & named) == named
            write(frame, group, np.where(every, named, np.uint32(0)) if mode == "all" else equal & named)
            write_all(frame, group, every)

        return members, run

    def reduce_warp(self, instruction: Instruction) -> tuple[Members, Action]:
        _, kind, word = instruction.modifiers
        to, source, mask = instruction.operands
        type_, function = types.find(word), _REDUCTIONS[kind]
        write, read, members = self.writer(to, type_), self.reader(source, type_), self.reader(mask, types.find("b32"))

        def run(frame: Frame, group: Group) -> None:
            values = np.broadcast_to(read(frame, group), group.count)
            masks = np.broadcast_to(members(frame, group), group.count).astype(np.int64)
            keys, inverse = np.unique((group.lanes // WARP << 32) | masks, return_inverse=True)
            result = np.empty(group.count, type_.dtype)
            for key in range(len(keys)):
                result[inverse == key] = function.reduce(values[inverse == key], dtype=type_.dtype)
            write(frame, group, result)

        return members, run

    def warp_barrier(self, instruction: Instruction) -> tuple[Members, Action]:
        if instruction.modifiers != ("warp", "sync"):
            raise UnsupportedError("its form")
        members = self.reader(instruction.operands[0], types.find("b32"))

        return members, lambda frame, group: group.synchronise()

    def active_mask(self, instruction: Instruction) -> Action:
        write = self.writer(instruction.operands[0], types.find("b32"))
        return lambda frame, group: write(frame, group, frame.bits(group.lanes)[group.lanes // WARP])


def _integers(operand: Immediate) -> Array:
    """A constant operand of 32 bits, for all lanes."""
    return types.decode(np.array([immediate_bits(operand, types.find("b32"))], np.uint32), types.find("b32")).astype(
        np.int64
    )


def _nothing(program: Program, instruction: Instruction) -> Action:
    return lambda frame, group: None


def _trap(program: Program, instruction: Instruction) -> Action:
    def run(frame: Frame, group: Group) -> None:
        raise Fault(TrapError, "the kernel gave up", int(group.lanes[0]))

    return run


def _refusal(reason: str) -> Action:
    def run(frame: Frame, group: Group) -> None:
        raise UnsupportedError(reason)

    return run


_SPECIAL: dict[str, Callable[[Program, Instruction], Action]] = {
    "ld": Program.load,
    "ldu": Program.load,
    "st": Program.store,
    "atom": Program.atomic,
    "red": Program.atomic,
    "cvta": Program.convert_address,
    "isspacep": Program.is_in_space,
    "activemask": Program.active_mask,
    "membar": _nothing,
    "fence": _nothing,
    "prefetch": _nothing,
    "prefetchu": _nothing,
    "nanosleep": _nothing,
    "trap": _trap,
}
_WARP_WIDE: dict[str, Callable[[Program, Instruction], tuple[Members, Action]]] = {
    "shfl": Program.shuffle,
    "vote": Program.vote,
    "match": Program.match,
    "redux": Program.reduce_warp,
    "bar": Program.warp_barrier,
}
_REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_ATOMICS: dict[str, Callable[..., Array]] = {
    **_REDUCTIONS,
    "exch": lambda held, value: value,
    "cas": lambda held, wanted, value: choose(held == wanted, value, held),
    "inc": lambda held, limit: choose(held >= limit, held.dtype.type(0), held + held.dtype.type(1)),
    "dec": lambda held, limit: choose((held == 0) | (held > limit), limit, held - held.dtype.type(1)),
}


class _MemoryForm:
    """Space, type and vector length of a load or store; cache hints and orders of memory change no result here."""

    _ORDERS = ("weak", "volatile", "relaxed", "acquire", "release", "acq_rel")
    _SCOPES = ("cta", "cluster", "gpu", "sys")
    _CACHES = ("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt")
    _IGNORED = (*_ORDERS, *_SCOPES, *_CACHES, "noftz")

    def __init__(self, instruction: Instruction, program: Program) -> None:
        self.space = "generic"
        self.count = 1
        names = []
        for word in instruction.modifiers:
            space = word.partition("::")[0]
            if space in (*_SPACES, "param"):
                self.space = space
            elif word in ("v2", "v4", "v8"):
                self.count = int(word[1:])
            elif types.is_type(word):
                names.append(word)
            elif not (word in self._IGNORED or space in ("L1", "L2") or word in _ATOMICS):
                raise UnsupportedError(f".{word} is not known here")
        if len(names) != 1:
            raise UnsupportedError("no type that is known")
        self.type = types.find(names[0])
        # parameters of inlined functions are memory of the thread
        for operand in instruction.operands:
            if self.space == "param" and isinstance(operand, Address) and isinstance(operand.base, Symbol):
                self.space = {"local": "local"}.get(program.spaces.get(operand.base.name, ""), "param")

    def expect(self, parts: int) -> None:
        if parts != self.count:
            raise UnsupportedError(f"{parts} registers for {self.count} elements")


def _places(
    frame: Frame, group: Group, space: str, addresses: Array, width: int, size: int
) -> list[tuple[Region, npt.NDArray[Any] | None, Array, Access]]:
    """Where in which regions the bytes are that the group accesses, with the part of the group that does."""
    if space == "generic":
        return _generic_places(frame, group, addresses, width, size)
    if space == "shared":
        return list(frame.shared.parts(addresses, width, size // width, group.block_access))
    if space == "local":
        return list(frame.local.parts(addresses, width, size // width, group.lane_access))
    return list(frame.memory.space.parts(addresses, width, size // width, group.access))


def _generic_places(
    frame: Frame, group: Group, addresses: Array, width: int, size: int
) -> list[tuple[Region, npt.NDArray[Any] | None, Array, Access]]:
    windows = addresses >> _WINDOW
    places = []
    for window in np.unique(windows).tolist():
        space = {0: "global", 1: "shared", 2: "local"}.get(window)
        at = np.nonzero(windows == window)[0]
        part = group if len(at) == group.count else Group(frame, group.lanes[at])
        if space is None:
            raise Fault(OutOfBoundsError, f"{size} bytes at {int(addresses[at[0]]):#x}", int(part.lanes[0]))
        inside = addresses[at] - (window << _WINDOW)
        for region, chosen, where, access in _places(frame, part, space, inside, width, size):
            places.append((region, at if chosen is None else at[chosen], where, access))
    return places


def _fetch(frame: Frame, group: Group, space: str, addresses: Array, width: int, count: int) -> Array:
    """The elements at the addresses, one row per thread."""
    parts = _places(frame, group, space, addresses, width, width * count)
    checks = frame.memory.checks
    if len(parts) == 1 and parts[0][1] is None:
        region, _, places, access = parts[0]
        return region.read(places, width, count, access, checks)
    values = np.empty((group.count, count), unsigned(width))
    for region, at, places, access in parts:
        values[slice(None) if at is None else at] = region.read(places, width, count, access, checks)
    return values


def _parameters(frame: Frame, group: Group, space: str, addresses: Array, width: int, count: int) -> Array:
    """Parameters of the kernel: the same for all threads, unless their address is computed."""
    held = frame.parameters
    first = int(addresses[0])
    wrong = (addresses < 0) | (addresses > len(held) - width * count)
    if wrong.any():
        message = f"{width * count} bytes at offset {int(addresses[np.argmax(wrong)])} of {len(held)} of parameters"
        raise Fault(OutOfBoundsError, message, int(group.lanes[np.argmax(wrong)]))
    if (addresses == first).all():
        return held[first : first + width * count].copy().view(unsigned(width)).reshape(1, count)
    index = addresses[:, None] + np.arange(width * count)
    return np.ascontiguousarray(held[index]).view(unsigned(width))
