"""Verification of a generated layer in real Caffe: compiled against it, run in nets, and tested by its own test.

A failed CHECK ends the process that it is in, so everything runs in processes of its own.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeriveTripletError, UsageError
from ...rescale import rescale
from ...targets.base import Product
from ...targets.caffe import layer_type, param_str
from ..checks import DIMS, Method, run_checks
from ..regimes import Array
from ..report import Check, Report
from ..weighting import weighting_checks
from . import gpu
from .build import COMMAND, ROOT_VARIABLE, Caffe, find, tools

_MORE = (
    f"'{COMMAND}' builds Caffe in about a minute, and {ROOT_VARIABLE} names one that is there: then the layer is run"
)
_CTYPES = {"float32": "float", "float64": "double"}
_NORMALIZATION = {
    "mean": "",
    "sum": "loss_param { normalization: NONE }",
    "mean-active": "loss_param { normalization: VALID }",
}
_TESTED = {"0": "float32", "1": "float64"}
"""What Google Test calls the types that Caffe's TestDtypesAndDevices lists."""


class CaffeError(DeriveTripletError):
    """What Caffe said when it ended a process."""


def verify_layer(product: Product, thorough: bool) -> Report:
    """Compile a product against Caffe, if there is one, and run it; its GPU code too, where there is an nvcc."""
    caffe = find()
    if caffe is None:
        return Report(product.target, "rendered", notes=(_MORE,))
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        write(product, folder)
        test = pool.submit(compile_own_test, caffe, product, folder)
        on_gpu = pool.submit(gpu.compiled, caffe, product, folder, thorough)
        try:
            library = compiled(caffe, product, folder)
        except UsageError as error:
            failed = Check.finding("compiles", "", "", str(error))
            return Report(product.target, "rendered", (failed,))
        run, values = (
            LayerRunner(caffe, library, layer_type(product.objective)),
            product.settings.values(product.objective),
        )
        checks = run_checks(
            product.objective,
            run,
            product.settings.dtypes,
            values,
            product.derivation.translation_invariant,
            dims=DIMS if thorough else (),
            full_range=rescale(product.kernel).full_range,
        )
        weighted = chain(*(weighting_checks(run, dtype, values) for dtype in product.settings.dtypes))
        device = gpu.verified(product, on_gpu.result(), thorough)
        found = (*checks, *weighted, *own_test(caffe, product, folder, library, test.result()), *device.checks)
        return Report(product.target, f"run (Caffe); {device.level}", found, device.notes)


@contextmanager
def methods(product: Product) -> Iterator[Sequence[Method]]:
    """The layer in Caffe, on the CPU. Raises `UsageError` with what the compiler says."""
    if (caffe := find()) is None:
        yield [Method(product.target, "", lacks=_MORE)]
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(product, folder)
        run = LayerRunner(caffe, compiled(caffe, product, folder), layer_type(product.objective))
        yield [Method(product.target, "the generated layer in Caffe", dict.fromkeys(product.settings.dtypes, run))]


def write(product: Product, folder: Path) -> None:
    """The files, the header where Caffe's sources look for it."""
    headers = folder / "caffe/layers"
    headers.mkdir(parents=True)
    for file in product.files:
        path = Path(file.path)
        ((headers if path.suffix == ".hpp" else folder) / path.name).write_text(file.text, encoding="utf-8")


def compiled(caffe: Caffe, product: Product, folder: Path, flags: Sequence[str] = ("-O2",)) -> Path:
    """A shared library that makes the layer known to Caffe. Raises `UsageError` with what the compiler says."""
    library = folder / "layer.so"
    caffe.compile(*flags, "-shared", "-I.", f"{product.objective.stem}_layer.cpp", "-o", library, folder=folder)
    return library


# ---------------------------------------------------------------- nets


