"""The float formats: their limits, and rounding to nearest, ties to even."""

from __future__ import annotations

import numpy as np
import pytest

from derive_triplet.derive.formats import FORMATS, FloatFormat, from_bits, to_bits

IN_NUMPY = ("float16", "float32", "float64")


@pytest.mark.parametrize("name", IN_NUMPY)
def test_limits_are_those_of_numpy(name: str) -> None:
    info, found = np.finfo(name), FORMATS[name]
    assert (found.eps, found.tiny, found.smallest_subnormal, found.largest) == (
        float(info.eps),
        float(info.tiny),
        float(info.smallest_subnormal),
        float(info.max),
    )
    assert found.dtype == np.dtype(name)


def test_limits_of_bfloat16() -> None:
    """A float32 of which 7 bits of the fraction are left."""
    found = FORMATS["bfloat16"]
    assert found.eps == 1 / 128
    assert found.tiny == float(np.finfo("float32").tiny)
    assert found.smallest_subnormal == 2.0**-133
    assert found.largest == 3.3895313892515355e38  # 0x7f7f
    assert found.dtype == np.dtype("float32")


def test_a_format_is_computed_in_itself_or_in_one_that_holds_it() -> None:
    assert {name: found.computed_in for name, found in FORMATS.items()} == {
        "float32": "float32",
        "float64": "float64",
        "float16": "float32",
        "bfloat16": "float32",
    }
    for found in FORMATS.values():
        computed = FORMATS[found.computed_in]
        assert computed.precision >= found.precision
        assert computed.largest >= found.largest
        assert computed.smallest_subnormal <= found.smallest_subnormal


@pytest.mark.parametrize(
    "format_", [FORMATS[name] for name in ("float16", "float32", "bfloat16")], ids=lambda f: f.name
)
def test_numbers_are_rounded_to_nearest_and_ties_to_even(format_: FloatFormat) -> None:
    eps, least = format_.eps, format_.smallest_subnormal
    given = [
        1 + eps / 2,
        1 + 1.5 * eps,
        1 + 0.49 * eps,
        1 + 0.51 * eps,
        -1 - eps / 2,
        least / 2,
        1.5 * least,
        0.51 * least,
    ]
    wanted = [1, 1 + 2 * eps, 1, 1 + eps, -1, 0, 2 * least, least]
    found = format_.rounded(np.array(given, "float32" if format_.name == "bfloat16" else "float64"))
    assert found.dtype == format_.dtype
    assert found.tolist() == wanted


@pytest.mark.parametrize("name", ["float16", "float32", "bfloat16"])
def test_what_is_half_a_unit_above_the_largest_becomes_infinite(name: str) -> None:
    largest, half = FORMATS[name].largest, FORMATS[name].eps / 2 * 2.0 ** FORMATS[name].largest_exponent
    found = FORMATS[name].rounded([largest, largest + 0.99 * half, largest + half, -largest - half, -np.inf, np.nan])
    assert found[:5].tolist() == [largest, largest, np.inf, -np.inf, -np.inf]
    assert np.isnan(found[5])
    assert np.signbit(FORMATS[name].rounded([-0.0]))[0]


def test_every_bfloat16_is_a_float32_and_comes_back() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = from_bits(bits)
    nan = np.isnan(values)
    assert np.count_nonzero(nan) == 2 * (2**7 - 1)
    np.testing.assert_array_equal(to_bits(values)[~nan], bits[~nan])
    assert np.isnan(from_bits(to_bits(values[nan]))).all()
    known = {0x3F80: 1.0, 0xC000: -2.0, 0x3EAB: 0.333984375, 0x7F80: np.inf, 0x0001: 2.0**-133, 0x4049: 3.140625}
    assert {int(b): float(v) for b, v in zip(bits, values, strict=True) if int(b) in known} == known


def test_the_nearest_bfloat16_is_chosen_by_its_distance() -> None:
    """Against the two neighbours, without any arithmetic on bits."""
    random = np.random.default_rng(0)
    given = (random.uniform(-2, 2, 2_000) * 2.0 ** random.integers(-100, 100, 2_000)).astype(np.float32)
    found = from_bits(to_bits(given)).astype(np.float64)
    numbers = np.sort(from_bits(np.arange(1 << 16, dtype=np.uint16)))
    numbers = numbers[np.isfinite(numbers)].astype(np.float64)
    above = np.searchsorted(numbers, given)
    least = np.minimum(numbers[above] - given, given - numbers[above - 1])
    np.testing.assert_array_equal(np.abs(found - given), least)
