"""Losses composed of Caffe's layers and fused into one, in real Caffe on the CPU: time and memory.

    python benchmarks/caffe_layers.py [--quick] [-o benchmarks/results]

The nets of a loss are alternated in one process, and what they compute is compared before anything is timed. Each
batch is run with the reference BLAS and, where Debian's libopenblas0-pthread is installed, with OpenBLAS on one thread
and on as many as it likes. Prints tables, and writes them as a Markdown page, with JSON and a plot. Caffe is built by
`python -m derive_triplet.derive.verify.caffe`, and the plot takes matplotlib (the extra `bench`).
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from derive_triplet import DISTANCES, LOSSES, Objective, Product, differentiate, generate
from derive_triplet.derive.targets.caffe import layer_type
from derive_triplet.derive.verify.caffe import build, layer

SHAPES = ((64, 128), (256, 256), (256, 1024), (1024, 512))
"""Triplets in a batch, and components of an embedding."""
ONE_SHAPE = (256, 256)
"""For what is not measured at all of them."""
AIMS = {"time": 3.0, "memory": 2.0}
"""How many times less of it than the composed net the fused layer is meant to take."""
BOUND = 1e-5
"""How far losses, and gradients at the scale of the largest, may be apart: all nets compute in single precision."""

COMPOSED, FUSED, MIXED = "composed", "fused", "composed, but the loss fused"
NATIVE = "fused, -march=native"
NORMS = ("l2", "l2-squared")  # of other distances the nets differ by a layer
MAIN, NORMALIZED = "softmax-mse on l2", "softmax-mse on l2, normalized"


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Net:
    """The text of a net with inputs x, x_pos and x_neg.

    product: with the layer that it needs, if any. flags: that this is compiled with; -O2 is that of Caffe's Makefile.
    """

    name: str
    text: str
    product: Product | None = None
    flags: tuple[str, ...] = ("-O2",)


@dataclass(frozen=True)
class Subject:
    """Nets that compute the same; the first is what the others are compared with."""

    title: str
    nets: tuple[Net, ...]
    shapes: tuple[tuple[int, int], ...]


def fused(name: str, product: Product, *flags: str) -> Net:
    """A net of one layer, a generated one, compiled with more flags."""
    inputs = "".join(
        f'layer {{ name: "{blob}" type: "Input" top: "{blob}" input_param {{ shape {{ dim: 1 dim: 1 }} }} }}\n'
        for blob in ("x", "x_pos", "x_neg")
    )
    text = f"force_backward: true\n{inputs}{_loss(product, 'x', 'x_pos', 'x_neg')}"
    return Net(name, text, product, ("-O2", *flags))


def both_fused(objective: Objective) -> tuple[Net, Net]:
    """The net of a generated layer as compilers make it for any x86-64, and, under another name, for this machine."""
    renamed = replace(objective, loss=replace(objective.loss, name=f"{objective.loss.name}-native"))
    own, native = (generate(differentiate(one), "caffe") for one in (objective, renamed))
    return fused(FUSED, own), fused(NATIVE, native, "-march=native")


def composed(objective: Objective) -> Net:
    """The net of Caffe's own layers."""
    return Net(COMPOSED, generate(differentiate(objective), "prototxt").files[0].text)


def mixed(name: str, normalized: str, rest: Net) -> Net:
    """The layers of a composed net that normalize its inputs, and the layer of a fused one for the rest."""
    assert rest.product is not None
    end = normalized.index("}\n}\n", normalized.index('top: "unit_x_neg"')) + len("}\n}\n")
    loss = _loss(rest.product, "unit_x", "unit_x_pos", "unit_x_neg")
    return Net(name, normalized[:end] + loss, rest.product, rest.flags)


def _loss(product: Product, *bottoms: str) -> str:
    fields = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "loss" type: "{layer_type(product.objective)}" {fields} top: "loss" loss_weight: 1 }}\n'


