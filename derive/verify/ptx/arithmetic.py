"""Floating point as PTX defines it, on whole arrays: one rounding per operation, in any of the four directions.

A result of `f16`, `bf16` or `f32` is computed in float64 *rounded to odd*: to the neighbour whose last bit is 1,
unless it is exact. Rounding that to 24 bits or fewer gives what rounding the exact result gives (Boldo and Melquiond,
"Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008). The fma of `f64` is the
one of that paper; where its error-free steps would over- or underflow, and for the directed roundings of `f64`,
elements are computed one by one in rational arithmetic.

NaN: `f32`, `f16` and `bf16` results have the one pattern that GPUs give; the payload and sign of an `f64` NaN are
those of the processor this runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf, isfinite, isqrt
from typing import Any

import numpy as np

from .types import Array, Type

_DIGITS = {"f16": 11, "bf16": 8, "f32": 24}
_LEAST = {"f16": -14, "bf16": -126, "f32": -126}  # exponent of the least normal number
_LARGEST = {"f16": 65504.0, "bf16": float.fromhex("0x1.fep127"), "f32": float.fromhex("0x1.fffffep127")}
_NAN = np.uint32(0x7FFFFFFF).view(np.float32)
_TO_INTEGER: dict[str, np.ufunc] = {"n": np.rint, "z": np.trunc, "m": np.floor, "p": np.ceil}


# ---------------------------------------------------------------- rounding


def to_integral(values: Array, direction: str) -> Array:
    """Nearest integers, ties to even ('n'), towards zero ('z'), down ('m') or up ('p'); still floats."""
    return np.asarray(_TO_INTEGER[direction](values))


def round_to(wide: Array, type_: Type, direction: str = "n") -> Array:
    """float64 values, exact or rounded to odd, as numbers of a narrower type."""
    name = type_.name
    if name == "f64":
        return wide
    if direction == "n" and name != "bf16":
        return wide.astype(type_.dtype)
    exponent = np.maximum(np.frexp(wide)[1], _LEAST[name] + 1) - _DIGITS[name]
    rounded = np.ldexp(to_integral(np.ldexp(wide, -exponent), direction), exponent)
    # beyond the largest number: it, or infinity, as the direction says
    largest = _LARGEST[name]
    beyond = np.abs(rounded) > largest
    stays = {"n": False, "z": True, "m": wide > 0, "p": wide < 0}[direction]
    rounded = np.where(beyond, np.copysign(np.where(stays & np.isfinite(wide), largest, inf), wide), rounded)
    return np.where(np.isfinite(wide), rounded, wide).astype(type_.dtype)


def canonical(values: Array) -> Array:
    """NaN made the one pattern of the GPU; `values` may be changed."""
    if values.dtype != np.float64:
        missing = np.isnan(values)
        if missing.any():
            values[missing] = _NAN if values.dtype == np.float32 else np.uint16(0x7FFF).view(np.float16)
    return values


def choose(condition: Any, one: Any, other: Any) -> Array:
    """np.where, of which type checkers know that it is an array."""
    chosen: Array = np.where(condition, one, other)
    return chosen


def flush(values: Array) -> Array:
    """Subnormal numbers of float32 as zeros of their sign."""
    subnormal = (np.abs(values) < np.float32(2.0**-126)) & (values != 0)
    if not subnormal.any():
        return values
    return choose(subnormal, np.copysign(values.dtype.type(0), values), values)


def saturate(values: Array) -> Array:
    """Within [0, 1], NaN as 0."""
    return choose(values > 0, np.minimum(values, values.dtype.type(1)), values.dtype.type(0))


def _odd_sum(a: Array, b: Array) -> Array:
    """a + b in float64, rounded to odd."""
    total, error = _two_sum(a, b)
    return _made_odd(total, error)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded to nearest, and what that left out, exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _made_odd(total: Array, error: Array) -> Array:
    """`total`, nearest to total + error, moved to the odd neighbour if that is not exact."""
    bits = total.view(np.int64)
    wrong = (error != 0) & ((bits & 1) == 0) & np.isfinite(total)
    if not wrong.any():
        return total
    away = (error > 0) == (total > 0)  # from zero: the magnitude, in the low bits, grows
    return np.where(wrong, np.where(away, bits + 1, bits - 1), bits).view(np.float64)


# ---------------------------------------------------------------- operations


def add(a: Array, b: Array, type_: Type, direction: str = "n") -> Array:
    if direction == "n" and type_.kind == "f":
        return a + b
    if type_.bits == 64:
        return _one_by_one(lambda x, y: x + y, direction, a, b)
    return _signed_zero(round_to(_odd_sum(*_wide(a, b)), type_, direction), direction, a, b)


def multiply(a: Array, b: Array, type_: Type, direction: str = "n") -> Array:
    if direction == "n" and type_.kind == "f":
        return a * b
    if type_.bits == 64:
        return _one_by_one(lambda x, y: x * y, direction, a, b)
    a, b = _wide(a, b)
    return round_to(a * b, type_, direction)


def divide(a: Array, b: Array, type_: Type, direction: str = "n") -> Array:
    if direction == "n" and type_.kind == "f":
        return a / b
    if type_.bits == 64:
        return _one_by_one(lambda x, y: x / y, direction, a, b)
    a, b = _wide(a, b)
    return round_to(a / b, type_, direction)  # 53 digits are enough for a quotient of numbers of 24


def square_root(a: Array, type_: Type, direction: str = "n") -> Array:
    if direction == "n" and type_.kind == "f":
        return np.sqrt(a)
    if type_.bits == 64:
        return _directed_square_roots(a, direction)
    return round_to(np.sqrt(a.astype(np.float64)), type_, direction)


def fma(a: Array, b: Array, c: Array, type_: Type, direction: str = "n") -> Array:
    """a*b + c with one rounding."""
    if type_.bits == 64:
        if direction == "n":
            return _fma64(*((a, b, c) if a.shape == b.shape == c.shape else np.broadcast_arrays(a, b, c)))
        return _signed_zero(_one_by_one(lambda x, y, z: x * y + z, direction, a, b, c), direction, a * b, c)
    wide_a, wide_b, wide_c = _wide(a, b, c)
    product = wide_a * wide_b  # exact: it has 48 digits at most
    if direction == "n" and type_.name == "f32":
        total: Array = product + wide_c
        # rounding twice can only go wrong where the first gave the middle between two floats
        middle = (total.view(np.uint64) & np.uint64(0x0FFFFFFF)) == 0
        if middle.any():
            at = np.nonzero(middle)
            total[at] = _odd_sum(np.broadcast_to(product, total.shape)[at], np.broadcast_to(wide_c, total.shape)[at])
        return total.astype(np.float32)
    rounded = round_to(_odd_sum(product, wide_c), type_, direction)
    return _signed_zero(rounded, direction, product, wide_c)


def _wide(*values: Array) -> tuple[Array, ...]:
    return tuple(value.astype(np.float64) for value in values)


def _signed_zero(total: Array, direction: str, a: Array, b: Array) -> Array:
    """A sum that cancels exactly is -0 when rounding down, else +0."""
    if direction == "m":
        cancelled = (total == 0) & (a + b == 0) & (np.signbit(a) != np.signbit(b))
        return np.where(cancelled, -total.dtype.type(0), total)
    return total


# ---------------------------------------------------------------- float64


def _fma64(a: Array, b: Array, c: Array) -> Array:
    product = a * b
    size = np.abs(product)
    safe = (size >= 2.0**-960) & (size <= 2.0**1000) & (np.abs(c) <= 2.0**1000)
    if safe.all():
        return _fma64_safe(a, b, c, product)
    result = product + c  # right where the product is a true zero, and where an operand is not finite
    finite = np.isfinite(a) & np.isfinite(b)
    result = np.where(finite & np.isinf(c), c, result)
    result[safe] = _fma64_safe(a[safe], b[safe], c[safe], product[safe])
    hard = ~safe & finite & np.isfinite(c) & (a != 0) & (b != 0)
    if hard.any():
        result[hard] = _one_by_one(lambda x, y, z: x * y + z, "n", a[hard], b[hard], c[hard])
    return result


def _fma64_safe(a: Array, b: Array, c: Array, product: Array) -> Array:
    """Where no step over- or underflows."""
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    low, lower = _two_sum(c, rest)
    high, middle = _two_sum(product, low)
    return high + _odd_sum(lower, middle)


def _halves(values: Array) -> tuple[Array, Array]:
    """high + low, of 26 digits each."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    high = ((bits + np.uint64(1 << 26)) & ~np.uint64((1 << 27) - 1)).view(np.float64)
    return high, values - high


