"""What is reported of memory: every detector on a kernel that makes its mistake, and on one that does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from derive_triplet.derive.verify import ptx

Make = Callable[..., ptx.Program]
LANE = "mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r0;"
ELEMENT = f"{LANE} mad.wide.u32 %rd10, %r3, 4, %rd0; mad.wide.u32 %rd11, %r3, 4, %rd1;"
SHARED = ".shared .align 4 .b8 s[256];\n"
IN_SHARED = f"{ELEMENT} mov.u32 %r4, s; mad.lo.u32 %r5, %r0, 4, %r4; xor.b32 %r6, %r0, 32; mad.lo.u32 %r6, %r6, 4, %r4;"
DEFAULT = ptx.Checks()
VALUES = np.arange(64, dtype=np.float32)


def launch(program: ptx.Program, *, checks: ptx.Checks = DEFAULT, grid: int = 1, block: int = 64) -> ptx.Device:
    device = ptx.Device(checks)
    device.launch(program, grid, block, [device.buffer("x", VALUES), device.empty("y", 64, np.float32)])
    return device


# ---------------------------------------------------------------- where


def test_a_copy_moves_each_byte_once(kernel: Make) -> None:
    program = kernel(f"{ELEMENT} ld.global.nc.f32 %f0, [%rd10]; st.global.f32 [%rd11], %f0;", 2)
    device = ptx.Device()
    x, y = device.buffer("x", VALUES), device.empty("y", 64, np.float32)
    done = device.launch(program, 2, 32, [x, y])
    np.testing.assert_array_equal(y.array(), VALUES)
    assert done.traffic == {"x": ptx.Traffic(256, 0, 8, 0), "y": ptx.Traffic(0, 256, 0, 8)}
    assert done.opcodes["ld.global.nc.f32"] == 64
    assert done.instructions == 64 * done.warp_instructions / 2


def test_sectors_count_what_a_warp_touches(kernel: Make) -> None:
    # every eighth float is a sector of its own, and a row that begins in the middle of one touches one more
    program = kernel(f"{LANE} mad.wide.u32 %rd10, %r3, 32, %rd0; ld.global.f32 %f0, [%rd10];")
    device = ptx.Device()
    assert device.launch(program, 1, 32, [device.buffer("x", np.zeros(256, np.float32))]).traffic["x"] == ptx.Traffic(
        128, 0, 32, 0
    )
    program = kernel(f"{ELEMENT} ld.global.f32 %f0, [%rd10+4];", 2)
    device = ptx.Device()
    traffic = device.launch(program, 1, 32, [device.buffer("x", np.zeros(33, np.float32)), 0]).traffic
    assert traffic["x"] == ptx.Traffic(128, 0, 5, 0)
    # what two warps read counts for both
    program = kernel("ld.global.f32 %f0, [%rd0];")
    device = ptx.Device()
    assert device.launch(program, 1, 64, [device.buffer("x", VALUES)]).traffic["x"] == ptx.Traffic(256, 0, 2, 0)
    # in any order
    program = kernel(f"{LANE} and.b32 %r3, %r3, 1; mad.wide.u32 %rd10, %r3, 32, %rd0; ld.global.f32 %f0, [%rd10];")
    device = ptx.Device()
    assert device.launch(program, 1, 64, [device.buffer("x", VALUES)]).traffic["x"].sectors_read == 4


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ("ld.global.f32 %f0, [%rd10+4];", "4 bytes at offset 256 of x, which has bytes 0 to 255"),
        ("ld.global.f32 %f0, [%rd10+-4];", "4 bytes at offset -4 of x"),
        ("st.global.f32 [%rd11+4], %f0;", "4 bytes at offset 256 of y"),
        ("mov.u64 %rd2, 0; ld.global.f32 %f0, [%rd2];", "4 bytes at the null pointer, which is no global memory"),
        ("ld.global.f32 %f0, [%rd10+17179869184];", "4 bytes at offset 17179869184 of x"),
        ("ld.f32 %f0, [%rd10+4];", "4 bytes at offset 256 of x"),
    ],
)
def test_an_access_out_of_bounds_is_reported(kernel: Make, access: str, message: str) -> None:
    with pytest.raises(ptx.OutOfBoundsError) as caught:
        launch(kernel(f"{ELEMENT}\n{access}", 2))
    assert message in str(caught.value)
    assert access.split(";")[-2].strip() in str(caught.value)
    first = 0 if "-4" in access or "%rd2" in access or "1717" in access else 63
    assert caught.value.thread == ((0, 0, 0), (first, 0, 0))
    assert (caught.value.kernel, caught.value.line) == ("k", 12)


def test_threads_are_named_by_their_coordinates(kernel: Make) -> None:
    program = kernel("mov.u32 %r0, %tid.y; mad.wide.u32 %rd1, %r0, 4, %rd0; ld.global.f32 %f0, [%rd1];")
    device = ptx.Device()
    with pytest.raises(ptx.OutOfBoundsError, match=r"block \(0, 2, 0\), thread \(0, 1, 0\)"):
        device.launch(program, (1, 4), (8, 2), [device.buffer("x", np.zeros(1, np.float32))], blocks=[2])


@pytest.mark.parametrize("width", [2, 4])
def test_a_misaligned_vector_is_reported(kernel: Make, width: int) -> None:
    registers = ", ".join(f"%f{i}" for i in range(width))
    program = kernel(f"ld.global.v{width}.f32 {{{registers}}}, [%rd0];")
    for alignment in (4, 8, 16):
        device = ptx.Device()
        x = device.buffer("x", VALUES, alignment=alignment)
        assert x.address % alignment == 0
        assert x.address % (2 * alignment) != 0
        if alignment >= 4 * width:
            device.launch(program, 1, 32, [x])
        else:
            with pytest.raises(ptx.MisalignedError, match=f"{4 * width} bytes at .* offset 0 of x"):
                device.launch(program, 1, 32, [x])


def test_memory_of_any_type_and_width(kernel: Make) -> None:
    program = kernel(
        """mov.u32 %r0, %tid.x; mad.wide.u32 %rd2, %r0, 16, %rd0; mad.wide.u32 %rd3, %r0, 16, %rd1;
        ld.global.s8 %r1, [%rd2]; ld.global.u8 %r2, [%rd2]; ld.global.s16 %rd4, [%rd2]; ld.global.u16 %h0, [%rd2+2];
        st.global.v2.u32 [%rd3], {%r1, %r2}; st.global.u8 [%rd3+8], %r1; st.global.u8 [%rd3+9], %h0;
        st.global.u16 [%rd3+10], %rd4; st.global.b32 [%rd3+12], 7;""",
        2,
    )
    device = ptx.Device()
    x = device.buffer("x", np.array([0xFFFE, 0x1234] + [0] * 6, np.uint16))
    y = device.empty("y", 16, np.uint8)
    device.launch(program, 1, 1, [x, y])
    assert y.array().tobytes() == bytes.fromhex("feffffff fe000000 fe34feff 07000000")


def test_vectors_of_registers(kernel: Make) -> None:
    program = kernel(
        """ld.global.v4.f32 {%f0, %f1, _, %f3}, [%rd0]; st.global.v2.f32 [%rd1], {%f3, %f1};
        ld.global.v2.f64 {%fd0, %fd1}, [%rd0]; st.global.v2.b64 [%rd1+16], {%fd1, 0d3FF0000000000000};""",
        2,
    )
    device = ptx.Device()
    x, y = device.buffer("x", VALUES[:4]), device.empty("y", 8, np.float32)
    device.launch(program, 1, 1, [x, y])
    assert y.written.tolist() == [True, True, False, False, True, True, True, True]
    np.testing.assert_array_equal(y.peek()[[0, 1, 4, 5]], [3, 1, 2, 3])
    assert y.peek()[6:].view(np.float64) == 1


def test_a_buffer_may_be_a_window_of_a_larger_array(kernel: Make) -> None:
    rows, start = 4, 2**31 + 5  # elements: far beyond what 32 bits address
    program = kernel(
        f"""{LANE} cvt.u64.u32 %rd2, %r3; add.u64 %rd2, %rd2, {start}; shl.b64 %rd2, %rd2, 2; add.u64 %rd3, %rd0, %rd2;
        ld.global.f32 %f0, [%rd3]; add.u64 %rd3, %rd1, %rd2; st.global.f32 [%rd3], %f0;""",
        2,
    )
    device = ptx.Device()
    x = device.buffer("x", VALUES[:rows], offset=start)
    y = device.empty("y", rows, np.float32, offset=start)
    device.launch(program, 1, rows, [x, y])
    np.testing.assert_array_equal(y.array(), VALUES[:rows])
    # the same with an index of 32 bits
    program = kernel(f"{LANE} add.u32 %r3, %r3, {start}; mad.wide.s32 %rd2, %r3, 4, %rd0; ld.global.f32 %f0, [%rd2];")
    with pytest.raises(ptx.OutOfBoundsError, match=rf"at offset -{2**33 - 20} of x, which has bytes {4 * start} to"):
        device.launch(program, 1, rows, [x])


# ---------------------------------------------------------------- never written


def test_reading_what_was_never_written_is_reported(kernel: Make) -> None:
    program = kernel(f"{ELEMENT} ld.global.f32 %f0, [%rd11];", 2)
    with pytest.raises(ptx.UninitializedError, match="y is read at offset 0, which was never written"):
        launch(program)
    launch(program, checks=ptx.Checks(uninitialized=False))


def test_results_that_were_never_written_are_reported(kernel: Make) -> None:
    program = kernel(f"{ELEMENT} setp.lt.u32 %p0, %r0, 63; @%p0 st.global.f32 [%rd11], 0f3F800000;", 2)
    y = launch(program).buffers["y"]
    with pytest.raises(ptx.UninitializedError, match=r"1 of 64 elements of y were never written, the first at \(63,\)"):
        y.array()
    assert y.written.tolist() == [True] * 63 + [False]
    assert np.isnan(y.peek()[63])


def test_shared_and_local_memory_start_without_values(kernel: Make) -> None:
    for space in ("shared", "local"):
        read = f"ld.{space}.f32 %f0, [s+4];"
        variables, local = (SHARED, "") if space == "shared" else ("", ".local .align 4 .b8 s[256];")
        with pytest.raises(ptx.UninitializedError, match=f"{space} memory"):
            launch(kernel(f"{local} {read}", 2, variables), block=1)
        write = f"st.{space}.f32 [s+4], 0f3F800000;"
        launch(kernel(f"{local} {write} {read}", 2, variables), block=1)
        with pytest.raises(ptx.OutOfBoundsError, match="256"):
            launch(kernel(f"{local} ld.{space}.f32 %f0, [s+256];", 2, variables), block=1)


def test_local_memory_is_each_threads_own(kernel: Make) -> None:
    program = kernel(
        f""".local .align 16 .b8 depot[16]; {ELEMENT} mov.u64 %rd4, depot; cvta.local.u64 %rd5, %rd4;
        cvt.rn.f32.u32 %f0, %r0; st.f32 [%rd5+4], %f0; ld.local.f32 %f1, [%rd4+4]; st.global.f32 [%rd11], %f1;""",
        2,
    )
    np.testing.assert_array_equal(launch(program).buffers["y"].array(), VALUES)


# ---------------------------------------------------------------- races


def test_two_threads_that_write_one_element_race(kernel: Make) -> None:
    same = kernel("mov.f32 %f0, 0f3F800000; st.global.f32 [%rd1], %f0;", 2)
    different = kernel("mov.u32 %r0, %tid.x; st.global.u32 [%rd1], %r0;", 2)
    for program in (same, different):
        with pytest.raises(ptx.RaceError, match=r"an element of y that block 0, thread .* writes without synchron"):
            launch(program)
        launch(program, checks=ptx.Checks(races=False))
    lenient = ptx.Checks(equal_writes=False)
    launch(same, checks=lenient)
    with pytest.raises(ptx.RaceError):
        launch(different, checks=lenient)


def test_writes_of_different_blocks_race_and_barriers_do_not_help(kernel: Make) -> None:
    body = "mov.u32 %r0, %ctaid.x; mad.wide.u32 %rd2, %r0, {step}, %rd1; bar.sync 0; st.global.u32 [%rd2], %r0;"
    with pytest.raises(ptx.RaceError, match=r"y that block 1, thread 0 writes"):
        launch(kernel(body.format(step=0), 2), grid=2, block=1)
    launch(kernel(body.format(step=4), 2), grid=2, block=1)


@pytest.mark.parametrize("first", ["ld", "st"])
@pytest.mark.parametrize("barrier", [False, True])
def test_reads_and_writes_of_one_element_race_without_a_barrier(kernel: Make, first: str, barrier: bool) -> None:
    # each thread reads what the other warp's thread writes
    read = "xor.b32 %r6, %r0, 32; mad.wide.u32 %rd12, %r6, 4, %rd0; ld.global.f32 %f0, [%rd12];"
    write = "st.global.f32 [%rd10], 0f3F800000;"
    between = "bar.sync 0;" if barrier else ""
    program = kernel(f"{ELEMENT} {read if first == 'ld' else write} {between} {write if first == 'ld' else read}", 2)
    if barrier:
        launch(program)
    else:
        with pytest.raises(ptx.RaceError, match="x that block 0, thread 32"):
            launch(program)


def test_a_barrier_orders_shared_memory(kernel: Make) -> None:
    body = f"{IN_SHARED} cvt.rn.f32.u32 %f0, %r0; st.shared.f32 [%r5], %f0; {{}} ld.shared.f32 %f1, [%r6]; {{}} "
    again = "st.shared.f32 [%r5], %f0; st.global.f32 [%rd11], %f1;"
    barrier = "bar.sync 0;"
    device = launch(kernel(body.format(barrier, barrier) + again, 2, SHARED))
    np.testing.assert_array_equal(device.buffers["y"].array(), np.roll(VALUES, 32))
    for missing in ((barrier, ""), ("", barrier)):
        checks = ptx.Checks(uninitialized=False)
        with pytest.raises(ptx.RaceError, match="shared memory s"):
            launch(kernel(body.format(*missing) + again, 2, SHARED), checks=checks)


def test_a_warp_barrier_orders_the_warp_only(kernel: Make) -> None:
    body = f"""{IN_SHARED} st.shared.f32 [%r5], 0f3F800000; bar.warp.sync -1;
        xor.b32 %r7, %r0, {{}}; mad.lo.u32 %r7, %r7, 4, %r4; ld.shared.f32 %f1, [%r7]; bar.warp.sync -1;
        st.shared.f32 [%r5], 0f40000000;"""
    launch(kernel(body.format(1), 2, SHARED))
    with pytest.raises(ptx.RaceError):
        launch(kernel(body.format(32), 2, SHARED))
    with pytest.raises(ptx.RaceError):  # without it, neighbours in a warp are not ordered either
        launch(kernel(body.format(1).replace("bar.warp.sync -1;", ""), 2, SHARED))


def test_a_value_that_many_read_may_be_overwritten_after_a_barrier_only(kernel: Make) -> None:
    body = (
        "mov.u32 %r0, %tid.x; ld.global.f32 %f0, [%rd0]; {} setp.eq.u32 %p0, %r0, {}; @%p0 st.global.f32 [%rd0], %f0;"
    )
    for writer in (0, 5, 63):
        with pytest.raises(ptx.RaceError, match=f"block 0, thread {writer}: an element of x that .* reads"):
            launch(kernel(body.format("", writer), 2))
        launch(kernel(body.format("bar.sync 0;", writer), 2))
    with pytest.raises(ptx.RaceError):
        launch(kernel(body.format("bar.sync 0;", 0), 2), grid=2)


def test_of_all_that_read_an_element_none_is_forgotten(kernel: Make) -> None:
    read = "setp.eq.u32 %p0, %r0, {}; @%p0 ld.global.f32 %f0, [%rd0];"
    body = "mov.u32 %r0, %tid.x; {} {} {} @%p0 st.global.f32 [%rd0], 0f00000000;"
    for other, writer in ((5, 0), (40, 0), (0, 5), (0, 40)):  # of the same warp, and of another
        first, last = read.format(other), read.format(writer)
        with pytest.raises(ptx.RaceError, match=f"block 0, thread {writer}: an element of x that"):
            launch(kernel(body.format(first, last, ""), 2))
        launch(kernel(body.format(first, "bar.sync 0;", last), 2))


def test_no_barrier_orders_what_another_block_has_read(kernel: Make) -> None:
    body = """mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; add.u32 %r2, %r0, %r1; ld.global.f32 %f0, [%rd0]; bar.sync 0;
        setp.eq.u32 %p0, %r2, 64; {} @%p0 st.global.f32 [%rd0], 0f00000000;"""  # by block 1, thread 63
    for again in ("", "@%p0 ld.global.f32 %f0, [%rd0];"):
        program = kernel(body.format(again), 2)
        launch(program, grid=1)
        with pytest.raises(ptx.RaceError, match="block 1, thread 63: an element of x that"):
            launch(program, grid=2)
        launch(program, grid=2, checks=ptx.Checks(between_blocks=False))


def test_narrow_and_wide_accesses_are_compared_byte_by_byte(kernel: Make) -> None:
    # two threads write the halves of one float
    body = "mov.u32 %r0, %tid.x; mad.wide.u32 %rd2, %r0, 2, %rd1; st.global.u16 [%rd2], %r0;"
    launch(kernel(body, 2))
    with pytest.raises(ptx.RaceError):
        launch(kernel(body + "st.global.u32 [%rd1], %r0;", 2))


def test_atomics_do_not_race_with_each_other(kernel: Make) -> None:
    add = "mov.u32 %r0, %tid.x; atom.global.add.u32 %r1, [%rd0], 1; mad.wide.u32 %rd2, %r0, 4, %rd1;"
    program = kernel(f"{add} st.global.u32 [%rd2], %r1;", 2)
    device = ptx.Device()
    x, y = device.buffer("x", np.zeros(1, np.uint32)), device.empty("y", 64, np.uint32)
    device.launch(program, 1, 64, [x, y])
    assert x.array().tolist() == [64]
    assert sorted(y.array().tolist()) == list(range(64))
    with pytest.raises(ptx.RaceError):
        device.launch(kernel(f"{add} ld.global.u32 %r2, [%rd0];", 2), 1, 64, [x, y])


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("red.global.add.f32 [%rd0], 0f3F800000;", np.float32(5 + 3)),
        ("red.global.max.s32 [%rd0], %r0;", np.int32(5)),
        ("atom.global.min.u32 %r1, [%rd0], %r0;", np.uint32(0)),
        ("atom.global.exch.b32 %r1, [%rd0], %r0;", np.uint32(2)),
        ("atom.global.cas.b32 %r1, [%rd0], 5, 9;", np.uint32(9)),
        ("atom.global.inc.u32 %r1, [%rd0], 6;", np.uint32(1)),
        ("atom.global.dec.u32 %r1, [%rd0], 6;", np.uint32(2)),
        ("atom.global.or.b32 %r1, [%rd0], 8;", np.uint32(13)),
        ("atom.add.relaxed.gpu.global.u64 %rd1, [%rd0], 2;", np.uint64(11)),
    ],
)
def test_atomic_operations(kernel: Make, operation: str, expected: np.generic) -> None:
    device = ptx.Device()
    x = device.buffer("x", np.array([5, 7, 7], expected.dtype))
    device.launch(kernel(f"mov.u32 %r0, %tid.x; {operation}"), 1, 3, [x])
    assert x.array().tolist() == [expected, 7, 7]


# ---------------------------------------------------------------- address spaces


def test_generic_addresses_know_their_space(kernel: Make) -> None:
    program = kernel(
        f"""{IN_SHARED} mov.u64 %rd2, s; cvta.shared.u64 %rd3, %rd2; mad.wide.u32 %rd4, %r0, 4, %rd3;
        cvt.rn.f32.u32 %f0, %r0; st.f32 [%rd4], %f0; cvta.to.shared.u64 %rd5, %rd4; ld.shared.f32 %f1, [%rd5];
        isspacep.shared %p0, %rd4; isspacep.global %p1, %rd11; and.pred %p0, %p0, %p1; isspacep.local %p1, %rd4;
        not.pred %p1, %p1; and.pred %p0, %p0, %p1; cvta.to.global.u64 %rd11, %rd11; @%p0 st.f32 [%rd11], %f1;""",
        2,
        SHARED,
    )
    np.testing.assert_array_equal(launch(program).buffers["y"].array(), VALUES)


def test_lanes_may_access_different_buffers_at_once(kernel: Make) -> None:
    program = kernel(
        f"""{ELEMENT} setp.lt.u32 %p0, %r0, 20; selp.b64 %rd2, %rd10, %rd11, %p0; st.global.f32 [%rd2], 0f40000000;
        ld.global.f32 %f0, [%rd2];""",
        2,
    )
    device = launch(program)
    assert device.buffers["y"].written.tolist() == [False] * 20 + [True] * 44
    np.testing.assert_array_equal(device.buffers["x"].array(), np.where(np.arange(64) < 20, 2, VALUES))


def test_variables_of_the_module_and_dynamic_shared_memory(kernel: Make) -> None:
    variables = """.global .align 4 .u32 one = 1; .const .align 4 .f32 two[2] = {0f3F800000, 0f40000000};
        .extern .shared .align 16 .b8 d[];"""
    program = kernel(
        """ld.global.u32 %r1, [one]; cvt.rn.f32.u32 %f0, %r1; ld.const.f32 %f1, [two+4]; add.f32 %f0, %f0, %f1;
        mov.u32 %r2, d; st.shared.f32 [%r2+12], %f0; ld.shared.f32 %f2, [d+12]; mov.u32 %r3, %dynamic_smem_size;
        st.global.f32 [%rd0], %f2;""",
        1,
        variables,
    )
    device = ptx.Device()
    y = device.empty("y", 1, np.float32)
    device.launch(program, 1, 1, [y], shared_bytes=16)
    assert y.array().tolist() == [3]
    with pytest.raises(ptx.OutOfBoundsError, match="shared memory d"):
        device.launch(program, 1, 1, [y], shared_bytes=12)


def test_names_of_buffers_are_unique_and_alignments_powers_of_2() -> None:
    device = ptx.Device()
    device.buffer("x", VALUES)
    with pytest.raises(ptx.LaunchError, match="a buffer x already"):
        device.buffer("x", VALUES)
    with pytest.raises(ptx.LaunchError, match="power of 2"):
        device.buffer("z", VALUES, alignment=12)
