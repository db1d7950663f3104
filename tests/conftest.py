"""Shared fixtures, and ``--require``: a missing tool skips its tests, unless it is required."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest

from derive_triplet.derive.typeset import ENGINE_VARIABLE, find_engine
from derive_triplet.derive.verify import c, gpu, nvcc, nvrtc
from derive_triplet.derive.verify.caffe import build as caffe

TOOLS = {
    "nvrtc": nvrtc.is_available,
    "nvcc": lambda: nvcc.find() is not None,
    "gpu": lambda: bool(gpu.find()),
    "compute-sanitizer": lambda: shutil.which("compute-sanitizer") is not None,
    "cmake": lambda: shutil.which("cmake") is not None,
    "tinytex": lambda: find_engine("tinytex") is not None,
    "latexmk": lambda: find_engine("latexmk") is not None,
    "caffe": lambda: caffe.find() is not None,
    "cc": lambda: c.find() is not None,
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
