"""The table of registers: complete, made by the compiler, compared by --check, and left alone by 'all'."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from derive_triplet import DeriveTripletError, Product, differentiate, generate, verify
from derive_triplet.derive import regenerate
from derive_triplet.derive.launches import FLOAT_TYPES, kernels
from derive_triplet.derive.requests import requests_for
from derive_triplet.derive.targets import cuda_usage
from derive_triplet.derive.targets.base import Settings
from derive_triplet.derive.targets.cuda_usage import CudaUsageTarget, resident_warps
from derive_triplet.derive.verify import nvrtc

COMMITTED = Path(__file__).parents[2] / "generated" / "cuda-usage"
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")

needs_nvrtc = pytest.mark.needs("nvrtc")


def rows(text: str) -> dict[str, list[tuple[int, int]]]:
    """For each kernel, registers and warps by architecture."""
    found = re.findall(r"^\| `([^`]+)` +\| \d* *\|(.*)\|$", text, re.MULTILINE)
    return {kernel: [(int(a), int(b)) for a, b in re.findall(r"(\d+), (\d+)", cells)] for kernel, cells in found}


def test_the_committed_table_has_every_kernel_of_every_type() -> None:
    table = rows((COMMITTED / "triplet_softmax_mse_l2.md").read_text(encoding="utf-8"))
    assert list(table) == list(kernels(FLOAT_TYPES))
    for kernel, cells in table.items():
        assert len(cells) == len(ARCHITECTURES), kernel
        assert all(8 <= registers <= 255 and warps >= 8 for registers, warps in cells), kernel


def test_the_committed_table_follows_from_its_registers() -> None:
    text = (COMMITTED / "triplet_softmax_mse_l2.md").read_text(encoding="utf-8")
    registers = {
        kernel: dict(zip(ARCHITECTURES, (taken for taken, _ in cells), strict=True))
        for kernel, cells in rows(text).items()
    }
    assert text.endswith("\n".join([*cuda_usage._table(registers), ""]))


# registers of a warp are given out 256 at a time, blocks whole
@pytest.mark.parametrize(
    ("architecture", "registers", "threads", "warps"),
    [
        ("sm_75", 32, 256, 32),  # as many as there can be
        ("sm_80", 32, 256, 64),
        ("sm_80", 33, 256, 48),  # 1,280 a warp: 51, in blocks of 8
        ("sm_90", 128, 256, 16),
        ("sm_90", 129, 256, 8),  # 4,352 a warp: 15
        ("sm_90", 255, 256, 8),
        ("sm_100", 64, 1024, 32),
    ],
)
def test_resident_warps(architecture: str, registers: int, threads: int, warps: int) -> None:
    assert resident_warps(architecture, registers, threads) == warps


def made(loss: str = "hinge", **options: Any) -> Product:
    return generate(differentiate("l2", loss), "cuda-usage", dtypes=["float32"], **options)


@needs_nvrtc
def test_the_numbers_are_the_compilers_and_a_change_of_them_is_drift(tmp_path: Path) -> None:
    product = made("softmax-mse")
    assert verify(product).level == f"compiled (NVRTC {nvrtc.release()})"
    (file,) = product.files
    table = rows(file.text)
    assert list(table) == list(kernels(["float32"]))
    committed = rows((COMMITTED / "triplet_softmax_mse_l2.md").read_text(encoding="utf-8"))
    assert {kernel: committed[kernel] for kernel in table} == table
    assert set(regenerate.write(product, tmp_path).values()) == {"written"}
    assert regenerate.check([product], tmp_path, complete=False) == []
    path = tmp_path / file.path
    registers = table["reduce<Block<1024>, float>"][0][0]
    path.write_text(file.text.replace(f"| {registers}, ", f"| {registers + 1}, "))
    (drift,) = regenerate.check([product], tmp_path, complete=False)
    assert (drift.path, drift.kind) == (file.path, "changed")


def test_all_leaves_it_out_and_a_check_of_all_leaves_its_files_alone(tmp_path: Path) -> None:
    assert {request.target for request in requests_for(["l2"], ["hinge"], ["all"])}.isdisjoint({"cuda-usage"})
    named = {request.target for request in requests_for(["l2"], ["hinge"], ["all", "cuda-usage"])}
    assert "cuda-usage" in named
    numpy = generate(differentiate("l2", "hinge"), "numpy")
    regenerate.write(numpy, tmp_path)
    other = tmp_path / "cuda-usage" / "triplet_hinge_l2.md"
    other.parent.mkdir()
    other.write_text((COMMITTED / "triplet_softmax_mse_l2.md").read_text(encoding="utf-8"), encoding="utf-8")
    assert regenerate.check([numpy], tmp_path, complete=True) == []
    (tmp_path / "numpy" / "other.py").write_text(numpy.files[0].text, encoding="utf-8")
    assert [drift.kind for drift in regenerate.check([numpy], tmp_path, complete=True)] == ["extra"]


@needs_nvrtc
def test_a_kernel_that_spills_makes_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_source = nvrtc.compile_source

    def spilling(*arguments: Any) -> nvrtc.Compiled:
        compiled = compile_source(*arguments)
        return dataclasses.replace(
            compiled, usage=tuple(dataclasses.replace(usage, spilled_bytes=4) for usage in compiled.usage)
        )

    monkeypatch.setattr(cuda_usage, "_WARPS", {"sm_80": 64})
    nvrtc.release()
    monkeypatch.setattr(nvrtc, "compile_source", spilling)
    with pytest.raises(DeriveTripletError, match=r"triplet_hinge_l2::\S+ .*spills registers on sm_80"):
        made()


def test_without_the_release_that_it_was_made_with_there_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "is_available", lambda: True)
    monkeypatch.setattr(nvrtc, "release", lambda: "13.0.88")
    derivation = differentiate("l2", "hinge")
    lacking = generate(derivation, "cuda-usage", engine="NVRTC 12.9.1")
    assert lacking.files == ()
    assert (
        lacking.lacks
        == "this machine has NVRTC 13.0.88, not NVRTC 12.9.1; pip install 'nvidia-cuda-nvrtc==12.9.1' brings it"
    )
    monkeypatch.setattr(nvrtc, "is_available", lambda: False)
    assert "this machine has no NVRTC, not NVRTC; pip install 'nvidia-cuda-nvrtc'" in made().lacks
    assert Settings().engine == ""
    assert not CudaUsageTarget().in_all
