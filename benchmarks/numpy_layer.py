"""The NumPy module beside automatic differentiation on the CPU, and beside copying.

    python benchmarks/numpy_layer.py CORES [--quick]

prints the rows of one number of cores as JSON; `run.py` asks for one core and for all, each in a process of its own,
because JAX and PyTorch take the cores that they find when they start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from measure import Aim, Chart, Result, Row, beside, cores, in_turns, rows_from, say, versions_of

TITLE = "NumPy, beside automatic differentiation on the CPU"
ABOUT = """\
Loss and gradients of softmax-mse on l2, float32, one batch for all: the generated NumPy module, with `out=` and as many
threads as there are cores, beside copying three arrays of that size into three others, which is the limit of what reads
and writes as much, by as many threads; beside `jax.jit(value_and_grad)`, `torch.compile` and eager PyTorch, of the same
formula, with respect to all three embeddings. Where the arrays are in the cache, copying is no limit: on one core the
eight calls that go over the components are measured alone, without checks or anything that is computed of a row, which
is the least that NumPy can do. The module chooses its blocks by measurement: the last table has the time of the largest
batch, on one core, for each size that it tries, and in one block."""

OURS, COPY, PASSES = "derive-triplet", "copy", "NumPy's passes alone"
SIZES = ((256, 128), (1024, 256), (4096, 512), (16384, 1024))
PEERS = {"JAX": "jax", "torch.compile": "torch", "PyTorch": "torch"}
AIMS = {"JAX": 2.5, "torch.compile": 5.0, "PyTorch": 10.0}
"""How many times faster than a peer it is meant to be at the largest size; at the smallest, not slower."""

Arrays = list[Any]


def module() -> ModuleType:
    from derive_triplet import differentiate, generate
    from derive_triplet.derive.targets.numpy import load

    return load(generate(differentiate("l2", "softmax-mse"), "numpy"))


def copying(inputs: Arrays, outputs: Arrays, threads: int) -> Callable[[], object]:
    def copy(part: slice) -> None:
        for source, target in zip(inputs, outputs, strict=True):
            np.copyto(target[part], source[part])

    rows = len(inputs[0])
    parts = [slice(rows * n // threads, rows * (n + 1) // threads) for n in range(threads)]
    if threads == 1:
        return lambda: copy(parts[0])
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(copy, parts))


def passing(inputs: Arrays, outputs: Arrays, block: int = 1 << 20) -> Callable[[], object]:
    """Differences, their squares summed, multiples, and the sum of these, over blocks of so many bytes of an input."""
    rows = max(1, block // inputs[0][:1].nbytes)
    factors = np.ones((rows, 1), inputs[0].dtype)
    parts = [[array[first : first + rows] for array in (*inputs, *outputs)] for first in range(0, len(inputs[0]), rows)]

    def passes() -> None:
        for x, x_pos, x_neg, grad_x, grad_x_pos, grad_x_neg in parts:
            for other, difference in ((x_pos, grad_x_pos), (x_neg, grad_x_neg)):
                np.subtract(x, other, out=difference)
                np.matmul(difference[:, None, :], difference[..., None])
            for gradient in (grad_x_pos, grad_x_neg):
                np.multiply(gradient, factors[: len(gradient)], out=gradient)
            np.add(grad_x_neg, grad_x_pos, out=grad_x)
            np.negative(grad_x, out=grad_x)

    return passes


def with_jax(inputs: Arrays) -> Callable[[], object]:
    import jax
    from jax import numpy as jnp

    def loss(x: Any, x_pos: Any, x_neg: Any) -> Any:
        delta = jnp.linalg.norm(x - x_pos, axis=1) - jnp.linalg.norm(x - x_neg, axis=1)
        return jnp.mean(2 * jax.nn.sigmoid(delta) ** 2)

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    arrays = [jax.device_put(array) for array in inputs]
    return lambda: jax.block_until_ready(function(*arrays))


def with_torch(inputs: Arrays, compiled: bool) -> Callable[[], object]:
    import torch

    def loss(x: Any, x_pos: Any, x_neg: Any) -> Any:
        norm = torch.linalg.vector_norm
        return (2 * torch.sigmoid(norm(x - x_pos, dim=1) - norm(x - x_neg, dim=1)) ** 2).mean()

    function = torch.compile(loss) if compiled else loss
    leaves = [torch.from_numpy(array).requires_grad_() for array in inputs]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward()

    return step


def contenders(ours: ModuleType, inputs: Arrays, outputs: Arrays, threads: int) -> dict[str, Callable[[], object]]:
    """What runs in turns at one size: all that there is here."""
    found: dict[str, Callable[[], object]] = {
        OURS: lambda: ours.value_and_grad(*inputs, out=outputs, threads=threads),
        f"{OURS}, new arrays": lambda: ours.value_and_grad(*inputs, threads=threads),
        COPY: copying(inputs, outputs, threads),
    }
    if threads == 1:
        found[PASSES] = passing(inputs, outputs)
    if find_spec("jax"):
        found["JAX"] = with_jax(inputs)
    if find_spec("torch"):
        found["torch.compile"] = with_torch(inputs, compiled=True)
        found["PyTorch"] = with_torch(inputs, compiled=False)
    return found


def batch(rows: int, dim: int) -> tuple[Arrays, Arrays]:
    """Three embeddings, and three arrays for their gradients whose memory has been touched."""
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((rows, dim), dtype=np.float32) for _ in range(3)]
    return inputs, [np.zeros_like(array) for array in inputs]


def aim(subject: str, size: tuple[int, int]) -> Aim | None:
    """Of a peer beside ours, or of ours beside a copy."""
    if subject == OURS:
        return Aim("<=", 2.0)
    if subject in AIMS and size in (SIZES[0], SIZES[-1]):
        return Aim(">=", 1.0 if size == SIZES[0] else AIMS[subject])
    return None


def rows_of(times: Mapping[str, Sequence[float]], point: str, at: float, size: tuple[int, int]) -> list[Row]:
    """Ours beside the copy, and all others beside ours."""
    others = [name for name in times if name != OURS]
    return [
        beside(times, OURS, COPY, point, at, aim(OURS, size)),
        *(beside(times, name, OURS, point, at, aim(name, size)) for name in others),
    ]


def measure_cores(count: int, quick: bool) -> list[Row]:
    """All sizes on so many cores, which the process must have been given when it began."""
    ours, rows = module(), list[Row]()
    for size in SIZES[:2] if quick else SIZES:
        point = f"{size[0]}×{size[1]}, {count} core{'s' * (count > 1)}"
        say(f"numpy: {point}")
        inputs, outputs = batch(*size)
        runs = contenders(ours, inputs, outputs, count)
        for run in runs.values():
            for _ in range(10):  # compiled, and the trials of blocks over
                run()
        rows += rows_of(in_turns(runs, seconds=1.0 if quick else 5.0), point, inputs[0].nbytes, size)
    return rows if count > 1 else [*rows, *blocks(SIZES[1 if quick else -1], quick)]


def blocks(size: tuple[int, int], quick: bool) -> list[Row]:
    """One batch in blocks of each size, beside the size that is measured."""
    inputs, outputs = batch(*size)
    chosen = module()
    runs: dict[str, Callable[[], object]] = {"measured": lambda: chosen.value_and_grad(*inputs, out=outputs)}
    sizes = [*(b for b in chosen._BLOCKS if b < inputs[0].nbytes), inputs[0].nbytes]
    for block in sizes:
        fixed = module()
        fixed._BLOCKS = (block,)
        runs[f"{block >> 10} KiB"] = lambda fixed=fixed: fixed.value_and_grad(*inputs, out=outputs)  # type: ignore[misc]
    times = in_turns(runs, seconds=1.0 if quick else 5.0)
    point = f"blocks, {size[0]}×{size[1]}, 1 core"
    return [beside(times, name, "measured", point, at) for name, at in zip(runs, (min(sizes) / 2, *sizes), strict=True)]


def measure(quick: bool) -> Result:
    missing = [f"{name}: `pip install {package}`" for name, package in PEERS.items() if not find_spec(package)]
    pinned = hasattr(os, "sched_setaffinity")
    if not pinned:
        missing.append("one core: this system cannot give a process one core")
    rows: list[Row] = []
    for count in sorted({*((1,) if pinned else ()), cores()}):
        command = [sys.executable, str(Path(__file__)), str(count), *(["--quick"] if quick else [])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows += rows_from(found)
    return Result(tuple(rows), tuple(missing), versions_of(("derive-triplet", "numpy", "jax", "torch")))


def charts(rows: Sequence[Row]) -> list[Chart]:
    sizes = [row for row in rows if not row.point.startswith("blocks")]
    found = []
    for on in dict.fromkeys(row.point.rpartition(", ")[2] for row in sizes):
        those = tuple(row for row in sizes if row.point.endswith(f", {on}"))
        found.append(Chart(f"loss and gradients, {on}", "bytes of an array", "seconds", those))
    by_block = tuple(row for row in rows if row.point.startswith("blocks") and row.subject != "measured")
    line = [replace(row, subject="time by block") for row in by_block]
    return [*found, Chart("the size of a block", "bytes of one input in a block", "seconds", tuple(line))]


if __name__ == "__main__":
    if int(sys.argv[1]) == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps([asdict(row) for row in measure_cores(int(sys.argv[1]), "--quick" in sys.argv)]))