def _one_by_one(exact: Callable[..., Fraction], direction: str, *operands: Array) -> Array:
    """Elements in rational arithmetic; those that are not finite, and divisions by zero, as NumPy has them."""
    shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    columns = [np.broadcast_to(operand, shape).ravel().tolist() for operand in operands]
    results = np.empty(shape).ravel()
    for at, row in enumerate(zip(*columns, strict=True)):
        try:
            value = exact(*map(Fraction, row))
            # the sign of a zero: of what was rounded to it, or as floating point has it
            sign = float((value > 0) - (value < 0)) or float(exact(*map(np.float64, row)))
            results[at] = _rounded(value, direction) or np.copysign(0.0, sign)
        except (ValueError, OverflowError, ZeroDivisionError):  # of Fraction: not finite
            results[at] = exact(*map(np.float64, row))
    return results.reshape(shape)


def _rounded(value: Fraction, direction: str) -> float:
    """The nearest double, or the next one in a direction."""
    try:
        nearest = float(value)
    except OverflowError:
        nearest = inf if value > 0 else -inf
    if direction == "n":
        return nearest
    towards = {"m": -inf, "p": inf, "z": -inf if value > 0 else inf}[direction]
    too_far = not isfinite(nearest) or (Fraction(nearest) > value if towards < 0 else Fraction(nearest) < value)
    if too_far and (nearest != towards):
        return float(np.nextafter(nearest, towards))
    return nearest


