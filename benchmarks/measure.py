"""What the benchmarks share: timing in turns, ratios, the machine, and how results are kept, tabulated and drawn.

A figure is a ratio of two contenders that ran in turns in one process, or of two commands that did: it holds when the
machine's speed drifts, and says on another machine about the same.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

COMPARISONS = {"<=": operator.le, ">=": operator.ge}
SIGNS = {"<=": "≤", ">=": "≥"}


@dataclass(frozen=True)
class Aim:
    """What a ratio is meant to be: at most, or at least, a number."""

    comparison: str
    number: float

    def is_met(self, ratio: float) -> bool:
        return COMPARISONS[self.comparison](ratio, self.number)


@dataclass(frozen=True)
class Row:
    """A contender at one point of a benchmark, beside another contender of the same rounds.

    point: what was done, in words; at: the same as a number, for a plot.
    median: seconds, or whatever `unit` is. ratio, low, high: median and quartiles of the ratios, round by round.
    """

    point: str
    at: float
    subject: str
    beside: str
    median: float
    ratio: float
    low: float
    high: float
    aim: Aim | None = None
    unit: str = "s"


@dataclass(frozen=True)
class Chart:
    """A panel of a plot: the medians of rows over `at`, a line for each subject, or their ratios."""

    title: str
    x: str
    y: str
    rows: tuple[Row, ...]
    ratios: bool = False


@dataclass(frozen=True)
class Result:
    """What a benchmark found. missing: what was not measured, and how to mend that. versions: of what took part."""

    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- measuring


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    seconds: float = 3.0,
    rounds: tuple[int, int] = (7, 300),
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """The seconds of each run of each contender, round by round.

    seconds: about how long all rounds take. rounds: at least and at most how many. warm: run each once before. Each
    round has an order drawn anew, the same ones in every run: who comes next finds in the cache what the one before
    left, and in a fixed order, wherever it begins, that would always be the same one's.
    """
    names, draw = list(contenders), random.Random(0)
    for run in contenders.values() if warm else ():
        run()
    times: dict[str, list[float]] = {name: [] for name in names}
    begun = clock()
    for number in range(rounds[1]):
        if number >= rounds[0] and clock() - begun > seconds:
            break
        for name in draw.sample(names, len(names)):
            start = clock()
            contenders[name]()
            times[name].append(clock() - start)
    return times


def beside(
    times: Mapping[str, Sequence[float]],
    subject: str,
    other: str,
    point: str,
    at: float,
    aim: Aim | None = None,
) -> Row:
    """The row of a contender beside another, from what `in_turns` measured."""
    ratios = [a / b for a, b in zip(times[subject], times[other], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Row(point, at, subject, other, statistics.median(times[subject]), ratio, low, high, aim)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Those that are installed, by name."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """The machine in words: processor, cores, system, Python."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line for line in information.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return f"{model}, {cores()} cores, {platform.system()}, Python {platform.python_version()}"


# ---------------------------------------------------------------- keeping


def write(path: Path, text: str) -> None:
    """A whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def save(path: Path, result: Result) -> None:
    """A result as JSON, with the machine."""
    data = {"machine": machine(), **asdict(result)}
    write(path, json.dumps(data, indent=1) + "\n")


def rows_from(data: Iterable[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Rows that were dictionaries, as JSON has them."""
    return tuple(Row(**{**row, "aim": Aim(**row["aim"]) if row["aim"] else None}) for row in data)


def load(path: Path) -> tuple[str, Result]:
    """The machine and the result of a file that `save` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return data["machine"], Result(rows_from(data["rows"]), tuple(data["missing"]), data["versions"])


# ---------------------------------------------------------------- showing


def say(text: str) -> None:
    """To whoever waits."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def table(rows: Sequence[Row]) -> list[str]:
    """Rows in Markdown; what is only compared with itself has no ratio."""
    lines = ["| | | median | beside | ratio | quartiles | aim |", "|---|---|--:|---|--:|---|---|"]
    for row in rows:
        amount = duration(row.median) if row.unit == "s" else f"{row.median:,.0f} {row.unit}"
        aim = ""
        if row.aim:
            met = "met" if row.aim.is_met(row.ratio) else "**missed**"
            aim = f"{SIGNS[row.aim.comparison]} {row.aim.number:g}: {met}"
        quartiles = f"{row.low:.3g} to {row.high:.3g}"
        compared = (row.beside, f"{row.ratio:.3g}", quartiles) if row.subject != row.beside else ("", "", "")
        cells = (row.point, row.subject, amount, *compared, aim)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(charts: Sequence[Chart], path: Path) -> None:
    """The charts side by side, as SVG, the same bytes for the same rows."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "derive-triplet"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(charts), figsize=(6 * len(charts), 4.5), squeeze=False)
    for panel, chart in zip(panels[0], charts, strict=True):
        for subject in dict.fromkeys(row.subject for row in chart.rows):
            rows = sorted((row for row in chart.rows if row.subject == subject), key=lambda row: row.at)
            heights = [row.ratio if chart.ratios else row.median for row in rows]
            panel.plot([row.at for row in rows], heights, marker="o", label=subject)
        panel.set(title=chart.title, xlabel=chart.x, ylabel=chart.y, xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}.new")
    figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    temporary.replace(path)
