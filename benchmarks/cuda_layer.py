"""The generated CUDA layer on a GPU, beside PyTorch, a Triton kernel and a copy of the same bytes.

    python benchmarks/cuda_layer.py [--quick] [-o benchmarks/results]

The layer is softmax-mse on l2, its launchers built by nvcc and called on the tensors of the others. Everything runs in
one process on the same data; caches are flushed between runs. Per case: the median with the 20 % and 80 % quantiles,
the bandwidth as gigabytes that have to be moved per second, and that as a fraction of the copy's. Writes a Markdown
table, JSON and a plot, named after the device. Where there is no GPU, or no PyTorch, the model is written instead:
bytes, launches, registers and resident warps of each case.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from derive_triplet import Product, differentiate, generate
from derive_triplet.derive.launches import FLOAT_TYPES, fused_start, qualified, single_start
from derive_triplet.derive.targets.cuda_usage import resident_warps
from derive_triplet.derive.verify import gpu, nvcc, nvrtc

SIZES = ((1024, 64), (4096, 128), (16384, 256), (65536, 512), (65536, 1024), (41401, 1271), (32768, 8192))
DTYPES = ("float32", "bfloat16")
PASSES = {"forward": 3, "backward": 6, "both": 6}
"""Elements that have to be moved for each component of a row."""
ARCHITECTURE = "sm_90"
STEM = "triplet_softmax_mse_l2"


@dataclass(frozen=True)
class Case:
    """One batch and what is done with it."""

    rows: int
    dim: int
    dtype: str
    what: str

    @property
    def gigabytes(self) -> float:
        return PASSES[self.what] * self.rows * self.dim * FLOAT_TYPES[self.dtype].size / 1e9

    @property
    def kernel(self) -> str:
        scalar = FLOAT_TYPES[self.dtype]
        if self.what == "both":
            return fused_start(scalar, self.rows, self.dim).kernel
        return single_start(self.what, scalar, self.rows, self.dim).kernel


@dataclass(frozen=True)
class Timing:
    """How long one contender took for one case, in milliseconds: the median, and the 20 % and 80 % quantiles."""

    case: Case
    contender: str
    median: float
    low: float
    high: float

    @property
    def bandwidth(self) -> float:
        """In gigabytes per second."""
        return self.case.gigabytes / self.median * 1e3


def cases(quick: bool) -> Iterator[Case]:
    for rows, dim in SIZES[1:4] if quick else SIZES:
        for dtype in DTYPES:
            for what in PASSES:
                yield Case(rows, dim, dtype, what)


# ---------------------------------------------------------------- the model


def model(product: Product, chosen: Sequence[Case]) -> list[str]:
    """The rows of a table of what each case needs, as far as that can be known without a GPU."""
    usage = {}
    if nvrtc.is_available():
        names = {qualified(STEM, case.kernel): case.kernel for case in chosen}
        compiled = nvrtc.compile_source(product.text(".cuh"), ARCHITECTURE, list(names))
        usage = {names[kernel.name]: kernel.registers for kernel in compiled.usage}
    lines = [
        f"| rows | dim | type | pass | launches | MB | kernel | registers ({ARCHITECTURE}) | warps of 64 |",
        "|--:|--:|---|---|--:|--:|---|--:|--:|",
    ]
    for case in chosen:
        registers = usage.get(case.kernel)
        cells = (str(registers), str(resident_warps(ARCHITECTURE, registers, 256))) if registers else ("", "")
        megabytes = f"{1e3 * case.gigabytes:.1f}"
        row = (str(case.rows), str(case.dim), case.dtype, case.what, "1", megabytes, f"`{case.kernel}`", *cells)
        lines.append(f"| {' | '.join(row)} |")
    return lines


# ---------------------------------------------------------------- contenders


class Layer:
    """The launchers, in a shared library."""

    def __init__(self, product: Product, folder: Path) -> None:
        compiler = nvcc.find()
        if compiler is None:
            raise click.ClickException("the launchers take nvcc; pip install 'derive-triplet[dev]' brings it")
        for file in product.files:
            (folder / Path(file.path).name).write_text(file.text, encoding="utf-8")
        command = [compiler, "-std=c++17", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"]
        subprocess.run([*command, f"{STEM}.cu", "-o", "layer.so"], cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "layer.so"))

    def call(self, name: str, dtype: str, arguments: Sequence[Any]) -> Callable[[], None]:
        """A call of a launcher with tensors, sizes and floats, on PyTorch's stream."""
        import torch

        function = getattr(self.library, f"{STEM}_{name}_{FLOAT_TYPES[dtype].suffix}")
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        given = [*(_as_c(argument) for argument in arguments), stream]

        def run() -> None:
            if status := function(*given):
                raise RuntimeError(f"{name}: CUDA error {status}")

        return run


