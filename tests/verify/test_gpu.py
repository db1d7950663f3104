"""The kernels on a GPU: on a real one where there is one, and the way there with a stand-in for CuPy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from derive_triplet import Product, differentiate, generate, verify
from derive_triplet.derive.launches import qualified
from derive_triplet.derive.verify import gpu, nvrtc, ptx
from derive_triplet.derive.verify.executed import execute_on_gpu
from derive_triplet.derive.verify.selection import Depth, kernels_to_execute

pytestmark = pytest.mark.needs("nvrtc")
on_a_gpu = pytest.mark.needs("gpu")


def made(norm: str, loss: str, dtype: str) -> Product:
    return generate(differentiate(norm, loss), "cuda", dtypes=[dtype])


def compiled(product: Product, change: tuple[str, str] = ("", "")) -> nvrtc.Compiled:
    (dtype,) = product.settings.dtypes
    names = [qualified(product.objective.stem, kernel) for kernel in kernels_to_execute(dtype, Depth.MOST)]
    return nvrtc.compile_source(product.text(".cuh").replace(*change), nvrtc.virtual(nvrtc.architectures()[0]), names)


# ---------------------------------------------------------------- with a GPU


@on_a_gpu
@pytest.mark.parametrize("loss", ["softmax-mse", "softmax-nll", "hinge"])
@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
def test_the_kernels_are_right_on_the_gpu(norm: str, loss: str) -> None:
    report = verify(generate(differentiate(norm, loss), "cuda", dtypes=["all"]), thorough=True)
    assert report.passed, str(report)
    assert report.level.endswith(f"; run, {gpu.find()}")


@on_a_gpu
@pytest.mark.needs("compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    program = shutil.which("compute-sanitizer")
    assert program is not None
    code = "from derive_triplet import *; import sys; sys.exit(not verify(generate(differentiate(), 'cuda')).passed)"
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- with a stand-in


class StandIn(ModuleType):
    """What `gpu` uses of CuPy, on the simulated device; arguments have to have the types that the kernel takes."""

    class CUDARuntimeError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("cupy")
        self.simulated = ptx.Device()
        self.count = 0
        self.begun: list[tuple[Any, ...]] = []
        runtime = SimpleNamespace(
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda _: {"name": b"Stand-in"},
            deviceSynchronize=self.finish,
            CUDARuntimeError=self.CUDARuntimeError,
        )
        self.cuda = SimpleNamespace(runtime=runtime, function=SimpleNamespace(Module=lambda: _Module(self)))

    def finish(self) -> None:
        """As late as a GPU may be with what has been launched."""
        while self.begun:
            self.simulated.launch(*self.begun.pop(0))

    def asarray(self, values: np.ndarray) -> ptx.Buffer:
        self.count += 1
        return self.simulated.buffer(f"array {self.count}", values)

    def asnumpy(self, buffer: ptx.Buffer) -> np.ndarray:
        return buffer.array()


class _Module:
    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    def load(self, text: bytes) -> None:
        assert text.endswith(b"\0")
        self.loaded = ptx.load(text[:-1].decode())

    def get_function(self, mangled: str) -> Any:
        program = self.loaded.kernel(mangled)

        def launch(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
            assert all(isinstance(argument, ptx.Buffer | np.generic) for argument in arguments)
            self.stand_in.begun.append((program, grid[0], block[0], arguments))

        return launch


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(gpu, "find_spec", lambda _: object())
    return module


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everything_that_a_gpu_is_asked_is_asked_of_the_stand_in(stand_in: StandIn, dtype: str) -> None:
    product = made("l2", "softmax-nll", dtype)
    report = verify(product)
    assert report.passed, str(report)
    assert report.level.endswith("; run, Stand-in")
    names = {check.name for check in report.checks}
    assert {"GPU loss", "GPU gradient", "GPU mean and sum", "GPU NaN stays in its row"} <= names
    (apart,) = (check for check in report.checks if check.name == "GPU as simulated")
    assert apart.worst == 0


@pytest.mark.parametrize(
    ("change", "seen_by"),
    [
        (("grad_x_pos = -u", "grad_x_pos = u"), "GPU gradient"),
        (("factor * upstream[i] : factor", "factor * upstream[i] : T(1)"), "GPU mean and sum"),
        (("i < rows; i += Team::stride()", "i < 1; i += Team::stride()"), "GPU loss"),
    ],
)
def test_an_error_on_the_gpu_is_found(stand_in: StandIn, change: tuple[str, str], seen_by: str) -> None:
    product = made("l2", "hinge", "float32")
    right, wrong = compiled(product), compiled(product, change)
    assert right.ptx != wrong.ptx
    assert all(check.passed for check in execute_on_gpu(product, "float32", right, Depth.SHORT))
    failures = {check.name for check in execute_on_gpu(product, "float32", wrong, Depth.SHORT) if not check.passed}
    assert seen_by in failures


def test_a_gpu_that_differs_from_the_simulation_is_seen(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    product = made("l2", "hinge", "float32")
    array = gpu.Buffer.array
    monkeypatch.setattr(gpu.Buffer, "array", lambda self: array(self) * (1 + 2**-18))
    failures = {
        check.name for check in execute_on_gpu(product, "float32", compiled(product), Depth.SHORT) if not check.passed
    }
    assert "GPU as simulated" in failures


def test_without_a_driver_there_is_no_gpu(stand_in: StandIn) -> None:
    def fail() -> int:
        raise StandIn.CUDARuntimeError

    assert gpu.find() == "Stand-in"
    stand_in.cuda.runtime.getDeviceCount = fail
    assert gpu.find() == ""
    stand_in.cuda.runtime.getDeviceCount = lambda: 0
    assert gpu.find() == ""


@pytest.mark.parametrize("parameters", [[1.5], [1.5, 2.5]])
def test_a_structure_is_given_by_its_bytes(parameters: list[float]) -> None:
    structure = np.array(parameters, "float32")
    given = gpu._argument(structure)
    assert isinstance(given, np.generic)
    assert given.tobytes() == structure.tobytes()


def test_a_gpu_holds_whole_batches_and_executes_whole_grids(stand_in: StandIn) -> None:
    with pytest.raises(ValueError, match="whole batches"):
        gpu.Device().empty("x", (2,), "float32", offset=1)
    with pytest.raises(ValueError, match="all blocks"):
        gpu.Device().launch(None, 1, 1, [], blocks=[0])
