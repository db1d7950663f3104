"""The generated kernels, compiled by NVRTC and executed: right, with the traffic they promise, and watched."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType

import numpy as np
import pytest

from derive_triplet import Product, differentiate, generate
from derive_triplet.derive.formats import FORMATS, from_bits, to_bits
from derive_triplet.derive.launches import BLOCK, FLOAT_TYPES, REDUCTIONS, TEAMS, THREADS, WARP, kernels, qualified
from derive_triplet.derive.targets import numpy as numpy_target
from derive_triplet.derive.verify import nvrtc, ptx

pytestmark = pytest.mark.needs("nvrtc")

DIMS = (1, 3, 31, 32, 33, 128, 1000, 1028, 8200)
BOUND = 8  # ULP at the scale of a row: sums are added in another order, and exp is another one
ONE_PACK, ONE_BLOCK, LONG = (
    "forward_backward<Warp, float, 1, 2>",
    "forward_backward<Block<256>, float, 1, 2>",
    "forward_backward_long<Block<256>, float, 1>",
)


@cache
def product(norm: str, loss: str, target: str) -> Product:
    return generate(differentiate(norm, loss), target)


@cache
def reference(norm: str, loss: str) -> ModuleType:
    return numpy_target.load(product(norm, loss, "numpy"))


@cache
def compiled(text: str, architecture: str, names: tuple[str, ...]) -> ptx.Module:
    result = nvrtc.compile_source(text, architecture, names, "layer.cuh")
    return ptx.load(result.ptx, result.names)


def module(norm: str, loss: str, dtype: str, architecture: str = "compute_75") -> tuple[ptx.Module, Product]:
    """All kernels of one float type, and what they come from."""
    cuda = product(norm, loss, "cuda")
    names = (
        qualified(cuda.objective.stem, kernel)
        for kernel in kernels([dtype])
        if kernel.partition("<")[0] not in REDUCTIONS
    )
    return compiled(cuda.text(".cuh"), architecture, tuple(names)), cuda


def triplet(rows: int, dim: int, dtype: str) -> list[np.ndarray]:
    """Distances of order 1, at which no loss magnifies rounding."""
    random = np.random.default_rng(dim)
    return [(random.normal(size=(rows, dim)) / dim**0.5).astype(dtype) for _ in range(3)]


class Layer:
    """Buffers of one batch, and the kernels on them."""

    def __init__(self, kernels: ptx.Module, cuda: Product, batch: Sequence[np.ndarray], parameter: float) -> None:
        self.kernels, self.space = kernels, cuda.objective.stem
        self.weight_count = int(re.findall(r"weight_count = (\d+)", cuda.text(".cuh"))[0])
        self.rows, self.dim = batch[0].shape
        self.dtype = batch[0].dtype
        self.scalar = FLOAT_TYPES[self.dtype.name]
        self.parameters = np.array([parameter], self.dtype)
        self.device = ptx.Device()
        names = ("x", "x_pos", "x_neg")
        self.inputs = [self.device.buffer(name, values) for name, values in zip(names, batch, strict=True)]
        self.upstream = self.device.buffer("upstream", np.linspace(1, 2, self.rows, dtype=self.dtype))
        self.loss = self.device.empty("loss", self.rows, self.dtype)
        self.weights = self.device.empty("weights", (self.rows, self.weight_count), self.dtype)
        self.gradients = [self.device.empty(f"grad_{name}", batch[0].shape, self.dtype) for name in names]

    def run(self, kernel: str, blocks: int, arguments: list[ptx.Buffer | float | None]) -> ptx.Launch:
        shape = [self.rows, self.dim]
        structure = [self.parameters] if not kernel.startswith("backward") else []
        program = self.kernels.kernel(qualified(self.space, kernel))
        return self.device.launch(program, blocks, THREADS, [*self.inputs, *arguments, *shape, *structure])

    def forward_backward(self, kernel: str, upstream: ptx.Buffer | None = None, factor: float = 1.0) -> ptx.Launch:
        blocks = -(-self.rows * WARP.threads // THREADS) if "<Warp" in kernel else self.rows
        return self.run(kernel, blocks, [upstream, factor, self.loss, *self.gradients])

    def fused(self, width: int) -> Iterator[str]:
        """The kernels that a row of this length may be given to."""
        if self.dim % width == 0:
            for team in TEAMS:
                for held in team.held:
                    if self.dim <= team.threads * width * held:
                        yield f"forward_backward<{team.name}, {self.scalar.storage}, {width}, {held}>"
            yield f"forward_backward_long<{BLOCK.name}, {self.scalar.storage}, {width}>"


def assert_close(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], least: float = 0.0) -> None:
    """Within some ULP at the scale of the largest component of the row's gradients."""
    info = np.finfo(wanted[0].dtype)
    scale = np.max(np.abs(wanted), axis=(0, -1), keepdims=True, initial=max(least, info.tiny))
    assert np.max(np.abs(np.array(found) - wanted) / (info.eps * scale)) <= BOUND