def _as_c(argument: Any) -> Any:
    if argument is None or hasattr(argument, "data_ptr"):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_longlong(argument) if isinstance(argument, int) else ctypes.c_float(argument)


def ours(layer: Layer, case: Case, batch: Sequence[Any]) -> Callable[[], None]:
    import torch

    rows, dim = case.rows, case.dim
    grads = [torch.empty_like(tensor) for tensor in batch]
    loss, weights = torch.empty(rows, device="cuda"), torch.empty(2 * rows, device="cuda")
    forward = layer.call("forward", case.dtype, [*batch, loss, weights, rows, dim, 1.0])
    if case.what == "forward":
        return forward
    if case.what == "backward":
        forward()
        return layer.call("backward", case.dtype, [*batch, weights, None, 1 / rows, *grads, rows, dim])
    return layer.call("forward_backward", case.dtype, [*batch, None, 1 / rows, loss, *grads, rows, dim, 1.0])


def eager(x: Any, x_pos: Any, x_neg: Any) -> Any:
    """The formula as one writes it in PyTorch."""
    import torch

    d_pos = torch.linalg.vector_norm(x.float() - x_pos.float(), dim=1)
    d_neg = torch.linalg.vector_norm(x.float() - x_neg.float(), dim=1)
    return (2 * torch.sigmoid(d_pos - d_neg) ** 2).mean()


def composed(x: Any, x_pos: Any, x_neg: Any) -> Any:
    """The paper's words in the functions of torch.nn.functional."""
    import torch

    distances = [torch.nn.functional.pairwise_distance(x.float(), other.float(), eps=0) for other in (x_pos, x_neg)]
    outputs = torch.softmax(torch.stack(distances, dim=1), dim=1)
    wanted = torch.tensor([0.0, 1.0], device=x.device).expand_as(outputs)
    return 2 * torch.nn.functional.mse_loss(outputs, wanted)


def by_autograd(loss: Callable[..., Any], case: Case, batch: Sequence[Any]) -> Callable[[], Any]:
    import torch

    leaves = [tensor.detach().requires_grad_() for tensor in batch]
    if case.what == "forward":
        return lambda: loss(*batch)
    if case.what == "backward":
        value = loss(*leaves)
        return lambda: torch.autograd.grad(value, leaves, retain_graph=True)
    return lambda: torch.autograd.grad(loss(*leaves), leaves)


def triton_kernel(case: Case, batch: Sequence[Any]) -> Callable[[], Any] | None:
    """Loss and gradients by hand in Triton, a program for a row; None for a pass that it does not have."""
    if case.what != "both":
        return None
    from triton_layer import forward_backward

    return lambda: forward_backward(*batch, 1 / case.rows)


