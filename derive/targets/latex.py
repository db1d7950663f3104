"""The LaTeX target: the proof as a document, every displayed equation a checked step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Product, Settings, Target

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..layers import Layer
    from ..verify.report import Report

_PLOTTED = 4.0  # the largest loss in the picture


class LatexTarget(Target):
    name = "latex"
    title = "the derivation and its proof, as a LaTeX document"
    templates = {"proof.tex.jinja": "{stem}.tex"}
    delimiters = {
        "block_start_string": "<%",
        "block_end_string": "%>",
        "variable_start_string": "<<",
        "variable_end_string": ">>",
        "comment_start_string": "<#",
        "comment_end_string": "#>",
    }

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        import sympy

        from ..functions import masked_power, masked_ratio
        from ..latex import AT_UNITS, EMBEDDINGS, NORMS, UNITS, escape, exactly, to_latex
        from ..pictures import curves, field
        from ..proof import (
            anchor_cancels,
            apart,
            approached,
            bounded,
            entering,
            farthest_units,
            fit_beside,
            prove,
            side_by_side,
            where,
        )
        from ..symbols import pairs_of, parameter
        from ..table import EXAMPLE, least_on_units, loss_at

        objective = derivation.objective
        values = tuple(settings.values(objective).items())
        proof = prove(derivation, kernel, values)
        companion = proof.companion.objective if proof.companion else None
        reach = farthest_units(derivation.distance) if derivation.normalization else None
        return {
            "proof": proof,
            "derivation": derivation,
            "distance": objective.distance,
            "loss": objective.loss,
            "companion": companion,
            "comparison": side_by_side(proof) if companion else (),
            "anchor_cancels": anchor_cancels(proof),
            "means_apart": (1,) if fit_beside(proof, "mean x_pos", "mean x_neg") else (1, 2),
            "f": proof.formulas,
            "g": proof.companion_formulas,
            "embeddings": tuple(EMBEDDINGS.items()),
            "normalized": objective.of_units,
            "apart": lambda first, second: apart(objective.distance, {"x": first, "y": second}),
            "vectors": (vectors := entering(derivation)),
            "pairs": {
                to_latex(which): tuple(vectors[str(vector)] for vector in pair)
                for which, pair in pairs_of(objective.loss).items()
            },
            "zip": zip,
            "units": UNITS,
            "at_units": AT_UNITS,
            "norms": NORMS,
            "reach": to_latex(reach) if reach else "",
            "least": least_on_units(objective, reach, dict(values)) if reach else "",
            "introduced": [symbol.name for symbol in derivation.loss.introduced],
            "abbreviations": proof.abbreviations,
            "quotients": [name.removeprefix("quotient ") for name in proof.chains if name.startswith("quotient ")],
            "distance_is_invariant": derivation.distance.translation_invariant,
            "layers_of_distance": _layers_of_distance(derivation, dict(values)),
            "curves": curves(_PLOTTED),
            "fields": [field(of, values) for of in (objective, companion) if of],
            "steep": any(lemma.result.has(masked_power) for lemma in proof.second.loss.values()),
            "masks": any(assignment.value.has(masked_ratio) for assignment in kernel.scalars),
            "example": {name: ", ".join(map(exactly, values)) for name, values in EXAMPLE.items()},
            "exactly": exactly,
            "tex": escape,
            "symbol": lambda of: to_latex(parameter(of)),
            "where": where,
            "bounded": bounded,
            "approached": approached,
            "loss_at": lambda d_pos, d_neg: loss_at(objective, d_pos, d_neg),
            "sympy_version": sympy.__version__,
        }

    def facts(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"proof": context["proof"]}

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.documents import verify_latex

        return verify_latex(product, self.document_again(product), thorough)

    @staticmethod
    def document_again(product: Product) -> str:
        """The text of the document, generated once more."""
        return LatexTarget().generate(product.derivation, product.kernel, product.settings).files[0].text


def _layers_of_distance(derivation: Derivation, values: Mapping[str, float]) -> str:
    """The layers of Caffe that make a distance, in words; '' if there are none for it."""
    from ..compose import compose_distance
    from ..errors import DefinitionError

    try:
        *first, last = map(_in_words, compose_distance(derivation, values))
    except DefinitionError:
        return ""
    return f"{', '.join(first)} and {last}" if first else last


def _in_words(layer: Layer) -> str:
    from ..compose import SHIFT
    from ..latex import exactly
    from ..layers import single

    fields = {name: value for message in layer.parameters.values() for name, value in message.items()}
    found = [rf"\texttt{{{fields['operation']}}}"] if layer.type == "Reduction" else []
    if layer.type == "Pooling":
        found = [rf"\texttt{{{fields['pool']}}}"]
    if layer.type == "Power":
        named = (("exponent", "power"), ("factor", "scale"), ("shift", "shift"))
        found = [
            f"{word} ${exactly(float(single(fields[name])))}$"
            for word, name in named
            if name in fields and fields[name] != SHIFT
        ]
        found += ["a small shift"] * (fields.get("shift") == SHIFT)
    return rf"\texttt{{{layer.type}}}" + (f" with {' and '.join(found)}" if found else "")
