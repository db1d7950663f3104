"""Derivation -> layers: the same loss, composed of layers that every Caffe has.

This is a printer whose output is layers: each rule makes one layer of one kind of expression, from the blobs of its
arguments, so that a net follows from the definitions alone. A softmax is taken from the definition, with what is made
of it: a squared error or a logarithm of its outputs has a loss layer of its own. Any other loss is taken in its stable
form, whose nodes are layers too. What Caffe has no layer for is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from . import symbols
from .differentiate import Derivation
from .errors import DefinitionError
from .functions import absolute
from .layers import Layer, Word, single
from .normalization import at_units
from .symbols import d_pos
from .text import to_text

SHIFT = 1e-36
"""Added to the base of a power, by which Caffe divides for the derivative: at 0 that is 0/0.

It is about the least with which float32 stays in its normal range: 1/sqrt(SHIFT) is 1e18. A distance of 0 becomes
1e-18, with gradient 0; a distance d grows by SHIFT/(2*d), which float32 does not show from d = 3e-15 on, nor float64
from d = 7e-11 on.
"""

INVERSE_SHIFT = 1e-12
"""The same for a negative power, whose value near 0 multiplies gradients: 1/sqrt(INVERSE_SHIFT) is 1e6.

A vector of length r that is normalized is shortened by the factor 1 - INVERSE_SHIFT/(2*r^2).
"""


def compose(derivation: Derivation, values: Mapping[str, float]) -> tuple[Layer, ...]:
    """The mean of a loss over the batch, as layers in the order in which they run; the last one is called 'loss'.

    The embeddings are blobs of shape (N, C) or (N, C, H, W), N rows; where the objective normalizes them, the layers
    that do so are the first.
    values: of the parameters, which become constants of the layers.
    Raises `DefinitionError` for what Caffe has no layer for.
    """
    of, objective = derivation.loss, derivation.objective
    first: tuple[Layer, ...] = normalize(symbols.EMBEDDINGS) if objective.of_units else ()
    distances = symbols.distances_of(objective)
    if objective.of_units:
        distances = {which: at_units(distance) for which, distance in distances.items()}
    net = _Net({**distances, **of.abbreviations}, values, first)
    outputs = {name: output for name, value in of.introduced.items() if (output := _softmax_output(value))}
    if not (_cross_entropy(net, of.definition, outputs) or _squared_error(net, of.definition, outputs)):
        net.mean(of.value.result)
    return tuple(net.layers)


def compose_distance(derivation: Derivation, values: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers that make d_pos of two blobs; raises as `compose` does."""
    net = _Net(symbols.distances_of(derivation.objective), values)
    net.blob(symbols.d_pos)
    return tuple(net.layers)


def normalize(names: Iterable[str]) -> tuple[Layer, ...]:
    """Layers that divide each embedding by its Euclidean length, and call the result of x unit_x.

    A vector of zeros stays one.
    """
    layers: list[Layer] = []
    for name in names:
        total, inverse, unit = f"squares_{name}", f"inverse_length_{name}", str(symbols.UNITS[name])
        power = {"power_param": {"power": -0.5, "shift": INVERSE_SHIFT}}
        limit = f"the shift keeps zeros 0; what comes down is multiplied by at most {single(INVERSE_SHIFT**-0.5)}"
        layers += [
            Layer("Reduction", total, (name,), _reduction("SUMSQ"), (f"sum_i({name}[i]^2)",)),
            Layer("Power", inverse, (total,), power, (f"1/sqrt({total})", limit)),
            Layer("Scale", unit, (name, inverse), {"scale_param": {"axis": 0}}, (f"{name}[i]*{inverse}",)),
        ]
    return tuple(layers)


# ---------------------------------------------------------------- rules


