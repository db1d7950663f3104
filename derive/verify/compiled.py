"""Verification of CUDA source: compiled without warnings and spilled registers, and executed without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from ..forked import each
from ..launches import qualified
from ..targets.base import GeneratedFile, Product
from . import gpu, nvcc, nvrtc
from .checks import Method
from .report import Check, Report
from .selection import Depth, depth, kernels_to_execute

_NEWEST = 100
_MORE = "pip install 'derive-triplet[cuda]' brings the compiler NVRTC, which needs no GPU"


def verify_compiled(product: Product, thorough: bool) -> Report:
    """Compile a product's header with NVRTC, else its launchers with nvcc; `thorough` does both, for all architectures.

    Quick verification takes the PTX of the oldest architecture, and the kernels that differ most.
    """
    checks: list[Check] = []
    levels: list[str] = []
    executed, device = False, gpu.find()
    if nvrtc.is_available():
        offered = [a for a in nvrtc.architectures() if int(a[3:]) <= _NEWEST]
        chosen = offered if thorough else [nvrtc.virtual(offered[0])]
        with ThreadPoolExecutor() as pool:
            pending = _by_nvrtc(pool, product, chosen, thorough)
            _prepare(product, thorough)  # while the compiler is at work
            compiled = [(architecture, dtype, names, outcome()) for architecture, dtype, names, outcome in pending]
        runs = [
            partial(_executed, product, dtype, result, thorough, device)
            for architecture, dtype, _, result in compiled
            if architecture == chosen[0] and isinstance(result, nvrtc.Compiled)
        ]
        executed = bool(runs)
        found = iter([run() for run in runs] if device else each(runs))  # a fork cannot use the GPU
        for architecture, dtype, names, result in compiled:
            checks += _compilation(architecture, dtype, names, result)
            if architecture == chosen[0] and isinstance(result, nvrtc.Compiled):
                checks += next(found)
        levels.append(f"NVRTC {nvrtc.version()}: {', '.join(chosen)}")
    if nvcc.find() and (thorough or not levels):
        complaint = nvcc.errors(product.files)
        checks.append(Check.finding("nvcc", "all-major", "", complaint, there=bool(complaint)))
        levels.append("nvcc: all major architectures")
    if not levels:
        return Report(product.target, "rendered", notes=(_MORE,))
    reached = "run, PTX on the CPU" if executed else "compiled"
    on_device = f"; run, {device}" if executed and device else ""
    return Report(product.target, f"{reached} ({'; '.join(levels)}){on_device}", tuple(checks))


def _prepare(product: Product, thorough: bool) -> None:
    """Compute the references that executed kernels will be compared with."""
    from .executed import prepare
    from .executed_products import prepare_products

    dtypes = product.settings.dtypes
    for dtype in dtypes:
        prepare(product, dtype, depth(dtype, dtypes, thorough))
        prepare_products(product, dtype, depth(dtype, dtypes, thorough))


def _executed(product: Product, dtype: str, compiled: nvrtc.Compiled, thorough: bool, device: str) -> list[Check]:
    """What the kernels of a float type do, on the CPU and on a GPU, if there is one."""
    from .executed import execute, execute_on_gpu, on_cpu, on_gpu
    from .executed_products import execute_products, launch_checks

    much, simulated = depth(dtype, product.settings.dtypes, thorough), on_cpu(product, dtype, compiled)
    checks = execute(product, dtype, compiled, much)
    checks += [*execute_products(product, simulated, much), *launch_checks(product, simulated, much)]
    if device:
        checks += execute_on_gpu(product, dtype, compiled, much)
        products = execute_products(product, on_gpu(product, dtype, compiled), much)
        checks += [replace(check, name=f"GPU {check.name}") for check in products]
    return checks


def methods(product: Product) -> list[Method]:
    """The fused kernels of short rows, executed on the CPU, and on the GPU where there is one.

    Raises `nvrtc.NvrtcError` for what does not compile.
    """
    if not nvrtc.is_available():
        return [Method(product.target, "", lacks=_MORE)]
    from .executed import on_cpu, on_gpu

    oldest, dtypes = nvrtc.virtual(nvrtc.architectures()[0]), product.settings.dtypes
    header, stem = _header(product), product.objective.stem

    def compiled(dtype: str) -> nvrtc.Compiled:
        names = [qualified(stem, kernel) for kernel in kernels_to_execute(dtype, Depth.SHORT, products=False)]
        return nvrtc.compile_source(header.text, oldest, names, header.path)

    with ThreadPoolExecutor() as pool:
        kernels = dict(zip(dtypes, pool.map(compiled, dtypes), strict=True))
    by = f"the generated kernels, PTX of NVRTC {nvrtc.version()} for {oldest}, executed on"
    found = [Method(product.target, f"{by} the CPU", {d: on_cpu(product, d, of) for d, of in kernels.items()})]
    if device := gpu.find():
        runners = {d: on_gpu(product, d, of) for d, of in kernels.items()}
        found.append(Method(f"{product.target} on GPU", f"{by} {device}", runners))
    return found


_Pending = tuple[str, str, list[str], Callable[[], nvrtc.Compiled | str]]
"""Architecture, dtype, names of the kernels, and what waits for the outcome or the compiler's complaint."""


def _by_nvrtc(pool: Executor, product: Product, architectures: Iterable[str], thorough: bool) -> list[_Pending]:
    header = _header(product)
    # one compilation per float type: two threads then share the work of an architecture
    dtypes, stem = product.settings.dtypes, product.objective.stem
    names = {d: [qualified(stem, k) for k in kernels_to_execute(d, depth(d, dtypes, thorough))] for d in dtypes}
    parts = [(architecture, dtype, names[dtype]) for architecture in architectures for dtype in product.settings.dtypes]

    def compiled(architecture: str, names: list[str]) -> nvrtc.Compiled | str:
        try:
            return nvrtc.compile_source(header.text, architecture, names, header.path)
        except nvrtc.NvrtcError as error:
            return str(error)

    return [(a, dtype, names, pool.submit(compiled, a, names).result) for a, dtype, names in parts]


def _header(product: Product) -> GeneratedFile:
    return next(file for file in product.files if file.path.endswith(".cuh"))


def _compilation(architecture: str, dtype: str, names: Sequence[str], result: nvrtc.Compiled | str) -> list[Check]:
    if isinstance(result, str):
        return [Check.finding("compiles", architecture, dtype, result)]
    made = result.usage if result.has_machine_code else result.kernels
    warnings = "; ".join(result.warnings)
    checks = [
        Check("kernels compiled", architecture, dtype, len(names) - len(made), 0, unit="missing"),
        Check("warnings", architecture, dtype, len(result.warnings), 0, unit="warnings", detail=warnings),
    ]
    if result.has_machine_code:
        spilled = {kernel.name: kernel.spilled_bytes for kernel in result.usage if kernel.spilled_bytes}
        most, named = max(spilled.values(), default=0), ", ".join(spilled)
        checks.append(Check("spilled registers", architecture, dtype, most, 0, unit="bytes", detail=named))
    return checks
