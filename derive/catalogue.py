"""The catalogue: what each distance, loss and parameter *is*, as the literature defines it.

One entry is one mathematical definition in the language of `derive.expression`: a distance over the vectors ``x`` and
``y``, a loss over the scalars ``d_pos`` and ``d_neg``. Nothing here knows how it is differentiated, made numerically
stable or printed; add an entry, and every target, proof and check follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from .errors import UsageError
from .expression import Definition

RESERVED = frozenset(
    {
        *("x", "x_pos", "x_neg", "y", "u", "v", "w", "k", "s", "q", "z", "d", "d_pos", "d_neg", "d_swap", "sum_pos"),
        *("sum_neg", "delta", "loss", "slope", "slope_pos", "slope_neg", "weight", "weight_pos", "weight_neg"),
        *("grad_x", "grad_x_pos", "grad_x_neg", "reduction", "out", "rows", "dim", "upstream", "factor", "stream"),
        *("weights", "v_pos", "v_neg", "dx", "dx_pos", "dx_neg", "du", "dv", "dw", "turn"),
    }
)
_RESERVED = re.compile(
    r"(t|z|s|q)\d+|(weight|slope|sum|max|count|pick|root|largest|share|power|scale|scaled|unscaled)_?(pos|neg|swap|\d).*"
    r"|(direction|inverse|steep|over|pace|bent|pull)_(pos|neg|swap).*|(rate|turn|stretch)_.*|h_x.*"
    r"|(scale|scaled|unscaled|dscaled|dunit|dpower)_(delta|sum|square|rate|root|turn|power|x|z|pos|neg).*"
    r"|np|parameters|row|sums|exponent_.*"
    r"|(inverse|unit|square|along|norm|dot|g)_x.*"
)


def is_reserved(name: str) -> bool:
    """Whether generated code calls a variable of its own so."""
    return name in RESERVED or bool(_RESERVED.fullmatch(name))


PAIRS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"d_pos": ("x", "x_pos"), "d_neg": ("x", "x_neg"), "d_swap": ("x_pos", "x_neg")}
)
"""The distances that a loss may be a formula of, and the two embeddings that each is the distance of."""

DOMAINS: Mapping[str, str] = MappingProxyType({"positive": ">0", "nonnegative": ">=0", "at least 1": ">=1", "real": ""})
"""What a parameter may be, and how a command says so."""


@dataclass(frozen=True)
class Parameter:
    """A real constant of a distance or loss; `domain` is one of `DOMAINS`."""

    name: str
    default: float
    domain: str
    meaning: str

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise UsageError(f"{self.name}: the domain is {self.domain!r}; expected {', '.join(DOMAINS)}")
        self.check(self.default)

    @property
    def number(self) -> str:
        """What it is, for people, behind an article."""
        return "number of at least 1" if self.domain == "at least 1" else f"{self.domain} number"

    def check(self, value: float) -> float:
        """`value`, or a `UsageError` when it lies outside the domain."""
        if not (math.isfinite(value) and self.holds(value)):
            raise UsageError(f"{self.name} must be a finite {self.number}, not {value}")
        return value

    def option(self, value: float) -> str:
        """What follows ``--param`` to declare it with this default."""
        return f"{self.name}={value!r}" + (f":{DOMAINS[self.domain]}" if DOMAINS[self.domain] else "")

    def holds(self, value: Any) -> bool:
        """Whether a number has the sign that the domain asks for."""
        least = {"real": -math.inf, "at least 1": 1}.get(self.domain, 0)
        return bool(value > least or (value == least and self.domain in ("nonnegative", "at least 1")))


@dataclass(frozen=True)
class Singularity:
    """A set of points, the zeros of `locus`, at which the definition is not differentiable, and what we do there.

    The convention is the same everywhere: the derivative is taken as 0 there. Where it is another one, `taken` says
    which.
    apart: of a distance, what y - x is there in each component, a decimal number.
    mirrored: of a distance that is singular where y is x with its components in reverse order, and not at `apart`.
    """

    locus: str
    where: str
    why: str
    taken: str = ""
    apart: str = "0"
    mirrored: bool = False


@dataclass(frozen=True)
class _Entry:
    name: str
    title: str
    definition: str
    reference: str
    parameters: tuple[Parameter, ...] = ()
    singularities: tuple[Singularity, ...] = ()

    def parse(self, text: str) -> Definition:
        """`text` as a formula over this entry's own variables and parameters."""
        raise NotImplementedError

    @cached_property
    def formula(self) -> Definition:
        """The parsed definition."""
        return self.parse(self.definition)

    def _parsed(self, text: str, scalars: tuple[str, ...], vectors: tuple[str, ...]) -> Definition:
        try:
            for parameter in self.parameters:
                if is_reserved(parameter.name):
                    raise UsageError(f"a parameter cannot be called {parameter.name!r}: generated code uses that name")
            return Definition(text, (*scalars, *(p.name for p in self.parameters)), vectors)
        except UsageError as error:
            raise type(error)(f"{type(self).__name__.lower()} {self.name!r}: {error}") from None