class _Net:
    """Layers as they are made, bottom up; the blob of an expression is made once.

    meanings: what the symbols stand for. values: of the parameters. first: the layers that run before.
    """

    # function -> type of its layer, what its result is called, and what to know of it
    neurons = {
        "absolute": ("AbsVal", "magnitude", ""),
        "sigmoid": ("Sigmoid", "sigmoid", ""),
        "softplus": ("BNLL", "softplus", "BNLL takes log(1 + exp(t)): in single precision that is 0 below t = -17"),
        "positive_part": ("ReLU", "positive_part", ""),
    }

    def __init__(
        self, meanings: Mapping[sp.Symbol, sp.Expr], values: Mapping[str, float], first: Iterable[Layer] = ()
    ) -> None:
        self.meanings = meanings
        self.values = values
        self.layers = list(first)
        self.made: dict[sp.Expr, str] = {}

    def add(self, kind: str, name: str, bottoms: Iterable[str], parameters: Mapping[str, Any], *comments: str) -> str:
        """One more layer, by this name or one like it; returns the name."""
        taken = {layer.name for layer in self.layers}
        own, number = name, 1
        while own in taken:
            own, number = f"{name}_{number + 1}", number + 1
        self.layers.append(Layer(kind, own, tuple(bottoms), parameters, tuple(filter(None, comments))))
        return own

    def blob(self, expr: sp.Expr, name: str = "") -> str:
        """The blob that holds `expr`, which is called `name` if it is made now, and if that takes a layer."""
        if expr not in self.made:
            rules = (getattr(self, f"_make_{kind.__name__}", None) for kind in type(expr).__mro__)
            rule = next(filter(None, rules), None)
            if rule is None:
                raise DefinitionError(f"Caffe has no layer for {type(expr).__name__}: {to_text(expr)}")
            self.made[expr] = rule(expr, name)
        return self.made[expr]

    # ------------------------------------------------------------ constants

    def is_constant(self, expr: sp.Expr) -> bool:
        """Whether nothing but numbers and parameters is in it."""
        return {symbol.name for symbol in expr.free_symbols} <= set(self.values)

    def number(self, expr: sp.Expr) -> float:
        """The value of a constant."""
        return float(expr.xreplace({s: sp.Rational(repr(float(self.values[s.name]))) for s in expr.free_symbols}))

    def scaled(self, expr: sp.Expr) -> tuple[float, sp.Expr]:
        """`expr` as a constant factor and the rest."""
        factors = sp.Mul.make_args(expr)
        outer = self.number(sp.Mul(*(factor for factor in factors if self.is_constant(factor))))
        return outer, sp.Mul(*(factor for factor in factors if not self.is_constant(factor)))

    def shifted(self, expr: sp.Expr) -> tuple[float, sp.Expr]:
        """`expr` as a constant term and the rest."""
        terms = sp.Add.make_args(expr)
        outer = self.number(sp.Add(*(term for term in terms if self.is_constant(term))))
        return outer, sp.Add(*(term for term in terms if not self.is_constant(term)))

    def affine(self, expr: sp.Expr) -> tuple[float, float, sp.Expr]:
        """`expr` as scale*inner + shift; many layers have fields for these two."""
        shift, rest = self.shifted(expr)
        scale, inner = self.scaled(rest)
        return scale, shift, inner

    # ------------------------------------------------------------ names and components

    def _make_Symbol(self, expr: sp.Symbol, name: str) -> str:
        return self.blob(self.meanings[expr], expr.name)

    def _make_Indexed(self, expr: sp.Indexed, name: str) -> str:
        return str(expr.base.label)

    def _make_Sum(self, expr: sp.Sum, name: str) -> str:
        if expr.function.has(sp.Sum):
            raise DefinitionError(f"Caffe has no layer for a sum inside a sum: {to_text(expr)}")
        coefficient, term = self.scaled(expr.function)
        operation = "SUM"
        if term.is_Pow and term.exp == 2:
            operation, term = "SUMSQ", term.base
        elif isinstance(term, absolute):
            operation, term = "ASUM", term.args[0]
        parameters = _reduction(operation, coefficient)
        return self.add("Reduction", name or f"sum{_side(expr)}", [self.blob(term)], parameters, to_text(expr))

    def _make_Maximum(self, expr: Any, name: str) -> str:
        shapes = [{"reshape_param": {"shape": {"dim": dim}}} for dim in ((0, 1, -1, 1), -1)]
        pooling = {"pooling_param": {"pool": Word("MAX"), "global_pooling": True}}
        side, first = _side(expr), "at a tie, the gradient goes to the first that is the largest"
        image = self.add("Reshape", f"image{side}", [self.blob(expr.function)], shapes[0], "(N, C) to (N, 1, C, 1)")
        largest = self.add("Pooling", f"max{side}", [image], pooling, f"{to_text(expr)}; {first}")
        return self.add("Reshape", name or f"row{side}", [largest], shapes[1], "(N, 1, 1, 1) to (N)")

    # ------------------------------------------------------------ operators

    def _make_Add(self, expr: sp.Add, name: str) -> str:
        shift, rest = self.shifted(expr)
        if shift or not rest.is_Add:
            return self.power(expr, 1, expr, name)
        pairs = sorted((self.scaled(term) for term in rest.as_ordered_terms()), key=lambda pair: pair[0] < 0)
        word = "difference" if pairs[-1][0] < 0 else "sum"
        parameters = {"operation": Word("SUM"), "coeff": tuple(coefficient for coefficient, _ in pairs)}
        bottoms = [self.blob(term) for _, term in pairs]
        return self.eltwise(expr, name or f"{word}{_side(expr)}", bottoms, parameters)

    def _make_Mul(self, expr: sp.Mul, name: str) -> str:
        coefficient, rest = self.scaled(expr)
        if coefficient != 1 or not rest.is_Mul:
            return self.power(expr, 1, expr, name)
        bottoms = [self.blob(factor) for factor in rest.as_ordered_factors()]
        return self.eltwise(expr, name or f"product{_side(expr)}", bottoms, {"operation": Word("PROD")})

    def eltwise(self, expr: sp.Expr, name: str, bottoms: Sequence[str], parameters: Mapping[str, Any]) -> str:
        """Several blobs of one shape to one."""
        return self.add("Eltwise", name, bottoms, {"eltwise_param": parameters}, to_text(expr))

    def _make_Pow(self, expr: sp.Pow, name: str) -> str:
        if not self.is_constant(expr.exp):
            raise DefinitionError(f"Caffe has no layer for a power that is not a constant: {to_text(expr)}")
        return self.power(expr.base, self.number(expr.exp), expr, name)

    def power(self, base: sp.Expr, exponent: float, expr: sp.Expr, name: str) -> str:
        """`expr`, which is (scale*inner + shift)^exponent; without a layer if it is `inner` itself."""
        scale, shift, inner = self.affine(base)
        bottom = self.blob(inner)
        if (exponent, scale, shift) == (1, 1, 0):
            return bottom
        note = ""
        if shift == 0 and exponent not in (1, 2):
            shift = SHIFT if exponent > 0 else INVERSE_SHIFT
            note = f"the shift: at 0 the derivative would be NaN; there, this now is {shift**exponent:g}"
        fields = _unless(power=(exponent, 1), scale=(scale, 1), shift=(shift, 0))
        name = name or f"{'scaled' if exponent == 1 else 'power'}{_side(expr)}"
        return self.add("Power", name, [bottom], {"power_param": fields}, to_text(expr), note)

    # ------------------------------------------------------------ functions

    def _make_exp(self, expr: sp.Expr, name: str) -> str:
        return self.transcendental("Exp", "exp_param", expr, name or f"exp{_side(expr)}")

    def _make_log(self, expr: sp.Expr, name: str) -> str:
        return self.transcendental("Log", "log_param", expr, name or f"log{_side(expr)}")

    def transcendental(self, kind: str, message: str, expr: sp.Expr, name: str) -> str:
        """exp or log of scale*inner + shift."""
        scale, shift, inner = self.affine(expr.args[0])
        fields = _unless(scale=(scale, 1), shift=(shift, 0))
        return self.add(kind, name, [self.blob(inner)], {message: fields} if fields else {}, to_text(expr))

    def _make_Function(self, expr: Any, name: str) -> str:
        function = type(expr).__name__
        if function not in self.neurons:
            raise DefinitionError(f"Caffe has no layer for {function}: {to_text(expr)}")
        kind, word, note = self.neurons[function]
        return self.add(kind, name or f"{word}{_side(expr)}", [self.blob(expr.args[0])], {}, to_text(expr), note)

    # ------------------------------------------------------------ the batch

    def mean(self, value: sp.Expr) -> None:
        """The mean of `value` over the rows."""
        coefficient, rest = self.scaled(value)
        shift, _ = self.shifted(value)
        if self.is_constant(rest):
            raise DefinitionError(f"the loss is {to_text(value)}, which depends on no embedding")
        blob = self.blob(value if shift else rest)
        parameters = {**_reduction("MEAN", 1 if shift else coefficient, axis=0), "loss_weight": 1.0}
        self.add("Reduction", "loss", [blob], parameters, f"the mean over the batch of {to_text(value)}")

    def columns(self, exponents: Sequence[sp.Expr]) -> tuple[list[str], str]:
        """The exponents as blobs of shape (N, 1), and side by side, of shape (N, columns)."""
        shape = {"reshape_param": {"shape": {"dim": (0, 1)}}}
        about = "(N) to (N, 1), because a Concat along axis 1 needs one"
        columns = [self.add("Reshape", f"column{_side(e)}", [self.blob(e)], shape, about) for e in exponents]
        order = ", ".join(map(to_text, exponents))
        return columns, self.concat("columns", columns, f"the columns {order}")

    def concat(self, name: str, bottoms: Iterable[str], comment: str) -> str:
        """Columns side by side."""
        return self.add("Concat", name, bottoms, {"concat_param": {"axis": 1}}, comment)

    def constant_like(self, blob: str, value: float, name: str) -> str:
        """A constant for each row, as a blob of the shape of another, so that no layer has to know how many rows."""
        parameters = {"power_param": {"scale": 0.0, "shift": value}}
        return self.add("Power", name, [blob], parameters, f"{single(value)} in each row")


