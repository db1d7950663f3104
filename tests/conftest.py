"""Shared fixtures, and ``--require``: a missing tool skips its tests, unless it is required."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from derive_triplet.derive.targets import pdf as pdf_target
from derive_triplet.derive.typeset import ENGINE_VARIABLE, Typeset, find_engine, typeset
from derive_triplet.derive.verify import gpu, nvcc, nvrtc
from derive_triplet.derive.verify.caffe import build as caffe
from derive_triplet.derive.verify.caffe import gpu as caffe_gpu
from derive_triplet.derive.verify.caffe import sources

TOOLS = {
    "nvrtc": nvrtc.is_available,
    "nvcc": lambda: nvcc.find() is not None,
    "gpu": lambda: bool(gpu.find()),
    "compute-sanitizer": lambda: shutil.which("compute-sanitizer") is not None,
    "cmake": lambda: shutil.which("cmake") is not None,
    "tinytex": lambda: find_engine("tinytex") is not None,
    "latexmk": lambda: find_engine("latexmk") is not None,
    "caffe": lambda: caffe.find() is not None,
    "opencv": lambda: find_spec("cv2") is not None,
    "mlxtend": lambda: find_spec("mlxtend") is not None,
    "sklearn": lambda: find_spec("sklearn") is not None,
    "torch": lambda: find_spec("torch") is not None,
    "optax": lambda: find_spec("optax") is not None,
    "jax": lambda: find_spec("jax") is not None,
    "wrenfold": lambda: find_spec("wrenfold") is not None,
    "symforce": lambda: find_spec("symforce") is not None,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="TOOL",
        choices=sorted(TOOLS),
        help=f"fail, instead of skipping, where TOOL is missing; one of {', '.join(sorted(TOOLS))}; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ[ENGINE_VARIABLE] = "tinytex"  # the engine of the committed PDFs, whatever else a machine has
    config.addinivalue_line("markers", "needs(tool): skipped where the tool is missing, unless --require=tool")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        (tool,) = marker.args
        if not TOOLS[tool]():
            message = f"{tool} is not installed"
            if tool in item.config.getoption("--require"):
                pytest.fail(f"{message}, and --require={tool} was given", pytrace=False)
            pytest.skip(message)


# ---------------------------------------------------------------- compilers are asked once


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compilers, and TeX, make once in a session what several tests ask for, in whatever process: it takes minutes.

    What is made depends on the sources and the options only. What is refused, and what is linked, is made anew.
    """
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    compile_source, run = nvrtc.compile_source, sources.run

    def by_nvrtc(source: str, architecture: str, kernels: Sequence[str], file_name: str = "kernel.cu") -> Any:
        def make() -> bytes:
            return pickle.dumps(compile_source(source, architecture, kernels, file_name))

        return pickle.loads(remembered(shared, (source, architecture, list(kernels), file_name), make))

    def by_command(command: list[str], where: Path) -> str:
        """Of sources in a folder, which include headers that are there."""
        read = [where / word for word in command if word.endswith((".cpp", ".cu")) and "/" not in word]
        if not read or "-o" not in command:
            return run(command, where)
        made = where / command[command.index("-o") + 1]

        def make() -> bytes:
            run(command, where)
            return made.read_bytes()

        relative = [word.replace(f"{where}/", "") for word in command]
        texts = [(str(path.relative_to(where)), path.read_bytes()) for path in [*read, *sorted(where.rglob("*.hpp"))]]
        content = remembered(shared, (relative, texts), make)
        made.write_bytes(content)
        made.chmod(0o755)
        return ""

    def by_tex(text: str, engine: tuple[str, str]) -> Typeset:
        made: Typeset = pickle.loads(remembered(shared, (text, engine), lambda: pickle.dumps(typeset(text, engine))))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "compile_source", by_nvrtc)
        patch.setattr(pdf_target, "typeset", by_tex)
        for module in (caffe, caffe_gpu):
            patch.setattr(module, "run", by_command)
        yield


def remembered(folder: Path, key: object, make: Callable[[], bytes]) -> bytes:
    """What is made of a key, by the first process that needs it."""
    path = folder / f"made-{hashlib.sha256(repr(key).encode()).hexdigest()}"
    if not path.exists():
        whole = path.with_name(f"{path.name}-{os.getpid()}-{threading.get_ident()}")
        whole.write_bytes(make())
        whole.replace(path)
    return path.read_bytes()
