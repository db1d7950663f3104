"""How long the command takes as a whole process, beside importing what it is made of.

    python benchmarks/tool_time.py [--runs 7]

Each command and its baseline run in turn, A B A B ..., and the ratio is taken pair by pair, so that it holds when the
machine's speed drifts. Prints a Markdown table.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click

_IMPORTS = (sys.executable, "-c", "import sympy, numpy, jinja2, click")
_CLICK = (sys.executable, "-c", "import click")


@dataclass(frozen=True)
class Comparison:
    """A command, what it is compared to, and the ratio that it is meant to stay under."""

    options: tuple[str, ...]
    baseline: tuple[str, ...]
    limit: float


COMPARISONS = (
    Comparison(("--norm", "l2", "--target", "numpy"), _IMPORTS, 3),
    Comparison(("--norm", "l2", "--target", "cuda"), _IMPORTS, 5),
    Comparison(("--help",), _CLICK, 2),
)


def seconds(command: Sequence[str], folder: str) -> float:
    """The wall time of one run; raises `CalledProcessError` if it fails."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(comparison: Comparison, tool: str, runs: int) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        command = (tool, *comparison.options)
        seconds(command, folder), seconds(comparison.baseline, folder)  # warm the disk cache
        pairs = [(seconds(command, folder), seconds(comparison.baseline, folder)) for _ in range(runs)]
    ratios = sorted(a / b for a, b in pairs)
    low, _, high = statistics.quantiles(ratios, n=4)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (
        f"| `derive-triplet {' '.join(comparison.options)}` | {ours:.2f} s | `python -c '{comparison.baseline[-1]}'` "
        f"| {theirs:.2f} s | {statistics.median(ratios):.2f} | {low:.2f} to {high:.2f} | {comparison.limit:g} |"
    )


@click.command(help=__doc__)
@click.option("--runs", default=7, show_default=True, help="Pairs of runs of each comparison.")
def main(runs: int) -> None:
    tool = shutil.which("derive-triplet")
    if tool is None:
        raise click.ClickException("derive-triplet is not on the PATH; pip install '.[cuda]' brings it")
    click.echo(f"Python {platform.python_version()}, {platform.machine()}, {runs} pairs of runs each.\n")
    click.echo("| command | median | beside | median | ratio, median | quartiles | aim |")
    click.echo("|---|--:|---|--:|--:|--:|--:|")
    for comparison in COMPARISONS:
        click.echo(measure(comparison, tool, runs))


if __name__ == "__main__":
    main()