def _directed_square_roots(a: Array, direction: str) -> Array:
    roots = np.sqrt(a)
    for at in np.ndindex(roots.shape):
        if isfinite(roots[at]) and roots[at] > 0:
            value = Fraction(float(a[at]))
            # the root with 200 digits more than a double has, and a last one that says whether there are others
            scaled = value * (1 << 2600)
            root = isqrt(scaled.numerator // scaled.denominator)
            sticky = Fraction(int(Fraction(root * root) != scaled), 2)
            roots[at] = _rounded((root + sticky) / (1 << 1300), direction)
    return roots


# ---------------------------------------------------------------- minimum, maximum, approximations


def extreme(a: Array, b: Array, largest: bool, keep_nan: bool) -> Array:
    """min or max: of a number and NaN the number, unless `keep_nan`; -0 is less than +0."""
    if keep_nan:
        chosen = np.maximum(a, b) if largest else np.minimum(a, b)
    else:
        chosen = np.fmax(a, b) if largest else np.fmin(a, b)
    zero = (a == 0) & (b == 0)
    if zero.any():
        negative = np.signbit(a) & np.signbit(b) if largest else np.signbit(a) | np.signbit(b)
        signed = np.where(negative, -chosen.dtype.type(0), chosen.dtype.type(0))
        chosen = np.where(zero, signed, chosen)
    return canonical(chosen)


def approximate(function: Callable[[Array], Array], values: Array, type_: Type) -> Array:
    """A function that hardware approximates: here it is the rounded result of the double precision one."""
    return round_to(function(values.astype(np.float64)), type_)


def coarse(function: Callable[[Array], Array], values: Array) -> Array:
    """`rcp` and `rsqrt.approx.ftz.f64`: from the high 32 bits of the argument, the high 32 bits of the result."""
    high = np.uint64(0xFFFFFFFF00000000)
    seen = (values.view(np.uint64) & high).view(np.float64)
    result = np.ascontiguousarray(function(_flush64(seen))).view(np.uint64)
    # infinity and NaN end in zeros
    return _flush64(((result + np.uint64(1 << 31)) & high).view(np.float64))


def _flush64(values: Array) -> Array:
    return np.where(np.abs(values) < 2.0**-1022, np.copysign(0.0, values), values)


# ---------------------------------------------------------------- conversions


def to_int(values: Array, source: Type, target: Type, direction: str) -> Array:
    """Floats as integers: rounded in a direction, then limited to what the target holds."""
    lowest, highest = limits(target)
    whole = to_integral(values.astype(np.float64), direction)
    with_limits = np.where(whole >= float(highest), 0, np.where(whole <= float(lowest), 0, whole))
    result = np.nan_to_num(with_limits).astype(target.dtype)
    result[whole >= float(highest)] = highest
    result[whole <= float(lowest)] = lowest
    # what PTX says NaN becomes
    wide = source.bits == 64 or target.bits == 64
    result[np.isnan(whole)] = np.array(1 << (target.bits - 1) if wide else 0, f"u{target.size}").view(target.dtype)
    return result


def limits(type_: Type) -> tuple[int, int]:
    """The least and the largest integer."""
    info = np.iinfo(type_.dtype)
    return int(info.min), int(info.max)


def from_int(values: Array, target: Type, direction: str) -> Array:
    """Integers as floats."""
    if direction == "n" and target.kind == "f" and target.bits > 16:
        return values.astype(target.dtype)
    if values.itemsize < 8:
        return round_to(values.astype(np.float64), target, direction)
    if target.bits == 64:
        rounded = [_rounded(Fraction(value), direction) for value in values.ravel().tolist()]
        return np.array(rounded, np.float64).reshape(values.shape)
    # 64 bits as a high part, with 21 zeros at its end, and the rest: their sum is rounded once
    low = values & values.dtype.type((1 << 21) - 1)
    return round_to(_odd_sum((values - low).astype(np.float64), low.astype(np.float64)), target, direction)


def convert(values: Array, source: Type, target: Type, direction: str) -> Array:
    """Floats as floats."""
    if target.bits > source.bits or (target.name == source.name):
        return values.astype(target.dtype)
    if target.name == "f32" and direction == "n":
        return values.astype(np.float32)
    if source.name == "f64" and target.bits == 16:
        return round_to(values, target, direction)
    return round_to(values.astype(np.float64), target, direction)
