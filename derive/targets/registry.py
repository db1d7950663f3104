"""Which targets there are: ours, and those that installed packages offer as `derive_triplet.targets` entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from ..errors import UsageError
from .base import Target
from .c import CTarget
from .caffe import CaffeTarget
from .cuda import CudaTarget
from .cuda_usage import CudaUsageTarget
from .latex import LatexTarget
from .numpy import NumpyTarget
from .pdf import PdfTarget
from .prototxt import PrototxtTarget

ENTRY_POINTS = "derive_triplet.targets"
OURS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            NumpyTarget(),
            CTarget(),
            CudaTarget(),
            CudaUsageTarget(),
            CaffeTarget(),
            PrototxtTarget(),
            LatexTarget(),
            PdfTarget(),
        )
    }
)


def targets_for(*names: str) -> Mapping[str, Target]:
    """Our own targets if all the names are among them, else every target: packages are not searched in vain."""
    return OURS if OURS.keys() >= set(names) else targets()


@cache
def targets() -> Mapping[str, Target]:
    """Every target by name, built-in ones first.

    Raises `UsageError` if a package offers something that is not a target, or one under a name that is taken.
    """
    from importlib.metadata import entry_points

    found = dict(OURS)
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            target = entry.load()
            if isinstance(target, type):
                target = target()
        except Exception as error:  # whatever a foreign package does, our own targets must be usable with a clear line
            raise UsageError(f"entry point {entry.name!r} ({entry.value}) cannot be loaded: {error}") from error
        if not isinstance(target, Target):
            raise UsageError(f"entry point {entry.name!r} ({entry.value}) is not a derive_triplet Target")
        if target.name in found:
            raise UsageError(f"entry point {entry.name!r} ({entry.value}): a target {target.name!r} already exists")
        found[target.name] = target
    return MappingProxyType(found)
