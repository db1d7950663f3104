"""The examples run, and show what they say they show; the CUDA program is built, and without a GPU says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from derive_triplet import differentiate, generate
from derive_triplet.derive.verify import nvcc

EXAMPLES = Path(__file__).parents[1] / "examples"


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
    command += [EXAMPLES / "cuda" / "main.cu", source, "-o", layer / name]
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
    folder = tmp_path / "build"
    for command in ([cmake, "-S", EXAMPLES / "cuda", "-B", folder, *options], [cmake, "--build", folder]):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert_runs(folder / "example")


# ---------------------------------------------------------------- digits


@pytest.mark.needs("caffe")
@pytest.mark.needs("sklearn")
def test_composed_and_fused_nets_learn_digits_alike() -> None:
    command = [sys.executable, EXAMPLES / "digits.py", "--seeds", "1", "--steps", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, _, row, mean = done.stdout.splitlines()
    assert header.startswith("| seed | loss")
    _, losses, differ, pixels, composed, fused = (cell.strip() for cell in row.strip("|").split("|"))
    begun, ended = map(float, losses.split(", "))
    assert ended < 0.8 * begun
    assert float(differ) < 1e-3
    assert composed == fused
    all_known, ten_known = (float(accuracy.rstrip("%")) for accuracy in composed.split(", "))
    assert all_known > ten_known > 70  # in forty steps
    assert float(pixels.split(",")[0].rstrip("%")) > 95
    assert mean.split("|")[4:] == row.split("|")[4:]
