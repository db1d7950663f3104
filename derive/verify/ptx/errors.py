"""What the executor can say: of PTX that it does not know, and of kernels that do what they must not."""

from __future__ import annotations

from ...errors import DeriveTripletError


class PtxError(DeriveTripletError):
    """Any failure to load or execute PTX."""


class UnsupportedError(PtxError):
    """PTX text, an instruction or one of its forms that the executor does not know."""


class LaunchError(PtxError):
    """The arguments or the shape of a launch do not fit the kernel."""


class ExecutionError(PtxError):
    """A kernel did what it must not; the message names kernel, thread, source line and instruction.

    kernel: the name it was launched by. thread: ((block x, y, z), (thread x, y, z)), where one is to blame.
    line: of the PTX text. source: 'file:line' of the CUDA source, where the PTX holds line information.
    """

    kernel: str = ""
    thread: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    line: int = 0
    source: str = ""


class OutOfBoundsError(ExecutionError):
    """An access outside every allocation, or outside the one it was aimed at."""


class MisalignedError(ExecutionError):
    """An access at an address that is not a multiple of its size."""


class RaceError(ExecutionError):
    """Two threads access one element without synchronisation, and one of them writes."""


class UninitializedError(ExecutionError):
    """A read of memory that was never written."""


class DivergenceError(ExecutionError):
    """Threads that must arrive together, at a barrier or a shuffle, do not."""


class TrapError(ExecutionError):
    """The kernel executed a trap."""


class EndlessError(ExecutionError):
    """The kernel took more steps than it was allowed."""


class Fault(Exception):  # noqa: N818 - it never leaves the package
    """An `ExecutionError` to be, before the executor has added where it happened; lane is the one to blame."""

    def __init__(self, kind: type[ExecutionError], message: str, lane: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.lane = lane