@dataclass(frozen=True)
class Distance(_Entry):
    """d(x, y), a formula over the vectors x and y of any length.

    on_units: for a distance of directions, the same as a formula over the unit vectors of x and y. It is what is
        derived, and holds for zero vectors as well, each of which is its own unit vector.
    """

    on_units: str = ""

    @cached_property
    def derived(self) -> Definition:
        """The formula that is derived: over the unit vectors of x and y if there is one, otherwise the definition."""
        return self.parse(self.on_units or self.definition)

    def parse(self, text: str) -> Definition:
        return self._parsed(text, (), ("x", "y"))


@dataclass(frozen=True)
class Loss(_Entry):
    """phi(d_pos, d_neg), a formula over the distances to the positive and to the negative.

    distances: those it is a formula of, by their names in `PAIRS`; d_pos and d_neg, and others after them.
    undefined: sets of points with a distance of 0 at which the loss, or its derivative, does not exist.
    source: the command-line options that make it, but for its parameters; empty for a loss of the catalogue.
    """

    undefined: tuple[Singularity, ...] = ()
    source: tuple[str, ...] = ()
    distances: tuple[str, ...] = ("d_pos", "d_neg")

    def options(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """The command-line options that make it, with the parameters of a loss of one's own; `values` are defaults."""
        if not self.source:
            return ("--loss", self.name)
        of_file = self.source[1].endswith(".toml")  # which has the domains, and defaults
        said = [p for p in self.parameters if not of_file or values[p.name] != p.default]
        return (
            *self.source,
            *(
                o
                for p in said
                for o in ("--param", f"{p.name}={values[p.name]!r}" if of_file else p.option(values[p.name]))
            ),
        )

    def parse(self, text: str) -> Definition:
        return self._parsed(text, self.distances, ())


@dataclass(frozen=True)
class Objective:
    """A loss on a distance: L(x, x_pos, x_neg) = phi(d(x, x_pos), d(x, x_neg)).

    normalize: the three embeddings are divided by their Euclidean norms first; a zero vector stays one.
    like: the name of the entry of `parity` that it is, one that computes what a library computes; '' for none.
    """

    distance: Distance
    loss: Loss
    normalize: bool = False
    like: str = ""

    def __post_init__(self) -> None:
        if self.like and self.normalize:
            raise UsageError(f"like {self.like}: a parity mode takes embeddings as they are; normalize them before")
        names = [parameter.name for parameter in self.parameters]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{self.loss.name} on {self.distance.name}: both have a parameter {name!r}")

    @property
    def of_units(self) -> bool:
        """Whether the loss depends on the unit vectors of the embeddings only."""
        return self.normalize or bool(self.distance.on_units)

    @property
    def metric(self) -> Objective:
        """The same distance under the first loss of all: what is known of distances is known for every loss."""
        return replace(self, loss=next(iter(LOSSES.values())), like="")

    def of_metric(self, parameters: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
        """The parameters of the distance with their values, the defaults for those that are not given."""
        return tuple((p.name, parameters.get(p.name, p.default)) for p in self.distance.parameters)

    @property
    def stem(self) -> str:
        """The name of generated files and symbols, such as ``triplet_softmax_mse_l2``."""
        name = f"like_{self.like}" if self.like else f"{self.loss.name}_{self.distance.name}"
        return f"triplet_{name}{'_normalized' * self.normalize}".replace("-", "_")

    @property
    def title(self) -> str:
        """What to call it in a list, such as ``softmax-mse on l2``."""
        name = f"like {self.like}" if self.like else f"{self.loss.name} on {self.distance.name}"
        return f"{name}{', normalized' * self.normalize}"

    def options(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """The command-line options that choose it; `values` are defaults of the parameters of a loss of one's own."""
        chosen = ("--norm", self.distance.name, *self.loss.options(values))
        return (*(("--like", self.like) if self.like else chosen), *(("--normalize",) if self.normalize else ()))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (*self.distance.parameters, *self.loss.parameters)


P = Parameter("p", 3.0, "at least 1", "the exponent of the norm")
EPSILON = Parameter("epsilon", 0.01, "positive", "below about this distance the cone point is rounded off")
TEMPERATURE = Parameter("temperature", 1.0, "positive", "the distances are divided by it before the exponential")
MARGIN = Parameter("margin", 0.2, "nonnegative", "by how much the negative must be farther than the positive")

_HOFFER = "E. Hoffer, N. Ailon, Deep metric learning using triplet network, 2015, arXiv:1412.6622"
_HERMANS = "A. Hermans, L. Beyer, B. Leibe, In defense of the triplet loss, 2017, arXiv:1703.07737"
_SCHROFF = "F. Schroff, D. Kalenichenko, J. Philbin, FaceNet, CVPR 2015, arXiv:1503.03832"
_CHARBONNIER = "P. Charbonnier et al., Two deterministic half-quadratic regularization algorithms, ICIP 1994"
_AGGARWAL = "C. Aggarwal, A. Hinneburg, D. Keim, On the surprising behavior of distance metrics, ICDT 2001"
_NGUYEN = "H. Nguyen, L. Bai, Cosine similarity metric learning for face verification, ACCV 2010"

_DISTANCES = (
    Distance(
        name="l2",
        title="Euclidean distance, not squared",
        definition="sqrt(sum((x - y)**2))",
        reference=_HOFFER,
        singularities=(
            Singularity(
                locus="sum((x - y)**2)",
                where="x = y",
                why="the norm has a cone point: its subdifferential is the closed unit ball, "
                "and 0 is its least-norm and only odd-symmetric element",
            ),
        ),
    ),
    Distance(
        name="l2-squared",
        title="squared Euclidean distance",
        definition="sum((x - y)**2)",
        reference=_SCHROFF,
    ),
    Distance(
        name="l2-smooth",
        title="Euclidean distance with its cone point rounded off, a pseudo-Huber loss",
        definition="sqrt(sum((x - y)**2) + epsilon**2) - epsilon",
        reference=_CHARBONNIER,
        parameters=(EPSILON,),
    ),
    Distance(
        name="l1",
        title="Manhattan distance",
        definition="sum(abs(x - y))",
        reference=_AGGARWAL,
        singularities=(
            Singularity(
                locus="sum(abs(x - y))",
                where="x_k = y_k for some k",
                why="a term has a kink there: its subdifferential is [-1, 1], "
                "and 0 is its least and only odd-symmetric element",
            ),
        ),
    ),
    Distance(
        name="lp",
        title="Minkowski distance, the p-norm",
        definition="sum(abs(x - y)**p)**(1/p)",
        reference=_AGGARWAL,
        parameters=(P,),
        singularities=(
            Singularity(
                locus="sum(abs(x - y))",
                where="x = y",
                why="the norm has a cone point: 0 is the least element of its subdifferential and the only "
                "odd-symmetric one",
            ),
        ),
    ),
    Distance(
        name="linf",
        title="Chebyshev distance, the largest difference of components",
        definition="max(abs(x - y))",
        reference=_AGGARWAL,
        singularities=(
            Singularity(
                locus="sum(abs(x - y))",
                where="x = y",
                why="the norm has a cone point: 0 is the least element of its subdifferential and the only "
                "odd-symmetric one",
            ),
            Singularity(
                locus="where(sum(where(abs(x - y) < max(abs(x - y)), 0, 1)) > 1, 0, 1)",
                where="|x_k - y_k| largest for several k",
                why="the subdifferential is the convex hull of what the derivative is nearby, on all sides, "
                "and the mean of these is its least-norm element",
                taken="the mean of the derivatives of the largest components is taken",
                mirrored=True,
            ),
        ),
    ),
    Distance(
        name="cosine",
        title="cosine distance, 1 less the cosine of the angle",
        definition="1 - sum(x*y) / (sqrt(sum(x**2)) * sqrt(sum(y**2)))",
        reference=_NGUYEN,
        on_units="sum((x - y)**2) / 2",
    ),
)

_LOSSES = (
    Loss(
        name="softmax-mse",
        title="squared error of the softmax of the two distances against (0, 1)",
        definition="""
            s = exp(d_pos/temperature) / (exp(d_pos/temperature) + exp(d_neg/temperature))
            q = exp(d_neg/temperature) / (exp(d_pos/temperature) + exp(d_neg/temperature))
            s**2 + (q - 1)**2
        """,
        reference=_HOFFER,
        parameters=(TEMPERATURE,),
    ),
    Loss(
        name="softmax-nll",
        title="negative log-likelihood of the softmax of the two distances, a soft margin",
        definition="""
            q = exp(d_neg/temperature) / (exp(d_pos/temperature) + exp(d_neg/temperature))
            -log(q)
        """,
        reference=_HERMANS,
        parameters=(TEMPERATURE,),
    ),
    Loss(
        name="hinge",
        title="margin loss, zero once the negative is farther than the positive by the margin",
        definition="max(0, d_pos - d_neg + margin)",
        reference=_SCHROFF,
        parameters=(MARGIN,),
        singularities=(
            Singularity(
                locus="d_pos - d_neg + margin",
                where="d_pos - d_neg + margin = 0",
                why="the positive part has a kink: its subdifferential is [0, 1], and 0 is its least element",
            ),
        ),
    ),
)

DISTANCES: Mapping[str, Distance] = MappingProxyType({entry.name: entry for entry in _DISTANCES})
LOSSES: Mapping[str, Loss] = MappingProxyType({entry.name: entry for entry in _LOSSES})
PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {parameter.name: parameter for entry in (*_LOSSES, *_DISTANCES) for parameter in entry.parameters}
)
"""Every parameter by name; entries that share a name share the parameter."""
