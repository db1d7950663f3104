"""The runtime compiler as we call it: what it returns, what it refuses, and how it says that it is not there."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from derive_triplet import DeriveTripletError, differentiate, generate, verify
from derive_triplet.derive.verify import nvcc, nvrtc

SOURCE = """
template <typename T, int N> __global__ void scale(T* values) { values[threadIdx.x] *= T(N); }
extern "C" __global__ void plain(float* values) { values[threadIdx.x] = 0; }
"""
LOCAL = """
extern "C" __global__ void __launch_bounds__(1024) crowded(const double* in, double* out) {
    double held[64];
#pragma unroll
    for (int k = 0; k < 64; ++k) held[k] = in[threadIdx.x + 1024 * k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 64; ++k) out[threadIdx.x + 1024 * k] = held[k] * held[63 - k];
}
"""
needs_nvrtc = pytest.mark.needs("nvrtc")


@pytest.fixture
def oldest() -> str:
    return nvrtc.architectures()[0]


@needs_nvrtc
def test_architectures_are_offered_oldest_first() -> None:
    numbers = [int(name.removeprefix("sm_")) for name in nvrtc.architectures()]
    assert numbers == sorted(set(numbers))
    assert {80, 90, 100} <= set(numbers)
    assert re.fullmatch(r"\d+\.\d+", nvrtc.version())


@needs_nvrtc
def test_a_source_is_compiled_to_ptx_with_the_kernels_asked_for(oldest: str) -> None:
    compiled = nvrtc.compile_source(SOURCE, oldest, ["scale<float, 3>", "scale<double, 5>", "plain"])
    assert compiled.architecture == oldest
    assert set(compiled.names) == {"scale<float, 3>", "scale<double, 5>", "plain"}
    assert len(set(compiled.names.values())) == 3
    assert compiled.names["plain"] == "plain"
    for mangled in compiled.names.values():
        assert f".entry {mangled}(" in compiled.ptx
    assert {kernel.name for kernel in compiled.usage} == set(compiled.names)
    assert all(kernel.registers > 0 and kernel.spilled_bytes == 0 for kernel in compiled.usage)
    assert compiled.warnings == ()


@needs_nvrtc
def test_ptx_alone_is_that_of_the_architecture(oldest: str) -> None:
    with_code, alone = (nvrtc.compile_source(SOURCE, of, ["plain"]) for of in (oldest, nvrtc.virtual(oldest)))
    assert with_code.has_machine_code
    assert not alone.has_machine_code
    assert alone.ptx == with_code.ptx
    assert alone.kernels == with_code.kernels == ("plain",)
    assert alone.usage == ()


@needs_nvrtc
def test_a_template_that_is_not_asked_for_is_not_compiled(oldest: str) -> None:
    assert [kernel.name for kernel in nvrtc.compile_source(SOURCE, oldest, []).usage] == ["plain"]


@needs_nvrtc
def test_warnings_are_reported_with_their_line(oldest: str) -> None:
    unused = SOURCE.replace("{ values[threadIdx.x] = 0", "{ int unused; values[threadIdx.x] = 0")
    first, *_ = nvrtc.compile_source(unused, oldest, [], "some_name.cuh").warnings
    assert "some_name.cuh(3)" in first
    assert '"unused" was declared but never referenced' in first


@needs_nvrtc
def test_spilled_registers_are_reported(oldest: str) -> None:
    (kernel,) = nvrtc.compile_source(LOCAL, oldest, []).usage
    assert kernel.name == "crowded"
    assert kernel.spilled_bytes > 0
    assert kernel.registers <= 64  # of the 65536 that 1024 threads share


@needs_nvrtc
@pytest.mark.parametrize(
    ("source", "kernels", "message"),
    [
        ("__global__ void k() { no_such_name(); }", [], r'my\.cuh\(1\): error.*"no_such_name" is undefined'),
        ("__global__ void k() { int }", [], r"my\.cuh\(1\): error"),
        (SOURCE, ["scale<float>"], "scale<float>"),
        (SOURCE, ["no_such_kernel"], "no_such_kernel"),
        ('#include "no_such_header.h"', [], "no_such_header"),
    ],
)
def test_a_source_that_does_not_compile_raises_with_the_log(
    oldest: str, source: str, kernels: list[str], message: str
) -> None:
    with pytest.raises(nvrtc.NvrtcError, match=message):
        nvrtc.compile_source(source, oldest, kernels, "my.cuh")


@needs_nvrtc
def test_an_architecture_that_is_not_offered_raises() -> None:
    with pytest.raises(nvrtc.NvrtcError, match="gpu-architecture"):
        nvrtc.compile_source(SOURCE, "sm_1", [])


LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_90'
ptxas info    : Function properties for _Z5firstPf
    0 bytes stack frame, 8 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 360 bytes cmem[0]
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_90'
ptxas info    : Function properties for _Z6secondPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 360 bytes cmem[0]
"""


