"""Floating point operations against exact rational arithmetic, rounded by the definition of rounding."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor, inf, isfinite

import numpy as np
import pytest

from derive_triplet.derive.verify.ptx import arithmetic, types

# digits, exponents of the least and of the largest normal number
FORMATS = {"f16": (11, -14, 15), "bf16": (8, -126, 127), "f32": (24, -126, 127), "f64": (53, -1022, 1023)}
DIRECTIONS = "nzmp"


def rounded(value: Fraction, name: str, direction: str) -> float:
    """The definition: the neighbours of `value` in the format, and the one that the direction chooses."""
    digits, least, largest = FORMATS[name]
    if value == 0:
        return 0.0
    exponent = abs(value).numerator.bit_length() - abs(value).denominator.bit_length()
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - digits + 1)
    below = floor(value / unit)
    rest = value / unit - below
    up = {
        "m": False,
        "p": rest > 0,
        "z": value < 0 and rest > 0,
        "n": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2 == 1),
    }
    result = (below + up[direction]) * unit
    bound = (2 - Fraction(2) ** (1 - digits)) * Fraction(2) ** largest
    if abs(result) > bound:
        stays = direction == "z" or (direction == "m" and value > 0) or (direction == "p" and value < 0)
        return float(bound if stays else inf) * (1 if value > 0 else -1)
    return float(result)


def samples(name: str, count: int, seed: int) -> np.ndarray:
    """Numbers of the format: ordinary ones, short ones whose results are ties, very small and very large ones."""
    random = np.random.default_rng(seed)
    type_ = types.find(name)
    digits, least, largest = FORMATS[name]
    kinds = random.integers(0, 4, count)
    short = random.integers(-32, 33, count) / 16.0
    exponents = random.integers(least - digits, largest, count)
    wide = np.ldexp(random.uniform(1, 2, count), exponents)
    near = 1 + random.integers(-3, 4, count) * 2.0 ** -(digits - 1)
    values = np.choose(kinds, [random.normal(size=count), short, wide, near]) * random.choice([-1, 1], count)
    return arithmetic.round_to(values.astype(np.float64), type_)


OPERATIONS: dict[str, tuple[int, Callable[..., Fraction], Callable[..., np.ndarray]]] = {
    "add": (2, lambda a, b: a + b, arithmetic.add),
    "multiply": (2, lambda a, b: a * b, arithmetic.multiply),
    "divide": (2, lambda a, b: a / b, arithmetic.divide),
    "fma": (3, lambda a, b, c: a * b + c, arithmetic.fma),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", FORMATS)
def test_operations_are_rounded_once(name: str, operation: str, direction: str) -> None:
    count, exact, function = OPERATIONS[operation]
    columns = [samples(name, 300, seed) for seed in range(count)]
    if operation == "fma":  # cancellation, to the last digits of the product
        with np.errstate(all="ignore"):
            columns[2][::3] = -(columns[0] * columns[1])[::3]
        if name == "bf16":
            columns[2] = arithmetic.round_to(columns[2].astype(np.float64), types.find(name))
    with np.errstate(all="ignore"):
        found = function(*columns, types.find(name), direction)
    for row, value in zip(zip(*(column.tolist() for column in columns), strict=True), found.tolist(), strict=True):
        if all(map(isfinite, row)) and not (operation == "divide" and row[1] == 0):
            assert value == rounded(exact(*map(Fraction, row)), name, direction), row


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
def test_square_roots_are_rounded_once(name: str, direction: str) -> None:
    values = np.abs(samples(name, 200, 7))
    with np.errstate(all="ignore"):
        squares = arithmetic.round_to((values * values).astype(np.float64), types.find(name))
        values[::2] = squares[::2]  # roots that are exact
        found = arithmetic.square_root(values, types.find(name), direction)
    for value, root in zip(values.tolist(), found.tolist(), strict=True):
        if not isfinite(value) or value == 0:
            continue
        # the root lies between the results of rounding a little less and a little more
        one, square = Fraction(root), Fraction(value)
        unit = Fraction(2) ** (int(np.frexp(root)[1]) - FORMATS[name][0])
        below, above = (one - unit / 2) ** 2, (one + unit / 2) ** 2
        limits = {"n": below <= square <= above, "z": one**2 <= square < (one + unit) ** 2}
        limits["m"], limits["p"] = limits["z"], (one - unit) ** 2 < square <= one**2
        assert limits[direction], (value, root)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["f16", "bf16", "f32"])
def test_conversions_are_rounded_once(name: str, direction: str) -> None:
    target, values = types.find(name), samples("f64", 1000, 3)
    with np.errstate(all="ignore"):
        values = np.concatenate([values, samples(name, 300, 4) * (1 + 2.0 ** -FORMATS[name][0])])
        found = arithmetic.convert(values, types.find("f64"), target, direction)
    for value, result in zip(values.tolist(), found.tolist(), strict=True):
        if isfinite(value):
            assert result == rounded(Fraction(value), name, direction), value


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", ["s32", "u64", "s64"])
def test_integers_are_rounded_once(source: str, name: str, direction: str) -> None:
    random = np.random.default_rng(5)
    dtype = types.find(source).dtype
    lowest, highest = (int(limit) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    near = [2**k + d for k in (24, 25, 53, 54, 62, 63) for d in range(-3, 4)]
    values = [
        lowest,
        highest,
        0,
        *near,
        *(-n for n in near),
        *random.integers(lowest, highest, 300, dtype=dtype).tolist(),
    ]
    kept = [value for value in values if lowest <= value <= highest]
    with np.errstate(all="ignore"):
        found = arithmetic.from_int(np.array(kept, dtype), types.find(name), direction)
    for value, result in zip(kept, found.tolist(), strict=True):
        assert result == rounded(Fraction(value), name, direction), value
