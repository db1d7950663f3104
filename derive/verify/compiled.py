"""Verification of CUDA source by compiling it: no warnings, no spilled registers, every kernel that is launched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..targets.base import Product
from . import nvcc, nvrtc
from .report import Check, Report

_NEWEST = 100
_MORE = "pip install 'derive-triplet[cuda]' brings the compiler NVRTC, which needs no GPU"


def verify_compiled(product: Product, kernels: Sequence[str], thorough: bool) -> Report:
    """Compile a product's header with NVRTC, else its launchers with nvcc; `thorough` does both, for all architectures.

    Quick verification takes the oldest architecture, whose registers are the scarcest.
    """
    checks: list[Check] = []
    levels: list[str] = []
    if nvrtc.is_available():
        offered = [a for a in nvrtc.architectures() if int(a[3:]) <= _NEWEST]
        chosen = offered if thorough else offered[:1]
        checks += _by_nvrtc(product, kernels, chosen)
        levels.append(f"NVRTC {nvrtc.version()}: {', '.join(chosen)}")
    if nvcc.find() and (thorough or not levels):
        complaint = nvcc.errors(product.files)
        checks.append(Check("nvcc", "all-major", "", int(bool(complaint)), 0, unit="errors", detail=complaint))
        levels.append("nvcc: all major architectures")
    if not levels:
        return Report(product.target, "rendered", notes=(_MORE,))
    return Report(product.target, f"compiled ({'; '.join(levels)})", tuple(checks))


def _by_nvrtc(product: Product, kernels: Sequence[str], architectures: Iterable[str]) -> list[Check]:
    header = next(file for file in product.files if file.path.endswith(".cuh"))
    # one compilation per float type: two threads then share the work of an architecture
    parts = [
        (architecture, [kernel for kernel in kernels if f"<{scalar}," in kernel])
        for architecture in architectures
        for scalar in sorted({kernel.partition("<")[2].partition(",")[0] for kernel in kernels})
    ]

    def compiled(part: tuple[str, list[str]]) -> nvrtc.Compiled | str:
        architecture, names = part
        try:
            return nvrtc.compile_source(header.text, architecture, names, header.path)
        except nvrtc.NvrtcError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(compiled, parts))
    checks = []
    for (architecture, names), result in zip(parts, results, strict=True):
        scalar = names[0].partition("<")[2].partition(",")[0]
        if isinstance(result, str):
            checks.append(Check("compiles", architecture, scalar, 1, 0, unit="errors", detail=result))
            continue
        missing = len(names) - len(result.usage)
        checks.append(Check("kernels compiled", architecture, scalar, missing, 0, unit="missing"))
        detail = "; ".join(result.warnings)
        checks.append(Check("warnings", architecture, scalar, len(result.warnings), 0, unit="warnings", detail=detail))
        spilled = {kernel.name: kernel.spilled_bytes for kernel in result.usage if kernel.spilled_bytes}
        worst = max(spilled.values(), default=0)
        checks.append(
            Check("spilled registers", architecture, scalar, worst, 0, unit="bytes", detail=", ".join(spilled))
        )
    return checks
