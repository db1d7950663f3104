"""Verification of C source: compiled without a warning, called through ctypes, and watched by the sanitizers.

The product's own text is compiled by the C compiler of the machine, in a folder that is gone afterwards.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..forked import apart
from ..rescale import rescale
from ..targets.base import Product
from ..targets.c import C_TYPES
from .c_library import Library
from .checks import DIMS, EMBEDDINGS, Method, differing_beside_bad_rows, number_differing, run_checks
from .curvature import run_product_checks
from .regimes import Array
from .report import Check, Report, exactly
from .weighting import weighting_checks

COMPILER_VARIABLE = "CC"
_COMPILERS = ("cc", "gcc", "clang")
_MORE = f"a C compiler, {', '.join(_COMPILERS)} on the PATH or that of ${COMPILER_VARIABLE}, runs the code"
_STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
_ALWAYS = ("-DTRIPLET_STREAM_BYTES=1", "-DTRIPLET_PARALLEL_NUMBERS=1")
"""Past the cache, where it is possible, and in threads, however small a batch is."""
_SANITIZERS = "-fsanitize=address,undefined"
PLAIN, FAST = ("-O2",), ("-O3", "-march=native", "-fopenmp", *_ALWAYS)
_SANITIZED = ("-O1", "-g", _SANITIZERS, "-fno-sanitize-recover=all", *_ALWAYS)
_NOT_EVERYWHERE = ("-march=native", "-fopenmp", _SANITIZERS)
_THREADS = (1, 2, 3)
_FAST = "threads, vectors, streams"
_SHAPES = ((7, 1), (5, 25), (70, 64), (3, 1_030))


def find() -> tuple[str, ...] | None:
    """The command of the C compiler, or None. Raises `UsageError` where $CC names none."""
    named = tuple(shlex.split(os.environ.get(COMPILER_VARIABLE, "")))
    if named:
        if shutil.which(named[0]) is None:
            raise UsageError(f"{COMPILER_VARIABLE} is {shlex.join(named)!r}, but there is no {named[0]}")
        return named
    return next(((name,) for name in _COMPILERS if shutil.which(name)), None)


def verify_c(product: Product, thorough: bool) -> Report:
    """Compile a product, if there is a compiler, and run it.

    Thorough verification also compiles it with all that a compiler can do, threads and wide vectors, which must not
    change a number, and runs it with AddressSanitizer and UndefinedBehaviorSanitizer.
    """
    compiler = find()
    if compiler is None:
        return Report(product.target, "rendered", notes=(_MORE,))
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        build = Build(compiler, product, Path(name))
        plain = pool.submit(build.library, "plain", PLAIN)
        refused = [option for option in _NOT_EVERYWHERE if thorough and not build.takes(option)]
        options = [option for option in FAST if option not in refused]
        fast = pool.submit(build.library, "fast", options) if thorough else None
        watched = pool.submit(sanitized, build) if thorough and _SANITIZERS not in refused else None
        checks: list[Check] = []
        try:
            library = plain.result()
            checks += driven(build, "calls", str(build.folder / "plain.so"))
            if all(check.passed for check in checks):
                checks += _executed(product, library, thorough)
            if fast:
                checks += [as_plain(product, dtype, library, fast.result()) for dtype in product.settings.dtypes]
        except UsageError as error:
            return Report(product.target, "rendered", (Check.finding("compiles", "", "", str(error)),))
        if watched:
            checks += watched.result()
        notes = tuple(f"{shlex.join(compiler)} does not take {option}: that was left out" for option in refused)
        compiles = Check.finding("compiles", "", "", "", there=False)
        return Report(product.target, f"run ({version(compiler)})", (compiles, *checks), notes)


@contextmanager
def methods(product: Product) -> Iterator[Sequence[Method]]:
    """The code, compiled and called through ctypes. Raises `UsageError` with what the compiler says."""
    compiler = find()
    if compiler is None:
        yield [Method(product.target, "", lacks=_MORE)]
        return
    with tempfile.TemporaryDirectory() as name:
        library = Build(compiler, product, Path(name)).library("plain", PLAIN)
        about = f"the generated functions, compiled by {version(compiler)}"
        yield [Method(product.target, about, dict.fromkeys(product.settings.dtypes, library))]


# ---------------------------------------------------------------- compiling


class Build:
    """A product in a folder, and the compiler that makes libraries and programs of it there."""

    def __init__(self, compiler: Sequence[str], product: Product, folder: Path) -> None:
        self.compiler, self.product, self.folder = compiler, product, folder
        self.source = f"{product.objective.stem}.c"
        for file in product.files:
            (folder / Path(file.path).name).write_text(file.text, encoding="utf-8")

    def compile(self, *arguments: str) -> None:
        """Raises `UsageError` with what the compiler says, warnings included."""
        command = [*self.compiler, *_STRICT, *arguments, "-lm"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UsageError(f"{shlex.join(command)}:\n{done.stderr.strip()}")

    def takes(self, option: str) -> bool:
        """Whether the compiler, and what it links, has an option."""
        (self.folder / "empty.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
        try:
            self.compile(option, "empty.c", "-o", "empty")
        except UsageError:
            return False
        return True

    def library(self, name: str, options: Sequence[str]) -> Library:
        """The functions of the product, compiled with some options."""
        self.compile(*options, "-shared", "-fPIC", self.source, "-o", f"{name}.so")
        return Library(self.folder / f"{name}.so", self.product)


def version(compiler: Sequence[str]) -> str:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0] or shlex.join(compiler)


# ---------------------------------------------------------------- checks


def _executed(product: Product, library: Library, thorough: bool) -> Iterator[Check]:
    """Everything that is asked of executable code."""
    of, dtypes, values = product.objective, product.settings.dtypes, product.settings.values(product.objective)
    invariant, full_range = product.derivation.translation_invariant, rescale(product.kernel).full_range
    dims = DIMS if thorough else ()
    yield from run_checks(of, library, dtypes, values, invariant, dims=dims, full_range=full_range)
    yield from run_product_checks(of, library.products, dtypes, values, invariant, dims=dims, full_range=full_range)
    for dtype in dtypes:
        yield from weighting_checks(library, dtype, values)
        batch = _batch(dtype, 6, 25)
        isolated = partial(differing_beside_bad_rows, partial(_results, library, values), batch)
        yield exactly("NaN stays in its row", dtype, isolated)


def _results(library: Library, values: Mapping[str, float], batch: Sequence[Array]) -> list[Array]:
    x, x_pos, x_neg = batch
    loss, gradients = library(x, x_pos, x_neg, values)
    return [loss, *gradients]


def _batch(dtype: str, rows: int, dim: int) -> list[Array]:
    """Ordinary embeddings, the same ones on every run."""
    random = np.random.Generator(np.random.PCG64(dim))
    x, x_pos, x_neg = (random.uniform(-1, 1, (rows, dim)) / math.sqrt(dim) for _ in EMBEDDINGS)
    return [array.astype(dtype) for array in (x, x_pos, (x + x_neg) / 2)]


def as_plain(product: Product, dtype: str, plain: Library, fast: Library) -> Check:
    """That threads, wide vectors, writes past the cache and alignment change no number.

    By a process of its own, which what is wrong with them may end; and no process can go on as two after OpenMP.
    """
    try:
        return apart(partial(_compared, product, dtype, plain, fast))
    except EOFError:
        return Check.finding(_FAST, "runs", dtype, "the process has not survived")


def _compared(product: Product, dtype: str, plain: Library, fast: Library) -> Check:
    values = product.settings.values(product.objective)

    def differing() -> int:
        count = 0
        for rows, dim in _SHAPES:
            batch = _batch(dtype, rows, dim)
            upstream = (np.arange(rows) % 3).astype(dtype)
            wanted = plain.everything(batch, values, upstream)
            for threads in _THREADS:
                fast.use_threads(threads)
                for offset in (0, 1):
                    count += number_differing(fast.everything(batch, values, upstream, offset), wanted)
        return count

    return exactly(_FAST, dtype, differing)


def sanitized(build: Build) -> list[Check]:
    """What AddressSanitizer and UndefinedBehaviorSanitizer say of `driver.c`."""
    return driven(build, "sanitizers", build.source, _SANITIZED)


def driven(build: Build, name: str, layer: str, options: Sequence[str] = ()) -> list[Check]:
    """That `driver.c`, which calls everything with odd sizes and wrong arguments, comes to its end on a layer.

    It is a process of its own: code that takes a wrong argument may not survive that.
    """
    product = build.product
    values = [repr(value) for value in product.settings.values(product.objective).values()]
    wrong = [[*values[:at], bad, *values[at + 1 :]] for at in range(len(values)) for bad in ("NAN", "INFINITY")]
    (build.folder / "driver.c").write_bytes((files(__package__) / "driver.c").read_bytes())
    checks = []
    for dtype in product.settings.dtypes:
        of = C_TYPES[dtype]
        macros = {
            "STEM": product.objective.stem,
            "HEADER": f'"{product.objective.stem}.h"',
            "REAL": of.real,
            "SUFFIX": of.suffix,
            "PARAMETERS": "".join(f", {value}" for value in values),
            "WRONG_PARAMETERS": " ".join(f"WRONG({', '.join(each)})" for each in wrong),
        }
        program = f"{name}_{of.suffix}"
        complaint = ""
        try:
            build.compile(
                *options, *(f"-D{key}={value}" for key, value in macros.items()), "driver.c", layer, "-o", program
            )
            environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # which a debugger, or a container, forbids
            command = [str(build.folder / program)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                complaint = done.stderr.strip()[:2000] or f"exit status {done.returncode}"
        except UsageError as error:
            complaint = str(error)
        checks.append(Check.finding(name, "odd sizes, wrong arguments", dtype, complaint, there=bool(complaint)))
    return checks