CASES = [
    ("l2", "softmax-mse", "float32", "compute_75", 1.0),
    ("l2", "softmax-mse", "float64", "compute_75", 1.0),
    ("l2-squared", "softmax-nll", "float32", "compute_100", 0.5),
    ("l2", "hinge", "float64", "compute_90", 0.2),
    ("l2-squared", "hinge", "float32", "compute_75", 0.2),
]


@pytest.mark.parametrize(("norm", "loss", "dtype", "architecture", "parameter"), CASES)
def test_kernels_give_what_the_numpy_module_gives(
    norm: str, loss: str, dtype: str, architecture: str, parameter: float
) -> None:
    kernels, cuda = module(norm, loss, dtype, architecture)
    name = "margin" if loss == "hinge" else "temperature"
    scalar = FLOAT_TYPES[dtype]
    for dim in DIMS:
        batch = triplet(9, dim, dtype)
        wanted_loss, wanted = reference(norm, loss).value_and_grad(*batch, reduction="none", **{name: parameter})
        for width in (scalar.wide, 1):
            layer = Layer(kernels, cuda, batch, parameter)
            losses = {}
            for kernel in layer.fused(width):
                done = layer.forward_backward(kernel)
                assert_close([layer.loss.array()[:, None]], [wanted_loss[:, None]], 1.0)
                assert_close([gradient.array() for gradient in layer.gradients], wanted)
                assert_traffic(done, layer, reads=2 if "long" in kernel else 1)
                losses["Warp" in kernel] = layer.loss.array()
            for team in TEAMS if dim % width == 0 else ():
                check_forward_and_backward(layer, f"{team.name}, {scalar.storage}, {width}", wanted)
                assert_close([layer.loss.array()[:, None]], [wanted_loss[:, None]], 1.0)
                fused = losses.get(team is WARP, layer.loss.array())  # no warp holds a long row
                np.testing.assert_array_equal(layer.loss.array(), fused)


def assert_traffic(done: ptx.Launch, layer: Layer, reads: int = 1) -> None:
    """6 * rows * dim elements: every input is read once, every gradient written once; 9 where it is read twice."""
    size = layer.rows * layer.dim * layer.dtype.itemsize
    for buffer in layer.inputs:
        assert (done.traffic[buffer.name].bytes_read, done.traffic[buffer.name].bytes_written) == (reads * size, 0)
    for buffer in layer.gradients:
        assert (done.traffic[buffer.name].bytes_read, done.traffic[buffer.name].bytes_written) == (0, size)
    assert done.traffic["loss"].bytes_written == layer.rows * layer.dtype.itemsize


def check_forward_and_backward(layer: Layer, shape: str, wanted: Sequence[np.ndarray]) -> None:
    """Forward saves weights, backward makes the gradients of them, times a factor and an upstream gradient."""
    blocks = layer.rows if "Block" in shape else 2
    layer.run(f"forward<{shape}>", blocks, [layer.loss, layer.weights])
    layer.run(f"backward<{shape}>", 3, [layer.weights, layer.upstream, 0.25, *layer.gradients])
    upstream = layer.upstream.array()[:, None]
    scaled = [(gradient * (upstream / 4)).astype(layer.dtype) for gradient in wanted]
    assert_close([gradient.array() for gradient in layer.gradients], scaled)


