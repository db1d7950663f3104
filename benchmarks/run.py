"""Runs all benchmarks that this machine can run, and writes a page with tables and plots.

    python benchmarks/run.py [NAME ...] [--quick] [-o benchmarks/results]

Each benchmark leaves its rows as JSON and a plot as SVG; the page, `README.md`, is made of all JSON files in the
folder, so that one can be measured anew alone. What is missing on the machine is named there. `pip install '.[bench]'`
brings the peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import c_layer
import click
import measure
import numpy_layer
import tool_time
import unrolled

BENCHMARKS: dict[str, ModuleType] = {
    "numpy": numpy_layer,
    "c": c_layer,
    "tool_time": tool_time,
    "unrolled": unrolled,
}
"""By name, in the order of the page: modules with a TITLE, an ABOUT, `measure(quick)` and `charts(rows)`."""
OTHER_PAGES = """\
## Caffe and CUDA

What `python benchmarks/caffe_layers.py` finds in a built Caffe is on [a page of its own](caffe.md), and so is what
`python benchmarks/cuda_layer.py` measures on a GPU, or [computes](cuda_model.md) where there is none."""


def section(name: str, folder: Path) -> list[str]:
    """The lines of the page about one benchmark; says so if it was not run."""
    module = BENCHMARKS[name]
    lines = [f"## {module.TITLE}", "", *module.ABOUT.splitlines(), ""]
    path = folder / f"{name}.json"
    if not path.exists():
        return [*lines, f"Not measured: `python benchmarks/run.py {name}`.", ""]
    machine, result = measure.load(path)
    versions = ", ".join(f"{package} {version}" for package, version in result.versions.items())
    lines += [f"On {machine}{'; ' if versions else ''}{versions}.", ""]
    lines += [f"Not measured, because it is missing: {what}." for what in result.missing]
    lines += [""] * bool(result.missing)
    if (folder / f"{name}.svg").exists():
        lines += [f"![{module.TITLE}]({name}.svg)", ""]
    return [*lines, *measure.table(result.rows), ""]


def page(folder: Path) -> str:
    """The page of a folder of results."""
    lines = [
        "# Results",
        "",
        "Written by `python benchmarks/run.py`. A ratio is that of two contenders that ran in turns: the median over",
        "all rounds, and its quartiles. The median before it is the contender's own, and an aim is one of the ratio.",
        "",
    ]
    for name in BENCHMARKS:
        lines += section(name, folder)
    return "\n".join([*lines, OTHER_PAGES, ""])


def run(name: str, quick: bool, folder: Path) -> None:
    """Measures one benchmark, and writes its JSON and plot; of what is drawn without matplotlib, it says so."""
    module = BENCHMARKS[name]
    result = module.measure(quick)
    try:
        if charts := module.charts(result.rows):
            measure.draw(charts, folder / f"{name}.svg")
    except ModuleNotFoundError as error:
        (folder / f"{name}.svg").unlink(missing_ok=True)
        measure.say(f"{name}: no plot, {error.name} is not installed")
    measure.save(folder / f"{name}.json", result)
    click.echo("\n".join([module.TITLE, "", *measure.table(result.rows), ""]))
    for what in result.missing:
        click.echo(f"not measured: {what}")


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Fewer and smaller cases, for a trial.")
@click.option("--page-only", is_flag=True, help="Measure nothing; write the page of the results that are there.")
@click.option("-o", "--output", default="benchmarks/results", show_default=True, metavar="DIR", help="Where to.")
def main(names: Sequence[str], quick: bool, page_only: bool, output: str) -> None:
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name in () if page_only else names or BENCHMARKS:
        run(name, quick, folder)
    measure.write(folder / "README.md", page(folder))
    click.echo(f"written {folder / 'README.md'}")


if __name__ == "__main__":
    main()