def _unless(**fields: tuple[float, float]) -> dict[str, float]:
    """The fields that differ from their defaults."""
    return {name: value for name, (value, default) in fields.items() if value != default}


def _reduction(operation: str, coefficient: float = 1.0, axis: int = 1) -> dict[str, Any]:
    return {"reduction_param": {"operation": Word(operation), "axis": axis, **_unless(coeff=(coefficient, 1))}}


def _side(expr: sp.Expr) -> str:
    """How the name of a blob ends that belongs to one of the two pairs."""
    names = [str(symbol) for symbol in expr.free_symbols]
    sides = [end for end in ("_pos", "_neg") if any(name.endswith(end) for name in names)]
    return sides[0] if len(sides) == 1 else ""


# ---------------------------------------------------------------- losses of a softmax


@dataclass(frozen=True)
class _Output:
    """One output of the softmax of some exponents."""

    exponents: tuple[sp.Expr, ...]
    column: int


def _softmax_output(value: sp.Expr) -> _Output | None:
    """Which output exp(a)/(exp(a) + exp(b) + ...) is, the column of d_pos being the first; None if it is none."""
    factors = sp.Mul.make_args(value)
    above = [factor for factor in factors if isinstance(factor, sp.exp)]
    below = [sp.Add.make_args(1 / factor) for factor in factors if not isinstance(factor, sp.exp)]
    if len(above) != 1 or len(below) != 1 or above[0] not in below[0]:
        return None
    if not all(isinstance(term, sp.exp) for term in below[0]):
        return None
    exponents = sorted((term.args[0] for term in below[0]), key=lambda e: (not e.has(d_pos), sp.default_sort_key(e)))
    return _Output(tuple(exponents), exponents.index(above[0].args[0]))


