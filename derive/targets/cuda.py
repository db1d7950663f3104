"""The CUDA target: kernels in a header, launchers with a C interface, compiled and executed without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..launches import BLOCK, FLOAT_TYPES, MOST_BLOCKS, REDUCTION_THREADS, THREADS, WARP
from .base import Product, Settings, Target
from .cpp import product_slots, row_slots

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.checks import Method
    from ..verify.report import Report


class CudaTarget(Target):
    name = "cuda"
    title = "CUDA kernels (.cuh) and C launchers (.cu): forward, backward, both fused, hvp"
    templates = {"layer.cuh.jinja": "{stem}.cuh", "layer.cu.jinja": "{stem}.cu"}
    shares = ("cpp",)
    dtypes = tuple(FLOAT_TYPES)
    executable = True

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..hvp import hessian_product

        return {
            **row_slots(kernel),
            "product": product_slots(kernel),
            "has_powers": kernel.has_powers or hessian_product(kernel).kernel.has_powers,
            "fits_twice": _fits_twice(kernel),
            "types": [FLOAT_TYPES[dtype] for dtype in settings.dtypes],
            "warp": WARP,
            "block": BLOCK,
            "threads": THREADS,
            "most_blocks": MOST_BLOCKS,
            "reduction_threads": REDUCTION_THREADS,
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.compiled import verify_compiled

        return verify_compiled(product, thorough)

    def methods(self, product: Product) -> AbstractContextManager[Sequence[Method]]:
        from ..verify.compiled import methods

        return nullcontext(methods(product))


def _fits_twice(kernel: RowKernel) -> bool:
    """Whether two blocks of the kernel that holds the longest rows fit on a multiprocessor, without spilling.

    As the compiler reports it: a second stage takes more registers than there are, and so do a hypotenuse, and numbers
    that are added to components.
    """
    from sympy import Add

    sums = [total for reduction in kernel.reductions for total in reduction.term.atoms(Add)]
    adds_numbers = any(total.as_coeff_Add()[0] for total in sums)
    return len(kernel.stages) == 1 and "hypot" not in kernel.functions and not adds_numbers
