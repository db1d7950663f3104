"""The instructions that work on each thread by itself: a table of opcodes, each with the function that builds it.

A builder is given a `Form`, from which it takes the modifiers that it understands; one that is left over makes the
instruction unsupported. It returns an `Operation`: the types of results and sources, and a function between their
arrays, in which one element is one thread (arrays of length 1 stand for constants). What involves memory, other
threads or the order of execution is in `execute`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from . import arithmetic, types
from .errors import UnsupportedError
from .parse import Instruction, Pair
from .types import Array, Type

_PRED = types.find("pred")
_U32 = types.find("u32")
_U64 = types.find("u64")


@dataclass(frozen=True)
class Operation:
    """results, sources: types in the order of the operands. The function returns one array per result, in a tuple."""

    results: tuple[Type, ...]
    sources: tuple[Type, ...]
    function: Callable[..., tuple[Array, ...]]


class Form:
    """The modifiers of an instruction, to be taken one by one; the last are its types."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.left = list(instruction.modifiers)

    def has(self, *flags: str) -> bool:
        """Take the flags; whether any was there."""
        found = [flag for flag in flags if flag in self.left]
        for flag in found:
            self.left.remove(flag)
        return bool(found)

    def one_of(self, choices: tuple[str, ...], default: str | None = None) -> str:
        """Take the one of the choices that is there."""
        for word in self.left:
            if word in choices:
                self.left.remove(word)
                return word
        if default is None:
            raise UnsupportedError(f"none of .{', .'.join(choices)}")
        return default

    def type(self) -> Type:
        """Take the first type."""
        for word in self.left:
            if types.is_type(word):
                self.left.remove(word)
                return types.find(word)
        raise UnsupportedError("no type that is known")

    def rounding(self, default: str = "rn") -> str:
        """Take the direction of a floating point operation: 'n', 'z', 'm' or 'p'."""
        return self.one_of(("rn", "rz", "rm", "rp"), default)[1]


Builder = Callable[[Form], Operation]
TABLE: dict[str, Builder] = {}