@dataclass(frozen=True)
class LayerRunner:
    """A `WeightedRunner` on a layer in a net; what Caffe refuses raises `CaffeError`.

    Without weights rows are run one at a time for their losses. Their gradients come from the whole batch, and are NaN
    where those of the row alone are not the same.
    """

    caffe: Caffe
    library: Path
    layer: str

    def __call__(
        self,
        x: Array,
        x_pos: Array,
        x_neg: Array,
        parameters: Mapping[str, float],
        reduction: str = "none",
        weights: Array | None = None,
    ) -> tuple[Any, Sequence[Array]]:
        batch, rows = (x, x_pos, x_neg), len(x)
        if reduction != "none":
            total, gradients = self.run(batch, rows, 1, parameters, reduction, weights)
            return total[0], gradients
        _, gradients = self.run(batch, rows, rows, parameters)
        losses, alone = self.run(batch, 1, 1, parameters)
        return losses, [np.where(a == b, a, np.nan) for a, b in zip(gradients, alone, strict=True)]

    def run(
        self,
        batch: Sequence[Array],
        rows: int,
        weight: float,
        parameters: Mapping[str, float],
        reduction: str = "mean",
        weights: Array | None = None,
    ) -> tuple[Array, list[Array]]:
        """The losses and the gradients of a batch, so many rows at a time. weight: of the loss. weights: of rows."""
        embedding = f"shape {{ dim: {rows} dim: {batch[0].shape[1]} }}"
        shapes = {"x": embedding, "x_pos": embedding, "x_neg": embedding}
        if weights is not None:
            shapes["weights"] = f"shape {{ dim: {rows} }}"
        tops, bottoms = (" ".join(f"{end}: '{name}'" for name in shapes) for end in ("top", "bottom"))
        net = (
            f"force_backward: true layer {{ name: 'triplets' type: 'Input' {tops} "
            f"input_param {{ {' '.join(shapes.values())} }} }} layer {{ name: 'loss' type: '{self.layer}' "
            f"{bottoms} top: 'loss' loss_weight: {weight} {_NORMALIZATION[reduction]} "
            f"python_param {{ param_str: '{param_str(parameters)}' }} }}"
        )
        return run_net(self.caffe, net, batch, [self.library], weights)


def run_net(
    caffe: Caffe, net: str, batch: Sequence[Array], libraries: Sequence[Path] = (), weights: Array | None = None
) -> tuple[Array, list[Array]]:
    """The losses of the parts of a batch, and the gradients of x, x_pos and x_neg, by a net with these inputs.

    net: the text of a NetParameter, with inputs x, x_pos and x_neg; their first axis is the length of a part.
    libraries: of layers that Caffe does not have. weights: of the rows, for a net with an input of that name.
    """
    dtype, shape = batch[0].dtype, batch[0].shape
    command = [str(tools(caffe).harness), _CTYPES[dtype.name], *map(str, shape), net, *map(str, libraries)]
    given = batch if weights is None else (*batch, weights.astype(dtype))
    inputs = b"".join(np.ascontiguousarray(array).tobytes() for array in given)
    done = subprocess.run(command, input=inputs, capture_output=True, env=caffe.environment, check=False)
    if done.returncode:
        raise CaffeError(complaint(done.stderr.decode(errors="replace")))
    numbers = np.frombuffer(done.stdout, dtype)
    losses, gradients = np.split(numbers, [len(numbers) - 3 * batch[0].size])
    return losses, list(gradients.reshape(3, *shape))


def complaint(log: str) -> str:
    """The message of a failed CHECK, without the prefix of the log and the stack after it."""
    found = re.search(r"^F\d+ .*?\] (.*?)(?=^\*\*\* |\Z)", log, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else log.strip()[-500:]


# ---------------------------------------------------------------- the test that is generated with the layer


def compile_own_test(caffe: Caffe, product: Product, folder: Path) -> str:
    """Compile the test, all but for linking it; what the compiler says against it."""
    try:
        source = f"test_{product.objective.stem}_layer.cpp"
        caffe.compile("-O0", "-I.", "-c", source, "-o", "own_test.o", folder=folder)
    except UsageError as error:
        return str(error)
    return ""


def own_test(caffe: Caffe, product: Product, folder: Path, library: Path, complaint_of_compiler: str) -> list[Check]:
    """The test, with Caffe's GradientChecker, run on a layer: its failures for each float type."""
    if complaint_of_compiler:
        return [_own("compiles", "", [complaint_of_compiler], "errors")]
    caffe.compile("own_test.o", library, tools(caffe).gtest, "-o", "own_test", folder=folder)
    command = [str(folder / "own_test"), "--gtest_output=xml:own_test.xml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=caffe.environment, check=False)
    report = folder / "own_test.xml"
    if not report.exists():  # a CHECK that no test was waiting for
        return [_own("GradientChecker and more", "", [complaint(done.stderr or done.stdout)])]
    suites = {suite.attrib["name"].rpartition("/")[2]: suite for suite in ElementTree.parse(report).iter("testsuite")}
    checks = []
    for number, dtype in _TESTED.items():
        if dtype in product.settings.dtypes:
            cases = list(suites[number].iter("testcase")) if number in suites else []
            failed = [case.attrib["name"] for case in cases if case.find("failure") is not None]
            checks.append(_own("GradientChecker and more", dtype, failed if cases else ["no test was run"]))
    return checks


def _own(what: str, dtype: str, failed: Sequence[str], unit: str = "failures") -> Check:
    return Check("its own test", what, dtype, len(failed), 0, unit=unit, detail=", ".join(failed))
