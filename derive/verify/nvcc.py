"""NVIDIA's offline compiler, where there is one: on the PATH, or from the pip package nvidia-cuda-nvcc."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from ..targets.base import GeneratedFile

WARNINGS_AS_ERRORS = ("-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror")


def find() -> str | None:
    """The path of the compiler, or None."""
    if on_path := shutil.which("nvcc"):
        return on_path
    spec = find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        for candidate in sorted(Path(root).glob("*/bin/nvcc*")):
            if found := shutil.which(str(candidate)):
                return found
    return None


def errors(files: Iterable[GeneratedFile], options: Sequence[str] = ("-arch=all-major", "--threads=0")) -> str:
    """What the compiler says against the ``.cu`` among `files`, warnings included; '' if it has no complaint.

    Raises `FileNotFoundError` where there is no compiler.
    """
    compiler = find()
    if compiler is None:
        raise FileNotFoundError("nvcc is neither on the PATH nor installed as nvidia-cuda-nvcc")
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for file in files:
            names.append(Path(file.path).name)
            (Path(folder) / names[-1]).write_text(file.text, encoding="utf-8")
        source = next(name for name in names if name.endswith(".cu"))
        command = [compiler, "-std=c++17", *WARNINGS_AS_ERRORS, *options, "-c", source, "-o", "layer.o"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return run.stderr.strip() or f"exit status {run.returncode}" if run.returncode else ""
