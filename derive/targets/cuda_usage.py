"""The registers that CUDA kernels take, as a table: what a change of a kernel costs shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import DeriveTripletError
from ..launches import FLOAT_TYPES, REDUCTION_THREADS, REDUCTIONS, THREADS, kernels, qualified
from .base import GeneratedFile, Product, Settings, Target
from .cuda import CudaTarget

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.report import Report

# CUDA C++ Programming Guide, technical specifications per compute capability: resident warps per multiprocessor
_WARPS = {"sm_75": 32, "sm_80": 64, "sm_90": 64, "sm_100": 64}
# the same for all of these: registers of a multiprocessor, and of a warp at once
_REGISTERS, _ALLOCATED = 65_536, 256
_MOVED = {"forward_backward_long": 9, "forward_backward": 6, "forward": 3, "backward": 6}


class CudaUsageTarget(Target):
    name = "cuda-usage"
    title = "a table of the registers of the CUDA kernels; it takes NVRTC half a minute, and 'all' leaves it out"
    templates = {"usage.md.jinja": "{stem}.md"}
    dtypes = tuple(FLOAT_TYPES)
    usual_dtypes = dtypes
    in_all = False
    shares = ("cuda", "cpp")

    def generate(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Product:
        """The table; nothing where there is no NVRTC, or another release than the settings name."""
        from ..verify import nvrtc

        found = f"NVRTC {nvrtc.release()}" if nvrtc.is_available() else "no NVRTC"
        if not nvrtc.is_available() or settings.engine not in ("", found):
            wanted = settings.engine or "NVRTC"
            release = f"=={settings.engine.split()[-1]}" if settings.engine else ""
            lacks = f"this machine has {found}, not {wanted}; pip install 'nvidia-cuda-nvrtc{release}' brings it"
            command = self.command(derivation.objective, settings)
            return Product(derivation.objective, self.name, settings, derivation, kernel, (), command, lacks)
        return super().generate(derivation, kernel, replace(settings, engine=found))

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        header = CudaTarget().generate(derivation, kernel, replace(settings, engine="")).files[0]
        return {
            "compiler": settings.engine,
            "limits": list(_WARPS.items()),
            "table": _table(_registers(header, derivation.objective.stem, settings.dtypes)),
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        """The table is made by the compiler itself, which refuses kernels that spill."""
        from ..verify.report import Report

        return Report(self.name, f"compiled ({product.settings.engine or 'not at all'})")


def _registers(header: GeneratedFile, stem: str, dtypes: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each kernel its registers by architecture. Raises `DeriveTripletError` for one that spills."""
    from concurrent.futures import ThreadPoolExecutor

    from ..verify import nvrtc

    names = {qualified(stem, kernel): kernel for kernel in kernels(dtypes)}
    by_type = [[qualified(stem, kernel) for kernel in kernels([dtype])] for dtype in dtypes]
    found: dict[str, dict[str, int]] = {kernel: {} for kernel in names.values()}
    with ThreadPoolExecutor() as pool:
        each = [(architecture, some) for architecture in _WARPS for some in by_type]
        jobs = [pool.submit(nvrtc.compile_source, header.text, a, some, header.path) for a, some in each]
        for job in jobs:
            compiled = job.result()
            for usage in compiled.usage:
                if usage.spilled_bytes:
                    raise DeriveTripletError(f"{usage.name} spills registers on {compiled.architecture}")
                found[names[usage.name]][compiled.architecture] = usage.registers
    return found


def resident_warps(architecture: str, registers: int, threads: int) -> int:
    """How many warps a multiprocessor holds, of blocks of so many threads that take so many registers each."""
    of_warp = -(-32 * registers // _ALLOCATED) * _ALLOCATED
    warps = threads // 32
    return min(_WARPS[architecture], _REGISTERS // of_warp) // warps * warps


def _table(registers: Mapping[str, Mapping[str, int]]) -> list[str]:
    rows = [("kernel", "moved", *_WARPS), ("---", "--:", *("--:" for _ in _WARPS))]
    for kernel, by_architecture in registers.items():
        name = kernel.partition("<")[0]
        threads = REDUCTION_THREADS if name in REDUCTIONS else THREADS
        cells = (f"{n}, {resident_warps(a, n, threads)}" for a, n in by_architecture.items())
        rows.append((f"`{kernel}`", str(_MOVED.get(name, "")), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