def _opcode(*names: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        for name in names:
            TABLE[name] = builder
        return builder

    return register


def build(instruction: Instruction) -> Operation:
    """What an instruction does to each thread; raises `UnsupportedError` with the reason."""
    form = Form(instruction)
    operation = TABLE[instruction.opcode](form)
    if form.left:
        raise UnsupportedError(f".{form.left[0]} is not known here")
    return operation


def _same(type_: Type, count: int, function: Callable[..., Array]) -> Operation:
    """From `count` sources of a type to one result of it."""
    return Operation((type_,), (type_,) * count, lambda *sources: (function(*sources),))


# ---------------------------------------------------------------- floating point


def _float(form: Form, type_: Type, count: int, function: Callable[..., Array]) -> Operation:
    """A float operation with .ftz, .sat and .relu, and the GPU's NaN."""
    ftz, sat, relu = form.has("ftz"), form.has("sat"), form.has("relu")
    flushes = ftz and type_.name == "f32"  # of f16 they may be flushed as well, which compilers do not ask for
    if ftz and not flushes:
        raise UnsupportedError(f".ftz on {type_.name}")

    def compute(*sources: Array) -> Array:
        if flushes:
            sources = tuple(arithmetic.flush(source) for source in sources)
        result = arithmetic.canonical(function(*sources))
        if flushes:
            result = arithmetic.flush(result)
        if sat:
            result = arithmetic.saturate(result)
        if relu:
            result = arithmetic.extreme(result, np.zeros_like(result), largest=True, keep_nan=True)
        return result

    return _same(type_, count, compute)


@_opcode("add", "sub")
def _add(form: Form) -> Operation:
    subtract = form.instruction.opcode == "sub"
    type_ = form.type()
    if type_.is_float:
        direction = form.rounding()
        return _float(form, type_, 2, lambda a, b: arithmetic.add(a, -b if subtract else b, type_.element, direction))
    if form.has("sat"):
        return _same(type_, 2, partial(_saturating_add, subtract=subtract, type_=type_))
    return _same(type_, 2, np.subtract if subtract else np.add)


def _saturating_add(a: Array, b: Array, subtract: bool, type_: Type) -> Array:
    lowest, highest = arithmetic.limits(type_)
    wide = a.astype(np.int64) - b if subtract else a.astype(np.int64) + b
    return np.clip(wide, lowest, highest).astype(type_.dtype)


@_opcode("mul")
def _mul(form: Form) -> Operation:
    type_ = form.type()
    if type_.is_float:
        direction = form.rounding()
        return _float(form, type_, 2, lambda a, b: arithmetic.multiply(a, b, type_.element, direction))
    part = form.one_of(("lo", "hi", "wide"))
    result = _doubled(type_) if part == "wide" else type_
    return Operation((result,), (type_, type_), lambda a, b: (_product(a, b, part, type_),))


@_opcode("mad", "fma")
def _mad(form: Form) -> Operation:
    type_ = form.type()
    if type_.is_float:
        direction = form.rounding()
        return _float(form, type_, 3, lambda a, b, c: arithmetic.fma(a, b, c, type_.element, direction))
    part = form.one_of(("lo", "hi", "wide"))
    result = _doubled(type_) if part == "wide" else type_
    return Operation((result,), (type_, type_, result), lambda a, b, c: (_product(a, b, part, type_) + c,))


def _doubled(type_: Type) -> Type:
    if type_.bits > 32:
        raise UnsupportedError(f".wide of {type_.name}")
    return types.find(f"{type_.kind}{2 * type_.bits}")


def _product(a: Array, b: Array, part: str, type_: Type) -> Array:
    """The low half, the high half, or all of an integer product."""
    if part == "lo":
        return a * b
    if type_.bits < 64:
        wide = _doubled(type_).dtype
        product: Array = a.astype(wide) * b.astype(wide)
        return product if part == "wide" else (product >> wide.type(type_.bits)).astype(type_.dtype)
    high = _high_product(a.view(np.uint64), b.view(np.uint64))
    if type_.is_signed:  # a negative number stands for itself and 2^64
        high = high - np.where(a < 0, b, 0).astype(np.uint64) - np.where(b < 0, a, 0).astype(np.uint64)
    return high.view(type_.dtype)


def _high_product(a: Array, b: Array) -> Array:
    """The high 64 of 128 bits, from products of 32 bits."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    low = (a & mask) * (b & mask)
    across = (a >> half) * (b & mask) + (low >> half)
    other = (a & mask) * (b >> half) + (across & mask)
    high: Array = (a >> half) * (b >> half) + (across >> half) + (other >> half)
    return high


@_opcode("mul24", "mad24")
def _mul24(form: Form) -> Operation:
    part, type_ = form.one_of(("lo", "hi")), form.type()

    def product(a: Array, b: Array) -> Array:
        wide = _doubled(type_).dtype
        low = [(operand.astype(wide) << wide.type(40)) >> wide.type(40) for operand in (a, b)]
        shifted: Array = low[0] * low[1] >> wide.type(16 if part == "hi" else 0)
        return shifted.astype(type_.dtype)

    if form.instruction.opcode == "mul24":
        return _same(type_, 2, product)
    return _same(type_, 3, lambda a, b, c: product(a, b) + c)


@_opcode("sad")
def _sad(form: Form) -> Operation:
    return _same(form.type(), 3, lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c)


@_opcode("div", "rem")
def _div(form: Form) -> Operation:
    type_ = form.type()
    if type_.is_float:
        if form.has("full"):
            direction = "n"
        elif form.has("approx"):
            return _float(form, type_, 2, partial(_approximate_quotient, type_=type_))
        else:
            direction = form.rounding()
        return _float(form, type_, 2, lambda a, b: arithmetic.divide(a, b, type_, direction))
    remainder = form.instruction.opcode == "rem"
    return _same(type_, 2, partial(_quotient, remainder=remainder, type_=type_))


def _approximate_quotient(a: Array, b: Array, type_: Type) -> Array:
    """a * (1/b), of which hardware makes 0 for |b| > 2^126, and NaN if a is infinite."""
    result = arithmetic.divide(a, b, type_)
    large = (np.abs(b) > 2.0**126) & np.isfinite(b)
    return np.where(large, np.where(np.isinf(a), np.float32(np.nan), np.copysign(np.float32(0), result)), result)


def _quotient(a: Array, b: Array, remainder: bool, type_: Type) -> Array:
    """Truncated; of a division by zero all bits are set, as hardware does though PTX does not promise it."""
    zero = b == 0
    divisor = np.where(zero, type_.dtype.type(1), b)
    rest = np.fmod(a, divisor)
    result = rest if remainder else (a - rest) // divisor
    if zero.any():
        result = np.where(zero, a if remainder else np.array(-1).astype(type_.dtype), result)
    return result


@_opcode("abs")
def _abs(form: Form) -> Operation:
    type_ = form.type()
    return _sign_change(form, type_, np.abs) if type_.is_float else _same(type_, 1, np.abs)


@_opcode("neg")
def _neg(form: Form) -> Operation:
    type_ = form.type()
    return _sign_change(form, type_, np.negative) if type_.is_float else _same(type_, 1, np.negative)


def _sign_change(form: Form, type_: Type, function: Callable[[Array], Array]) -> Operation:
    if form.has("ftz"):
        return _same(type_, 1, lambda a: function(arithmetic.flush(a)))
    return _same(type_, 1, function)


@_opcode("min", "max")
def _min(form: Form) -> Operation:
    largest = form.instruction.opcode == "max"
    type_ = form.type()
    if type_.is_float:
        keep_nan = form.has("NaN")
        count = len(form.instruction.operands) - 1
        if count == 3:
            raise UnsupportedError("three operands")
        return _float(form, type_, 2, partial(arithmetic.extreme, largest=largest, keep_nan=keep_nan))
    return _same(type_, 2, np.maximum if largest else np.minimum)


@_opcode("copysign")
def _copysign(form: Form) -> Operation:
    return _same(form.type(), 2, lambda a, b: np.copysign(b, a))


@_opcode("sqrt")
def _sqrt(form: Form) -> Operation:
    type_ = form.type()
    direction = "n" if form.has("approx") else form.rounding()
    return _float(form, type_, 1, lambda a: arithmetic.square_root(a, type_, direction))


def _reciprocal(values: Array) -> Array:
    result: Array = 1 / values
    return result


def _reciprocal_root(values: Array) -> Array:
    result: Array = 1 / np.sqrt(values)
    return result


@_opcode("rcp")
def _rcp(form: Form) -> Operation:
    type_ = form.type()
    if form.has("approx"):
        return _approximation(form, type_, _reciprocal)
    direction = form.rounding()
    return _float(form, type_, 1, lambda a: arithmetic.divide(np.ones(1, type_.dtype), a, type_, direction))


@_opcode("rsqrt")
def _rsqrt(form: Form) -> Operation:
    form.has("approx")
    return _approximation(form, form.type(), _reciprocal_root)


def _approximation(form: Form, type_: Type, function: Callable[[Array], Array]) -> Operation:
    if type_.bits == 64:
        if form.has("ftz"):
            return _same(type_, 1, partial(arithmetic.coarse, function))
        return _same(type_, 1, function)
    if type_.bits == 16:
        form.has("ftz")  # of bfloat16, whose subnormal numbers they can be told from by nothing but their size
    return _float(form, type_, 1, lambda a: arithmetic.approximate(function, a, type_.element))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@_opcode(*_FUNCTIONS)
def _function(form: Form) -> Operation:
    form.has("approx")
    return _approximation(form, form.type(), _FUNCTIONS[form.instruction.opcode])


_CLASSES: dict[str, Callable[[Array], Array]] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "notanumber": np.isnan,
    "number": lambda a: ~np.isnan(a),
    "normal": lambda a: np.isfinite(a) & (np.abs(a) >= np.finfo(a.dtype).tiny),
    "subnormal": lambda a: (a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny),
}


@_opcode("testp")
def _testp(form: Form) -> Operation:
    test, type_ = _CLASSES[form.one_of(tuple(_CLASSES))], form.type()
    return Operation((_PRED,), (type_,), lambda a: (test(a),))


# ---------------------------------------------------------------- comparing and choosing


def _ordered(a: Array, b: Array) -> Array:
    return ~(np.isnan(a) | np.isnan(b)) if a.dtype.kind == "f" else np.ones(np.broadcast(a, b).shape, bool)


_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": lambda a, b: (a != b) & _ordered(a, b) if a.dtype.kind == "f" else a != b,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
    "num": _ordered,
    "nan": lambda a, b: ~_ordered(a, b),
    # the complements are true of NaN
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
}
_LOGIC: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def _comparison(form: Form) -> tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array] | None, bool]:
    """The comparison, how it is combined with a predicate, and whether subnormal numbers are zero."""
    compare = _COMPARISONS[form.one_of(tuple(_COMPARISONS))]
    logic = _LOGIC.get(form.one_of(tuple(_LOGIC), ""))
    if not form.has("ftz"):
        return compare, logic, False
    return lambda a, b: compare(arithmetic.flush(a), arithmetic.flush(b)), logic, True


@_opcode("setp")
def _setp(form: Form) -> Operation:
    compare, logic, _ = _comparison(form)
    type_ = form.type()
    two = isinstance(form.instruction.operands[0], Pair)

    def both(a: Array, b: Array, other: Array | None = None) -> tuple[Array, ...]:
        found = compare(a, b)
        if type_.count == 2:  # one predicate for each half
            halves = (found[..., 0], found[..., 1])
            return halves if other is None or logic is None else tuple(logic(half, other) for half in halves)
        if other is None or logic is None:
            return (found, ~found) if two else (found,)
        return (logic(found, other), logic(~found, other)) if two else (logic(found, other),)

    if type_.count == 2 and not two:
        raise UnsupportedError("one result of a packed comparison")
    return Operation((_PRED,) * (1 + two), (type_, type_, *([_PRED] if logic else [])), both)


@_opcode("set")
def _set(form: Form) -> Operation:
    compare, logic, _ = _comparison(form)
    result, type_ = form.type(), form.type()
    if logic:
        raise UnsupportedError("a predicate")
    true = result.dtype.type(1) if result.is_float else np.array(-1).astype(result.dtype)
    return Operation((result,), (type_, type_), lambda a, b: (np.where(compare(a, b), true, result.dtype.type(0)),))


@_opcode("selp")
def _selp(form: Form) -> Operation:
    type_ = form.type()
    return Operation((type_,), (type_, type_, _PRED), lambda a, b, which: (arithmetic.choose(which, a, b),))


@_opcode("slct")
def _slct(form: Form) -> Operation:
    ftz, type_, sign = form.has("ftz"), form.type(), form.type()
    return Operation(
        (type_,),
        (type_, type_, sign),
        lambda a, b, c: (arithmetic.choose((arithmetic.flush(c) if ftz else c) >= 0, a, b),),
    )


# ---------------------------------------------------------------- bits


@_opcode("and", "or", "xor", "not")
def _logic(form: Form) -> Operation:
    opcode, type_ = form.instruction.opcode, form.type()
    if opcode == "not":
        return _same(type_, 1, np.invert)
    return _same(type_, 2, {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[opcode])


@_opcode("cnot")
def _cnot(form: Form) -> Operation:
    type_ = form.type()
    return _same(type_, 1, lambda a: (a == 0).astype(type_.dtype))


@_opcode("shl", "shr")
def _shift(form: Form) -> Operation:
    left, type_ = form.instruction.opcode == "shl", form.type()
    bits = np.uint32(type_.bits)

    def shift(a: Array, by: Array) -> Array:
        """By more than there are bits is by all of them."""
        if not left and type_.is_signed:
            return np.asarray(a >> np.minimum(by, bits - np.uint32(1)).astype(a.dtype))
        inside = (by % bits).astype(a.dtype)
        shifted = a << inside if left else a >> inside
        return arithmetic.choose(by < bits, shifted, a.dtype.type(0))

    return Operation((type_,), (type_, _U32), lambda a, by: (shift(a, by),))


@_opcode("shf")
def _shf(form: Form) -> Operation:
    """The high 32 bits of b:a shifted left, or the low ones of it shifted right."""
    left, wraps, type_ = form.one_of(("l", "r")) == "l", form.one_of(("wrap", "clamp")) == "wrap", form.type()
    if type_.bits != 32:
        raise UnsupportedError(type_.name)

    def funnel(a: Array, b: Array, by: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        distance = (by & np.uint32(31) if wraps else np.minimum(by, np.uint32(32))).astype(np.uint64)
        shifted = (both << distance) >> np.uint64(32) if left else both >> distance
        return shifted.astype(np.uint32)

    return Operation((type_,), (type_, type_, _U32), lambda a, b, by: (funnel(a, b, by),))


@_opcode("lop3")
def _lop3(form: Form) -> Operation:
    type_ = form.type()

    def lookup(a: Array, b: Array, c: Array, table: Array) -> Array:
        result = np.zeros(np.broadcast(a, b, c).shape, a.dtype)
        for row in range(8):
            if int(table[0]) >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return Operation((type_,), (type_, type_, type_, _U32), lambda *sources: (lookup(*sources),))


@_opcode("prmt")
def _prmt(form: Form) -> Operation:
    """Any four bytes of b:a, or copies of their signs."""
    type_ = form.type()
    mode = form.one_of(("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"), "")
    if mode:
        raise UnsupportedError(f".{mode}")

    def permute(a: Array, b: Array, selector: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        result = np.zeros(np.broadcast(a, b, selector).shape, np.uint64)
        for byte in range(4):
            choice = (selector >> np.uint32(4 * byte)).astype(np.uint64)
            taken = both >> (np.uint64(8) * (choice & np.uint64(7))) & np.uint64(0xFF)
            sign = np.where(taken & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
            result |= np.where(choice & np.uint64(8), sign, taken) << np.uint64(8 * byte)
        return result.astype(np.uint32)

    return _same(type_, 3, permute)


@_opcode("bfe")
def _bfe(form: Form) -> Operation:
    type_ = form.type()
    return Operation((type_,), (type_, _U32, _U32), lambda a, at, length: (_bit_field(a, at, length, type_),))


def _bit_field(a: Array, at: Array, length: Array, type_: Type) -> Array:
    """`length` bits from bit `at`, extended by the sign of the last of them that is there."""
    bits = type_.bits
    raw = a.view(types.unsigned(type_.size)).astype(np.uint64)
    at, length = (at & np.uint32(0xFF)).astype(np.uint64), (length & np.uint32(0xFF)).astype(np.uint64)
    mask = _low_bits(length)
    field = np.where(at < 64, raw >> np.minimum(at, np.uint64(63)), np.uint64(0)) & mask
    if type_.is_signed:
        last = np.minimum(at + length - np.uint64(1), np.uint64(bits - 1))
        sign = (raw >> last & np.uint64(1) != 0) & (length > 0)
        # the bits that lie in the number; the others are the sign
        inside = np.where(at < bits, np.minimum(length, np.uint64(bits) - np.minimum(at, np.uint64(bits))), 0)
        field = np.where(sign, field | ~_low_bits(inside.astype(np.uint64)), field)
    return field.astype(types.unsigned(type_.size)).view(type_.dtype)


def _low_bits(count: Array) -> Array:
    """A mask of the lowest `count` of 64 bits."""
    small = np.minimum(count, np.uint64(63))
    return np.where(count < 64, (np.uint64(1) << small) - np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF))


@_opcode("bfi")
def _bfi(form: Form) -> Operation:
    type_ = form.type()

    def insert(a: Array, b: Array, at: Array, length: Array) -> Array:
        at, length = (at & np.uint32(0xFF)).astype(np.uint64), (length & np.uint32(0xFF)).astype(np.uint64)
        shift = np.minimum(at, np.uint64(63))
        mask = np.where(at < type_.bits, _low_bits(length) << shift, np.uint64(0)).astype(type_.dtype)
        moved = (a.astype(np.uint64) << shift).astype(type_.dtype)
        inserted: Array = (moved & mask) | (b & ~mask)
        return inserted

    return Operation((type_,), (type_, type_, _U32, _U32), lambda *sources: (insert(*sources),))


@_opcode("popc")
def _popc(form: Form) -> Operation:
    return _of_bits(form, lambda a: np.add.reduce(_bits_of(a), axis=-1, dtype=np.uint32))


@_opcode("clz")
def _clz(form: Form) -> Operation:
    def leading(a: Array) -> Array:
        bits = _bits_of(a)[..., ::-1]
        found = arithmetic.choose(bits.any(axis=-1), bits.argmax(axis=-1), bits.shape[-1])
        return found.astype(np.uint32)

    return _of_bits(form, leading)


@_opcode("bfind")
def _bfind(form: Form) -> Operation:
    """The place of the highest bit that differs from the sign, or how far it is from the top; or all bits."""
    as_shift = form.has("shiftamt")

    def find(a: Array) -> Array:
        bits = _bits_of(a ^ (a >> a.dtype.type(8 * a.itemsize - 1)) if a.dtype.kind == "i" else a)[..., ::-1]
        leading = bits.argmax(axis=-1)
        found = leading if as_shift else bits.shape[-1] - 1 - leading
        return np.where(bits.any(axis=-1), found, 0xFFFFFFFF).astype(np.uint32)

    return _of_bits(form, find)


def _of_bits(form: Form, function: Callable[[Array], Array]) -> Operation:
    return Operation((_U32,), (form.type(),), lambda a: (function(a),))


def _bits_of(a: Array) -> Array:
    """The bits, lowest first, along a new last axis."""
    raw = np.ascontiguousarray(a)
    return np.unpackbits(raw.view(np.uint8).reshape(*raw.shape, raw.itemsize), axis=-1, bitorder="little")


@_opcode("brev")
def _brev(form: Form) -> Operation:
    type_ = form.type()

    def reverse(a: Array) -> Array:
        packed = np.packbits(_bits_of(a)[..., ::-1], axis=-1, bitorder="little")
        return packed.view(type_.dtype)[..., 0]

    return _same(type_, 1, reverse)


# ---------------------------------------------------------------- moving and converting


@_opcode("mov", "cvta")
def _mov(form: Form) -> Operation:
    """Of cvta, the executor has resolved the state space."""
    return _same(form.type(), 1, lambda a: a)


@_opcode("cvt")
def _cvt(form: Form) -> Operation:
    integral = form.one_of(("rni", "rzi", "rmi", "rpi"), "")[1:2]
    direction = form.one_of(("rn", "rz", "rm", "rp"), "")[1:2]
    ftz, sat, relu = form.has("ftz"), form.has("sat"), form.has("relu")
    target, source = form.type(), form.type()
    if target.count == 2 and source.count == 1:
        return _cvt_packed(target, source, direction or "n", relu)

    def compute(a: Array) -> Array:
        if ftz and source.name == "f32":
            a = arithmetic.flush(a)
        result = _converted(a, source, target, integral, direction, sat)
        if ftz and target.name == "f32":
            result = arithmetic.flush(result)
        if target.is_float and sat:
            result = arithmetic.saturate(result)
        if relu:
            result = arithmetic.extreme(result, np.zeros_like(result), largest=True, keep_nan=True)
        return result

    return Operation((target,), (source,), lambda a: (compute(a),))


def _converted(a: Array, source: Type, target: Type, integral: str, direction: str, sat: bool) -> Array:
    if source.is_float and target.is_float:
        if integral:
            a = arithmetic.to_integral(a, integral)
        return arithmetic.canonical(arithmetic.convert(a, source, target, direction or "n"))
    if source.is_float:
        return arithmetic.to_int(a, source, target, integral or "z")
    if target.is_float:
        return arithmetic.from_int(a, target, direction or "n")
    if sat:
        lowest, highest = arithmetic.limits(target)
        own = arithmetic.limits(source)
        a = np.clip(a, a.dtype.type(max(lowest, own[0])), a.dtype.type(min(highest, own[1])))
    return a.astype(target.dtype)


def _cvt_packed(target: Type, source: Type, direction: str, relu: bool) -> Operation:
    """Two floats into one register; the first becomes the high half."""

    def pack(high: Array, low: Array) -> Array:
        halves = np.broadcast_arrays(low, high)
        result = np.stack(
            [arithmetic.canonical(arithmetic.convert(half, source, target.element, direction)) for half in halves],
            axis=-1,
        )
        if relu:
            result = arithmetic.extreme(result, np.zeros_like(result), largest=True, keep_nan=True)
        return result

    return Operation((target,), (source, source), lambda a, b: (pack(a, b),))


def supported() -> tuple[str, ...]:
    """The opcodes of the table, in order."""
    return tuple(sorted(TABLE))
