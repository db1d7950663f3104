"""Who executes what when: divergence, shuffles and votes, barriers, calls, arguments, and what may go wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from derive_triplet.derive.verify import ptx

Make = Callable[..., ptx.Program]
LANE = "mov.u32 %r0, %tid.x; mad.wide.u32 %rd10, %r0, 4, %rd0;"
STORE = "st.global.u32 [%rd10], %r9;"


def lanes(program: ptx.Program, block: int = 32, grid: int = 1) -> list[int]:
    """What a kernel stores, one number per thread of a block."""
    device = ptx.Device()
    y = device.empty("y", block, np.uint32)
    device.launch(program, grid, block, [y])
    return y.array().tolist()


# ---------------------------------------------------------------- branches


def test_threads_that_part_meet_again(kernel: Make) -> None:
    program = kernel(
        f"""{LANE} setp.lt.u32 %p0, %r0, 7; @%p0 bra small; mov.u32 %r9, 100; bra.uni both;
        small: mov.u32 %r9, 200;
        both: activemask.b32 %r1; popc.b32 %r1, %r1; add.u32 %r9, %r9, %r1; {STORE}"""
    )
    assert lanes(program) == [232] * 7 + [132] * 25


def test_loops_of_different_length(kernel: Make) -> None:
    program = kernel(
        f"""{LANE} mov.u32 %r9, 0; mov.u32 %r1, 0;
        loop: setp.ge.u32 %p0, %r1, %r0; @%p0 bra done; add.u32 %r1, %r1, 1; add.u32 %r9, %r9, %r1; bra loop;
        done: {STORE}"""
    )
    assert lanes(program, 70) == [n * (n + 1) // 2 for n in range(70)]


def test_threads_may_end_early(kernel: Make) -> None:
    program = kernel(f"{LANE} mov.u32 %r9, 1; {STORE} setp.gt.u32 %p0, %r0, 3; @%p0 ret; mov.u32 %r9, 2; {STORE}")
    assert lanes(program) == [2] * 4 + [1] * 28


@pytest.mark.parametrize(("threads", "warps"), [(40, 2), (20, 1)])
def test_instructions_are_counted_once_per_warp_that_has_a_thread_there(kernel: Make, threads: int, warps: int) -> None:
    program = kernel(f"{LANE} setp.ge.u32 %p0, %r0, {threads}; @%p0 bra over; abs.s32 %r1, %r0; over:")
    launch = ptx.Device().launch(program, 1, 64, [0])
    assert launch.opcodes["abs.s32"] == threads
    assert launch.warp_instructions == 2 * (len(program) - 1) + warps


def test_a_step_too_many_is_an_endless_kernel(kernel: Make) -> None:
    device = ptx.Device()
    with pytest.raises(ptx.EndlessError, match="still running after 1000 steps"):
        device.launch(kernel("loop: bra loop;"), 1, 32, [0], steps=1000)


PLACE = {"ctaid.x": 1, "ctaid.y": 0, "ctaid.z": 2, "tid.x": 4, "tid.y": 1, "tid.z": 2}


def test_a_trap_is_reported(kernel: Make) -> None:
    with pytest.raises(ptx.TrapError, match=r"@%p0 trap: block 0, thread 3: the kernel gave up$"):
        ptx.Device().launch(kernel(f"{LANE} setp.eq.u32 %p0, %r0, 3; @%p0 trap;"), 1, 32, [0])
    one = "".join(f"mov.u32 %r0, %{of}; setp.eq.and.u32 %p0, %r0, {n}, %p0;" for of, n in PLACE.items())
    with pytest.raises(ptx.TrapError, match=r"block \(1, 0, 2\), thread \(4, 1, 2\): "):
        ptx.Device().launch(kernel(f"mov.pred %p0, 1; {one} @%p0 trap;"), (2, 2, 3), (5, 2, 3), [0])


def test_functions_become_part_of_the_kernel(kernel: Make) -> None:
    functions = """