def subjects(quick: bool = False) -> tuple[Subject, ...]:
    """A loss on a distance each; a fused net more is one line more."""
    shapes = SHAPES[:2] if quick else SHAPES
    made = []
    for loss, norm in itertools.product(LOSSES, NORMS):
        objective = Objective(DISTANCES[norm], LOSSES[loss])
        title = f"{loss} on {norm}"
        one, native = both_fused(objective)
        plain = composed(objective), one, native
        made.append(Subject(title, plain, shapes if title == MAIN else (ONE_SHAPE,)))
        if title == MAIN:
            of_units = replace(objective, normalize=True)
            whole = composed(of_units)
            normalizing = (whole, *both_fused(of_units), mixed(MIXED, whole.text, one))
            made.append(Subject(NORMALIZED, normalizing, shapes))
    return tuple(subject for subject in made if not quick or subject.title in (MAIN, NORMALIZED))


def layers(text: str) -> int:
    """How many layers a net has besides its inputs, and besides the splits that Caffe adds."""
    types = re.findall(r'type: "(\w+)"', text)
    return len(types) - types.count("Input")


@dataclass(frozen=True)
class Blas:
    """A BLAS: the folder with its libblas.so.3, and how many threads it may use; 0 leaves that to it.

    Without a folder, it is the one that Caffe was linked with.
    """

    name: str
    folder: str
    threads: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it. Nothing else here has threads of its own."""
        limits = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
        clean = {name: value for name, value in os.environ.items() if name not in limits}
        chosen = dict.fromkeys(limits, str(self.threads)) if self.threads else {}
        return {**clean, **chosen, **({"LD_LIBRARY_PATH": self.folder} if self.folder else {})}


def blases() -> tuple[Blas, ...]:
    """Those that Debian has installed; elsewhere the one of Caffe."""
    libraries = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
    found = [Blas("the reference BLAS", str(libraries / "blas"))]
    for folder in sorted(libraries.glob("openblas-*")):
        if (folder / "libblas.so.3").exists():
            found += [Blas("OpenBLAS, 1 thread", str(folder)), Blas("OpenBLAS, default threads", str(folder), 0)]
            break
    there = tuple(blas for blas in found if (Path(blas.folder) / "libblas.so.3").exists())
    return there or (Blas("Caffe's BLAS", ""),)


# ---------------------------------------------------------------- results


@dataclass(frozen=True)
class Quartiles:
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Memory:
    """In bytes; `caffe_layers.cpp` says of what."""

    caffe: int
    blobs: int
    inputs: int
    allocated: int


@dataclass(frozen=True)
class Measured:
    """One net at one shape. Times are in seconds; `ratio` is what the first net takes for both passes, over this.

    least: the memory of the same net for one row of one component, which is what does not grow.
    difference: of the gradients from those of the first net, over the largest.
    """

    net: str
    layers: int
    loss: float
    difference: float
    memory: Memory
    least: Memory
    forward: Quartiles
    backward: Quartiles
    both: Quartiles
    ratio: Quartiles

    @property
    def beyond(self) -> int:
        """What is allocated beyond the three inputs and their gradients."""
        return self.memory.allocated - self.memory.inputs

    @property
    def own(self) -> int:
        """Of that, what layers keep that is in no blob of the net."""
        return (self.memory.allocated - self.memory.blobs) - (self.least.allocated - self.least.blobs)


@dataclass(frozen=True)
class Run:
    """One subject at one shape with one BLAS. `copy` is the time to copy arrays of the size of the three inputs."""

    subject: str
    rows: int
    dim: int
    blas: str
    threads: int
    library: str
    turns: int
    copy: Quartiles
    nets: tuple[Measured, ...]

    @property
    def shape(self) -> str:
        return f"{self.rows}×{self.dim}"

    def net(self, name: str) -> Measured | None:
        return next((net for net in self.nets if net.net == name), None)


@dataclass(frozen=True)
class Results:
    machine: Mapping[str, str]
    runs: tuple[Run, ...]

    def of(self, subject: str, blas: str = "") -> list[Run]:
        return [run for run in self.runs if run.subject == subject and blas in ("", run.blas)]

    @property
    def blases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.blas for run in self.runs))


def loaded(text: str) -> Results:
    """What `json.dumps(asdict(results))` was made of."""

    def measured(net: Any) -> Measured:
        times = {name: Quartiles(**net[name]) for name in ("forward", "backward", "both", "ratio")}
        return Measured(**{**net, **times, "memory": Memory(**net["memory"]), "least": Memory(**net["least"])})

    found = json.loads(text)
    runs = (
        Run(**{**run, "copy": Quartiles(**run["copy"]), "nets": tuple(map(measured, run["nets"]))})
        for run in found["runs"]
    )
    return Results(found["machine"], tuple(runs))


# ---------------------------------------------------------------- measuring


class DisagreementError(RuntimeError):
    """Nets that do not compute the same, or memory that cannot be right: their figures would mean nothing."""


def driver(caffe: build.Caffe, folder: Path) -> Path:
    """`caffe_layers.cpp`, compiled."""
    source = Path(__file__).with_suffix(".cpp")
    caffe.compile("-O2", source, "-o", "caffe_layers", folder=folder)
    return folder / "caffe_layers"


def library(caffe: build.Caffe, product: Product, flags: Sequence[str], folder: Path) -> Path:
    """The shared library of a product's layer, in a folder of its own."""
    own = folder / product.objective.stem
    if not own.exists():
        layer.write(product, own)
        layer.compiled(caffe, product, own, flags)
    return own / "layer.so"


