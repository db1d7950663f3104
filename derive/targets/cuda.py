"""The CUDA target: kernels in a header, launchers with a C interface, compiled and executed without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..launches import FLOAT_TYPES, PACKS, THREADS
from ..printing import ATOM, InfixPrinter
from .base import Product, Settings, Target, slots

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.report import Report


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

        return verify_compiled(product, thorough)
