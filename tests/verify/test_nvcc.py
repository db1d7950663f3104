"""What is asked of nvcc, by a stand-in for it; real ones compile in the tests of CUDA."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from derive_triplet.derive.targets.base import GeneratedFile
from derive_triplet.derive.verify import nvcc

FILES = (GeneratedFile("cuda/layer.cuh", "// a header\n"), GeneratedFile("cuda/layer.cu", "// launchers\n"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Where a package has its compiler, which cannot be executed yet."""
    path = tmp_path / "cu13" / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@pytest.fixture
def installed(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(nvcc, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    return program


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_it_is_found_on_the_path_before_the_package(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nvcc.find() is None  # it cannot be executed
    says(installed, "")
    assert nvcc.find() == str(installed)
    says(tmp_path / "nvcc", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvcc.find() == str(tmp_path / "nvcc")


def test_without_a_package_there_is_none(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(installed, "")
    monkeypatch.setattr(nvcc, "find_spec", lambda _: None)
    assert nvcc.find() is None
    with pytest.raises(FileNotFoundError, match="nvidia-cuda-nvcc"):
        nvcc.errors(FILES)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo note >&2", ""),
        ("echo ' a warning ' >&2; exit 2", "a warning"),
        ("exit 3", "exit status 3"),
        ("cat layer.cuh layer.cu >&2; exit 1", "// a header\n// launchers"),
        ("echo $* >&2; exit 1", f"-std=c++17 {' '.join(nvcc.WARNINGS_AS_ERRORS)} -O1 -c layer.cu -o layer.o"),
    ],
)
def test_what_it_says_is_told_where_it_does_not_compile(installed: Path, script: str, complaint: str) -> None:
    says(installed, script)
    assert nvcc.errors(FILES, ["-O1"]) == complaint