def driven(
    program: Path, libraries: Sequence[Path], nets: Sequence[Net], shape: Sequence[int], blas: Blas, seconds: float = 0
) -> Any:
    """What the driver says of some nets: their times, or with 0 seconds their memory.

    That takes an allocator that keeps no small blocks for later, of which it would not say that they are free.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.prototxt" for number in range(len(nets))]
        for path, net in zip(paths, nets, strict=True):
            path.write_text(net.text, encoding="utf-8")
        command = [program, *shape, seconds, *paths, "--", *libraries]
        exact = {} if seconds else {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
        environment = {**blas.environment, **exact}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(layer.complaint(done.stderr))
    return json.loads(done.stdout)


def agree(nets: Sequence[Net], said: Any) -> None:
    """Raises `DisagreementError` unless the nets have the loss and the gradients of the first of them."""
    first = said["nets"][0]
    for net, found in zip(nets, said["nets"], strict=True):
        if not abs(found["loss"] - first["loss"]) <= BOUND * abs(first["loss"]):
            raise DisagreementError(f"{net.name}: the loss is {found['loss']}, and {first['loss']} of {nets[0].name}")
        if not found["difference"] <= BOUND:
            away = f"{found['difference']:.1e} of the largest away from those of {nets[0].name}"
            raise DisagreementError(f"{net.name}: the gradients are {away}")
        memory = found["memory"]
        if not memory["inputs"] <= memory["blobs"] <= memory["allocated"]:
            raise DisagreementError(f"{net.name}: the parts of its memory are more than the whole: {memory}")


def measure(
    program: Path, libraries: Sequence[Path], subject: Subject, shape: tuple[int, int], blas: Blas, seconds: float
) -> Run:
    held = driven(program, libraries, subject.nets, shape, blas)
    agree(subject.nets, held)
    said = driven(program, libraries, subject.nets, shape, blas, seconds)
    agree(subject.nets, said)
    both = [[f + b for f, b in zip(net["forward"], net["backward"], strict=True)] for net in said["nets"]]
    measured = tuple(
        Measured(
            net.name,
            layers(net.text),
            found["loss"],
            found["difference"],
            Memory(**kept["memory"]),
            Memory(**kept["least"]),
            quartiles(found["forward"]),
            quartiles(found["backward"]),
            quartiles(times),
            quartiles([first / own for first, own in zip(both[0], times, strict=True)]),
        )
        for net, found, kept, times in zip(subject.nets, said["nets"], held["nets"], both, strict=True)
    )
    where = said["blas"]["config"] or Path(said["blas"]["path"]).name
    threads, turns = said["blas"]["threads"], len(said["copy"])
    return Run(subject.title, *shape, blas.name, threads, where, turns, quartiles(said["copy"]), measured)


def quartiles(values: Sequence[float]) -> Quartiles:
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def machine() -> dict[str, str]:
    """What the figures depend on, besides the BLAS."""
    processor = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    compiler = subprocess.check_output(["g++", "--version"], text=True).splitlines()[0]
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": str(os.cpu_count()),
        "compiler": f"{compiler}, -O2",
        "libc": " ".join(platform.libc_ver()),
        "Caffe": "CPU only, single precision",
        "load of the machine before": f"{os.getloadavg()[0]:.1f}",
    }


# ---------------------------------------------------------------- tables


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A Markdown table that lines up as text, too; all columns but the first `words` hold numbers."""
    cells = [[*header], *([*row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    aligned = (
        [c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in cells
    )
    lines = [f"| {' | '.join(row)} |" for row in aligned]
    rule = [f":{'-' * (w + 1)}" if i < words else f"{'-' * (w + 1)}:" for i, w in enumerate(widths)]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]


def kib(size: float) -> str:
    return f"{size / 1024:,.1f}"


def memory_table(results: Results) -> list[str]:
    """The memory of each net at each shape. It is the same with every BLAS."""
    header = ("loss", "shape", "net", "layers", "Caffe says", "blobs", "own", "allocated", "beyond", "÷", "÷ beyond")
    rows = []
    for run in (run for run in results.runs if run.blas == results.blases[0]):
        first = run.nets[0]
        for net in run.nets:
            sizes = (net.memory.caffe, net.memory.blobs, net.own, net.memory.allocated, net.beyond)
            less = (first.memory.allocated / net.memory.allocated, first.beyond / net.beyond)
            ratios = [f"{ratio:.2f}" for ratio in less]
            rows.append((run.subject, run.shape, net.net, str(net.layers), *map(kib, sizes), *ratios))
    return table(header, rows, words=3)


def time_table(results: Results, blas: str) -> list[str]:
    """The times of each net at each shape, in microseconds."""
    header = ("loss", "shape", "net", "forward", "backward", "both", "quartiles", "÷", "quartiles of ÷", "× copy")
    rows = []
    for run in (run for run in results.runs if run.blas == blas):
        for net in run.nets:
            medians = [f"{1e6 * times.median:,.1f}" for times in (net.forward, net.backward, net.both)]
            spread = f"{1e6 * net.both.low:,.1f} to {1e6 * net.both.high:,.1f}"
            ratio = f"{net.ratio.median:.2f}", f"{net.ratio.low:.2f} to {net.ratio.high:.2f}"
            copies = f"{net.both.median / run.copy.median:.1f}"
            rows.append((run.subject, run.shape, net.net, *medians, spread, *ratio, copies))
    return table(header, rows, words=3)


# ---------------------------------------------------------------- the page


def between(values: Iterable[float], digits: int = 1) -> str:
    """'1.5 to 2.0'."""
    ordered = sorted(values)
    ends = dict.fromkeys(f"{value:.{digits}f}" for value in (ordered[0], ordered[-1]))
    return " to ".join(ends)


def answer(results: Results) -> list[str]:
    """Whether a chain of layers is more hungry than one layer: of the paper's loss, at all shapes."""
    runs = [(run, net) for run in results.of(MAIN) if (net := run.net(FUSED))]
    here = [(run, net) for run, net in runs if run.blas == results.blases[0]]
    composed = here[0][0].nets[0]
    memory = [run.nets[0].memory.allocated / net.memory.allocated for run, net in here]
    arrays = [run.nets[0].beyond / (4 * run.rows * run.dim) for run, net in here]
    one = [net.beyond / (4 * run.rows * run.dim) for run, net in here]
    ratios = {blas: [net.ratio.median for run, net in runs if run.blas == blas] for blas in results.blases}
    hungry = all(ratio > 1 for ratio in (*memory, *itertools.chain(*ratios.values())))
    times = "; ".join(f"{between(values)} times as long with {blas}" for blas, values in ratios.items())
    return [
        f"**{'Yes' if hungry else 'Not always'}.** As a chain of {composed.layers} of Caffe's layers, {MAIN} takes "
        f"{times}, forward and backward, and {between(memory, 2)} times the memory, the inputs and their gradients "
        f"included. Beyond those, which every net has, the chain allocates as much as {between(arrays)} arrays of the "
        f"size of the embeddings, and one layer {between(one, 2)}.",
        "",
        "The chain is hungry because every layer has a top of its own, with a gradient of the same size, and because "
        "Caffe splits a blob that two layers use, which takes one more gradient for each of them. It is slow because "
        "every layer passes over memory again; one layer reads the embeddings once forward and once backward, and "
        "writes the gradients once.",
    ]


def shortfalls(results: Results) -> list[str]:
    """Where the fused layer misses an aim, as a list; empty where it does not."""
    missed = []
    for run in results.runs:
        for net in filter(None, map(run.net, (FUSED, NATIVE))):
            first = run.nets[0]
            if net.ratio.median < AIMS["time"]:
                missed.append(f"{run.subject}, {run.shape}, {run.blas}: {net.net}: {net.ratio.median:.2f} times faster")
            if run.blas == results.blases[0] and first.memory.allocated < AIMS["memory"] * net.memory.allocated:
                less = first.memory.allocated / net.memory.allocated
                missed.append(f"{run.subject}, {run.shape}: {net.net}: {less:.2f} times less memory")
    return missed


def judged(results: Results) -> int:
    """How many times and memories of fused layers there are to be judged."""
    fused_runs = [run for run in results.runs for name in (FUSED, NATIVE) if run.net(name)]
    return len(fused_runs) + sum(run.blas == results.blases[0] for run in fused_runs)


def normalization(results: Results) -> list[str]:
    """What normalizing costs, by the layers that users are told to take, at each shape."""
    lines = []
    for run in results.of(NORMALIZED, results.blases[0]):
        (plain,) = (other for other in results.of(MAIN, run.blas) if other.shape == run.shape)
        whole, bare = run.nets[0], plain.nets[0]
        arrays = (whole.beyond - bare.beyond) / (4 * run.rows * run.dim)
        lines.append(
            f"- {run.shape}: {arrays:.1f} arrays of the size of an embedding more than without normalization, and "
            f"{whole.both.median / bare.both.median:.1f} times its time"
        )
    return lines


def page(results: Results, plotted: bool = True) -> str:
    """The Markdown page: every number on it comes from `results`."""
    missed = shortfalls(results)
    found = {run.blas: f"{run.library}, {run.threads} thread{'s' * (run.threads != 1)}" for run in results.runs}
    turns = [run.turns for run in results.runs]
    parts = [
        "# Composed or fused, in Caffe",
        "",
        "Made by `python benchmarks/caffe_layers.py`, from [caffe.json](caffe.json).",
        "",
        *(f"- {name}: {value}" for name, value in results.machine.items()),
        *(f"- {name}: {what}" for name, what in found.items()),
        "",
        "## Is a chain of layers more hungry than one layer?",
        "",
        *answer(results),
        "",
        *(["![Time and memory of the composed and the fused loss](caffe.svg)", ""] if plotted else []),
        "## The aims",
        "",
        f"The aims: one layer is at least {AIMS['time']:g} times faster than the chain, and takes at least "
        f"{AIMS['memory']:g} times less memory, inputs and gradients included. Of {judged(results)} figures, "
        f"{len(missed) or 'none'} miss{'' if len(missed) > 1 else 'es'} them{':' if missed else '.'}",
        "",
        *(f"- {line}" for line in missed),
        *([""] if missed else []),
        "The fused layer is compiled with -O2, as Caffe's Makefile does, which makes vectors of four floats of it, "
        "those of any x86-64. The reference BLAS is as narrow. OpenBLAS has the vectors of the machine, which makes "
        "the chain faster, and leaves the fused layer, which calls no BLAS, where it was; with -march=native it has "
        "them, too. A shorter chain, as that of the hinge, leaves less to save. And the larger a batch, the closer the "
        "fused layer is to the copy, which it cannot beat: forward it reads three arrays, backward it reads them again "
        "and writes three, of which a processor reads each line before it writes it. OpenBLAS brings the chain close "
        "to the speed of memory as well, and then the ratio is that of how often the two pass over it. With default "
        "threads it has all cores of the machine, and the fused layer one.",
        "",
        "## Time",
        "",
        f"Microseconds, medians of {min(turns)} to {max(turns)} turns. In a turn each net makes a pass that is not "
        "timed, so that the caches hold what is its own, then one that is; the nets alternate in one process, forwards "
        "and backwards. A pass during which the machine ran another process is repeated, up to eight times, and the "
        "quickest counts. ÷ is what the first net of a loss takes over what this net takes, both passes, turn by turn. "
        "× copy is what both passes take over `memcpy` of three arrays as large as the embeddings, in the same turns: "
        "three are read and three written, which is the least that a layer can do. OPENBLAS_NUM_THREADS and "
        "OMP_NUM_THREADS are 1, and with default threads not set.",
        "",
    ]
    for blas in results.blases:
        parts += [f"### {blas}", "", *time_table(results, blas), ""]
    parts += [
        "## Memory",
        "",
        "KiB, after a forward and a backward pass in single precision:",
        "",
        '- *Caffe says*: its own "Memory required for data". It counts the data of all tops, inputs too; no gradients, '
        "and the tops of a split as if they had data of their own, which they share.",
        "- *blobs*: data and gradients of all blobs of the net, each array once, and only those that Caffe has "
        "allocated, which it does when they are first used.",
        "- *own*: buffers that layers keep to themselves and that grow with the batch, such as the difference of "
        "EuclideanLoss, the ones of Reduction, or what a fused layer saves of its rows: what is allocated beyond the "
        "blobs, less that of the same net for one row of one component.",
        "- *allocated*: all that `malloc` has handed out for the net: blobs, buffers, and the layers themselves, with "
        "their parameters. What BLAS, glog and protobuf keep for the whole process is not in it.",
        "- *beyond*: of that, what is neither an input nor its gradient. Any net has those.",
        "- ÷ and ÷ beyond are those two of the first net of a loss over those of this net.",
        "",
        *memory_table(results),
        "",
        "## Normalized embeddings",
        "",
        "Composed, a Reduction (sum of squares), a Power (one over the root) and a Scale divide each embedding by its "
        "length; fused, the layer does it, and the gradient is taken through it. With "
        f"{results.blases[0]}, the composed net takes:",
        "",
        *normalization(results),
        "",
        "The tables above have the time and the memory of each.",
        f"*{MIXED}* has the same layers below the fused layer of the loss that is not normalized.",
    ]
    return "\n".join(parts) + "\n"


# ---------------------------------------------------------------- the plot

COLOURS = {
    COMPOSED: ("#c8541c", "#eda46f", "#f6d3b8"),
    MIXED: ("#3d7d4f", "#85b892", "#c4ddca"),
    NATIVE: ("#5b3a8c", "#a58cc9", "#d5c8e6"),
}
FUSED_COLOURS = ("#1f5fa8", "#7faada", "#c3d8ef")


def plot(results: Results, folder: Path) -> None:
    """Times over the copy's, for both passes, and the memory beyond the inputs; as caffe.svg and caffe.png."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "derive-triplet", "font.size": 9})
    from matplotlib import pyplot

    figure: Any  # its type says nothing of columns
    figure, panels = pyplot.subplots(1, 3, figsize=(14, 5.4), gridspec_kw={"width_ratios": (1, 1, 0.8)})
    legend: dict[str, Any] = {}
    for panel, subject in zip(panels, (MAIN, NORMALIZED), strict=False):
        legend |= _plot_times(panel, results, subject)
    panels[0].set_ylabel("both passes, in copies of the embeddings")
    _plot_memory(panels[2], results)
    figure.legend([*legend.values()], [*legend], ncols=-(-len(legend) // len(results.blases)), loc="lower center")
    figure.tight_layout(rect=(0, 0.07 + 0.03 * len(results.blases), 1, 1))
    figure.savefig(folder / "caffe.svg", metadata={"Date": None})
    figure.savefig(folder / "caffe.png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _plot_times(panel: Any, results: Results, subject: str) -> dict[str, Any]:
    """A group of bars for each shape: a bar for each net and BLAS. Returns what stands for them in a legend."""
    runs = results.of(subject, results.blases[0])
    names = [net.net for net in runs[0].nets]
    bars = [(name, number, blas) for name in names for number, blas in enumerate(results.blases)]
    width = 0.8 / len(bars)
    legend = {}
    for place, (name, number, blas) in enumerate(bars):
        chosen = [(run, net) for run in results.of(subject, blas) if (net := run.net(name))]
        at = [group + (place - (len(bars) - 1) / 2) * width for group in range(len(chosen))]
        copies = [net.both.median / run.copy.median for run, net in chosen]
        colour = COLOURS.get(name, FUSED_COLOURS)[number]
        legend[f"{name}, {blas}"] = panel.bar(at, copies, width, color=colour)
    panel.set_xticks(range(len(runs)), [run.shape for run in runs])
    panel.set(title=f"time: {subject}", xlabel="triplets × components")
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)
    return legend


def _plot_memory(panel: Any, results: Results) -> None:
    """What each net allocates beyond the inputs at the largest shape, in arrays of the size of the embeddings."""
    bars = []
    for subject in (MAIN, NORMALIZED):
        run = max(results.of(subject, results.blases[0]), key=lambda run: run.rows * run.dim)
        short = "normalized, " if subject == NORMALIZED else ""
        bars += [(f"{short}{net.net}", net.beyond / (4 * run.rows * run.dim), net.net) for net in run.nets]
    labels = [label.replace(", ", ",\n") for label, _, _ in bars]
    colours = [COLOURS.get(name, FUSED_COLOURS)[0] for _, _, name in bars]
    drawn = panel.barh(range(len(bars)), [arrays for _, arrays, _ in bars], color=colours)
    panel.bar_label(drawn, [f"{arrays:.2f}" for _, arrays, _ in bars], padding=3)
    panel.set_yticks(range(len(bars)), labels)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.2 * max(arrays for _, arrays, _ in bars))
    panel.set(title=f"memory at {run.shape}, beyond the inputs", xlabel="in arrays of the size of the embeddings")
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)


# ---------------------------------------------------------------- the command


def measured(chosen: Sequence[Subject], seconds: float) -> Iterator[Run]:
    caffe = build.find()
    if caffe is None:
        raise click.ClickException(f"there is no Caffe; '{build.COMMAND}' builds it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = driver(caffe, folder)
        for subject in chosen:
            libraries = {library(caffe, net.product, net.flags, folder) for net in subject.nets if net.product}
            for shape, blas in itertools.product(subject.shapes, blases()):
                click.echo(f"{subject.title}, {shape[0]}×{shape[1]}, {blas.name}", err=True)
                yield measure(program, sorted(libraries), subject, shape, blas, seconds)


def write(results: Results, folder: Path) -> None:
    """The page, the JSON that it is made of, and the plot where there is matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    plotted = find_spec("matplotlib") is not None
    (folder / "caffe.json").write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
    (folder / "caffe.md").write_text(page(results, plotted), encoding="utf-8")
    if plotted:
        plot(results, folder)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="The paper's loss at two shapes.")
@click.option("--seconds", default=2.0, show_default=True, help="For each loss, shape and BLAS.")
@click.option("-o", "--output", default="benchmarks/results", show_default=True, metavar="DIR", help="Where to.")
@click.option("--page-only", is_flag=True, help="Write the page and the plot anew, from the JSON that is there.")
def main(quick: bool, seconds: float, output: str, page_only: bool) -> None:
    folder = Path(output)
    if page_only:
        results = loaded((folder / "caffe.json").read_text(encoding="utf-8"))
    else:
        results = Results(machine(), tuple(measured(subjects(quick), seconds)))
    write(results, folder)
    for blas in results.blases:
        click.echo("\n".join(("", f"microseconds, BLAS: {blas}", *time_table(results, blas))))
    click.echo("\n".join(("", "KiB", *memory_table(results), "", *answer(results)[:1])))
    for line in shortfalls(results) or ["no aim is missed"]:
        click.echo(f"missed: {line}" if line != "no aim is missed" else line)


if __name__ == "__main__":
    main()
