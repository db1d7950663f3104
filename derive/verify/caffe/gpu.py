"""A generated layer's GPU code: compiled by nvcc against Caffe's headers, and its kernels executed without a GPU.

What launches the kernels is compiled, but takes a GPU to run: here, tests run it on the CPU (`test_host`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ...rescale import rescale
from ...targets.base import Product
from .. import nvcc, ptx
from ..checks import EMBEDDINGS, number_differing, run_checks
from ..regimes import Array
from ..report import Check, exactly
from ..weighting import weighting_checks
from .build import Caffe
from .sources import run

_MORE = "nvcc, on the PATH or of the pip package nvidia-cuda-nvcc, compiles the .cu: then its kernels are run, too"
_OLDEST = "sm_75"
_DIMS = (128, 385)  # as long as a block has threads, and one that is not all of a block's rounds
_SHAPES = ((1_003, 2), (3, 5_003))
_THREADS, _BACKWARD_THREADS = 128, 512  # of a block: what the .cu says, and Caffe
_SCALARS = {"float32": "float", "float64": "double"}
_MANGLED = {"f": "float", "d": "double"}


@dataclass(frozen=True)
class Verdict:
    """How far the GPU code of a layer was verified, what was found, and how to get more."""

    level: str
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


def compiled(caffe: Caffe, product: Product, folder: Path, thorough: bool) -> str | UsageError | None:
    """The PTX of the kernels for the oldest architecture, what the compiler says against the .cu, or None without nvcc.

    thorough: compile it for all architectures as well.
    """
    compiler = nvcc.find()
    if compiler is None:
        return None
    source = f"{product.objective.stem}_layer.cu"
    with as_file(files(__package__) / "stubs") as stubs:
        base = [compiler, "-std=c++17", *nvcc.WARNINGS_AS_ERRORS, "-isystem", str(stubs), *caffe.headers, "-I.", source]
        try:
            run([*base, f"-arch={_OLDEST}", "-ptx", "-o", "layer.ptx"], folder)
            if thorough:
                run([*base, "-arch=all-major", "--threads=0", "-c", "-o", "layer.o"], folder)
        except UsageError as error:
            return error
    return (folder / "layer.ptx").read_text(encoding="utf-8")


def verified(product: Product, outcome: str | UsageError | None, thorough: bool) -> Verdict:
    """What `compiled` gave, executed."""
    if outcome is None:
        return Verdict(".cu rendered", notes=(_MORE,))
    if isinstance(outcome, UsageError):
        return Verdict(".cu rendered", (Check.finding(".cu compiles", _OLDEST, "", str(outcome)),))
    run, values = KernelRunner(product, outcome), product.settings.values(product.objective)
    checks = run_checks(
        product.objective,
        run,
        product.settings.dtypes,
        values,
        product.derivation.translation_invariant,
        dims=_DIMS if thorough else _DIMS[-1:],
        shapes=_SHAPES if thorough else (),
        full_range=rescale(product.kernel).full_range,
        at_once=True,
    )
    architectures = "all major architectures" if thorough else _OLDEST
    level = f"kernels run, PTX on the CPU (nvcc: {architectures})"
    weighted = chain(*(weighting_checks(run, dtype, values) for dtype in product.settings.dtypes))
    left_out = [_left_out(run, dtype, values) for dtype in product.settings.dtypes]
    found = (*checks, *weighted, *left_out)
    return Verdict(level, tuple(replace(check, name=f".cu {check.name}") for check in found))


def _left_out(run: KernelRunner, dtype: str, values: Mapping[str, float]) -> Check:
    """That a gradient which is not wanted is left out, and no other."""
    x, x_pos, x_neg = (np.full((2, 3), value, dtype) for value in (0.0, 0.75, 0.5))

    def differing() -> int:
        wanted = dict(zip(EMBEDDINGS, run(x, x_pos, x_neg, values)[1], strict=True))
        return sum(
            number_differing(
                run(x, x_pos, x_neg, values, left_out=name)[1],
                [array for other, array in wanted.items() if other != name],
            )
            for name in EMBEDDINGS
        )

    return exactly("gradient left out", dtype, differing)


class KernelRunner:
    """A `WeightedRunner` on the kernels; the host's part, which is to weigh losses and add them up, is done here."""

    def __init__(self, product: Product, text: str) -> None:
        self.module = ptx.load(text, _names(text))
        self.parameters = [parameter.name for parameter in product.objective.parameters]
        self.weights = rescale(product.kernel).saved_count

    def __call__(
        self,
        x: Array,
        x_pos: Array,
        x_neg: Array,
        parameters: Mapping[str, float],
        reduction: str = "none",
        weights: Array | None = None,
        left_out: str = "",
    ) -> tuple[Any, Sequence[Array]]:
        """left_out: the embedding whose gradient is not wanted, and not among the results."""
        (rows, dim), device = x.shape, ptx.Device()
        inputs = [device.buffer(name, array) for name, array in zip(EMBEDDINGS, (x, x_pos, x_neg), strict=True)]
        gradients = [
            None if name == left_out else device.empty(f"grad_{name}", x.shape, x.dtype) for name in EMBEDDINGS
        ]
        losses = device.empty("losses", (rows,), x.dtype)
        saved = device.empty("saved", (rows, self.weights), x.dtype)
        # a struct of nothing is a byte long
        values = np.array([parameters[name] for name in self.parameters] or [0], x.dtype if self.parameters else "u1")
        forward, backward = (self.kernel(name, x.dtype) for name in ("Forward", "Backward"))
        # any grid works: two rows for some blocks
        device.launch(forward, -(-rows // 2), _THREADS, [rows, dim, *inputs, values, losses, saved])
        loss = losses.array()
        counted = np.ones(rows, x.dtype) if weights is None else weights
        if reduction == "mean-active":
            counted = np.where(loss == 0, 0, counted).astype(x.dtype)
        divisor = {"mean": rows, "mean-active": max(np.count_nonzero(counted), 1)}.get(reduction, 1)
        factor, blocks = x.dtype.type(1 / divisor), -(-x.size // _BACKWARD_THREADS)
        arguments = [x.size, dim, factor, device.buffer("counted", counted), saved, *inputs, *gradients]
        device.launch(backward, blocks, _BACKWARD_THREADS, arguments)
        weighted = np.where(counted == 0, 0, counted.astype(np.float64) * loss)
        reduced = loss if reduction == "none" else np.sum(weighted) / divisor
        return np.asarray(reduced, x.dtype), [gradient.array() for gradient in gradients if gradient is not None]

    def kernel(self, name: str, dtype: Any) -> ptx.Program:
        return self.module.kernel(f"{name}<{_SCALARS[dtype.name]}>")


def _names(text: str) -> dict[str, str]:
    """The kernels of a PTX text, by what they are called in C++: ``Forward<float>``."""
    mangled = re.findall(r"^\.visible \.entry (_ZN\w*\d(Forward|Backward)I([fd])E\w*)\(", text, re.MULTILINE)
    return {f"{name}<{_MANGLED[scalar]}>": whole for whole, name, scalar in mangled}
