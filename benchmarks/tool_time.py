"""How long the command takes as a whole process, beside importing what it is made of.

python benchmarks/run.py tool_time
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure import Aim, Chart, Result, Row, beside, in_turns, versions_of

TITLE = "The tool"
ABOUT = """\
The command `derive-triplet` as a whole process, verification included where it is not turned off, beside a process that
only imports. It is measured where the tool is installed, not editable: an installed package comes compiled. Of one
combination, another process computes the reference of the verification while SymPy is imported and the loss is derived;
of all combinations, each process takes a distance. So the ratios need processors that have little else to do."""

_IMPORTS = "import sympy, numpy, jinja2, click"
_TARGETS = ("numpy", "c", "cuda", "caffe", "prototxt", "latex")
_ALL = (
    *("--norm", "all", "--loss", "all"),
    *(word for target in _TARGETS for word in ("--target", target)),
    "--no-verify",
)


@dataclass(frozen=True)
class Comparison:
    """A command, the options of it in words, what is imported beside it, and the aim for the ratio."""

    said: str
    options: tuple[str, ...]
    imports: str
    aim: float


COMPARISONS = (
    Comparison("one combination to numpy, verified", ("--norm", "l2", "--target", "numpy"), _IMPORTS, 2),
    Comparison("one combination to cuda, verified", ("--norm", "l2", "--target", "cuda"), _IMPORTS, 4),
    Comparison("all combinations of all targets but pdf, not verified", _ALL, _IMPORTS, 10),
    Comparison("the same compared with what is there, by --check", (*_ALL[:-1], "--check"), _IMPORTS, 10),
    Comparison("--list", ("--list",), "import click", 3),
    Comparison("--help", ("--help",), "import click", 2),
)


def measure(quick: bool) -> Result:
    """Every comparison; `quick` leaves out those of all combinations."""
    tool = shutil.which("derive-triplet")
    if tool is None:
        return Result((), ("derive-triplet on the PATH: pip install '.[cuda]'",))
    chosen = [one for one in COMPARISONS if not (quick and one.options[:2] == _ALL[:2])]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, *_ALL], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        rows = tuple(_compared(one, tool, folder) for one in chosen)
    return Result(rows, versions=versions_of(("sympy", "numpy", "nvidia-cuda-nvrtc")))


def _compared(comparison: Comparison, tool: str, folder: str) -> Row:
    importing = f"python -c '{comparison.imports}'"

    def process(*command: str) -> Callable[[], object]:
        return lambda: subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    times = in_turns(
        {
            comparison.said: process(tool, *comparison.options),
            importing: process(sys.executable, "-c", comparison.imports),
        },
        rounds=(7, 15),
    )
    return beside(times, comparison.said, importing, "", 0, Aim("<=", comparison.aim))


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Nothing to draw: each row is a command of its own."""
    return []
