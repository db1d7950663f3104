"""The launchers, executed: built against a stand-in for the CUDA runtime that reports launches and runs none of them.

What they start is what `launches` says, which verification relies on; and what they refuse starts nothing.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive_triplet import DISTANCES, LOSSES, Distance, Objective, Parameter, Product, differentiate, generate
from derive_triplet.derive.launches import (
    FLOAT_TYPES,
    MOST_BLOCKS,
    REDUCTION_THREADS,
    REDUCTIONS,
    TEAMS,
    THREADS,
    FloatType,
    Start,
    fused_start,
    mask_start,
    product_start,
    qualified,
    reduction,
    single_start,
)
from derive_triplet.derive.verify import nvcc

pytestmark = pytest.mark.needs("nvcc")

# cudaSuccess and so on
SUCCESS, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES, MISALIGNED_ADDRESS = 0, 1, 701, 716

RUNTIME = r"""
#include <stddef.h>
#include <string.h>

typedef struct { unsigned x, y, z; } Size;
typedef void (*Launched)(const char* kernel, const Size* grid, const Size* block, size_t shared, void* stream,
                         void** arguments);

static Launched report;
static int error;
static struct { const void* host; const char* device; } kernels[1024];
static int count;
static struct { Size grid, block; size_t shared; void* stream; } pushed;

void stub_report_to(Launched to) { report = to; }
void stub_fail_with(int code) { error = code; }

void** __cudaRegisterFatBinary(void* binary) { return (void**)binary; }
void __cudaRegisterFatBinaryEnd(void** binary) { (void)binary; }
void __cudaUnregisterFatBinary(void** binary) { (void)binary; }
char __cudaInitModule(void** binary) { return binary != NULL; }
void __cudaRegisterFunction(void** binary, const char* host, char* device, const char* name, int limit, void* thread,
                            void* block, void* block_size, void* grid_size, int* warps) {
    (void)binary, (void)name, (void)limit, (void)thread, (void)block, (void)block_size, (void)grid_size, (void)warps;
    kernels[count].host = host;
    kernels[count++].device = device;
}
int __cudaGetKernel(void** kernel, const void* host) {
    for (int i = 0; i < count; ++i)
        if (kernels[i].host == host) *kernel = (void*)kernels[i].device;
    return 0;
}
unsigned __cudaPushCallConfiguration(Size grid, Size block, size_t shared, void* stream) {
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}
int __cudaPopCallConfiguration(Size* grid, Size* block, size_t* shared, void* stream) {
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared;
    memcpy(stream, &pushed.stream, sizeof pushed.stream);
    return 0;
}
int __cudaLaunchKernel(void* kernel, Size grid, Size block, void** arguments, size_t shared, void* stream) {
    report((const char*)kernel, &grid, &block, shared, stream, arguments);
    return error;
}
int cudaGetLastError(void) {
    const int code = error;
    error = 0;
    return code;
}
"""
OF_THE_RUNTIME = set(re.findall(r"\b_*cuda\w+(?=\()", RUNTIME))
OF_THE_LANGUAGE = {  # a static that is initialised at its first use, destructors
    "atexit",
    "_Unwind_Resume",
    "__gxx_personality_v0",
    "__cxa_guard_abort",
    "__cxa_guard_acquire",
    "__cxa_guard_release",
}

# two parameters, so that their order counts
SCALED = Objective(
    Distance(
        "scaled",
        "a distance with a unit",
        "scale * sum((x - y)**2)",
        "made up",
        (Parameter("scale", 2.0, "positive", "the unit of the distance"),),
    ),
    LOSSES["hinge"],
)
OBJECTIVES = [
    Objective(DISTANCES["l2"], LOSSES["softmax-mse"]),
    Objective(DISTANCES["l2-squared"], LOSSES["hinge"]),
    SCALED,
]
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
ROW_WISE = ("forward", "backward", "forward_backward", "hvp")
KINDS = (*ROW_WISE, *REDUCTIONS)
EMBEDDINGS, GRADIENTS, DIRECTION, PRODUCTS = (
    (name, f"{name}_pos", f"{name}_neg") for name in ("x", "grad_x", "v", "h_x")
)
OUTPUTS = {"backward": GRADIENTS, "forward_backward": GRADIENTS, "hvp": PRODUCTS}
"""What launchers write that take upstream gradients; where there are some, a second kernel masks it."""


@cache
def made(objective: Objective, dtypes: tuple[str, ...] = tuple(FLOAT_TYPES)) -> Product:
    return generate(differentiate(objective), "cuda", dtypes=dtypes)


# ---------------------------------------------------------------- built and called


def executed(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def compiled(product: Product, folder: Path, change: Callable[[str], str] = str) -> None:
    """layer.o from the product's launchers, changed; kernels, which nothing runs, have empty bodies."""
    stem = product.objective.stem
    header, count = re.subn(r"(__global__ void [^{]*)\{.*?\n\}", r"\1{}", product.text(".cuh"), flags=re.DOTALL)
    assert count == 8
    (folder / f"{stem}.cuh").write_text(header, encoding="utf-8")
    (folder / f"{stem}.cu").write_text(change(product.text(".cu")), encoding="utf-8")
    options = ("-std=c++17", "-arch=compute_80", "-Xcompiler=-fPIC", *nvcc.WARNINGS_AS_ERRORS)
    executed(nvcc.find() or "", *options, "-c", f"{stem}.cu", "-o", "layer.o", folder=folder)