_Outputs = Mapping[sp.Symbol, _Output]


def _cross_entropy(net: _Net, definition: sp.Expr, outputs: _Outputs) -> bool:
    """-c*log(p) of an output p of a softmax; False, and no layer, for another definition."""
    weight, logarithm = net.scaled(definition)
    if not isinstance(logarithm, sp.log) or weight >= 0 or logarithm.args[0] not in outputs:
        return False
    output = outputs[logarithm.args[0]]
    columns, side_by_side = net.columns(output.exponents)
    label = net.constant_like(columns[output.column], output.column, "label")
    net.add(
        "SoftmaxWithLoss",
        "loss",
        [side_by_side, label],
        {"propagate_down": (True, False), "loss_weight": -weight},
        f"the mean over the batch of {to_text(definition)}; {logarithm.args[0]} is column {output.column} of a softmax",
        "it takes the logarithm of an output, but not of one below the least float: no loss is more than 87.34",
        "the gradient subtracts 1 from an output near 1, and has the rounding of 1",
    )
    return True


def _squared_error(net: _Net, definition: sp.Expr, outputs: _Outputs) -> bool:
    """c*((p - a)^2 + (q - b)^2 + ...) of all outputs p, q, ... of a softmax; False, and no layer, for another."""
    terms = [_square(net, term) for term in sp.Add.make_args(definition)]
    found = {outputs[symbol]: (weight, target) for weight, symbol, target in filter(None, terms) if symbol in outputs}
    softmaxes = {output.exponents for output in found}
    weights = {weight for weight, _ in found.values()}
    if len(found) != len(terms) or len(softmaxes) != 1 or len(weights) != 1:
        return False
    (exponents,), (weight,) = softmaxes, weights
    if len(found) != len(exponents) or weight <= 0:
        return False
    columns, side_by_side = net.columns(exponents)
    probabilities = net.add(
        "Softmax", "probabilities", [side_by_side], {"softmax_param": {"axis": 1}}, "sums to 1 in each row"
    )
    ordered = sorted(found, key=lambda output: output.column)
    constants = [
        net.constant_like(columns[o.column], found[o][1], f"target{_side(exponents[o.column])}") for o in ordered
    ]
    target = net.concat("target", constants, "what the columns of the softmax should be")
    net.add(
        "EuclideanLoss",
        "loss",
        [probabilities, target],
        {"propagate_down": (True, False), "loss_weight": 2 * weight},
        f"the mean over the batch of {to_text(definition)}; EuclideanLoss takes half of that",
        "an output near 1 has the rounding of 1 when 1 is subtracted from it, and so has the gradient",
    )
    return True


def _square(net: _Net, term: sp.Expr) -> tuple[float, sp.Symbol, float] | None:
    """c*(p - a)^2 as (c, p, a)."""
    weight, square = net.scaled(term)
    if not square.is_Pow or square.exp != 2:
        return None
    scale, shift, symbol = net.affine(square.base)
    return weight * scale**2, symbol, 0.0 - shift / scale
