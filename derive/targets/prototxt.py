"""The prototxt target: the same loss composed of Caffe's own layers, run in real Caffe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Product, Settings, Target

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.report import Report

_TOWERS = (("anchor", "", "x"), ("positive", "_pos", "x_pos"), ("negative", "_neg", "x_neg"))
"""Of the siamese net: what goes in, how the names of its layers end, and what comes out."""


class PrototxtTarget(Target):
    name = "prototxt"
    title = "Caffe nets of existing layers (.prototxt): the loss, and a siamese net that ends in it"
    templates = {
        "loss.prototxt.jinja": "{stem}.prototxt",
        "siamese.prototxt.jinja": "{stem}_siamese.prototxt",
    }

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..compose import INVERSE_SHIFT, SHIFT, compose
        from ..layers import constants, of_embedding_size, single, split
        from ..symbols import EMBEDDINGS, UNITS

        objective = derivation.objective
        layers = compose(derivation, settings.values(objective))
        large = of_embedding_size(layers, EMBEDDINGS)
        return {
            "embeddings": tuple(EMBEDDINGS),
            "embedding": str(UNITS["x"]) if objective.of_units else "x",
            "layers": layers,
            "large": large,
            "copies": split(layers, (*EMBEDDINGS, *large)),
            "squares": not objective.of_units and any("SUMSQ" in field for layer in layers for field in layer.fields),
            "pooled": any(layer.type == "Pooling" for layer in layers),
            "shifts": [layer.name for layer in layers if SHIFT in constants([layer])],
            "shift": single(SHIFT),
            "half_shift": single(SHIFT / 2),
            "inverse_shift": single(INVERSE_SHIFT),
            "half_inverse_shift": single(INVERSE_SHIFT / 2),
            "steepest": single(INVERSE_SHIFT**-0.5),
            "towers": _TOWERS,
        }

    def facts(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"layers": context["layers"]}

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.caffe.composed import verify_composed

        return verify_composed(product)