@pytest.mark.parametrize("dim", [33, 132, 1028])
def test_what_is_not_finite_stays_in_its_row(dim: int) -> None:
    """In every kernel that may be given the row: NaN in one row, infinity in the next, also where a block takes all."""
    kernels, cuda = module("l2", "softmax-mse", "float32")
    batch = triplet(4, dim, "float32")
    bad = [array.copy() for array in batch]
    bad[0][1, dim - 1], bad[2][2, 0] = np.nan, np.inf
    for width in (4, 1):
        layers = [Layer(kernels, cuda, values, 1.0) for values in (batch, bad)]
        for kernel in layers[0].fused(width):
            for layer in layers:
                layer.run(kernel, 1, [None, 1.0, layer.loss, *layer.gradients])
            clean, found = ([layer.loss.array(), *(g.array() for g in layer.gradients)] for layer in layers)
            for right, array in zip(clean, found, strict=True):
                np.testing.assert_array_equal(array[[0, 3]], right[[0, 3]])
            assert np.isnan([found[0][1], *(gradient[1, dim - 1] for gradient in found[1:])]).all(), kernel


def test_whole_sectors_are_moved_where_rows_are_aligned() -> None:
    kernels, cuda = module("l2", "softmax-mse", "float32")
    layer = Layer(kernels, cuda, triplet(64, 256, "float32"), 1.0)
    done = layer.forward_backward("forward_backward<Warp, float, 4, 2>")
    for buffer in layer.inputs:
        assert done.traffic[buffer.name].sectors_read * 32 == 64 * 256 * 4
    for buffer in layer.gradients:
        assert done.traffic[buffer.name].sectors_written * 32 == 64 * 256 * 4
    assert done.opcodes["ld.global.nc.v4.f32"] == 3 * 64 * 64
    assert done.opcodes["st.global.v4.f32"] == 3 * 64 * 64


def test_a_batch_is_executed_in_well_under_a_second() -> None:
    kernels, cuda = module("l2", "softmax-mse", "float32")
    layer = Layer(kernels, cuda, triplet(64, 256, "float32"), 1.0)
    layer.forward_backward("forward_backward<Warp, float, 4, 2>")
    start = time.process_time()
    layer.forward_backward("forward_backward<Warp, float, 4, 2>")
    assert time.process_time() - start < 0.5


def test_rows_far_beyond_32_bits_are_found() -> None:
    far_rows_are_right(*module("l2", "softmax-mse", "float32"))


