"""The examples are built as their comments say; without a GPU they say so, with one they run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from derive_triplet import differentiate, generate
from derive_triplet.derive.verify import nvcc

EXAMPLE = Path(__file__).parents[1] / "examples" / "cuda"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A folder with the layer that the example calls."""
    folder = tmp_path / "layer"
    folder.mkdir()
    for file in generate(differentiate("l2", "softmax-mse"), "cuda").files:
        (folder / Path(file.path).name).write_text(file.text, encoding="utf-8")
    return folder


def compiler() -> Path:
    found = nvcc.find()
    assert found is not None
    return Path(found)


def environment() -> dict[str, str]:
    """The pip packages have their libraries where only their nvcc, and not the linker, looks for them."""
    libraries = os.pathsep.join(str(path) for path in compiler().resolve().parents[1].glob("lib*"))
    return {**os.environ, "CUDACXX": str(compiler()), "LIBRARY_PATH": libraries}


def build(layer: Path, name: str = "example") -> subprocess.CompletedProcess[str]:
    """What the comment of main.cu says, for one architecture and with warnings as errors."""
    source = layer / "triplet_softmax_mse_l2.cu"
    command = [compiler(), "-std=c++17", "-arch=sm_80", *nvcc.WARNINGS_AS_ERRORS, "-I", layer]
    command += [EXAMPLE / "main.cu", source, "-o", layer / name]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def assert_runs(program: Path) -> None:
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if done.returncode:  # no driver, or no device
        assert re.match(r"cudaStreamCreate: .*(driver|device)", done.stderr), done.stderr
    else:
        losses = [float(loss) for loss in re.findall(r"mean loss ([\d.]+)", done.stdout)]
        assert losses == sorted(losses, reverse=True)
        assert len(losses) == 6


@pytest.mark.needs("nvcc")
def test_the_host_program_compiles_without_a_warning_and_starts(layer: Path) -> None:
    done = build(layer)
    assert done.returncode == 0, done.stderr
    assert_runs(layer / "example")


@pytest.mark.needs("nvcc")
def test_a_launcher_with_other_arguments_would_be_seen(layer: Path) -> None:
    for path in layer.iterdir():
        path.write_text(re.sub(r"    float factor,\n", "", path.read_text()))
    assert "too many arguments" in build(layer).stderr


@pytest.mark.needs("nvcc")
@pytest.mark.needs("cmake")
def test_cmake_builds_it(layer: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    assert cmake is not None
    options = [f"-DTRIPLET_DIR={layer}", "-DCMAKE_CUDA_ARCHITECTURES=80"]
    for command in ([cmake, "-S", EXAMPLE, "-B", tmp_path / "build", *options], [cmake, "--build", tmp_path / "build"]):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_runs(tmp_path / "build" / "example")