.func (.param .b32 result) half(.param .b32 n) {
  .reg .b32 %r<3>; .reg .pred %p; ld.param.u32 %r1, [n]; setp.lt.u32 %p, %r1, 2; @%p bra small;
  shr.u32 %r2, %r1, 1; st.param.b32 [result+0], %r2; ret;
  small: st.param.b32 [result+0], %r1; ret; }
.func (.param .b32 result) quarter(.param .b32 n) {
  .reg .b32 %r<3>; ld.param.u32 %r1, [n];
  { .param .b32 a; st.param.b32 [a], %r1; .param .b32 b; call.uni (b), half, (a); ld.param.b32 %r2, [b]; }
  { .param .b32 a; st.param.b32 [a], %r2; .param .b32 b; call.uni (b), half, (a); ld.param.b32 %r2, [b]; }
  st.param.b32 [result], %r2; ret; }
"""
    call = "{ .param .b32 a; st.param.b32 [a], %r0; .param .b32 b; call.uni (b), quarter, (a); ld.param.b32 %r9, [b]; }"
    quarters = [n if n < 2 else n // 2 if n // 2 < 2 else n // 4 for n in range(32)]
    assert lanes(kernel(f"{LANE} {call} {STORE}", 1, functions)) == quarters


# ---------------------------------------------------------------- shuffles


@pytest.mark.parametrize(
    ("mode", "operand", "limits", "expected"),
    [
        ("bfly", 5, 31, [n ^ 5 for n in range(32)]),
        ("down", 3, 31, [n + 3 if n + 3 < 32 else n for n in range(32)]),
        ("up", 3, 0, [n - 3 if n >= 3 else n for n in range(32)]),
        ("idx", 9, 31, [9] * 32),
        # width 8: the limits of __shfl_sync(..., 8)
        ("idx", 9, 0x181F, [8 * (n // 8) + 1 for n in range(32)]),
        ("down", 3, 0x181F, [n + 3 if n % 8 < 5 else n for n in range(32)]),
        ("up", 3, 0x1800, [n - 3 if n % 8 >= 3 else n for n in range(32)]),
        ("bfly", 8, 0x181F, [n ^ 8 if (n ^ 8) < n else n for n in range(32)]),
    ],
)
def test_shuffles(kernel: Make, mode: str, operand: int, limits: int, expected: list[int]) -> None:
    shuffle = f"shfl.sync.{mode}.b32 %r9|%p1, %r0, {operand}, {limits}, -1;"
    assert lanes(kernel(f"{LANE} {shuffle} {STORE}")) == expected
    moved = [int(n != m or (mode == "idx" and m == n)) for n, m in enumerate(expected)]
    assert lanes(kernel(f"{LANE} {shuffle} selp.u32 %r9, 1, 0, %p1; {STORE}")) == moved


def test_half_warps_shuffle_by_themselves(kernel: Make) -> None:
    program = kernel(
        f"""{LANE} setp.lt.u32 %p0, %r0, 16; selp.b32 %r1, 0xffff, 0xffff0000, %p0; @%p0 bra low;
        shfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xffff0000; bra both;
        low: shfl.sync.bfly.b32 %r9, %r0, 2, 31, %r1; both: {STORE}"""
    )
    assert lanes(program) == [n ^ 2 for n in range(16)] + [n ^ 1 for n in range(16, 32)]


def test_a_shuffle_waits_for_the_members_of_its_mask(kernel: Make) -> None:
    # lanes come to it after a loop, one by one
    program = kernel(
        f"""{LANE} mov.u32 %r1, 0; bra test;
        meet: shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1; bra done;
        test: setp.ge.u32 %p0, %r1, %r0; @%p0 bra meet; add.u32 %r1, %r1, 1; bra test;
        done: {STORE}"""
    )
    assert lanes(program) == [n ^ 1 for n in range(32)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "setp.lt.u32 %p0, %r0, 20; @!%p0 bra over; shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1; over: bar.sync 0;",
            "lanes of the member mask 0xffffffff do not take part: block 0, thread 20 waits at line",
        ),
        ("shfl.sync.bfly.b32 %r9, %r0, 16, 31, 0xffff;", "the member mask 0x0000ffff leaves out lane 16"),
        (
            "setp.lt.u32 %p0, %r0, 16; @!%p0 bra over; shfl.sync.bfly.b32 %r9, %r0, 16, 31, 0xffff; over:",
            "the shuffle reads from lane 16, which is not in its member mask",
        ),
        (
            "setp.lt.u32 %p0, %r0, 16; selp.b32 %r1, 65535, -65536, %p0; shfl.sync.bfly.b32 %r9, %r0, 16, 31, %r1;",
            "the shuffle reads from lane 16, which is not in its member mask",
        ),
        (
            "setp.gt.u32 %p0, %r0, 20; @%p0 ret; shfl.sync.down.b32 %r9, %r0, 1, 31, -1;",
            "the shuffle reads from lane 21, which takes no part",
        ),
        (
            "setp.lt.u32 %p0, %r0, 16; selp.b32 %r1, 0xffff, -1, %p0; shfl.sync.idx.b32 %r9, %r0, 0, 31, %r1;",
            "the member mask is 0xffffffff, but 0x0000ffff in lane 0",
        ),
    ],
)
def test_a_divergent_shuffle_is_reported(kernel: Make, body: str, message: str) -> None:
    with pytest.raises(ptx.DivergenceError) as caught:
        lanes(kernel(f"{LANE}\n{body}"))
    assert message in str(caught.value)
    assert "k, line 11: shfl.sync" in str(caught.value)


def test_every_warp_shuffles_by_masks_of_its_own(kernel: Make) -> None:
    halves = "setp.lt.u32 %p0, %r0, 48; selp.b32 %r1, 0xffff, 0xffff0000, %p0;"
    whole = "setp.lt.u32 %p0, %r0, 32; selp.b32 %r1, -1, %r1, %p0;"
    shuffle = "shfl.sync.bfly.b32 %r9, %r0, {}, 31, %r1;"
    program = kernel(f"{LANE} {halves} {whole} {shuffle.format(8)} {STORE}")
    assert lanes(program, 64) == [n ^ 8 for n in range(64)]
    with pytest.raises(ptx.DivergenceError, match=r"thread 32: .* from lane 16, which is not in its member mask"):
        lanes(kernel(f"{LANE} {halves} {whole} {shuffle.format(16)} {STORE}"), 64)


def test_lanes_that_have_ended_are_not_waited_for(kernel: Make) -> None:
    program = kernel(
        f"{LANE} mov.u32 %r9, 0; {STORE} setp.gt.u32 %p0, %r0, 20; @%p0 ret;\n"
        f"shfl.sync.idx.b32 %r9, %r0, 3, 31, -1; {STORE}"
    )
    assert lanes(program) == [3] * 21 + [0] * 11


def test_lanes_that_end_later_are_no_longer_waited_for(kernel: Make) -> None:
    program = kernel(
        f"{LANE} mov.u32 %r9, 0; {STORE} setp.gt.u32 %p0, %r0, 20; @%p0 bra out;\n"
        f"shfl.sync.idx.b32 %r9, %r0, 3, 31, -1; {STORE} ret;\nout: add.u32 %r1, %r1, 1;"
    )
    assert lanes(program) == [3] * 21 + [0] * 11


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("vote.sync.ballot.b32 %r9, %p0, -1;", [0b1111111] * 32),
        ("vote.sync.all.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;", [0] * 32),
        ("vote.sync.any.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;", [1] * 32),
        ("vote.sync.any.pred %p1, !%p0, -1; selp.u32 %r9, 1, 0, %p1;", [1] * 32),
        ("vote.sync.uni.pred %p1, %p0, -1; selp.u32 %r9, 1, 0, %p1;", [0] * 32),
        ("redux.sync.add.s32 %r9, %r0, -1;", [496] * 32),
        ("redux.sync.max.u32 %r9, %r0, -1;", [31] * 32),
        ("redux.sync.xor.b32 %r9, %r0, -1;", [0] * 32),
        ("shr.u32 %r1, %r0, 4; match.any.sync.b32 %r9, %r1, -1;", [0xFFFF] * 16 + [0xFFFF0000] * 16),
        ("shr.u32 %r1, %r0, 4; match.all.sync.b32 %r9|%p1, %r1, -1;", [0] * 32),
        ("mov.u32 %r9, %lanemask_lt;", [2**n - 1 for n in range(32)]),
        ("mov.u32 %r9, %lanemask_le;", [2 ** (n + 1) - 1 for n in range(32)]),
        ("mov.u32 %r9, %lanemask_eq;", [2**n for n in range(32)]),
        ("mov.u32 %r9, %lanemask_gt;", [2**32 - 2 ** (n + 1) for n in range(32)]),
        ("mov.u32 %r9, %lanemask_ge;", [2**32 - 2**n for n in range(32)]),
        ("mov.u32 %r9, %laneid;", list(range(32))),
    ],
)
def test_other_instructions_of_a_warp(kernel: Make, instruction: str, expected: list[int]) -> None:
    assert lanes(kernel(f"{LANE} setp.lt.u32 %p0, %r0, 7; {instruction} {STORE}")) == expected


# ---------------------------------------------------------------- barriers


@pytest.mark.parametrize(
    "body",
    [
        "setp.lt.u32 %p0, %r0, 40; @!%p0 bra over; bar.sync 0; over:",
        "setp.lt.u32 %p0, %r0, 40; @!%p0 bra over; bar.sync 0; bra done; over: bar.sync 0; done:",
        "setp.lt.u32 %p0, %r0, 40; @!%p0 ret; barrier.cta.sync.aligned 0;",
        "setp.lt.u32 %p0, %r0, 40; @%p0 bar.sync 0;",
    ],
)
def test_a_divergent_barrier_is_reported(kernel: Make, body: str) -> None:
    message = "the barrier is not reached by all threads of the block: block 1, thread 40 (has ended|waits at line)"
    with pytest.raises(ptx.DivergenceError, match=message) as caught:
        ptx.Device().launch(kernel(f"{LANE}\n{body}"), 2, 64, [0], blocks=[1])
    assert "k, line 11" in str(caught.value)
    assert "block 1, thread 0: " in str(caught.value)


def test_a_block_that_has_ended_is_not_waited_for(kernel: Make) -> None:
    program = kernel(
        f"{LANE} mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 0; @%p0 ret; bar.sync 0; mov.u32 %r9, 7; {STORE}"
    )
    assert lanes(program, 64, grid=2) == [7] * 64


def test_a_kernel_may_begin_with_the_barrier_that_not_all_come_back_to(kernel: Make) -> None:
    program = kernel("again: bar.sync 0; mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 40; @%p0 bra again;", 0)
    with pytest.raises(ptx.DivergenceError, match=r"thread 0: the barrier is not .*: block 0, thread 40 has ended$"):
        ptx.Device().launch(program, 1, 64, [])


def test_barriers_may_reduce(kernel: Make) -> None:
    count = "bar.red.popc.u32 %r9, 0, %p0;"
    both = (
        "bar.red.and.pred %p1, 0, %p0; bar.red.or.pred %p2, 0, %p0; selp.u32 %r8, 1, 0, %p1; selp.u32 %r9, 1, %r8, %p2;"
    )
    start = f"{LANE} setp.lt.u32 %p0, %r0, 40;"
    assert lanes(kernel(f"{start} {count} {STORE}"), 64) == [40] * 64
    assert lanes(kernel(f"{start} {both} {STORE}"), 64) == [1] * 64


def test_blocks_and_threads_in_three_dimensions(kernel: Make) -> None:
    names = [f"%{what}.{axis}" for what in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    stores = "".join(f"mov.u32 %r1, {name}; st.global.u32 [%rd1+{4 * i}], %r1;\n" for i, name in enumerate(names))
    numbers = """mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mad.lo.u32 %r1, %r2, 2, %r1;
        mad.lo.u32 %r0, %r1, 5, %r0; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mad.lo.u32 %r1, %r2, 2, %r1;
        mov.u32 %r2, %ctaid.z; mad.lo.u32 %r1, %r2, 4, %r1; mad.lo.u32 %r0, %r1, 30, %r0;
        mad.wide.u32 %rd1, %r0, 48, %rd0;"""
    device = ptx.Device()
    y = device.empty("y", (3, 2, 2, 3, 2, 5, 4, 3), np.uint32)
    device.launch(kernel(numbers + stores), (2, 2, 3), (5, 2, 3), [y])
    found = y.array()
    for block in np.ndindex(3, 2, 2):
        for thread in np.ndindex(3, 2, 5):
            wanted = [thread[::-1], (5, 2, 3), block[::-1], (2, 2, 3)]
            assert found[(*block, *thread)].tolist() == [list(row) for row in wanted]


# ---------------------------------------------------------------- arguments


ARGUMENTS = """.version 9.0
.entry k(.param .u64 y, .param .f32 f, .param .u32 n, .param .f64 d, .param .align 8 .b8 s[16], .param .u8 c)
{ .reg .b32 %r<4>; .reg .b64 %rd<8>; .reg .b16 %h;
ld.param.u64 %rd0, [y]; ld.param.f32 %r0, [f]; ld.param.u32 %r1, [n]; ld.param.f64 %rd1, [d];
ld.param.v2.u32 {%r2, %r3}, [s+8]; ld.param.u8 %h, [c]; mov.b64 %rd2, s; ld.param.f64 %rd3, [%rd2];
st.global.v2.b32 [%rd0], {%r0, %r1}; st.global.b64 [%rd0+8], %rd1; st.global.b64 [%rd0+16], %rd3;
st.global.v2.b32 [%rd0+24], {%r2, %r3}; cvt.u32.u8 %r0, %h; st.global.b32 [%rd0+32], %r0; ret; }
"""


def test_arguments_of_every_type() -> None:
    device = ptx.Device()
    y = device.empty("y", 36, np.uint8)
    structure = np.array([(0.25, 7, 9)], "f8, u4, u4")
    device.launch(ptx.load(ARGUMENTS).kernel("k"), 1, 1, [y, 1.5, -1, 2.5, structure, 200])
    wanted = np.array([(1.5, -1, 2.5, 0.25, 7, 9, 200)], "f4, i4, f8, f8, u4, u4, u4")
    assert y.array().tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("position", "argument", "message"),
    [
        (1, "text", r"argument 1 of k is 'text'; it takes 4 bytes, f32"),
        (1, np.float64(1), "argument 1 .* 4 bytes, f32"),
        (2, 2**32, "argument 2 .* 4 bytes, u32"),
        (2, 1.5, "argument 2"),
        (4, 1.0, "argument 4 of k is 1.0; it takes 16 bytes, b8"),
        (4, bytes(8), "argument 4"),
    ],
)
def test_arguments_that_do_not_fit(position: int, argument: object, message: str) -> None:
    arguments: list[object] = [0, 1.5, 1, 2.5, bytes(16), 1]
    arguments[position] = argument
    with pytest.raises(ptx.LaunchError, match=message):
        ptx.Device().launch(ptx.load(ARGUMENTS).kernel("k"), 1, 1, arguments)


def test_launches_that_cannot_be(kernel: Make) -> None:
    with pytest.raises(ptx.LaunchError, match="takes 1 arguments, not 2"):
        ptx.Device().launch(kernel(""), 1, 1, [0, 0])
    with pytest.raises(ptx.LaunchError, match="2048 threads"):
        ptx.Device().launch(kernel(""), 1, (1024, 2), [0])
    for grid in (0, (1, 1, 1, 1)):
        with pytest.raises(ptx.LaunchError, match="no size of a grid"):
            ptx.Device().launch(kernel(""), grid, 1, [0])
