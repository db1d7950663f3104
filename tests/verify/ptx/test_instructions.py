"""Each instruction, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from derive_triplet.derive.verify import ptx
from derive_triplet.derive.verify.ptx.instructions import TABLE

F16, F32, F64 = np.float16, np.float32, np.float64
U8, U16, U32, U64 = np.uint8, np.uint16, np.uint32, np.uint64
S8, S16, S32, S64 = np.int8, np.int16, np.int32, np.int64
INF, NAN = float("inf"), float("nan")
GPU_NAN = 0x7FFFFFFF
Case = tuple[str, Any, tuple[Any, ...], list[Any]]


def p(exponent: int) -> float:
    return 2.0**exponent


def case(body: str, out: Any, expected: Any, *sources: tuple[Any, list[Any]]) -> Any:
    return pytest.param(body, out, sources, expected, id=body)


FLOATS = [
    case("add.f32 %o, %a, %b;", F32, [1, 1 + p(-22)], (F32, [1, 1 + p(-23)]), (F32, [p(-24), p(-24)])),
    case("add.rz.f32 %o, %a, %b;", F32, [1, 1 - p(-24)], (F32, [1, 1]), (F32, [p(-24), -p(-30)])),
    case("add.rm.f32 %o, %a, %b;", F32, [1, 1 - p(-24), -0.0], (F32, [1, 1, 1]), (F32, [p(-24), -p(-80), -1])),
    case("add.rp.f32 %o, %a, %b;", F32, [1 + p(-23), 1, 0.0], (F32, [1, 1, 1]), (F32, [p(-80), -p(-30), -1])),
    case("add.rp.f32 %o, %a, %b;", F32, [INF, -3.4028234663852886e38], (F32, [3.4e38, -3.4e38]), (F32, [3e38, -3e38])),
    case("add.ftz.f32 %o, %a, %b;", F32, [0.0, -0.0], (F32, [p(-128), -p(-140)]), (F32, [p(-128), -0.0])),
    case("add.ftz.f32 %o, %a, %b;", F32, [-0.0], (F32, [p(-126)]), (F32, [-p(-126) - p(-149)])),
    case("add.f32 %o, %a, %b;", F32, [p(-127)], (F32, [p(-128)]), (F32, [p(-128)])),
    case(
        "add.sat.f32 %o, %a, %b;", F32, [1, 0.0, 0.0, 0.5], (F32, [0.75, -1, INF, 0.25]), (F32, [0.75, 0.5, -INF, 0.25])
    ),
    case("sub.f32 %o, %a, %b;", F32, [0.0, 0.5], (F32, [1, 1]), (F32, [1, 0.5])),
    case("sub.rm.f32 %o, %a, %b;", F32, [-0.0], (F32, [1]), (F32, [1])),
    case("sub.f32 %o, %a, %b;", U32, [GPU_NAN], (F32, [INF]), (F32, [INF])),
    case("mul.f32 %o, %a, %b;", F32, [p(-149), -0.0], (F32, [p(-100), p(-100)]), (F32, [p(-49), -p(-60)])),
    case("mul.ftz.f32 %o, %a, %b;", F32, [0.0], (F32, [p(-100)]), (F32, [p(-49)])),
    case("mul.rz.f32 %o, %a, %b;", F32, [1 + p(-22)], (F32, [1 + p(-23)]), (F32, [1 + p(-23)])),
    case(
        "mul.rp.f32 %o, %a, %b;",
        F32,
        [1 + p(-22) + p(-23), p(-149)],
        (F32, [1 + p(-23), p(-100)]),
        (F32, [1 + p(-23), p(-100)]),
    ),
    case("mul.rm.f32 %o, %a, %b;", F32, [0.0, -p(-149)], (F32, [p(-100), p(-100)]), (F32, [p(-100), -p(-100)])),
    # with two roundings the next one is 0
    case("fma.rn.f32 %o, %a, %b, %c;", F32, [p(-24)], (F32, [1 + p(-12)]), (F32, [1 + p(-12)]), (F32, [-1 - p(-11)])),
    # 24929 * 673 = 2^24 + 1, the middle between two floats; in float64 the third operand is lost
    case(
        "fma.rn.f32 %o, %a, %b, %c;",
        F32,
        [1, 1 + p(-23), 1],
        (F32, [24929] * 3),
        (F32, [673 * p(-24)] * 3),
        (F32, [0, p(-100), -p(-100)]),
    ),
    case("fma.rz.f32 %o, %a, %b, %c;", F32, [1 + p(-22)], (F32, [1 + p(-23)]), (F32, [1 + p(-23)]), (F32, [p(-149)])),
    case("fma.rm.f32 %o, %a, %b, %c;", F32, [1 - p(-24), -0.0], (F32, [1, 1]), (F32, [1, 1]), (F32, [-p(-149), -1])),
    case("fma.rp.f32 %o, %a, %b, %c;", F32, [1 + p(-23), 0.0], (F32, [1, 1]), (F32, [1, 1]), (F32, [p(-149), -1])),
    case(
        "fma.rn.ftz.f32 %o, %a, %b, %c;",
        F32,
        [1, 0.0],
        (F32, [p(-130), p(-70)]),
        (F32, [p(100), p(-70)]),
        (F32, [1, 0]),
    ),
    case("fma.rn.sat.f32 %o, %a, %b, %c;", F32, [1, 0.0], (F32, [2, NAN]), (F32, [2, 1]), (F32, [0, 0])),
    case(
        "fma.rn.f32 %o, %a, %b, %c;",
        F32,
        [-INF, p(127)],
        (F32, [p(127), p(127)]),
        (F32, [2, 2]),
        (F32, [-INF, -p(127)]),
    ),
    case("mad.rn.f32 %o, %a, %b, %c;", F32, [7], (F32, [2]), (F32, [3]), (F32, [1])),
    case("add.f64 %o, %a, %b;", F64, [1], (F64, [1]), (F64, [p(-53)])),
    case("add.rp.f64 %o, %a, %b;", F64, [1 + p(-52), INF], (F64, [1, 1.7e308]), (F64, [p(-53), 1.7e308])),
    case("add.rz.f64 %o, %a, %b;", F64, [1 - p(-53)], (F64, [1]), (F64, [-p(-80)])),
    case("sub.rm.f64 %o, %a, %b;", F64, [1 - p(-53)], (F64, [1]), (F64, [p(-80)])),
    case(
        "mul.rm.f64 %o, %a, %b;",
        F64,
        [1 + p(-51), -p(-1074)],
        (F64, [1 + p(-52), p(-600)]),
        (F64, [1 + p(-52), -p(-600)]),
    ),
    case("fma.rn.f64 %o, %a, %b, %c;", F64, [p(-60)], (F64, [1 + p(-30)]), (F64, [1 + p(-30)]), (F64, [-1 - p(-29)])),
    # 321 * 28059810762433 = 2^53 + 1
    case(
        "fma.rn.f64 %o, %a, %b, %c;",
        F64,
        [1, 1 + p(-52), 1],
        (F64, [321] * 3),
        (F64, [28059810762433 * p(-53)] * 3),
        (F64, [0, p(-200), -p(-200)]),
    ),
    # products that over- and underflow
    case(
        "fma.rn.f64 %o, %a, %b, %c;",
        F64,
        [p(1023), p(-1074), -INF, -0.0],
        (F64, [p(600), p(-600), p(600), p(-1074)]),
        (F64, [p(424), p(-474), p(600), -p(-1074)]),
        (F64, [-p(1023), 0, -INF, -0.0]),
    ),
    case("fma.rp.f64 %o, %a, %b, %c;", F64, [1 + p(-52)], (F64, [1]), (F64, [1]), (F64, [p(-1074)])),
    case("fma.rm.f64 %o, %a, %b, %c;", F64, [-0.0], (F64, [1]), (F64, [1]), (F64, [-1])),
    case("div.rn.f32 %o, %a, %b;", F32, [1 / 3, INF, -INF], (F32, [1, 1, 1]), (F32, [3, 0, -0.0])),
    case("div.rz.f32 %o, %a, %b;", F32, [11184810 * p(-24)], (F32, [2]), (F32, [3])),
    case("div.full.f32 %o, %a, %b;", F32, [3.5], (F32, [7]), (F32, [2])),
    case("div.approx.f32 %o, %a, %b;", F32, [3.5, 0, NAN], (F32, [7, p(127), INF]), (F32, [2, p(127), p(127)])),
    case("div.rn.f64 %o, %a, %b;", F64, [1 / 3], (F64, [1]), (F64, [3])),
    case("div.rp.f64 %o, %a, %b;", F64, [np.nextafter(1 / 3, 1)], (F64, [1]), (F64, [3])),
    case("sqrt.rn.f32 %o, %a;", F32, [3, float.fromhex("0x1.6a09e6p0")], (F32, [9, 2])),
    case("sqrt.rp.f32 %o, %a;", F32, [float.fromhex("0x1.6a09e8p0")], (F32, [2])),
    case("sqrt.rn.f32 %o, %a;", U32, [GPU_NAN, 0x80000000], (F32, [-1, -0.0])),
    case("sqrt.approx.ftz.f32 %o, %a;", F32, [0.0, 2], (F32, [p(-140), 4])),
    case("sqrt.rn.f64 %o, %a;", F64, [2**0.5], (F64, [2])),
    case("sqrt.rp.f64 %o, %a;", F64, [2**0.5, np.nextafter(3**0.5, 2), 2], (F64, [2, 3, 4])),
    case("sqrt.rz.f64 %o, %a;", F64, [np.nextafter(2**0.5, 1), 3**0.5], (F64, [2, 3])),
    case("rcp.rn.f32 %o, %a;", F32, [0.25, INF, -INF], (F32, [4, 0.0, -0.0])),
    case("rcp.rm.f32 %o, %a;", F32, [11184810 * p(-25)], (F32, [3])),
    case("rcp.approx.ftz.f32 %o, %a;", F32, [INF, 0.5], (F32, [p(-130), 2])),
    case("rcp.rn.f64 %o, %a;", F64, [1 / 3], (F64, [3])),
    case("rcp.approx.ftz.f64 %o, %a;", F64, [0.5, INF, -0.0], (F64, [2, p(-1050), -INF])),
    case("rcp.approx.ftz.f64 %o, %a;", U64, [0x3FD5555500000000], (F64, [3])),
    case("rsqrt.approx.f32 %o, %a;", F32, [0.5, INF], (F32, [4, 0])),
    case("rsqrt.approx.f64 %o, %a;", F64, [0.25], (F64, [16])),
    case("ex2.approx.f32 %o, %a;", F32, [8, p(-149), 0, 0, INF], (F32, [3, -149, -151, -INF, 128])),
    case("ex2.approx.ftz.f32 %o, %a;", F32, [0.0, p(-126)], (F32, [-127, -126])),
    case("ex2.approx.ftz.bf16 %o, %a;", U16, [0x4080], (U16, [0x4000])),
    case("ex2.approx.f16 %o, %a;", F16, [8], (F16, [3])),
    case("lg2.approx.f32 %o, %a;", F32, [3, -INF, NAN, -140], (F32, [8, 0, -1, p(-140)])),
    case("lg2.approx.ftz.f32 %o, %a;", F32, [-INF], (F32, [p(-140)])),
    case("sin.approx.f32 %o, %a;", F32, [0], (F32, [0])),
    case("cos.approx.f32 %o, %a;", F32, [1], (F32, [0])),
    case("tanh.approx.f32 %o, %a;", F32, [0, 1, -1], (F32, [0, 40, -INF])),
    case("abs.f32 %o, %a;", F32, [1, 0.0, INF], (F32, [-1, -0.0, -INF])),
    case("abs.ftz.f32 %o, %a;", F32, [0.0], (F32, [-p(-130)])),
    case("neg.f32 %o, %a;", F32, [1, -0.0], (F32, [-1, 0.0])),
    case("neg.f64 %o, %a;", F64, [-0.0], (F64, [0.0])),
    case("copysign.f32 %o, %a, %b;", F32, [-2, 2], (F32, [-0.0, 1]), (F32, [2, -2])),
    case(
        "min.f32 %o, %a, %b;", F32, [1, 1, -0.0, -0.0, 1], (F32, [NAN, 1, 0.0, -0.0, 1]), (F32, [1, NAN, -0.0, 0.0, 2])
    ),
    case("max.f32 %o, %a, %b;", F32, [1, 0.0, 0.0, 2], (F32, [NAN, 0.0, -0.0, 1]), (F32, [1, -0.0, 0.0, 2])),
    case("min.f32 %o, %a, %b;", U32, [GPU_NAN], (F32, [-NAN]), (F32, [NAN])),
    case("max.NaN.f32 %o, %a, %b;", U32, [GPU_NAN, 0x3F800000], (F32, [NAN, 1]), (F32, [1, 0])),
    case("max.ftz.f32 %o, %a, %b;", F32, [0.0], (F32, [p(-130)]), (F32, [-1])),
    case("max.f64 %o, %a, %b;", F64, [2, 1], (F64, [1, NAN]), (F64, [2, 1])),
]

HALVES = [
    case("add.f16 %o, %a, %b;", F16, [1, INF], (F16, [1, 65504]), (F16, [p(-11), 65504])),
    case("sub.rn.f16 %o, %a, %b;", F16, [p(-24)], (F16, [p(-14)]), (F16, [p(-14) - p(-24)])),
    case("mul.f16 %o, %a, %b;", F16, [p(-24)], (F16, [p(-12)]), (F16, [p(-12)])),
    case("fma.rn.f16 %o, %a, %b, %c;", F16, [p(-12)], (F16, [1 + p(-6)]), (F16, [1 + p(-6)]), (F16, [-1 - p(-5)])),
    case("fma.rn.relu.f16 %o, %a, %b, %c;", F16, [0.0, 3], (F16, [1, 1]), (F16, [-1, 1]), (F16, [0, 2])),
    case("max.f16 %o, %a, %b;", F16, [2], (F16, [NAN]), (F16, [2])),
    case("neg.f16 %o, %a;", F16, [-2], (F16, [2])),
    # 1 = 0x3f80, 1 + 2^-7 = 0x3f81 in bfloat16; the tie goes to the even one
    case("add.rn.bf16 %o, %a, %b;", U16, [0x3F80, 0x3F82], (U16, [0x3F80, 0x3F81]), (U16, [0x3B80, 0x3B80])),
    case("fma.rn.bf16 %o, %a, %b, %c;", U16, [0x4040], (U16, [0x3F80]), (U16, [0x3F80]), (U16, [0x4000])),
    case("sub.f16x2 %o, %a, %b;", U32, [0xBC00_0000], (U32, [0x3C00_3C00]), (U32, [0x4000_3C00])),
    case(
        "fma.rn.f16x2 %o, %a, %b, %c;",
        U32,
        [0x4200_4000],
        (U32, [0x4000_3C00]),
        (U32, [0x3C00_3C00]),
        (U32, [0x3C00_3C00]),
    ),
    case("mul.bf16x2 %o, %a, %b;", U32, [0x4080_3F80], (U32, [0x4000_3F80]), (U32, [0x4000_3F80])),
    # (1 + 9/128)^2 is 1 + 18.6/128, of which 8 digits hold 1 + 19/128
    case("mul.bf16x2 %o, %a, %b;", U32, [0x3F93_3F80, 0x3F80_3F93], *2 * [(U32, [0x3F89_3F80, 0x3F80_3F89])]),
    case("ex2.approx.ftz.bf16x2 %o, %a;", U32, [0x4080_3F80], (U32, [0x4000_0000])),
    case("max.bf16x2 %o, %a, %b;", U32, [0x4000_3F80], (U32, [0x4000_BF80]), (U32, [0x3F80_3F80])),
    case("set.eq.f16.f16 %o, %a, %b;", F16, [1, 0], (F16, [2, 2]), (F16, [2, 3])),
    case(
        "setp.gt.f16x2 %p|%q, %a, %b; selp.u32 %r1, 1, 0, %p; selp.u32 %o, 2, %r1, %q;",
        U32,
        [2, 1],
        (U32, [0x4000_0000, 0x4000]),
        (U32, [0, 0]),
    ),
    case(
        "cvt.rn.f16.f32 %o, %a;",
        F16,
        [65504, INF, p(-24), 0, 1],
        (F32, [65519, 65520, p(-25) * 1.5, p(-25), 1 + p(-11)]),
    ),
    case("cvt.rz.f16.f32 %o, %a;", F16, [65504, 65504, -1], (F32, [65519, 1e30, -1 - p(-12)])),
    case("cvt.rp.f16.f32 %o, %a;", F16, [p(-24), INF, -65504], (F32, [p(-140), 65505, -1e9])),
    case("cvt.rn.sat.f16.f32 %o, %a;", F16, [1, 0.0], (F32, [7, NAN])),
    case("cvt.f32.f16 %o, %a;", F32, [p(-24), INF, -2], (F16, [p(-24), INF, -2])),
    case("cvt.rn.f16.f64 %o, %a;", F16, [1 + p(-10)], (F64, [1 + p(-11) + p(-50)])),
    case(
        "cvt.rn.bf16.f32 %o, %a;",
        U16,
        [0x3F80, 0x3F82, 0x7F80, 0x7FFF, 0x3F81],
        (F32, [1 + p(-8), 1 + p(-7) + p(-8), 3.4e38, NAN, 1 + p(-8) + p(-20)]),
    ),
    case("cvt.rz.bf16.f32 %o, %a;", U16, [0x3F80, 0x7F7F], (F32, [1 + p(-7) - p(-23), 3.4e38])),
    case("cvt.rn.relu.bf16.f32 %o, %a;", U16, [0], (F32, [-3])),
    case("cvt.f32.bf16 %o, %a;", F32, [1, -2], (U16, [0x3F80, 0xC000])),
    case("cvt.rn.bf16x2.f32 %o, %a, %b;", U32, [0x3F80_4000], (F32, [1]), (F32, [2])),
    case("cvt.rn.f16x2.f32 %o, %a, %b;", U32, [0x3C00_C000], (F32, [1]), (F32, [-2])),
]

CONVERSIONS = [
    case("cvt.rni.s32.f32 %o, %a;", S32, [2, 4, -2], (F32, [2.5, 3.5, -2.5])),
    case("cvt.rzi.s32.f32 %o, %a;", S32, [-1, 2**31 - 1, -(2**31), 0, 2**31 - 1], (F32, [-1.7, 3e9, -3e9, NAN, INF])),
    case("cvt.rmi.s32.f32 %o, %a;", S32, [-2], (F32, [-1.5])),
    case("cvt.rpi.s32.f32 %o, %a;", S32, [-1], (F32, [-1.5])),
    case("cvt.rzi.u32.f32 %o, %a;", U32, [0, 0xFFFFFFFF, 0], (F32, [-1, 5e9, NAN])),
    case("cvt.rzi.s64.f32 %o, %a;", U64, [1 << 63, 2**63 - 1], (F32, [NAN, 1e30])),
    case("cvt.rzi.s32.f64 %o, %a;", U32, [0x80000000, 2**31 - 1], (F64, [NAN, 2147483647.9])),
    case("cvt.rzi.u64.f64 %o, %a;", U64, [1 << 63, 2**64 - 1, 0, 2**63], (F64, [NAN, 1e30, -5, p(63)])),
    case("cvt.rzi.u8.f32 %r1, %a; cvt.u32.u8 %o, %r1;", U32, [255, 0, 7], (F32, [300, -4, 7.9])),
    case("cvt.rzi.ftz.s32.f32 %o, %a;", S32, [0], (F32, [p(-130)])),
    case("cvt.rn.f32.s32 %o, %a;", F32, [2**24, 2**24 + 4], (S32, [2**24 + 1, 2**24 + 3])),
    case("cvt.rz.f32.s32 %o, %a;", F32, [2**24 + 2], (S32, [2**24 + 3])),
    case("cvt.rp.f32.s32 %o, %a;", F32, [2**24 + 2], (S32, [2**24 + 1])),
    case("cvt.rn.f32.u64 %o, %a;", F32, [p(64), p(63)], (U64, [2**64 - 1, 2**63 + 2**38])),
    case("cvt.rz.f32.u64 %o, %a;", F32, [p(64) - p(40)], (U64, [2**64 - 1])),
    case("cvt.rm.f32.s64 %o, %a;", F32, [-p(24) - 2], (S64, [-(2**24) - 1])),
    case("cvt.rn.f64.s64 %o, %a;", F64, [p(53)], (S64, [2**53 + 1])),
    case("cvt.rp.f64.s64 %o, %a;", F64, [p(53) + 2], (S64, [2**53 + 1])),
    case("cvt.rn.f16.s32 %o, %a;", F16, [2048, INF], (S32, [2049, 70000])),
    case("cvt.rn.f32.f64 %o, %a;", F32, [1, INF], (F64, [1 + p(-24), 1e300])),
    case("cvt.rp.f32.f64 %o, %a;", F32, [1 + p(-23), p(-149)], (F64, [1 + p(-40), 1e-300])),
    case("cvt.rz.f32.f64 %o, %a;", F32, [float.fromhex("0x1.fffffep127")], (F64, [1e300])),
    case("cvt.f64.f32 %o, %a;", F64, [p(-149)], (F32, [p(-149)])),
    case("cvt.ftz.f64.f32 %o, %a;", F64, [0.0], (F32, [p(-149)])),
    case("cvt.sat.f32.f32 %o, %a;", F32, [1, 0.0, 0.0, 0.5], (F32, [2, -1, NAN, 0.5])),
    case("cvt.rni.f32.f32 %o, %a;", F32, [2, -0.0], (F32, [2.5, -0.25])),
    case("cvt.rmi.f32.f32 %o, %a;", F32, [-3], (F32, [-2.5])),
    case("cvt.rpi.f64.f64 %o, %a;", F64, [3], (F64, [2.25])),
    case("cvt.u32.u64 %o, %a;", U32, [5], (U64, [2**32 + 5])),
    case("cvt.s64.s32 %o, %a;", S64, [-1], (S32, [-1])),
    case("cvt.u64.u32 %o, %a;", U64, [2**32 - 1], (S32, [-1])),
    case("cvt.s32.s8 %o, %a;", S32, [-1, -128, 127], (U16, [0xFF, 0x1280, 0x7F])),
    case("cvt.u32.u8 %o, %a;", U32, [0xFF], (U16, [0x12FF])),
    case("cvt.s16.s8 %o, %a;", S16, [-1], (U16, [0xFF])),
    case("cvt.sat.u8.s32 %r1, %a; cvt.u32.u32 %o, %r1;", U32, [255, 0], (S32, [300, -5])),
    case("cvt.sat.s32.u32 %o, %a;", S32, [2**31 - 1], (U32, [2**31])),
    case("cvt.sat.u32.s64 %o, %a;", U32, [2**32 - 1, 0], (S64, [2**40, -1])),
]

INTEGERS = [
    case("add.s32 %o, %a, %b;", S32, [-(2**31)], (S32, [2**31 - 1]), (S32, [1])),
    case("add.sat.s32 %o, %a, %b;", S32, [2**31 - 1, -(2**31)], (S32, [2**31 - 1, -(2**31)]), (S32, [1, -1])),
    case("sub.sat.s32 %o, %a, %b;", S32, [-(2**31)], (S32, [-(2**31)]), (S32, [1])),
    case("sub.u64 %o, %a, %b;", U64, [2**64 - 1], (U64, [0]), (U64, [1])),
    case("add.s16 %o, %a, %b;", S16, [-(2**15)], (S16, [2**15 - 1]), (S16, [1])),
    case("add.u16x2 %o, %a, %b;", U32, [0x0002_0000], (U32, [0x0001_FFFF]), (U32, [0x0001_0001])),
    case("mul.lo.s32 %o, %a, %b;", S32, [-6, 0], (S32, [2, 2**16]), (S32, [-3, 2**16])),
    case("mul.hi.s32 %o, %a, %b;", S32, [-1, 1], (S32, [2, 2**16]), (S32, [-3, 2**16])),
    case("mul.hi.u32 %o, %a, %b;", U32, [2**32 - 2], (U32, [2**32 - 1]), (U32, [2**32 - 1])),
    case("mul.hi.u64 %o, %a, %b;", U64, [2**64 - 2, 1], (U64, [2**64 - 1, 2**33]), (U64, [2**64 - 1, 2**31])),
    case("mul.hi.s64 %o, %a, %b;", S64, [0, -1, -(2**62)], (S64, [-1, -1, -(2**63)]), (S64, [-1, 5, 2**63 - 1])),
    case("mul.wide.s32 %o, %a, %b;", S64, [-(2**32)], (S32, [-(2**31)]), (S32, [2])),
    case("mul.wide.u32 %o, %a, %b;", U64, [(2**32 - 1) ** 2], (U32, [2**32 - 1]), (U32, [2**32 - 1])),
    case("mul.wide.u16 %o, %a, %b;", U32, [65535**2], (U16, [65535]), (U16, [65535])),
    case("mad.lo.s32 %o, %a, %b, %c;", S32, [-5], (S32, [2]), (S32, [-3]), (S32, [1])),
    case("mad.hi.u32 %o, %a, %b, %c;", U32, [8], (U32, [2**31]), (U32, [2]), (U32, [7])),
    case("mad.wide.s32 %o, %a, %b, %c;", S64, [-(2**32) + 1], (S32, [-(2**31)]), (S32, [2]), (S64, [1])),
    case("mad.lo.s64 %o, %a, %b, %c;", S64, [7], (S64, [2]), (S64, [3]), (S64, [1])),
    case("mul24.lo.s32 %o, %a, %b;", S32, [-2], (U32, [0x12FFFFFF]), (S32, [2])),
    case("mul24.hi.u32 %o, %a, %b;", U32, [1 << 16], (U32, [1 << 16]), (U32, [1 << 16])),
    case("mad24.lo.u32 %o, %a, %b, %c;", U32, [7], (U32, [0xFF000002]), (U32, [3]), (U32, [1])),
    case("sad.s32 %o, %a, %b, %c;", S32, [15, 15], (S32, [-3, 2]), (S32, [2, -3]), (S32, [10, 10])),
    case("div.s32 %o, %a, %b;", S32, [-3, 3, -1], (S32, [-7, 7, 5]), (S32, [2, 2, 0])),
    case("rem.s32 %o, %a, %b;", S32, [-1, 1, 5], (S32, [-7, 7, 5]), (S32, [2, -2, 0])),
    case("div.u64 %o, %a, %b;", U64, [2**63 - 1, 2**64 - 1], (U64, [2**64 - 1, 3]), (U64, [2, 0])),
    case("rem.u32 %o, %a, %b;", U32, [3], (U32, [2**32 - 1]), (U32, [4])),
    case("abs.s32 %o, %a;", S32, [3, -(2**31)], (S32, [-3, -(2**31)])),
    case("neg.s64 %o, %a;", S64, [-3], (S64, [3])),
    case("min.s32 %o, %a, %b;", S32, [-1], (S32, [-1]), (S32, [1])),
    case("min.u32 %o, %a, %b;", U32, [1], (S32, [-1]), (U32, [1])),
    case("max.s64 %o, %a, %b;", S64, [1], (S64, [-1]), (S64, [1])),
    case("max.s16x2 %o, %a, %b;", U32, [0x0001_FFFF], (U32, [0x0001_FFFE]), (U32, [0xFFFF_FFFF])),
    case("max.u64 %o, %a, %b;", S64, [-1], (S64, [-1]), (S64, [1])),
]

BITS = [
    case("and.b32 %o, %a, %b;", U32, [0b1000], (U32, [0b1100]), (U32, [0b1010])),
    case("or.b64 %o, %a, %b;", U64, [0b1110], (U64, [0b1100]), (U64, [0b1010])),
    case("xor.b32 %o, %a, %b;", U32, [0b0110], (U32, [0b1100]), (U32, [0b1010])),
    case("not.b16 %o, %a;", U16, [0xFFFE], (U16, [1])),
    case("cnot.b32 %o, %a;", U32, [1, 0], (U32, [0, 9])),
    case("shl.b32 %o, %a, %b;", U32, [8, 0, 0], (U32, [1, 1, 1]), (U32, [3, 32, 2**31])),
    case("shr.u32 %o, %a, %b;", U32, [1, 0], (U32, [2**31, 2**31]), (U32, [31, 32])),
    case("shr.s32 %o, %a, %b;", S32, [-1, -1, 3], (S32, [-8, -8, 7]), (U32, [3, 40, 1])),
    case("shl.b64 %o, %a, %b;", U64, [2**63, 0], (U64, [1, 1]), (U32, [63, 64])),
    case("shr.s64 %o, %a, %b;", S64, [-1], (S64, [-5]), (U32, [64])),
    case("shf.l.wrap.b32 %o, %a, %b, %c;", U32, [0x23, 2], (U32, [0x30000000, 1]), (U32, [2, 2]), (U32, [4, 32])),
    case("shf.l.clamp.b32 %o, %a, %b, %c;", U32, [1], (U32, [1]), (U32, [2]), (U32, [40])),
    case("shf.r.wrap.b32 %o, %a, %b, %c;", U32, [0x2000_0000], (U32, [3]), (U32, [2]), (U32, [4])),
    case("shf.r.clamp.b32 %o, %a, %b, %c;", U32, [2], (U32, [1]), (U32, [2]), (U32, [40])),
    case("lop3.b32 %o, %a, %b, %c, 0x80;", U32, [0b10000000], (U32, [0xF0]), (U32, [0xCC]), (U32, [0xAA])),
    # the table of a function is the function of 0xF0, 0xCC and 0xAA
    case("lop3.b32 %o, %a, %b, %c, 0x3C;", U32, [0x3C], (U32, [0xF0]), (U32, [0xCC]), (U32, [0xAA])),
    case(
        "prmt.b32 %o, %a, %b, %c;",
        U32,
        [0x00112233, 0x77665544, 0x33773377],
        (U32, [0x00112233] * 3),
        (U32, [0x44556677] * 3),
        (U32, [0x3210, 0x4567, 0x0404]),
    ),
    case("prmt.b32 %o, %a, %b, %c;", U32, [0xFF0000FF], (U32, [0x80]), (U32, [0]), (U32, [0x8998])),
    case(
        "bfe.u32 %o, %a, %b, %c;",
        U32,
        [0xF, 0, 0x8],
        (U32, [0xF0, 0xF0, 0x80000000]),
        (U32, [4, 4, 28]),
        (U32, [4, 0, 10]),
    ),
    case(
        "bfe.s32 %o, %a, %b, %c;",
        S32,
        [-1, 7, -1, 0, -8],
        (U32, [0xF0, 0x70, 2**31, 2**31, 2**31]),
        (U32, [4, 4, 40, 0, 28]),
        (U32, [4, 4, 4, 0, 10]),
    ),
    case("bfe.u64 %o, %a, %b, %c;", U64, [1], (U64, [2**63]), (U32, [63]), (U32, [5])),
    case(
        "bfi.b32 %o, %a, %b, %c, %d;",
        U32,
        [0xFFFFFF5F, 0xFFFFFFFF, 0x5FFFFFFF],
        (U32, [0x5] * 3),
        (U32, [2**32 - 1] * 3),
        (U32, [4, 32, 28]),
        (U32, [4, 4, 9]),
    ),
    case("bfi.b64 %o, %a, %b, %c, %d;", U64, [5 << 60], (U64, [5]), (U64, [0]), (U32, [60]), (U32, [4])),
    case("popc.b32 %o, %a;", U32, [0, 32, 1], (U32, [0, 2**32 - 1, 2**31])),
    case("popc.b64 %o, %a;", U32, [64], (U64, [2**64 - 1])),
    case("clz.b32 %o, %a;", U32, [32, 0, 31], (U32, [0, 2**31, 1])),
    case("clz.b64 %o, %a;", U32, [64, 31], (U64, [0, 2**32])),
    case("brev.b32 %o, %a;", U32, [2**31, 0x0F00_0000], (U32, [1, 0xF0])),
    case("brev.b64 %o, %a;", U64, [2**63], (U64, [1])),
    case("bfind.u32 %o, %a;", U32, [2**32 - 1, 4], (U32, [0, 0x1F])),
    case("bfind.s32 %o, %a;", U32, [2**32 - 1, 1], (S32, [-1, -3])),
    case("bfind.shiftamt.u32 %o, %a;", U32, [27], (U32, [0x1F])),
    case(
        "mov.b64 {%r1, %r2}, %a; mov.b64 %o, {%r2, %r1};", U64, [0x0000_0001_0000_0002], (U64, [0x0000_0002_0000_0001])
    ),
    case("mov.b32 %o, {0, %a};", F32, [1], (U16, [0x3F80])),
    case("mov.b32 {%h1, _}, %a; mov.b16 %o, %h1;", U16, [2], (U32, [0x1_0002])),
    case("mov.b64 {%h1, %h2, %h3, %h4}, %a; mov.b16 %o, %h3;", U16, [3], (U64, [0x0004_0003_0002_0001])),
    case("mov.u32 %o, 0x10;", U32, [16]),
    case("mov.u32 %o, 010;", U32, [8]),
    case("mov.s32 %o, -3;", S32, [-3]),
    case("mov.f32 %o, 0f3FC00000;", F32, [1.5]),
    case("mov.f32 %o, 1.5;", F32, [1.5]),
    case("mov.f64 %o, 0d3FF8000000000000;", F64, [1.5]),
    case("mov.u32 %o, WARP_SZ;", U32, [32]),
]

CHOICES = [
    case("setp.lt.f32 %p, %a, %b; selp.u32 %o, 1, 0, %p;", U32, [1, 0, 0], (F32, [1, 2, NAN]), (F32, [2, 2, 2])),
    *(
        case(
            f"setp.{name}.f32 %p, %a, %b; selp.u32 %o, 1, 0, %p;",
            U32,
            expected,
            (F32, [1, 2, 3, NAN]),
            (F32, [2, 2, 2, 2]),
        )
        for name, expected in {
            "eq": [0, 1, 0, 0],
            "ne": [1, 0, 1, 0],
            "le": [1, 1, 0, 0],
            "gt": [0, 0, 1, 0],
            "ge": [0, 1, 1, 0],
            "equ": [0, 1, 0, 1],
            "neu": [1, 0, 1, 1],
            "ltu": [1, 0, 0, 1],
            "leu": [1, 1, 0, 1],
            "gtu": [0, 0, 1, 1],
            "geu": [0, 1, 1, 1],
            "num": [1, 1, 1, 0],
            "nan": [0, 0, 0, 1],
        }.items()
    ),
    case("setp.eq.ftz.f32 %p, %a, 0f00000000; selp.u32 %o, 1, 0, %p;", U32, [1], (F32, [p(-130)])),
    case("setp.lt.s32 %p, %a, %b; selp.u32 %o, 1, 0, %p;", U32, [1], (S32, [-1]), (S32, [1])),
    case("setp.lo.u32 %p, %a, %b; selp.u32 %o, 1, 0, %p;", U32, [0], (S32, [-1]), (S32, [1])),
    case("setp.ne.s16 %p, %a, 0; selp.u32 %o, 1, 0, %p;", U32, [0, 1], (U16, [0, 3])),
    case("setp.lt.s32 %p|%q, %a, %b; selp.u32 %o, 1, 0, %q;", U32, [0, 1], (S32, [-1, 2]), (S32, [1, 1])),
    case(
        "setp.gt.s32 %q, %b, 0; setp.lt.and.s32 %p, %a, 5, %q; selp.u32 %o, 1, 0, %p;",
        U32,
        [1, 0, 0],
        (S32, [1, 1, 9]),
        (S32, [1, 0, 1]),
    ),
    case(
        "setp.gt.s32 %q, %b, 0; setp.lt.or.s32 %p, %a, 5, !%q; selp.u32 %o, 1, 0, %p;",
        U32,
        [1, 1, 0],
        (S32, [1, 9, 9]),
        (S32, [1, 0, 1]),
    ),
    case(
        "setp.gt.s32 %p, %a, 0; setp.gt.s32 %q, %b, 0; xor.pred %p, %p, %q; not.pred %p, %p; selp.u32 %o, 1, 0, %p;",
        U32,
        [1, 0],
        (S32, [1, 1]),
        (S32, [1, 0]),
    ),
    case("mov.pred %p, 1; @!%p mov.u32 %o, 3; @%p mov.u32 %o, 4;", U32, [4]),
    case("set.lt.u32.f32 %o, %a, %b;", U32, [2**32 - 1, 0], (F32, [1, 3]), (F32, [2, 2])),
    case("set.ge.f32.s32 %o, %a, %b;", F32, [0, 1], (S32, [1, 3]), (S32, [2, 2])),
    case("slct.u32.s32 %o, %a, %b, %c;", U32, [1, 2], (U32, [1, 1]), (U32, [2, 2]), (S32, [0, -1])),
    case("slct.f32.f32 %o, %a, %b, %c;", F32, [1, 2, 2, 2], (F32, [1]), (F32, [2]), (F32, [-0.0, -1, NAN, -p(-130)])),
    case("slct.ftz.f32.f32 %o, %a, %b, %c;", F32, [1, 2], (F32, [1]), (F32, [2]), (F32, [-p(-130), -p(-126)])),
    *(
        case(f"testp.{name}.f32 %p, %a; selp.u32 %o, 1, 0, %p;", U32, expected, (F32, [1, INF, NAN, p(-140), 0]))
        for name, expected in {
            "finite": [1, 0, 0, 1, 1],
            "infinite": [0, 1, 0, 0, 0],
            "number": [1, 1, 0, 1, 1],
            "notanumber": [0, 0, 1, 0, 0],
            "normal": [1, 0, 0, 0, 0],
            "subnormal": [0, 0, 0, 1, 0],
        }.items()
    ),
]


@pytest.mark.parametrize(
    ("body", "out", "sources", "expected"), [*FLOATS, *HALVES, *CONVERSIONS, *INTEGERS, *BITS, *CHOICES]
)
def test_an_instruction_gives_the_value_worked_out_by_hand(
    compute: Callable[..., np.ndarray], body: str, out: Any, sources: tuple[Any, ...], expected: list[Any]
) -> None:
    with np.errstate(over="ignore"):
        found = compute(body, out, *(np.array(values, dtype) for dtype, values in sources))
        wanted = np.array(expected, out)
    np.testing.assert_array_equal(found, wanted)
    if np.issubdtype(wanted.dtype, np.floating):
        number = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(wanted)[number])


def test_every_opcode_of_the_table_has_a_value_worked_out_by_hand() -> None:
    bodies = [case.values[0] for case in (*FLOATS, *HALVES, *CONVERSIONS, *INTEGERS, *BITS, *CHOICES)]
    tried = {
        statement.split(".")[0].split()[-1] for body in bodies for statement in body.split(";") if "." in statement
    }
    assert set(TABLE) - {"cvta"} <= tried


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("frobnicate.f32 %f1, %f2;", "opcode"),
        ("add.weird.f32 %f1, %f2, %f3;", ".weird"),
        ("add.f128 %f1, %f2, %f3;", "type"),
        ("add.f32 %f1, %f2;", "operands"),
        ("add.f64 %f1, %f2, %f3;", "f64"),
        ("cvt.rn.e4m3x2.f32 %h1, %f2, %f3;", "e4m3x2"),
        ("mov.u32 %r1, %clock;", "%clock"),
        ("bra nowhere;", "no label"),
        ("call printf;", "opcode"),
        ("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1}, [%rd0], %r2;", "opcode"),
        ("mov.u32 %r1, %clusterid.x;", "%clusterid.x"),
        ("max.f32 %f1, %f2, %f3, %f4;", "three operands"),
        ("bar.arrive 0, 64;", ".arrive"),
        ("bar.sync 0, 64;", "part of a block"),
        ("bar.red.popc.u32 %r1, 0, 64, %p0;", "part of a block"),
        ("ld.global.weird.f32 %f1, [%rd0];", ".weird"),
        ("ld.global.v2.f32 %f1, [%rd0];", "1 registers for 2"),
    ],
)
def test_what_is_not_supported_says_so_with_kernel_line_and_instruction(
    kernel: Callable[..., ptx.Program], statement: str, reason: str
) -> None:
    program = kernel(f"mov.u32 %r1, 1;\n{statement}")
    with pytest.raises(ptx.UnsupportedError) as caught:
        ptx.Device().launch(program, 1, 32, [0])
    assert reason in str(caught.value)
    assert f"k, line 11: {statement.rstrip(';')}: not supported" in str(caught.value)


def test_what_is_not_supported_may_stand_where_no_thread_comes(kernel: Callable[..., ptx.Program]) -> None:
    ptx.Device().launch(kernel("mov.pred %p0, 0; @!%p0 bra over; frobnicate.f32 %f1, %f2; over:"), 1, 32, [0])
