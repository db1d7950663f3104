"""NVIDIA's runtime compiler, called through its C interface: it needs no GPU, no driver and no CUDA toolkit.

The library comes with the pip package nvidia-cuda-nvrtc (the extra ``[cuda]``) or with an installed toolkit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import DeriveTripletError


class NvrtcError(DeriveTripletError):
    """The compiler refused the source; the message is its log."""


@dataclass(frozen=True)
class KernelUsage:
    """What ptxas says of one compiled kernel; what lives in local memory has left the registers, spilled or not."""

    name: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True)
class Compiled:
    """The result of one compilation: PTX text, names of the kernels asked for, and warnings.

    usage: per kernel, where there is machine code.
    """

    architecture: str
    ptx: str
    names: dict[str, str]
    usage: tuple[KernelUsage, ...]
    warnings: tuple[str, ...]

    @property
    def has_machine_code(self) -> bool:
        return self.architecture.startswith("sm_")

    @property
    def kernels(self) -> tuple[str, ...]:
        """The mangled names of all kernels in the PTX."""
        return tuple(re.findall(r"\.entry (\w+)", self.ptx))


@cache
def _library() -> ctypes.CDLL | None:
    for library in _candidates():
        try:
            # release 13.0 does not find its own built-ins unless they are already loaded
            for builtins in sorted(library.parent.glob("*nvrtc-builtins*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            loaded = ctypes.CDLL(str(library))
        except OSError:
            continue
        loaded.nvrtcGetErrorString.restype = ctypes.c_char_p
        return loaded
    return None


def _candidates() -> Iterable[Path]:
    spec = find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        for pattern in ("*/lib/libnvrtc.so*", "*/lib/libnvrtc*.dylib", "*/bin/**/nvrtc64_*.dll"):
            yield from (path for path in sorted(Path(root).glob(pattern)) if "builtins" not in path.name)
    if found := ctypes.util.find_library("nvrtc"):
        yield Path(found)


def is_available() -> bool:
    """Whether the compiler can be loaded."""
    return _library() is not None


def version() -> str:
    """The compiler's release, such as '13.0'."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@cache
def release() -> str:
    """The compiler's exact release, such as '13.0.88', which decides how many registers a kernel gets."""
    text = compile_source("__global__ void empty() {}", architectures()[0], ["empty"]).ptx
    found = re.search(r"release [\d.]+, V([\d.]+)", text)
    return found[1] if found else version()


def architectures() -> tuple[str, ...]:
    """The GPU architectures that the compiler offers, oldest first, such as 'sm_75'."""
    count = ctypes.c_int()
    _call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    _call("nvrtcGetSupportedArchs", numbers)
    return tuple(f"sm_{number}" for number in numbers)


def virtual(architecture: str) -> str:
    """What stands for the PTX of an architecture alone: 'compute_75' of 'sm_75'."""
    return architecture.replace("sm_", "compute_")


def compile_source(source: str, architecture: str, kernels: Sequence[str], file_name: str = "kernel.cu") -> Compiled:
    """Compile CUDA C++ to PTX and, if asked for, machine code; safe to call from several threads.

    architecture: 'sm_90' for machine code and its register usage, 'compute_90' for PTX alone, in half the time.
    kernels: C++ names of the kernels to instantiate, such as 'space::kernel<float, 4>'.
    Raises `NvrtcError` with the compiler's log if the source does not compile.
    """
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), file_name.encode(), 0, None, None)
    try:
        for kernel in kernels:
            _call("nvrtcAddNameExpression", program, kernel.encode())
        options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v"]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        library = _library()
        assert library is not None
        failed = library.nvrtcCompileProgram(program, len(options), encoded)
        log = _text(program, "nvrtcGetProgramLog")
        if failed:
            raise NvrtcError(log.strip() or library.nvrtcGetErrorString(failed).decode())
        names = {}
        for kernel in kernels:
            lowered = ctypes.c_char_p()
            _call("nvrtcGetLoweredName", program, kernel.encode(), ctypes.byref(lowered))
            names[kernel] = (lowered.value or b"").decode()
        usage = _usage(log, {mangled: kernel for kernel, mangled in names.items()})
        warnings = tuple(
            line.strip() for line in log.splitlines() if "warning" in line.lower() and "Remark:" not in line
        )
        return Compiled(architecture, _text(program, "nvrtcGetPTX"), names, usage, warnings)
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _usage(log: str, names: dict[str, str]) -> tuple[KernelUsage, ...]:
    """Registers and spills from the log of ``ptxas -v``."""
    usage = []
    for section in log.split("Compiling entry function")[1:]:
        mangled = re.search(r"'([^']+)'", section)
        spills = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", section)
        registers = re.search(r"Used (\d+) registers", section)
        if mangled and spills and registers:
            name = names.get(mangled[1], mangled[1])
            usage.append(KernelUsage(name, int(registers[1]), max(map(int, spills))))
    return tuple(sorted(usage, key=lambda kernel: kernel.name))


def _text(program: ctypes.c_void_p, getter: str) -> str:
    size = ctypes.c_size_t()
    _call(f"{getter}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(getter, program, buffer)
    return buffer.value.decode(errors="replace")


def _call(function: str, *arguments: object) -> None:
    library = _library()
    if library is None:
        raise NvrtcError("NVRTC is not installed; pip install 'derive-triplet[cuda]' brings it")
    if code := getattr(library, function)(*arguments):
        raise NvrtcError(f"{function}: {library.nvrtcGetErrorString(code).decode()}")