def linked(folder: Path) -> ctypes.CDLL:
    """layer.o and the stand-in, in which all is found that is not in the C++ library."""
    (folder / "runtime.c").write_text(RUNTIME, encoding="utf-8")
    options = ("-shared", "-cudart=none", "-Xcompiler=-fPIC,-Wall,-Wextra,-Werror", "-Xlinker=--no-undefined")
    executed(nvcc.find() or "", *options, "layer.o", "runtime.c", "-o", "layer.so", folder=folder)
    return ctypes.CDLL(str(folder / "layer.so"))


@dataclass(frozen=True)
class Launch:
    """What the runtime was told to start."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    stream: int | None
    arguments: tuple[Any, ...]


ADDRESS, INTEGER = ctypes.c_void_p, ctypes.c_longlong
REAL = {"float": ctypes.c_float, "double": ctypes.c_double}
REPORT = ctypes.CFUNCTYPE(
    None,
    ADDRESS,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_size_t,
    ADDRESS,
    ctypes.POINTER(ADDRESS),
)
ELEMENTS = (*EMBEDDINGS, *GRADIENTS, *DIRECTION, *PRODUCTS)
"""The pointers to what is stored as embeddings are; the others are to what is computed in."""
OPTIONAL = "upstream"


class Launchers:
    """The launchers of an objective, called with arguments that are right but for what is changed."""

    def __init__(self, library: ctypes.CDLL, objective: Objective) -> None:
        self.library, self.objective = library, objective
        self.demangle = getattr(ctypes.CDLL("libstdc++.so.6"), "__cxa_demangle")  # an attribute's name would be mangled
        self.demangle.restype = ctypes.c_char_p

    def arguments(self, kind: str, scalar: FloatType) -> dict[str, Any]:
        """All of them, in the order of the launcher; no two are equal."""
        real = REAL[scalar.arithmetic]
        matrices = {name: ADDRESS(at << 20) for at, name in enumerate(ELEMENTS, 1)}
        names = ("loss", "weights", "upstream", "total", "share")
        rest = {name: ADDRESS(at << 20) for at, name in enumerate(names, 20)}
        inputs, gradients, direction, products = (
            {name: matrices[name] for name in group} for group in (EMBEDDINGS, GRADIENTS, DIRECTION, PRODUCTS)
        )
        shape = {"rows": INTEGER(3), "dim": INTEGER(8)}
        parameters = {p.name: real(0.375 + at) for at, p in enumerate(self.objective.parameters)}
        arguments = {
            "forward": {**inputs, "loss": rest["loss"], "weights": rest["weights"], **shape, **parameters},
            "backward": {
                **inputs,
                "weights": rest["weights"],
                "upstream": rest["upstream"],
                "factor": real(0.625),
                **gradients,
                **shape,
            },
            "forward_backward": {
                **inputs,
                "upstream": rest["upstream"],
                "factor": real(0.625),
                "loss": rest["loss"],
                **gradients,
                **shape,
                **parameters,
            },
            "hvp": {
                **inputs,
                **direction,
                "upstream": rest["upstream"],
                "factor": real(0.625),
                **products,
                **shape,
                **parameters,
            },
            "reduce": {
                "loss": rest["loss"],
                "upstream": rest["upstream"],
                "factor": ctypes.c_double(0.1),
                "total": rest["total"],
                "rows": shape["rows"],
            },
            "active": {
                "loss": rest["loss"],
                "upstream": rest["upstream"],
                "share": rest["share"],
                "rows": shape["rows"],
            },
        }[kind]
        return {**arguments, "stream": ADDRESS(0xABC0)}

    def call(self, kind: str, scalar: FloatType, failing: str = "", **changed: Any) -> tuple[int, list[Launch]]:
        """What a launcher returns, and what it started. failing: the kernel whose launch fails."""
        arguments = self.arguments(kind, scalar)
        for name, value in changed.items():
            arguments[name] = type(arguments[name])(value)
        launches: list[Launch] = []

        def reported(*told: Any) -> None:
            launches.append(self._launch(told, arguments, OUTPUTS.get(kind, ())))
            if failing and f"::{failing}<" in launches[-1].kernel:
                self.library.stub_fail_with(LAUNCH_OUT_OF_RESOURCES)

        report = REPORT(reported)
        self.library.stub_report_to(report)
        launcher = getattr(self.library, f"{self.objective.stem}_{kind}_{scalar.suffix}")
        return int(launcher(*arguments.values())), launches

    def _launch(self, told: Sequence[Any], given: Mapping[str, Any], outputs: Sequence[str]) -> Launch:
        """The arguments are read as what the launcher was given; parameters are the members of a struct."""
        kernel, grid, block, shared, stream, found = told
        name = self.demangle(ctypes.c_char_p(kernel), None, None, None).decode()
        name = name.removeprefix("void ").partition("(")[0]
        if "::mask<" in name:
            given = {name: given[name] for name in ("upstream", *outputs, "rows", "dim")}
        names = [p.name for p in self.objective.parameters if p.name in given]
        plain = [type(value) for name, value in given.items() if name not in (*names, "stream")]
        values = [kind.from_address(found[at]).value for at, kind in enumerate(plain)]
        if names:
            values += list((type(given[names[0]]) * len(names)).from_address(found[len(plain)]))
        return Launch(name, tuple(grid[:3]), tuple(block[:3]), shared, stream, tuple(values))


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objective], Launchers]:
    @cache
    def of(objective: Objective) -> Launchers:
        folder = tmp_path_factory.mktemp(objective.stem)
        compiled(made(objective), folder)
        return Launchers(linked(folder), objective)

    return of


# ---------------------------------------------------------------- what they start


def dims(scalar: FloatType) -> list[int]:
    """Short ones, and those about which another kernel is started."""
    ends = [team.threads * held for team in TEAMS for held in team.held]
    around = [end * width + step for end in ends for width in (1, scalar.wide) for step in (-1, 0, 1)]
    packs = [(end + step) * scalar.wide for end in ends for step in (-1, 1)]
    return sorted({*range(1, 3 * scalar.wide), *around, *packs, 10**6, 10**6 + 1})


def expected(objective: Objective, kind: str, scalar: FloatType, rows: int, dim: int, aligned: bool) -> tuple[Any, ...]:
    """Kernel, blocks and threads."""
    if kind in REDUCTIONS:
        start, threads = Start(reduction(scalar, kind), 1), REDUCTION_THREADS
    elif kind == "hvp":
        start, threads = product_start(scalar, rows, dim), THREADS
    else:
        start = (fused_start if kind == "forward_backward" else _single(kind))(scalar, rows, dim, aligned)
        threads = THREADS
    return _capped(objective, start, threads)


def _capped(objective: Objective, start: Start, threads: int) -> tuple[Any, ...]:
    return qualified(objective.stem, start.kernel), min(start.blocks, MOST_BLOCKS), threads


def _single(kind: str) -> Callable[..., Start]:
    return lambda *arguments: single_start(kind, *arguments)


def assert_starts(of: Launchers, kind: str, scalar: FloatType, aligned: bool = True, **changed: Any) -> None:
    """The launch that `launches` says, of what the launcher was given, on the stream that it was given.

    And for gradients a second one, where there are upstream gradients.
    """
    code, launches = of.call(kind, scalar, **changed)
    assert code == SUCCESS
    arguments = {name: value.value for name, value in of.arguments(kind, scalar).items()} | changed
    rows, dim, stream = arguments["rows"], arguments.get("dim", 1), arguments.pop("stream")
    wanted = [(expected(of.objective, kind, scalar, rows, dim, aligned), arguments)]
    if kind in OUTPUTS and arguments["upstream"] is not None:
        outputs_aligned = all(arguments[name] % 16 == 0 for name in OUTPUTS[kind])
        second = _capped(of.objective, mask_start(scalar, rows, dim, outputs_aligned), THREADS)
        wanted.append((second, {name: arguments[name] for name in ("upstream", *OUTPUTS[kind], "rows", "dim")}))
    assert launches == [
        Launch(kernel, (blocks, 1, 1), (threads, 1, 1), 0, stream, tuple(given.values()))
        for (kernel, blocks, threads), given in wanted
    ], changed


def check_starts(of: Launchers, scalar: FloatType) -> None:
    for kind in KINDS:
        assert_starts(of, kind, scalar)
        assert_starts(of, kind, scalar, stream=None)
        for rows in (1, 7, 8, 9, 1_000, MOST_BLOCKS, MOST_BLOCKS + 1, 8 * MOST_BLOCKS, 8 * MOST_BLOCKS + 1, 2**40):
            assert_starts(of, kind, scalar, rows=rows)
            if kind not in REDUCTIONS:
                assert_starts(of, kind, scalar, rows=rows, dim=10**5)
    for kind, dim in itertools.product(ROW_WISE, dims(scalar)):
        assert_starts(of, kind, scalar, dim=dim)
        assert_starts(of, kind, scalar, dim=dim, aligned=False, x=(1 << 20) + scalar.size)
    for kind in ROW_WISE:
        for name, value in of.arguments(kind, scalar).items():
            if isinstance(value, ADDRESS) and name != "stream":
                # only embeddings and gradients are moved several at once
                own = scalar.size if name in ELEMENTS else ctypes.sizeof(REAL[scalar.arithmetic])
                assert_starts(of, kind, scalar, name not in ELEMENTS, **{name: value.value + own})
    for kind in KINDS[1:]:
        assert_starts(of, kind, scalar, upstream=None)


@objectives
@pytest.mark.parametrize("scalar", FLOAT_TYPES.values(), ids=FLOAT_TYPES)
def test_launchers_start_the_kernels_that_verification_executes(
    launchers: Callable[[Objective], Launchers], objective: Objective, scalar: FloatType
) -> None:
    check_starts(launchers(objective), scalar)


def check_failures(of: Launchers, scalar: FloatType) -> None:
    for kind in KINDS:
        for failing in (kind, "mask") if kind in OUTPUTS else (kind,):
            code, launches = of.call(kind, scalar, failing)
            assert code == LAUNCH_OUT_OF_RESOURCES
            assert f"::{failing}<" in launches[-1].kernel, "it is the last"
            assert of.call(kind, scalar)[0] == SUCCESS


def test_a_launch_that_fails_is_returned(launchers: Callable[[Objective], Launchers]) -> None:
    for scalar in FLOAT_TYPES.values():
        check_failures(launchers(OBJECTIVES[0]), scalar)


# ---------------------------------------------------------------- what they refuse

MOST_ELEMENTS = (2**63 - 1) // 8
"""Of a matrix, of which 8 bytes each can be reached; the launchers here are called with rows of 8."""
BAD_PARAMETERS = {"positive": (0.0, -1.0, np.nan, np.inf, -np.inf), "nonnegative": (-1.0, np.nan, np.inf, -np.inf)}


def bad_arguments(of: Launchers, kind: str, scalar: FloatType) -> Iterable[tuple[int, dict[str, Any]]]:
    """What is wrong, and the code for it."""
    arguments = of.arguments(kind, scalar)
    yield from ((INVALID_VALUE, {"rows": rows}) for rows in (-1, -(2**63)))
    if "dim" in arguments:
        yield from ((INVALID_VALUE, {"dim": dim}) for dim in (0, -1, -8, -(2**63)))
        # more elements than an address can reach
        yield INVALID_VALUE, {"rows": 2**62}
        yield INVALID_VALUE, {"rows": 2**31, "dim": 2**31}
        yield INVALID_VALUE, {"rows": MOST_ELEMENTS // 8 + 1}
    if kind == "reduce":
        yield INVALID_VALUE, {"rows": 1, "loss": None}
    for name, value in arguments.items():
        if isinstance(value, ADDRESS) and name != "stream":
            if name != OPTIONAL:
                yield INVALID_VALUE, {name: None}
            own = scalar.size if name in ELEMENTS else ctypes.sizeof(REAL[scalar.arithmetic])
            yield from ((MISALIGNED_ADDRESS, {name: value.value + off}) for off in {1, own // 2, own - 1})
    for parameter in of.objective.parameters if kind in ("hvp", "forward", "forward_backward") else ():
        yield from ((INVALID_VALUE, {parameter.name: bad}) for bad in BAD_PARAMETERS[parameter.domain])


def check_refusals(of: Launchers, scalar: FloatType) -> None:
    for kind in KINDS:
        for code, changed in bad_arguments(of, kind, scalar):
            assert of.call(kind, scalar, **changed) == (code, []), (kind, changed)
        if kind == "reduce":
            # the sum of no losses is 0, which somebody has to write
            assert_starts(of, kind, scalar, rows=0)
            assert_starts(of, kind, scalar, rows=0, loss=None)
        else:
            assert of.call(kind, scalar, rows=0) == (SUCCESS, [])
            pointers = dict.fromkeys(n for n, v in of.arguments(kind, scalar).items() if isinstance(v, ADDRESS))
            assert of.call(kind, scalar, rows=0, **pointers) == (SUCCESS, []), "an empty batch may have no memory"
            if "dim" in of.arguments(kind, scalar):
                assert of.call(kind, scalar, rows=0, dim=0) == (INVALID_VALUE, [])
                assert_starts(of, kind, scalar, rows=MOST_ELEMENTS // 8)
    for parameter in of.objective.parameters:
        if parameter.domain == "nonnegative":
            assert_starts(of, "forward", scalar, **{parameter.name: 0.0})


@objectives
@pytest.mark.parametrize("scalar", FLOAT_TYPES.values(), ids=FLOAT_TYPES)
def test_launchers_start_nothing_with_arguments_that_cannot_be(
    launchers: Callable[[Objective], Launchers], objective: Objective, scalar: FloatType
) -> None:
    check_refusals(launchers(objective), scalar)


def test_launchers_exist_for_the_types_asked_for_only(tmp_path: Path) -> None:
    product = made(OBJECTIVES[0], ("bfloat16",))
    compiled(product, tmp_path)
    library = linked(tmp_path)
    there = {s.suffix for s in FLOAT_TYPES.values() if hasattr(library, f"{product.objective.stem}_forward_{s.suffix}")}
    assert there == {"bf16"}


# ---------------------------------------------------------------- what they need


def needed(folder: Path) -> set[str]:
    """The symbols that layer.o expects of others."""
    symbols = executed("nm", "--undefined-only", "--format=posix", "layer.o", folder=folder)
    return {line.split()[0] for line in symbols.splitlines()} - {"_GLOBAL_OFFSET_TABLE_"}


def test_of_the_runtime_nothing_but_launches_is_needed(tmp_path: Path) -> None:
    """So nothing is allocated, nothing waits, and no other stream is used."""
    compiled(made(OBJECTIVES[0]), tmp_path)
    assert needed(tmp_path) - OF_THE_LANGUAGE == OF_THE_RUNTIME


# ---------------------------------------------------------------- errors planted into the launchers


@dataclass(frozen=True)
class Plant:
    what: str
    pattern: str
    replacement: str

    def into(self, text: str) -> str:
        changed, count = re.subn(self.pattern, self.replacement, text)
        assert count, f"{self.pattern} does not occur"
        return changed


PLANTS = [
    # which kernel
    Plant("a row that just fits is given to more registers", r"packs <= 32 \* 2", "packs < 32 * 2"),
    Plant("a row that just fits in a block is read twice", r"packs <= threads \* 8", "packs < threads * 8"),
    Plant("a row that does not fit is given to a warp", r"packs <= 32 \* 8", "packs <= 32 * 9"),
    Plant("the wrong number of packs", r"forward_backward<Warp, S, V, 4>", "forward_backward<Warp, S, V, 8>"),
    Plant("a warp for a row of one pack too many", r"dim / V <= 256", "dim / V <= 257"),
    Plant("backward for forward", r"\? forward<Warp, S, V> : forward", "? forward<Block<256>, S, V> : forward"),
    Plant("width of elements of 4 bytes", r"wide = 16 / sizeof\(S\)", "wide = 4"),
    Plant("wide accesses of any length", r"dim % wide<S> == 0 && ", ""),
    Plant("alignment of the last gradient ignored", r"(are_aligned<wide<S>>\(.*), grad_x_neg\)", r"\1)"),
    Plant("alignment of x ignored", r"are_aligned<wide<S>>\(x, ", "are_aligned<wide<S>>("),
    # how many
    Plant("the last rows left out", r"\(rows \+ threads / 32 - 1\)", "rows"),
    Plant("a block too many", r"\(rows \+ threads / 32 - 1\)", "(rows + threads / 32)"),
    Plant("blocks of warps for blocks", r"blocks = rows;", ""),
    Plant("more blocks at most", r"most_blocks = \d+", "most_blocks = 1LL << 31"),
    Plant("fewer threads", r"threads = 256", "threads = 128"),
    Plant("fewer threads in the sum", r"1, 1024, stream", "1, 256, stream"),
    # with what
    Plant("another stream", r"block, 0, stream>>>", "block, 0, stream ? nullptr : stream>>>"),
    Plant("shared memory that nobody asked for", r"block, 0, stream>>>", "block, 8, stream>>>"),
    Plant("positive and negative exchanged", r"stream, x, x_pos, x_neg,", "stream, x, x_neg, x_pos,"),
    Plant(
        "gradients exchanged",
        r"as<Half>\(grad_x_pos\), as<Half>\(grad_x_neg\)",
        "as<Half>(grad_x_neg), as<Half>(grad_x_pos)",
    ),
    Plant("upstream left out", r"(stream, x, .*) upstream,", r"\1 (const Real<S>*)nullptr,"),
    Plant("upstream of the sum left out", r"stream, loss, upstream, factor", "stream, loss, (const T*)nullptr, factor"),
    Plant("masked rows left to their NaN", r"return start_mask\(.*", "return error;"),
    Plant("rows masked where none are", r" \|\| upstream == nullptr\) return error", ") return error"),
    Plant("masked rows after a failure", r"error != cudaSuccess \|\| ", ""),
    Plant("masked products left to their NaN", r"return start_mask\(upstream, h_x.*", "return error;"),
    Plant("products of a block for those of a warp", r"\? hvp<Warp, S> : hvp", "? hvp<Block<256>, S> : hvp"),
    Plant("products exchanged", r"factor, h_x, h_x_pos, h_x_neg", "factor, h_x, h_x_neg, h_x_pos"),
    Plant("the direction exchanged", r"\bv, v_pos, v_neg, upstream, factor", "v, v_neg, v_pos, upstream, factor"),
    Plant("rows and dim exchanged", r"rows, dim, parameters\);", "dim, rows, parameters);"),
    Plant("parameters exchanged", r"\{scale, margin\}", "{margin, scale}"),
    # refusals
    Plant("parameters not checked", r"\|\| !is_valid\(parameters\)", ""),
    Plant("infinity is a parameter", r" && std::isfinite\(.*\)\)\)", "))"),
    Plant("negative rows", r"rows >= 0 && ", ""),
    Plant("too many elements", r" && rows <= LLONG_MAX / 8 / dim", ""),
    Plant("fewer elements", r"LLONG_MAX / 8 / dim", "LLONG_MAX / 9 / dim"),
    Plant("null pointers", r"\(pointers == nullptr\)", "(pointers && false)"),
    Plant(
        "pointers that are not checked",
        r"any_null\(x, x_pos, x_neg, loss, weights\)",
        "any_null(x, x_pos, x_neg, loss)",
    ),
    Plant("misaligned pointers", r"if \(!are_aligned<1>\(.*\)\)\s+return cudaErrorMisalignedAddress;", ""),
    Plant("misaligned upstream", r"(are_aligned<1>\(.*), upstream", r"\1"),
    Plant("an empty batch is launched", r"if \(rows == 0\) return cudaSuccess;", ""),
    Plant("errors not returned", r"return cudaGetLastError\(\);", "return cudaSuccess;"),
]


def check(folder: Path, change: Callable[[str], str] = str) -> None:
    """The launchers of one float type, changed."""
    compiled(made(SCALED, ("float16",)), folder, change)
    of = Launchers(linked(folder), SCALED)
    for each in (check_starts, check_refusals, check_failures):
        each(of, FLOAT_TYPES["float16"])


def test_what_errors_are_planted_into_is_right(tmp_path: Path) -> None:
    check(tmp_path)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_an_error_planted_into_the_launchers_is_seen(plant: Plant, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check(tmp_path, plant.into)


@pytest.mark.parametrize(
    ("statement", "symbol"),
    [("cudaDeviceSynchronize()", "cudaDeviceSynchronize"), ("cudaMallocAsync(&memory, 8, stream)", "cudaMallocAsync")],
)
def test_a_launcher_that_needs_more_of_the_runtime_is_seen(statement: str, symbol: str, tmp_path: Path) -> None:
    plant = Plant("", r"return cudaGetLastError\(\);", rf"void* memory; (void)memory; {statement}; \g<0>")
    compiled(made(OBJECTIVES[0], ("float32",)), tmp_path, plant.into)
    assert needed(tmp_path) - OF_THE_LANGUAGE - OF_THE_RUNTIME == {symbol}
