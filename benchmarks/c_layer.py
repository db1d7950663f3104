"""The generated C layer beside copying three arrays of the size of the embeddings, which is the least it can do.

`run.py` measures it; the compiler is the one that verification uses.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from measure import Aim, Chart, Result, Row, beside, cores, in_turns, say, versions_of

from derive_triplet import DISTANCES, LOSSES, Objective, Product, differentiate, generate
from derive_triplet.derive.verify import c

TITLE = "C, beside copying three arrays"
ABOUT = """\
Loss and gradients in float32 by `forward_backward`, and `memcpy` of three arrays as large as the embeddings with as
many threads, on the same arrays: three are read and three written, which is the least that a layer can do. Arrays that
no cache can hold are written past it, by both. Smaller ones never leave the cache: there a copy passes over the numbers
once, a layer twice, first for the sums of a row, and the row's exponentials, roots and divisions take as long as its
first pass or longer. `lp` is that of the default exponent, 3, whose powers are products. The call from Python is part
of both."""

COPY = "copy"
AIM = Aim("<=", 1.3)
SHAPES = ((256, 128), (1024, 256), (4096, 512), (16384, 1024))
QUICK = SHAPES[:2]
OPTIONS = {"-O3 -march=native -fopenmp": (1, 2), "-O2": (1,)}
"""What the layer is compiled with, and with how many threads it is run."""
MAIN = Objective(DISTANCES["l2"], LOSSES["softmax-mse"])
OTHERS = (
    Objective(DISTANCES["l2-squared"], LOSSES["hinge"]),
    Objective(DISTANCES["cosine"], LOSSES["softmax-mse"]),
    Objective(DISTANCES["l2"], LOSSES["softmax-mse"], normalize=True),
    Objective(DISTANCES["lp"], LOSSES["softmax-mse"]),
)
"""Measured at one shape."""
ONE_SHAPE = (4096, 512)
COPY_SOURCE = """\
#include <stddef.h>
#include <string.h>

void copy(const char *a, const char *b, const char *c, char *x, char *y, char *z, size_t bytes, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int part = 0; part < threads; ++part) {
        const size_t start = bytes / threads * part;
        const size_t size = part + 1 < threads ? bytes / threads : bytes - start;
        memcpy(x + start, a + start, size);
        memcpy(y + start, b + start, size);
        memcpy(z + start, c + start, size);
    }
}
"""


class Batch:
    """Embeddings and room for the results, in lines of the cache, and calls on them."""

    def __init__(self, rows: int, dim: int) -> None:
        random = np.random.default_rng(0)
        self.rows, self.dim = rows, dim
        self.arrays = [_aligned(rows * dim) for _ in range(6)]
        for array in self.arrays:
            array[:] = random.standard_normal(rows * dim, dtype=np.float32)
        self.losses = _aligned(rows)

    def copy(self, library: ctypes.CDLL, threads: int) -> Callable[[], object]:
        arguments = [*map(_address, self.arrays), ctypes.c_size_t(self.arrays[0].nbytes), ctypes.c_int(threads)]
        return lambda: library.copy(*arguments)

    def layer(self, library: ctypes.CDLL, product: Product) -> Callable[[], object]:
        function = getattr(library, f"{product.objective.stem}_forward_backward_f32")
        inputs, outputs = self.arrays[:3], self.arrays[3:]
        values = product.settings.values(product.objective).values()
        arguments = [
            *map(_address, inputs),
            ctypes.c_void_p(None),
            ctypes.c_float(1 / self.rows),
            *map(_address, (self.losses, *outputs)),
            ctypes.c_size_t(self.rows),
            ctypes.c_size_t(self.dim),
            *map(ctypes.c_float, values),
        ]
        if status := function(*arguments):
            raise RuntimeError(f"{product.objective.stem}: status {status}")
        return lambda: function(*arguments)


def _aligned(size: int) -> np.ndarray:
    held = np.empty(size + 16, np.float32)
    start = -held.ctypes.data % 64 // 4
    return held[start : start + size]


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def measure(quick: bool) -> Result:
    compiler = c.find()
    if compiler is None:
        return Result((), ("a C compiler",))
    with tempfile.TemporaryDirectory() as name:
        rows = tuple(_rows(compiler, Path(name), quick))
    return Result(rows, (), {"C": c.version(compiler), **versions_of(("derive-triplet",))})


def _rows(compiler: Sequence[str], folder: Path, quick: bool) -> Iterator[Row]:
    cases = [(MAIN, shape) for shape in (QUICK if quick else SHAPES)]
    cases += [(objective, ONE_SHAPE) for objective in (() if quick else OTHERS)]
    built: dict[Objective, dict[str, ctypes.CDLL]] = {}
    for objective, shape in cases:
        product = generate(differentiate(objective), "c", dtypes=["float32"])
        say(f"c: {objective.stem} {shape[0]} x {shape[1]}")
        if objective not in built:
            built[objective] = _libraries(compiler, product, folder)
        libraries, batch = built[objective], Batch(*shape)
        for threads in sorted({count for counts in OPTIONS.values() for count in counts if count <= cores()}):
            libraries[COPY].omp_set_num_threads(threads)
            runs = {COPY: batch.copy(libraries[COPY], threads)}
            for options in (options for options, counts in OPTIONS.items() if threads in counts):
                runs[options] = batch.layer(libraries[options], product)
            times = in_turns(runs, seconds=0.5 if quick else 2)
            of = f"{product.objective.stem.removeprefix('triplet_')}, {shape[0]}×{shape[1]}"
            point = f"{of}, {threads} thread{'s' * (threads > 1)}"
            for subject in runs:
                aim = None if subject in (COPY, "-O2") else AIM
                named = subject if subject == COPY else f"{subject}, {threads}"
                yield beside({named: times[subject], COPY: times[COPY]}, named, COPY, point, shape[0] * shape[1], aim)


def _libraries(compiler: Sequence[str], product: Product, folder: Path) -> dict[str, ctypes.CDLL]:
    """The layer, compiled with each of `OPTIONS`, and the copy."""
    build = c.Build(compiler, product, folder)
    stem = product.objective.stem
    libraries = {}
    for number, options in enumerate(OPTIONS):
        build.compile(*options.split(), "-shared", "-fPIC", build.source, "-o", f"{stem}_{number}.so")
        libraries[options] = ctypes.CDLL(str(folder / f"{stem}_{number}.so"))
    (folder / "copy.c").write_text(COPY_SOURCE, encoding="utf-8")
    build.compile("-O2", "-fopenmp", "-shared", "-fPIC", "copy.c", "-o", "copy.so")
    return {COPY: ctypes.CDLL(str(folder / "copy.so")), **libraries}


def charts(rows: Sequence[Row]) -> list[Chart]:
    of = f"{MAIN.stem.removeprefix('triplet_')}, "
    main = tuple(row for row in rows if row.point.startswith(of) and row.subject != COPY)
    title, y = "softmax-mse on l2, float32", "time over that of the copy"
    return [Chart(title, "components in a batch", y, main, ratios=True)]
