"""What accuracy is measured against: formulas as they are written, evaluated with no care for rounding or range.

`naive` evaluates the definition in NumPy, and beside it the gradient that differentiating the definition gives, with
no rule that makes it stable and no convention at singular points. `autograd` has PyTorch do both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import sympy as sp

from ..catalogue import PAIRS, Distance, Loss, Objective, Parameter
from ..differentiate import Derivation
from ..expression import Algebra
from ..formats import FORMATS
from ..printing import ATOM
from ..steps import Setting
from ..symbols import EMBEDDINGS, d, pairs_of
from ..targets.numpy import NumpyPrinter
from .checks import Runner
from .regimes import Array

_Formula = Callable[..., Any]


def naive(derivation: Derivation, dtype: str) -> Runner:
    """The definition and its derivative in NumPy; 16-bit embeddings are computed in float32, as generated code does.

    Raises `NotImplementedError` for a derivative that NumPy has no function for.
    """
    objective = derivation.objective
    number = FORMATS[FORMATS[dtype].computed_in].dtype.type
    algebra = _algebra(np, partial(np.asarray, dtype=number))
    written_out = Setting((), (), derivation.loss.introduced).spell_out(derivation.loss.definition)
    distances = (*objective.loss.distances, *_names(objective.loss.parameters))
    slopes = [_compiled(sp.diff(written_out, which), distances) for which in pairs_of(objective.loss)]
    arguments = ("x", "y", str(d), *_names(objective.distance.parameters))
    first, second = (_compiled(derivation.distance.gradients[of].result, arguments) for of in ("x", "y"))

    def run(
        x: Array, x_pos: Array, x_neg: Array, parameters: Mapping[str, float], reduction: str = "none"
    ) -> tuple[Any, Sequence[Array]]:
        values = {name: number(value) for name, value in parameters.items()}
        of_loss, of_distance = (_own(entry, values) for entry in (objective.loss, objective.distance))
        raw = [embedding.astype(number) for embedding in (x, x_pos, x_neg)]
        norms = [np.sqrt(np.sum(e * e, axis=1, keepdims=True)) if objective.of_units else 1 for e in raw]
        units = [embedding / norm for embedding, norm in zip(raw, norms, strict=True)]
        ends = _ends(objective, units)
        to = [_distance(algebra, objective.distance, a, b, of_distance) for a, b in ends.values()]
        parts: dict[str, list[Array]] = {}
        for pair, (a, b), d_, slope in zip(ends, ends.values(), to, slopes, strict=True):
            steep = slope(*to, *of_loss.values())
            for name, gradient in zip(pair, (first, second), strict=True):
                parts.setdefault(name, []).append(steep * gradient(a, b, d_, *of_distance.values()))
        gradients = [sum(parts[name][1:], parts[name][0]) for name in EMBEDDINGS]
        if objective.of_units:
            gradients = [
                (g - np.sum(g * unit, axis=1, keepdims=True) * unit) / norm
                for g, unit, norm in zip(gradients, units, norms, strict=True)
            ]
        return _loss(algebra, objective.loss, to, of_loss)[:, 0], _kept(gradients, dtype)

    return run


def autograd(objective: Objective, dtype: str) -> Runner:
    """The definition in PyTorch, differentiated by it; 16-bit embeddings are computed in float32."""
    import torch

    tensor = partial(torch.as_tensor, dtype=getattr(torch, FORMATS[dtype].computed_in))
    algebra = _algebra(torch, tensor)

    def run(
        x: Array, x_pos: Array, x_neg: Array, parameters: Mapping[str, float], reduction: str = "none"
    ) -> tuple[Any, Sequence[Array]]:
        values = {name: tensor(value) for name, value in parameters.items()}
        of_loss, of_distance = (_own(entry, values) for entry in (objective.loss, objective.distance))
        leaves: list[Any] = [tensor(embedding).requires_grad_() for embedding in (x, x_pos, x_neg)]
        used = [e / torch.linalg.vector_norm(e, dim=1, keepdim=True) if objective.normalize else e for e in leaves]
        to = [_distance(algebra, objective.distance, a, b, of_distance) for a, b in _ends(objective, used).values()]
        loss = _loss(algebra, objective.loss, to, of_loss)[:, 0]
        loss.sum().backward()
        return loss.detach().numpy(), _kept([leaf.grad.numpy() for leaf in leaves], dtype)

    return run


def lacks_torch() -> str:
    """Why there is no PyTorch, and how to get it; '' where there is one."""
    if find_spec("torch") is None:
        return "PyTorch is not installed; pip install torch brings it"
    try:
        import torch  # noqa: F401
    except Exception as error:  # an installation may be broken in any way
        return f"PyTorch cannot be imported: {str(error).partition(chr(10))[0]}"
    return ""


# ---------------------------------------------------------------- definitions on arrays


def _algebra(module: Any, array: Callable[[Any], Any]) -> Algebra:
    """The language of the catalogue in NumPy or PyTorch, which call their functions the same.

    Vectors have shape (rows, dim), and what is of a row has shape (rows, 1). Numbers are Python's, as in a program that
    is written by hand; `array` makes arrays of them for functions that take no others.
    """

    def function(name: str) -> _Formula:
        return lambda *arguments: getattr(module, name)(*map(array, arguments))

    functions = {name: function(name) for name in ("exp", "log", "log1p", "sqrt", "abs", "tanh")}
    functions |= {"max": function("maximum"), "min": function("minimum")}
    functions["where"] = lambda z, value, otherwise: module.where(z > 0, array(value()), array(otherwise()))
    reductions = {"sum": module.sum, "max": module.amax}
    return Algebra(float, functions, lambda kind, term: reductions[kind](term(None), axis=1, keepdims=True))


def _distance(algebra: Algebra, distance: Distance, x: Any, y: Any, parameters: Mapping[str, Any]) -> Any:
    return distance.formula.read(algebra, parameters, {"x": lambda k: x, "y": lambda k: y})


def _loss(algebra: Algebra, loss: Loss, distances: Sequence[Any], parameters: Mapping[str, Any]) -> Any:
    return loss.formula.read(algebra, {**dict(zip(loss.distances, distances, strict=True)), **parameters})


def _ends(objective: Objective, embeddings: Sequence[Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    """The pairs of embeddings that the distances of a loss are distances of, by name and as they are."""
    named = dict(zip(EMBEDDINGS, embeddings, strict=True))
    pairs = (PAIRS[which] for which in objective.loss.distances)
    return {(first, second): (named[first], named[second]) for first, second in pairs}


def _own(entry: Distance | Loss, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _names(entry.parameters)}


def _names(parameters: Sequence[Parameter]) -> tuple[str, ...]:
    return tuple(parameter.name for parameter in parameters)


def _kept(gradients: Sequence[Array], dtype: str) -> list[Array]:
    return [FORMATS[dtype].rounded(gradient) for gradient in gradients]


# ---------------------------------------------------------------- derivatives on arrays


class _ArrayPrinter(NumpyPrinter):
    """Prints what SymPy makes of a definition: vectors of shape (rows, dim), and what is of a row, (rows, 1)."""

    def _print_Indexed(self, expr: sp.Indexed) -> tuple[str, int]:
        return str(expr.base.label), ATOM

    def _print_Sum(self, expr: sp.Sum) -> tuple[str, int]:
        return f"np.sum({self(expr.function)}, axis=1, keepdims=True)", ATOM

    def _print_Max(self, expr: sp.Max) -> tuple[str, int]:
        return f"np.maximum({', '.join(map(self, expr.args))})", ATOM

    def _print_Min(self, expr: sp.Min) -> tuple[str, int]:
        return f"np.minimum({', '.join(map(self, expr.args))})", ATOM

    def _print_Heaviside(self, expr: sp.Heaviside) -> tuple[str, int]:
        return f"np.heaviside({self(expr.args[0])}, 0.0)", ATOM

    def _print_sigmoid(self, expr: Any) -> tuple[str, int]:
        return self._print(expr.definition())


def _select(z: Array, value: Array, otherwise: Array) -> Array:
    return np.where(z > 0, value, otherwise)


def _attains(number: Array, largest: Array) -> Array:
    return np.greater_equal(number, largest).astype(number.dtype)


def _compiled(expr: sp.Expr, arguments: Sequence[str]) -> _Formula:
    """An expression as a function of arrays."""
    printed = f"def formula({', '.join(arguments)}):\n    return {_ArrayPrinter()(expr)}\n"
    scope: dict[str, Any] = {"np": np, "_select": _select, "_attains": _attains}
    exec(compile(printed, "<naive formula>", "exec"), scope)
    formula: _Formula = scope["formula"]
    return formula