def far_rows_are_right(kernels: ptx.Module, cuda: Product) -> None:
    """The last rows of a batch of 2^28, of which only they are there: 2^36 bytes come before them."""
    dim, there = 64, 8
    rows = 2**28
    start = (rows - there) * dim
    batch = triplet(there, dim, "float32")
    device = ptx.Device()
    inputs = [device.buffer(f"x{i}", values, offset=start) for i, values in enumerate(batch)]
    loss = device.empty("loss", there, np.float32, offset=rows - there)
    gradients = [device.empty(f"grad{i}", (there, dim), np.float32, offset=start) for i in range(3)]
    program = kernels.kernel(qualified(cuda.objective.stem, ONE_PACK))
    arguments = [*inputs, None, 1.0, loss, *gradients, rows, dim, np.float32(1)]
    device.launch(program, rows // 8, 256, arguments, blocks=[rows // 8 - 1])
    _, wanted = reference("l2", "softmax-mse").value_and_grad(*batch, reduction="none")
    assert_close([gradient.array() for gradient in gradients], wanted)


# ---------------------------------------------------------------- what rows in the range of the type pay

SECOND_PASS = r"    if \(leave_the_range\(sums, scale\)\) \{\n(.*\n)+?    \}\n"
LESS = {  # what is cut out, and how many instructions that saves at most: of a thread, and of each of its components
    "second pass": ([(SECOND_PASS, "    leave_the_range(sums, scale);\n")], 8, 0),
    "second pass and scales": ([(SECOND_PASS, "")], 24, 2),
}


@pytest.mark.parametrize("less", LESS)
@pytest.mark.parametrize("kernel", [ONE_PACK, ONE_BLOCK, LONG, "forward<Warp, float, 1>"])
def test_rows_in_the_range_of_the_type_pay_little_for_those_that_are_not(kernel: str, less: str) -> None:
    """No access to memory, a few instructions per row, and one multiplication for each difference in a gradient."""
    cuda = product("l2", "softmax-mse", "cuda")
    replacements, per_thread, per_component = LESS[less]
    without = cuda.text(".cuh")
    for pattern, replacement in replacements:
        without, count = re.subn(pattern, replacement, without)
        assert count == 2  # for gradients, and for products
    threads = THREADS * (1 if "Warp" in kernel else 8)
    for dim in (33, 64):
        launches = []
        for text in (cuda.text(".cuh"), without):
            kernels = compiled(text, "compute_75", (qualified(cuda.objective.stem, kernel),))
            layer = Layer(kernels, cuda, triplet(8, dim, "float32"), 1.0)
            outputs = [layer.loss, layer.weights] if "forward<" in kernel else [None, 1.0, layer.loss, *layer.gradients]
            launches.append(layer.run(kernel, threads // THREADS, outputs))
        assert launches[0].traffic == launches[1].traffic
        more = launches[0].instructions - launches[1].instructions
        assert more <= per_thread * threads + per_component * layer.rows * dim


# ---------------------------------------------------------------- numbers of 16 bits

CONVERSIONS = """
extern "C" __global__ void narrowed(const float* values, unsigned short* bits) {{
    {stem}::{storage} narrow_;
    {stem}::narrow(narrow_, values[blockIdx.x * blockDim.x + threadIdx.x]);
    bits[blockIdx.x * blockDim.x + threadIdx.x] = narrow_.bits;
}}
extern "C" __global__ void widened(const unsigned short* bits, float* values) {{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    values[i] = {stem}::widen({stem}::{storage}{{bits[i]}});
}}
"""
SIXTEEN = ("float16", "bfloat16")


def conversions(dtype: str, architecture: str = "compute_75", old: str = "", new: str = "") -> ptx.Module:
    cuda = generate(differentiate("l2", "hinge"), "cuda", dtypes=[dtype])
    text = cuda.text(".cuh")
    assert old in text
    kernels = CONVERSIONS.format(stem=cuda.objective.stem, storage=FLOAT_TYPES[dtype].storage)
    return compiled(text.replace(old, new) + kernels, architecture, ())


def bits_of(dtype: str, values: np.ndarray) -> np.ndarray:
    return to_bits(values) if dtype == "bfloat16" else FORMATS[dtype].rounded(values).view(np.uint16)


def every_number(dtype: str) -> np.ndarray:
    """All of a 16-bit type as float32, not a number included."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    return from_bits(bits) if dtype == "bfloat16" else bits.view(np.float16).astype(np.float32)


def misrounded(dtype: str, kernels: ptx.Module) -> int:
    """How many are not the nearest, of all numbers of a type, those half way between two, and those beside them."""
    numbers = every_number(dtype)
    ordered = np.sort(numbers[np.isfinite(numbers)])
    half_way = ((ordered[1:].astype(np.float64) + ordered[:-1]) / 2).astype(np.float32)
    format_ = FORMATS[dtype]
    largest = np.float32(2.0**format_.largest_exponent * (2 - format_.eps / 2))  # infinity is nearest from here on
    nan = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00001], np.uint32).view(np.float32)  # with bits that are rounded off
    given = np.concatenate([numbers, half_way, [largest, -largest], nan])
    with np.errstate(invalid="ignore"):  # signalling NaN
        beside = [np.nextafter(given, np.float32(bound)) for bound in (-np.inf, np.inf)]
    given = np.concatenate([given, *beside])
    given = np.resize(given, -(-given.size // THREADS) * THREADS).astype(np.float32)
    device = ptx.Device()
    values, bits = device.buffer("values", given), device.empty("bits", given.shape, np.uint16)
    device.launch(kernels.kernel("narrowed"), given.size // THREADS, THREADS, [values, bits])
    found, nan = bits.array(), np.isnan(given)
    back = found[nan].view(np.float16) if dtype == "float16" else from_bits(found[nan])
    return int(np.count_nonzero(found[~nan] != bits_of(dtype, given[~nan])) + np.count_nonzero(~np.isnan(back)))


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_numbers_are_rounded_to_the_nearest_of_16_bits_and_ties_to_even(dtype: str, architecture: str) -> None:
    kernels = conversions(dtype, architecture)
    assert misrounded(dtype, kernels) == 0
    device = ptx.Device()
    bits, values = device.buffer("bits", np.arange(1 << 16, dtype=np.uint16)), device.empty("v", 1 << 16, np.float32)
    device.launch(kernels.kernel("widened"), (1 << 16) // THREADS, THREADS, [bits, values])
    np.testing.assert_array_equal(values.array(), every_number(dtype))


@pytest.mark.parametrize(
    ("dtype", "old", "new"),
    [
        ("bfloat16", "(bits + 0x7fff + odd)", "(bits + 0 * odd)"),
        ("bfloat16", "(bits + 0x7fff + odd)", "(bits + 0x8000 + 0 * odd)"),
        ("bfloat16", "(bits + 0x7fff + odd)", "(bits + 0x7fff + 0 * odd)"),
        ("bfloat16", "value == value ? (bits + 0x7fff + odd) >> 16 : 0x7fff", "(bits + 0x7fff + odd) >> 16"),
        ("float16", "cvt.rn.f16.f32", "cvt.rz.f16.f32"),
    ],
)
def test_wrong_rounding_is_seen(dtype: str, old: str, new: str) -> None:
    assert misrounded(dtype, conversions(dtype, old=old, new=new))


# ---------------------------------------------------------------- planted errors

FIRST_BARRIER = "        __syncthreads();  // the partial sums"
SECOND_BARRIER = "        __syncthreads();\n        return"


def planted(*replacements: tuple[str, str], kernel: str) -> tuple[ptx.Module, Product]:
    cuda = product("l2", "softmax-mse", "cuda")
    text = cuda.text(".cuh")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return compiled(text, "compute_75", (qualified(cuda.objective.stem, kernel),)), cuda


@pytest.mark.parametrize(
    ("old", "new", "kernel", "dim", "error", "message"),
    [
        (FIRST_BARRIER, "// the partial sums", ONE_BLOCK, 5, ptx.RaceError, "shared memory .*partial"),
        (SECOND_BARRIER, "        return", ONE_BLOCK, 5, ptx.ExecutionError, "shared memory .*partial"),
        (SECOND_BARRIER, "        return", LONG, 5, ptx.ExecutionError, "shared memory .*partial"),
        ("pack < packs", "pack <= packs", ONE_PACK, 33, ptx.ExecutionError, "of x|of grad_x|never written"),
        ("pack < packs", "pack <= packs", ONE_BLOCK, 300, ptx.ExecutionError, "of x|of grad_x|never written"),
        ("pack < row.dim / V", "pack <= row.dim / V", LONG, 33, ptx.ExecutionError, "of x|of grad_x"),
        ("pack < packs", "pack < packs - 1", ONE_PACK, 33, ptx.UninitializedError, "grad_x were never written"),
        ("pack < row.dim / V", "pack < row.dim / V - 1", LONG, 33, ptx.UninitializedError, "grad_x were never written"),
        ("0xffffffffu", "0x0000ffffu", ONE_PACK, 33, ptx.DivergenceError, "member mask 0x0000ffff leaves out lane 16"),
        ("if (Team::rank() == 0) *loss", "*loss", ONE_PACK, 33, ptx.RaceError, "an element of loss"),
        ("loss + i,", "loss,", ONE_PACK, 33, ptx.RaceError, "an element of loss"),
        ("n * Team::size() + ", "n * 31 + ", ONE_PACK, 33, ptx.RaceError, "an element of grad_x"),
        (
            "lane < Threads / 32 ? partial[lane] : Value{}",
            "partial[lane]",
            ONE_BLOCK,
            5,
            ptx.OutOfBoundsError,
            "shared",
        ),
        (
            SECOND_BARRIER,
            "        if (lane < Threads / 32) __syncthreads();\n        return",
            ONE_BLOCK,
            5,
            ptx.DivergenceError,
            "lanes of the member mask 0xffffffff do not take part: .* waits at line",
        ),
    ],
)
def test_an_error_planted_into_a_kernel_is_reported(
    old: str, new: str, kernel: str, dim: int, error: type[ptx.ExecutionError], message: str
) -> None:
    batch = triplet(12, dim, "float32")
    layer = Layer(*planted((old, new), kernel=kernel), batch, 1.0)
    with pytest.raises(error, match=message) as caught:
        layer.run(kernel, 2, [None, 1.0, layer.loss, *layer.gradients])
        for buffer in layer.gradients:
            buffer.array()
    if caught.value.kernel:
        assert caught.value.kernel == qualified(layer.space, kernel)
        assert caught.value.line > 0


def test_wide_loads_of_unaligned_rows_are_reported() -> None:
    kernels, cuda = module("l2", "softmax-mse", "float32")
    layer = Layer(kernels, cuda, triplet(3, 34, "float32"), 1.0)
    with pytest.raises(ptx.MisalignedError, match=r"16 bytes at .* offset 136 of x, which is not a multiple of 16"):
        layer.forward_backward("forward_backward<Warp, float, 4, 1>")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("const index_t start = i * dim;", "const int start = int(i) * int(dim);"),
        ("index_t(blockIdx.x)", "int(blockIdx.x)"),
    ],
)
def test_an_index_of_32_bits_is_reported(old: str, new: str) -> None:
    with pytest.raises(ptx.ExecutionError, match=r"x0|loss"):
        far_rows_are_right(*planted((old, new), kernel=ONE_PACK))


# ---------------------------------------------------------------- the functions of CUDA

FUNCTIONS = {
    "expf(v)": (np.exp, -20, 20, 2),
    "logf(v)": (np.log, 1e-6, 50, 2),
    "log1pf(v)": (np.log1p, -0.9, 50, 2),
    "expm1f(v)": (np.expm1, -3, 3, 2),
    "sinf(v)": (np.sin, -1e6, 1e6, 2),  # the large ones with a table in local memory
    "tanhf(v)": (np.tanh, -3, 3, 3),
    "rsqrtf(v)": (lambda v: 1 / np.sqrt(v), 1e-3, 1e3, 2),
    "powf(v, 2.5f)": (lambda v: v**2.5, 1e-2, 1e2, 4),
    "cbrtf(v)": (np.cbrt, -10, 10, 2),
    "fmodf(v, 3.f)": (lambda v: np.fmod(v, 3), -1e3, 1e3, 0.5),
    "(float)exp((double)v)": (np.exp, -20, 20, 0.5001),
    "(float)pow((double)v, 1.5)": (lambda v: v**1.5, 1e-2, 1e2, 0.5001),  # a function that is called
    "(float)log1p((double)v)": (np.log1p, -0.9, 50, 0.5001),
    "(float)((double)v / 3.0)": (lambda v: v / 3, -10, 10, 0.5001),
}


def test_functions_of_the_cuda_library_are_as_accurate_as_they_promise() -> None:
    """End to end: their code uses most of the instructions, and is wrong by far if one of these is."""
    lines = [f"out[{i} * n + k] = " + re.sub(r"\bv\b", f"in[{i} * n + k]", text) for i, text in enumerate(FUNCTIONS)]
    head = 'extern "C" __global__ void functions(const float* in, float* out, int n) { const int k = threadIdx.x;'
    source = f"{head} {'; '.join(lines)}; }}"
    n = 256
    random = np.random.default_rng(0)
    values = np.array([random.uniform(low, high, n) for _, low, high, _ in FUNCTIONS.values()], np.float32)
    for architecture in ("compute_75", "compute_100"):
        device = ptx.Device()
        inputs, out = device.buffer("in", values), device.empty("out", values.shape, np.float32)
        device.launch(compiled(source, architecture, ()).kernel("functions"), 1, n, [inputs, out, n])
        for (text, (function, _, _, bound)), given, found in zip(FUNCTIONS.items(), values, out.array(), strict=True):
            exact = function(given.astype(np.float64))
            errors = np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))
            assert np.max(errors) <= bound, (text, architecture, float(given[np.argmax(errors)]))