def test_usage_is_read_from_the_log_of_ptxas() -> None:
    first, second = nvrtc._usage(LOG, {"_Z6secondPf": "second<float>"})
    assert (first.name, first.registers, first.spilled_bytes) == ("_Z5firstPf", 40, 24)
    assert (second.name, second.registers, second.spilled_bytes) == ("second<float>", 255, 0)
    assert nvrtc._usage("", {}) == ()


@needs_nvrtc
@pytest.mark.parametrize("source", ["", "no source"])
def test_what_the_compiler_holds_is_given_back(source: str, oldest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    call = nvrtc._call
    monkeypatch.setattr(nvrtc, "_call", lambda name, *arguments: [called.append(name), call(name, *arguments)])
    with suppress(nvrtc.NvrtcError):
        nvrtc.compile_source(source, oldest, [])
    assert (called[0], called[-1]) == ("nvrtcCreateProgram", "nvrtcDestroyProgram")


# ---------------------------------------------------------------- where it is missing


def test_the_library_is_looked_for_in_packages_and_then_where_the_system_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder := tmp_path / "cu13" / "lib").mkdir(parents=True)
    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0"):
        (folder / name).touch()
    monkeypatch.setattr(nvrtc, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    monkeypatch.setattr(nvrtc.ctypes.util, "find_library", lambda _: "libnvrtc.so.12")
    assert [*nvrtc._candidates()] == [folder / "libnvrtc.so.13", Path("libnvrtc.so.12")]
    monkeypatch.setattr(nvrtc, "find_spec", lambda _: None)
    assert [*nvrtc._candidates()] == [Path("libnvrtc.so.12")]


def test_a_missing_compiler_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_library", lambda: None)
    assert not nvrtc.is_available()
    for call in (nvrtc.version, nvrtc.architectures, lambda: nvrtc.compile_source(SOURCE, "sm_90", [])):
        with pytest.raises(DeriveTripletError, match=r"pip install 'derive-triplet\[cuda\]'"):
            call()


def test_a_library_that_cannot_be_loaded_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libnvrtc.so.13"
    broken.write_text("not a library")
    monkeypatch.setattr(nvrtc, "_candidates", lambda: [broken, tmp_path / "absent" / "libnvrtc.so.13"])
    assert nvrtc._library.__wrapped__() is None


@pytest.mark.parametrize("complaint", ["", "layer.cu(1): error"])
def test_where_there_is_only_nvcc_it_compiles_for_all_architectures(
    complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "is_available", lambda: False)
    monkeypatch.setattr(nvcc, "find", lambda: "nvcc")
    monkeypatch.setattr(nvcc, "errors", lambda files: complaint)
    report = verify(generate(differentiate("l2", "hinge"), "cuda"))
    assert report.level == "compiled (nvcc: all major architectures)"
    assert [(check.name, check.detail, check.passed) for check in report.checks] == [("nvcc", complaint, not complaint)]


def test_without_a_compiler_the_level_is_rendered_and_says_how_to_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "is_available", lambda: False)
    monkeypatch.setattr(nvcc, "find", lambda: None)
    report = verify(generate(differentiate("l2", "hinge"), "cuda"))
    assert (report.level, report.checks) == ("rendered", ())
    assert report.passed
    assert "pip install 'derive-triplet[cuda]'" in str(report)
    assert str(report).endswith("verified to level: rendered")
