"""What a wheel holds, what it installs, and that it works away from the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "venv", "env")
LAYER = "generated/numpy/triplet_softmax_mse_l2.py"


class Installed(NamedTuple):
    """A fresh environment with the wheel; `gained` is what site-packages has that it had not before."""

    scripts: Path
    site: Path
    gained: set[str]


def run(command: list[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the repository keeps no trace of it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = Path(shutil.copytree(REPOSITORY, folder / "source", ignore=NOT_SOURCE))
    done = run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, source], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a fresh environment, beside the dependencies that this environment has."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    answer = run([scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder)
    site = Path(answer.stdout.strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not read
    before = {path.name for path in site.iterdir()}
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    done = run([*pip, "install", "--no-deps", "--no-compile", wheel], folder)
    assert done.returncode == 0, done.stderr
    return Installed(scripts, site, {path.name for path in site.iterdir()} - before)


# ---------------------------------------------------------------- the wheel


def test_wheel_holds_one_package_and_its_metadata(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    (metadata,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"derive_triplet", metadata}
    assert metadata.startswith("derive_triplet-")


def test_wheel_holds_every_module_and_template_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        packed = {
            name.partition("/")[2]: archive.read(name)
            for name in archive.namelist()
            if name.startswith("derive_triplet/")
        }
    folders = ("derive/**/*.py", "derive/**/*.c", "derive/**/*.cpp", "derive/**/*.h", "templates/**/*.jinja")
    paths = [path for pattern in folders for path in REPOSITORY.glob(pattern)]
    paths += [REPOSITORY / name for name in ("__init__.py", "cli.py", "py.typed")]
    expected = {path.relative_to(REPOSITORY).as_posix(): path.read_bytes() for path in paths}
    assert len(expected) > 30
    assert packed.keys() == expected.keys()
    assert packed == expected


def test_wheel_names_its_licence_and_its_dependencies(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    core = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert set(core) == {"click", "jinja2", "numpy", "sympy"}
    assert re.search(r"^License-Expression: MIT$", metadata, re.MULTILINE)
    assert re.search(r'^Requires-Dist: nvidia-cuda-nvrtc==13\.0\.\*; extra == "cuda"$', metadata, re.MULTILINE)


# ---------------------------------------------------------------- installed


def test_site_packages_gains_exactly_one_package(installed: Installed) -> None:
    (metadata,) = installed.gained - {"derive_triplet"}
    assert re.fullmatch(r"derive_triplet-[\w.]+\.dist-info", metadata)
    assert (installed.site / "derive_triplet" / "py.typed").is_file()


@pytest.mark.parametrize("name", ["cli", "templates", "derive", "tests", "generated"])
def test_nothing_of_ours_is_importable_at_the_top(name: str, installed: Installed) -> None:
    done = run([installed.scripts / "python", "-c", f"import {name}"], installed.site.parent)
    assert f"No module named '{name}'" in done.stderr
    assert run([installed.scripts / "python", "-c", "import derive_triplet.cli"], installed.site.parent).returncode == 0


def test_main_command_from_another_folder_writes_what_the_repository_holds(
    installed: Installed, tmp_path: Path
) -> None:
    code = "import derive_triplet; print(derive_triplet.__file__)"
    imported = Path(run([installed.scripts / "python", "-c", code], tmp_path).stdout.strip())
    assert imported == installed.site / "derive_triplet" / "__init__.py"
    done = run([installed.scripts / "derive-triplet", "--norm", "l2", "--target", "numpy"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verified to level: run" in done.stdout
    assert (tmp_path / LAYER).read_bytes() == (REPOSITORY / LAYER).read_bytes()


USER = """
from derive_triplet import differentiate, generate, verify
product = generate(differentiate("l2", "hinge"), "numpy", parameters={"margin": 0.5})
level: str = verify(product, thorough=True).level
"""


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("", "", ""),
        ('"hinge"', "3", "arg-type"),
        ("level: str", "level: int", "assignment"),
        ("generate, verify", "generate, verify, gradient", "attr-defined"),
    ],
)
def test_users_program_is_type_checked_against_the_wheel(
    right: str, wrong: str, complaint: str, installed: Installed, tmp_path: Path
) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "user.py").write_text(USER.replace(right, wrong) if right else USER)
    cache = installed.site.parent / "mypy"  # shared by the programs
    mypy: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache]
    done = run([*mypy, "--python-executable", installed.scripts / "python", "user.py"], tmp_path)
    if complaint:
        assert done.returncode == 1
        assert f"[{complaint}]" in done.stdout
    else:
        assert done.returncode == 0, done.stdout


# ---------------------------------------------------------------- the pre-commit hook


def hook() -> dict[str, str]:
    """The keys of the only hook; their values are plain scalars and flow lists."""
    text = (REPOSITORY / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line[:2] for line in lines] == ["- ", *["  "] * (len(lines) - 1)]
    pairs = [re.fullmatch(r"[- ] (\w+): (\S.*)", line) for line in lines]
    assert all(pairs)
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_hook_says_what_pre_commit_needs() -> None:
    found = hook()
    assert found.keys() >= {"id", "name", "entry", "language"}
    assert (found["id"], found["language"]) == ("derive-triplet-check", "python")
    assert found["pass_filenames"] == "false"
    assert found["always_run"] == "true"  # a deleted file is not among those that would select the hook


def test_hook_passes_on_what_was_generated_and_fails_on_drift(installed: Installed, tmp_path: Path) -> None:
    """As pre-commit does it: the entry and its arguments, in the folder of the user's repository."""
    found = hook()
    program, *options = shlex.split(found["entry"])
    command: list[str | Path] = [installed.scripts / program, *options, *re.findall(r"[^\[\], ]+", found["args"])]
    assert run([installed.scripts / "derive-triplet", "--no-verify"], tmp_path).returncode == 0
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / LAYER).unlink()
    done = run(command, tmp_path)
    assert done.returncode == 1
    assert f"missing: {Path(LAYER)}" in done.stdout
