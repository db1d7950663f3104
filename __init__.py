"""derive-triplet: gradients of triplet losses, derived, proved, generated as code, and verified.

>>> from derive_triplet import differentiate, generate, verify
>>> derivation = differentiate("l2", "softmax-mse")
>>> product = generate(derivation, "numpy")
>>> verify(product).level  # doctest: +ELLIPSIS
'run (NumPy ...)'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .derive.version import __version__

if TYPE_CHECKING:
    from .derive.api import accuracy, differentiate, generate, verify
    from .derive.catalogue import DISTANCES, LOSSES, Distance, Loss, Objective, Parameter, Singularity
    from .derive.custom import own_loss
    from .derive.differentiate import Derivation
    from .derive.errors import DefinitionError, DeriveTripletError, StepError, UsageError
    from .derive.kernel import RowKernel
    from .derive.parity import PARITY, Mode
    from .derive.requests import objective
    from .derive.targets.base import GeneratedFile, Product, Settings, Target
    from .derive.verify.accuracy import Accuracy
    from .derive.verify.report import Check, Report

# where each public name lives; they are imported on first use, because SymPy takes half a second
_HOMES = {
    "api": ("accuracy", "differentiate", "generate", "verify"),
    "catalogue": ("DISTANCES", "LOSSES", "Distance", "Loss", "Objective", "Parameter", "Singularity"),
    "custom": ("own_loss",),
    "differentiate": ("Derivation",),
    "errors": ("DefinitionError", "DeriveTripletError", "StepError", "UsageError"),
    "kernel": ("RowKernel",),
    "parity": ("PARITY", "Mode"),
    "requests": ("objective",),
    "targets.base": ("GeneratedFile", "Product", "Settings", "Target"),
    "verify.accuracy": ("Accuracy",),
    "verify.report": ("Check", "Report"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DISTANCES",
    "LOSSES",
    "PARITY",
    "Accuracy",
    "Check",
    "DefinitionError",
    "Derivation",
    "DeriveTripletError",
    "Distance",
    "GeneratedFile",
    "Loss",
    "Mode",
    "Objective",
    "Parameter",
    "Product",
    "Report",
    "RowKernel",
    "Settings",
    "Singularity",
    "StepError",
    "Target",
    "UsageError",
    "__version__",
    "accuracy",
    "differentiate",
    "generate",
    "objective",
    "own_loss",
    "verify",
]


if not TYPE_CHECKING:  # a type checker shall see misspelt names

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".derive.{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
