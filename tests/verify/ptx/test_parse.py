"""Reading PTX text: declarations, scopes, functions, operands, and where everything stood."""

from __future__ import annotations

import pytest

from derive_triplet.derive.verify import ptx
from derive_triplet.derive.verify.ptx.parse import (
    Address,
    Immediate,
    Pair,
    Register,
    Sink,
    Symbol,
    Vector,
    immediate_bits,
    parse,
)
from derive_triplet.derive.verify.ptx.types import find

TEXT = """//
// a comment; with { braces
//
.version 9.0
.target sm_90a, debug
.address_size 64
\t.file\t1 "/some/where/triplet.cuh"
.shared .align 8 .b8 partial[512];
.extern .shared .align 16 .b8 dynamic[];
.global .align 4 .u32 count = 2;
.const .align 4 .f32 table[3] = {0f3F800000, 2.0};
.global .align 8 .b8 unused[16];
.func  (.param .b64 result) twice(
\t.param .b64 argument
);
.visible .entry first(
\t.param .u64 .ptr .align 1 x,
\t.param .f32 y,
\t.param .align 8 .b8 z[24]
)
.maxntid 256, 1, 1
{
\t.reg .pred %p<3>;
\t.reg .b32 %r<4>, %s;
\t.reg .b64 %rd<2>;
\t.loc\t1 34 5
\tmov.u32 \t%r1, partial; /* a
comment */ ld.const.f32 %r2, [table+4];
$L_loop:
\t.loc\t1 35 9, function_name $L__info, inlined_at 1 2 3
\t@!%p1 bra \t$L_loop;
\t{
\t.reg .b32 %r1;
\tmov.b64 {%r1, _}, %rd1;
\tshfl.sync.bfly.b32 \t%r2|%p2, %r1, 0x1f, -1, 0b11;
\t}
\tst.global.v2.f32 [%rd1+-8], {%r1, 0f00000000};
\tret;
}
.func (.param .b64 result) twice(.param .b64 argument) { .reg .b64 %d<2>;
 ld.param.b64 %d0, [argument]; add.u64 %d1, %d0, %d0; st.param.b64 [result], %d1; ret; }
.entry second() { ret; }
\t.section\t.debug_str
\t{
$L__info:
.b8 1,2,0
\t}
"""


def test_kernels_parameters_and_variables() -> None:
    module = parse(TEXT)
    assert (module.target, module.names) == ("sm_90a", ("first", "second"))
    first = module.kernel("first")
    assert [(p.name, p.type.name, p.size, p.align) for p in first.parameters] == [
        ("x", "u64", 8, 8),
        ("y", "f32", 4, 4),
        ("z", "b8", 24, 8),
    ]
    assert [(v.name, v.space, v.size, v.initial) for v in first.variables] == [
        ("partial", "shared", 512, None),
        ("table", "const", 12, bytes.fromhex("0000803f 00000040 00000000")),
    ]  # those that it uses
    assert module.kernel("second").variables == ()


def test_instructions_and_where_they_stood() -> None:
    first = parse(TEXT).kernel("first")
    mov, load, branch, unpack, shuffle, store, _ = first.instructions
    assert (mov.opcode, mov.modifiers, mov.operands) == ("mov", ("u32",), (Register("%r1"), Symbol("partial")))
    assert (mov.line, mov.source, load.line, branch.source) == (27, "triplet.cuh:34", 28, "triplet.cuh:35")
    assert load.operands[1] == Address(Symbol("table"), 4)
    assert branch.guard == Register("%p1", negated=True)
    assert first.labels == {"$L_loop": 2}
    assert store.operands == (Address(Register("%rd1"), -8), Vector((Register("%r1"), Immediate(0, 32))))
    inner = unpack.operands[0].parts[0]
    assert inner.name != "%r1"  # the scope has its own
    assert unpack.operands[0].parts[1] == Sink()
    wanted = (Pair(Register("%r2"), Register("%p2")), inner, Immediate(31), Immediate(-1), Immediate(3))
    assert shuffle.operands == wanted
    assert shuffle.text == "shfl.sync.bfly.b32 %r2|%p2, %r1, 0x1f, -1, 0b11"


def test_labels_of_a_function_are_its_own_wherever_they_stand() -> None:
    kernel = parse(".func f(){a: bra a;} .entry k(){call f; call f; ret;}").kernel("k")
    assert [kernel.labels[one.operands[0].name] for one in kernel.instructions[:2]] == [0, 1]


@pytest.mark.parametrize(
    ("constant", "type_", "bits"),
    [
        (Immediate(-1), "b32", 0xFFFFFFFF),
        (Immediate(-1), "u16", 0xFFFF),
        (Immediate(0x3F800000, 32), "f64", 0x3FF0000000000000),
        (Immediate(0x3FF0000000000000, 64), "f32", 0x3F800000),
        (Immediate(0x3F800000, 32), "b32", 0x3F800000),
    ],
)
def test_bits_of_constants(constant: Immediate, type_: str, bits: int) -> None:
    assert immediate_bits(constant, find(type_)) == bits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".version 9.0\n.nonsense 5;\n", r"line 2: '.nonsense 5'"),
        (".global .texref t;", r"line 1: the declaration"),
        (".entry k() {\n .reg .b128 %q<2>;\n}", r"line 2: registers of type '.b128'"),
        (".entry k() {\n mov.u32 %r1, a*b;\n}", r"line 2: the operand 'a\*b'"),
        (".entry k() {\n ld.global.u32 %r1, [%r1+%r2];\n}", r"line 2"),
        (".entry k() {\n ld.global.u32 %r1, [_];\n}", r"line 2: the address '\[_\]'"),
        (".entry k() {\n ret;", "not closed"),
        (".global .u64 a = b;", "initializer"),
    ],
)
def test_what_cannot_be_read_says_where(text: str, message: str) -> None:
    with pytest.raises(ptx.UnsupportedError, match=message):
        parse(text).kernel("k")


def test_a_kernel_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ptx.LaunchError, match="no kernel third; there are first, second"):
        ptx.load(TEXT).kernel("third")
    assert ptx.load(TEXT, {"space::second<int>": "second"}).kernel("space::second<int>").name == "space::second<int>"
