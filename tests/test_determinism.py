"""The committed files are what every hash seed and every Python version generates, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
COMMITTED = REPOSITORY / "generated"
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "venv", "env")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHERS = [version for version in ("3.11", "3.12", "3.13") if version != RUNNING]
SEEDS = ("0", "1", "2", "3", "4294967295")

MAIN = "from derive_triplet.cli import main; main()"
# the helper functions of a NumPy module in the order of a set of strings, which the hash seed decides
MAIN_IN_HASH_ORDER = f"""
from derive_triplet.derive.targets.numpy import NumpyTarget
context = NumpyTarget.context
def shuffled(*arguments):
    found = context(*arguments)
    return {{**found, "helpers": set(found["helpers"])}}
NumpyTarget.context = shuffled
{MAIN}
"""


DIFFERENT = ("--norm", "l2", "--norm", "cosine", "--loss", "all", "--target", "all")
"""Every loss, distances of one stage and of two, all targets; what else there is goes the same ways."""
ONE = ("--norm", "l2", "--loss", "softmax-mse", "--target", "numpy")


def check(
    *options: str,
    tree: Path = COMMITTED,
    python: str | Path = sys.executable,
    seed: str = "0",
    code: str = MAIN,
) -> tuple[int, str]:
    """Exit status and output."""
    done = subprocess.run(
        [python, "-c", code, "--check", *options, "-o", tree],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=tree,  # what is imported is what is installed
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def with_every_seed(*options: str, code: str = MAIN) -> list[tuple[int, str]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda seed: check(*options, seed=seed, code=code), SEEDS))


def test_every_hash_seed_generates_the_committed_files() -> None:
    for seed, (status, output) in zip(SEEDS, with_every_seed(*DIFFERENT), strict=True):
        assert status == 0, f"PYTHONHASHSEED={seed}\n{output}"


def test_dependence_on_the_hash_seed_would_be_seen() -> None:
    statuses = [status for status, _ in with_every_seed(*ONE, code=MAIN_IN_HASH_ORDER)]
    assert set(statuses) == {0, 1}  # some seeds happen to give the right order


# ---------------------------------------------------------------- Python versions


def find_python(version: str) -> str | None:
    """A working interpreter on the PATH or among those of pyenv, whose stand-ins on the PATH may not work."""
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))]
    for python in filter(None, candidates):
        if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return python
    return None


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, where a build may leave what it likes."""
    return Path(shutil.copytree(REPOSITORY, tmp_path_factory.mktemp("source") / "source", ignore=NOT_SOURCE))


@pytest.fixture(scope="session", params=OTHERS)
def python(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of another version, with the repository installed."""
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"Python {request.param} is not on this machine")
    environment = tmp_path_factory.mktemp(f"python{request.param}")
    subprocess.run([found, "-m", "venv", "--without-pip", environment], check=True)
    installed = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(installed)]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", f"{source}[pdf]"], check=True)
    return installed


def test_every_python_version_generates_the_committed_files(python: Path, tmp_path: Path) -> None:
    status, output = check(*DIFFERENT, python=python)
    assert status == 0, output
    altered = Path(shutil.copytree(COMMITTED, tmp_path / "altered"))
    path = altered / "numpy" / "triplet_softmax_mse_l2.py"
    path.write_text(path.read_text().replace("softmax", "Softmax", 1))
    status, output = check(*ONE, python=python, tree=altered)
    assert status == 1
    assert f"changed: {path}" in output