def copy(case: Case) -> Callable[[], Any]:
    """A device-to-device copy that reads half of the bytes of the case and writes the other half: the limit."""
    import torch

    half = int(case.gigabytes * 1e9) // 2
    source, target = (torch.empty(half, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: target.copy_(source)


# ---------------------------------------------------------------- measuring


def measure(layer: Layer, case: Case) -> Iterator[Timing]:
    import torch
    from triton.testing import do_bench

    torch.manual_seed(0)
    batch = [torch.rand(case.rows, case.dim, device="cuda").to(getattr(torch, case.dtype)) for _ in range(3)]
    contenders: dict[str, Callable[[], Any] | None] = {
        "derive-triplet": ours(layer, case, batch),
        "copy": copy(case),
        "PyTorch eager": by_autograd(eager, case, batch),
        "PyTorch composed": by_autograd(composed, case, batch),
        "torch.compile": by_autograd(torch.compile(eager), case, batch),
        "Triton": triton_kernel(case, batch),
    }
    agree(layer, case, batch)
    for name, run in contenders.items():
        if run:
            run()
            median, low, high = do_bench(run, quantiles=[0.5, 0.2, 0.8])
            yield Timing(case, name, median, low, high)


def agree(layer: Layer, case: Case, batch: Sequence[Any]) -> None:
    """What is timed computes the same; raises `RuntimeError` otherwise."""
    import torch

    grads = [torch.empty_like(tensor) for tensor in batch]
    loss = torch.empty(case.rows, device="cuda")
    arguments = [*batch, None, 1 / case.rows, loss, *grads, case.rows, case.dim, 1.0]
    layer.call("forward_backward", case.dtype, arguments)()
    leaves = [tensor.detach().requires_grad_() for tensor in batch]
    wanted = torch.autograd.grad(eager(*leaves), leaves)
    for found, expected in zip(grads, wanted, strict=True):
        if not torch.allclose(found.float(), expected.float(), rtol=2e-2, atol=1e-3 / case.rows):
            raise RuntimeError(f"{case}: the gradients differ from PyTorch's")


def table(timings: Sequence[Timing]) -> list[str]:
    """A row per case and contender, with its ratios to ours and to the copy."""
    lines = [
        "| rows | dim | type | pass | contender | ms | 20 to 80 % | GB/s | of the copy | times ours |",
        "|--:|--:|---|---|---|--:|---|--:|--:|--:|",
    ]
    for timing in timings:
        same = {other.contender: other for other in timings if other.case == timing.case}
        case = timing.case
        row = (
            f"{case.rows} | {case.dim} | {case.dtype} | {case.what} | {timing.contender} | {timing.median:.4f}",
            f"{timing.low:.4f} to {timing.high:.4f} | {timing.bandwidth:.0f}",
            f"{same['copy'].median / timing.median:.0%} | {timing.median / same['derive-triplet'].median:.2f}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return lines


def plot(timings: Sequence[Timing], path: Path, device: str) -> None:
    """Bandwidth over the megabytes of a case, forward and backward in one; a panel per type."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "derive-triplet"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(DTYPES), figsize=(11, 4.5), sharey=True)
    for panel, dtype in zip(panels, DTYPES, strict=True):
        for contender in dict.fromkeys(timing.contender for timing in timings):
            chosen = [t for t in timings if t.contender == contender and (t.case.dtype, t.case.what) == (dtype, "both")]
            chosen.sort(key=lambda timing: timing.case.gigabytes)
            panel.plot(
                [1e3 * t.case.gigabytes for t in chosen], [t.bandwidth for t in chosen], marker="o", label=contender
            )
        panel.set(title=f"{dtype}, loss and gradients, {device}", xscale="log", xlabel="MB to be moved")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("GB/s")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Three sizes only.")
@click.option("-o", "--output", default="benchmarks/results", show_default=True, metavar="DIR", help="Where to.")
def main(quick: bool, output: str) -> None:
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(cases(quick))
    product = generate(differentiate("l2", "softmax-mse"), "cuda", dtypes=DTYPES)
    missing = [name for name in ("torch", "triton", "matplotlib") if find_spec(name) is None]
    device = gpu.find() if not missing else ""
    if not device:
        why = f"{', '.join(missing)} not installed" if missing else "no GPU, or no CuPy to find it with"
        lines = [f"Not measured ({why}). What each case needs:", "", *model(product, chosen)]
        (folder / "cuda_model.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        click.echo("\n".join(lines))
        return
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory() as built:
        layer = Layer(product, Path(built))
        for number, case in enumerate(chosen, start=1):
            click.echo(f"{number} of {len(chosen)}: {case}", err=True)
            timings += measure(layer, case)
    stem = "cuda_" + "_".join(device.split())
    lines = [f"{device}. Median and quantiles of repeated runs with a cold cache.", "", *table(timings)]
    (folder / f"{stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = [{**asdict(timing), "bandwidth": timing.bandwidth} for timing in timings]
    (folder / f"{stem}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    plot(timings, folder / f"{stem}.svg", device)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
