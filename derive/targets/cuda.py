"""The CUDA target: kernels in a header, launchers with a C interface, compiled by NVRTC without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..printing import ATOM, InfixPrinter
from .base import Product, Settings, Target, slots

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.report import Report


@dataclass(frozen=True)
class FloatType:
    """A C++ float type: its name, the suffix of its launchers, and how many fit in a 16-byte access."""

    name: str
    suffix: str
    wide: int


FLOAT_TYPES = {"float32": FloatType("float", "f32", 4), "float64": FloatType("double", "f64", 2)}
PACKS = (1, 2, 4, 8)
"""How many packs of a row a lane may hold in registers; a row that needs more is read twice."""

THREADS = 256
"""In a block, of every launch."""


class CudaPrinter(InfixPrinter):
    """Expressions in the scalar type T; functions are those of `functions.cuh.jinja`."""

    functions = {"sqrt": "square_root", "exp": "exponential", "log": "logarithm", "Abs": "magnitude"}

    def _print_Integer(self, expr: Any) -> tuple[str, int]:
        text = self.integer(int(expr))
        return text, ATOM

    def integer(self, value: int) -> str:
        return f"T({value})"


class CudaTarget(Target):
    name = "cuda"
    title = "CUDA kernels (.cuh) and C launchers (.cu): forward, backward, both fused"
    templates = {"layer.cuh.jinja": "{stem}.cuh", "layer.cu.jinja": "{stem}.cu"}

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        component = CudaPrinter({weight.name: f"row.{weight.name}" for weight in kernel.weights})
        scalar = CudaPrinter(
            {reduction.name: f"sums.{reduction.name}" for reduction in kernel.reductions}
            | {parameter.name: f"parameters.{parameter.name}" for parameter in kernel.parameters}
        )
        return {
            **slots(kernel, scalar, component),
            "types": [FLOAT_TYPES[dtype] for dtype in settings.dtypes],
            "packs": PACKS,
            "threads": THREADS,
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.compiled import verify_compiled

        return verify_compiled(product, kernel_names(product), thorough)


def fused_launch(scalar: FloatType, rows: int, dim: int, aligned: bool = True) -> tuple[str, int]:
    """The kernel that the launcher of forward_backward starts for a batch, and in how many blocks."""
    width = scalar.wide if aligned and dim % scalar.wide == 0 else 1
    packs = -(-(dim // width) // 32)
    for held in PACKS:
        if packs <= held:
            return f"forward_backward_by_warp<{scalar.name}, {width}, {held}>", -(-rows // (THREADS // 32))
    return f"forward_backward_by_block<{scalar.name}, {width}>", rows


def kernel_names(product: Product) -> tuple[str, ...]:
    """Every instantiation of a kernel that the launchers use."""
    names = []
    for dtype in product.settings.dtypes:
        scalar = FLOAT_TYPES[dtype]
        for width in (scalar.wide, 1):
            shape = f"{scalar.name}, {width}"
            names += [f"forward_backward_by_warp<{shape}, {packs}>" for packs in PACKS]
            names += [f"{kernel}_by_block<{shape}>" for kernel in ("forward_backward", "forward", "backward")]
        names.append(f"reduce_by_block<{scalar.name}>")
    return tuple(f"{product.objective.stem}::{name}" for name in names)
