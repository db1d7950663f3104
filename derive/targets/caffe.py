"""The Caffe target: a fused loss layer for CPU and GPU, and its test, compiled against and run in real Caffe."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..catalogue import Objective
from .base import Product, Settings, Target
from .cpp import row_slots

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.checks import Method
    from ..verify.report import Report

_FIELDS = {"margin": "contrastive_loss_param"}
"""Parameters that a message of Caffe's own has a field for, beside the free text of python_param."""


class CaffeTarget(Target):
    name = "caffe"
    title = "Caffe loss layer (.hpp, .cpp, .cu) and its test in Caffe's style"
    templates = {
        "layer.hpp.jinja": "{stem}_layer.hpp",
        "layer.cpp.jinja": "{stem}_layer.cpp",
        "layer.cu.jinja": "{stem}_layer.cu",
        "test.cpp.jinja": "test_{stem}_layer.cpp",
    }
    shares = ("cpp",)
    executable = True

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..verify.examples import DIM, ROWS, examples

        return {
            **row_slots(kernel),
            "has_powers": kernel.has_powers,
            "layer": layer_type(derivation.objective),
            "fields": [(p.name, _FIELDS[p.name]) for p in kernel.parameters if p.name in _FIELDS],
            "rows": ROWS,
            "dim": DIM,
            "examples": [
                {
                    "title": example.title,
                    "param_str": param_str(example.parameters) if example.parameters != defaults else "",
                    "inputs": _initializer(example.inputs),
                    "loss": repr(example.loss),
                    "losses": ", ".join(map(repr, example.losses)),
                    "gradients": _initializer(example.gradients),
                }
                for defaults in [settings.values(derivation.objective)]
                for example in examples(derivation.objective, defaults)
            ],
        }

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.caffe.layer import verify_layer

        return verify_layer(product, thorough)

    def methods(self, product: Product) -> AbstractContextManager[Sequence[Method]]:
        from ..verify.caffe.layer import methods

        return methods(product)


def layer_type(objective: Objective) -> str:
    """What a net calls the layer: ``TripletSoftmaxMseL2``."""
    return "".join(part.capitalize() for part in objective.stem.split("_"))


def param_str(parameters: Mapping[str, float]) -> str:
    """What ``python_param { param_str: ... }`` of a generated layer says to set its parameters."""
    return " ".join(f"{name}={value!r}" for name, value in parameters.items())


def _initializer(arrays: Sequence[Sequence[float]]) -> str:
    """Arrays of numbers, as C++ initializes an array of arrays, in lines of 80 columns."""
    rows = (textwrap.fill(", ".join(f"{c:.17g}" for c in array), 74).replace("\n", "\n     ") for array in arrays)
    return "{\n" + ",\n".join(f"    {{{row}}}" for row in rows) + "\n  }"
