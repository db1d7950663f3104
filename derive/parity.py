"""Parity modes: the losses of other libraries as these compute them, so that code can be moved here unchanged.

A mode is an objective like any other: a distance and a loss in the language of `expression`, which are derived,
printed and verified as those of the catalogue are. What differs from these, and why these are not so, is said beside
it; `docs/parity.md` shows the same as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .catalogue import DISTANCES, LOSSES, Distance, Loss, Objective, Parameter, Singularity


@dataclass(frozen=True)
class Mode:
    """An objective that computes what a library computes.

    library: whose, and the release that it was compared with.
    call: what it replaces, which returns the loss of each row.
    ours: the objective of the catalogue that it differs from.
    differs: in what, each with why ours is the default.
    """

    objective: Objective
    library: str
    call: str
    ours: Objective
    differs: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return self.objective.like

    @property
    def title(self) -> str:
        """One line for ``--list``."""
        return f"{self.call}, {self.library}"


_MARGIN = Parameter("margin", 1.0, "positive", "by how much the negative must be farther than the positive")

_TORCH_DISTANCE = Distance(
    name="torch-l2",
    title="Euclidean distance with 1e-6 added to each component of the difference",
    definition="sqrt(sum((x - y + 1e-6)**2))",
    reference="torch.nn.functional.pairwise_distance with p=2 and eps=1e-6",
    singularities=(
        Singularity(
            locus="sum((x - y + 1e-6)**2)",
            where="y = x + 1e-6",
            why="the norm has a cone point there, which the shift has moved away from y = x",
            apart="1e-6",
        ),
    ),
)


def _hinge(name: str, library: str, definition: str, slope: str) -> Loss:
    """The margin loss with another slope at its kink."""
    return Loss(
        name=name,
        title="margin loss, zero once the negative is farther than the positive by the margin",
        definition=definition,
        reference=library,
        parameters=(_MARGIN,),
        singularities=(
            Singularity(
                locus="d_pos - d_neg + margin",
                where="d_pos - d_neg + margin = 0",
                why="the positive part has a kink: its subdifferential is [0, 1]",
                taken=f"the slope is taken as {slope}",
            ),
        ),
    )


_TORCH_MARGIN = _hinge(
    "torch-margin",
    "torch.nn.functional.triplet_margin_loss",
    "z = d_pos - d_neg + margin; z + max(0, -z)",
    "1",
)
_TORCH_SWAP = replace(
    _TORCH_MARGIN,
    name="torch-margin-swap",
    title="margin loss with the distance swap: the negative's distance is that to the nearer of anchor and positive",
    definition="""
        near = where(d_neg < d_swap, d_neg, where(d_swap < d_neg, d_swap, (d_neg + d_swap)/2))
        z = d_pos - near + margin
        z + max(0, -z)
    """,
    reference="V. Balntas et al., Learning local feature descriptors with triplets and shallow convolutional neural "
    "networks, BMVC 2016",
    distances=("d_pos", "d_neg", "d_swap"),
    singularities=(
        replace(
            _TORCH_MARGIN.singularities[0],
            locus="d_pos - min(d_neg, d_swap) + margin",
            where="d_pos - min(d_neg, d_swap) + margin = 0",
        ),
        Singularity(
            locus="d_neg - d_swap",
            where="d_neg = d_swap",
            why="the smaller of the two distances has a kink where they are equal",
            taken="half of the slope goes to each of the two",
        ),
    ),
)
_OPTAX_MARGIN = _hinge(
    "optax-margin",
    "optax.losses.triplet_margin_loss",
    "z = d_pos - d_neg + margin; (z + abs(z))/2",
    "1/2",
)
_OPTAX_DISTANCE = Distance(
    name="optax-l2",
    title="Euclidean distance with 1e-6 added under the root",
    definition="sqrt(sum((x - y)**2) + 1e-6)",
    reference="optax.losses.triplet_margin_loss with norm_degree=2 and eps=1e-6",
)
_AUTHORS_MSE = Loss(
    name="authors-mse",
    title="mean squared error of the softmax of the two distances against (1, 0), the negative's first",
    definition="""
        q = exp(d_neg) / (exp(d_neg) + exp(d_pos))
        s = exp(d_pos) / (exp(d_neg) + exp(d_pos))
        ((q - 1)**2 + s**2) / 2
    """,
    reference="E. Hoffer, TripletNet, 2015, https://github.com/eladhoffer/TripletNet",
)

_OURS = Objective(DISTANCES["l2"], LOSSES["hinge"])
_AT_THE_KINK = (
    "at the kink the slope is {}, ours is 0",
    "0 is the least element of the subdifferential, and a triplet that has just reached the margin is left alone",
)
_DEFAULT_MARGIN = (
    "the margin is 1 unless it is given, ours is 0.2",
    "0.2 is that of FaceNet, for embeddings of norm 1",
)
_SHIFT = (
    "the distance is that of x + 1e-6 and y: at x = y it is 1e-6*sqrt(n), with a gradient of norm 1 along (1, ..., 1); "
    "d(x, y) and d(y, x) differ",
    "points that coincide are at distance 0 and have no direction to be pushed in; nothing depends on the coordinates",
)

_TORCH_DIFFERS = (
    _SHIFT,
    (_AT_THE_KINK[0].format("1"), _AT_THE_KINK[1]),
    _DEFAULT_MARGIN,
    (
        "rows whose squares leave the range of the type are not scaled, and end in infinity or NaN",
        "a distance is right as long as it can be written down",
    ),
)
_MODES = (
    Mode(
        objective=Objective(_TORCH_DISTANCE, _TORCH_MARGIN, like="torch"),
        library="PyTorch 2.13",
        call='torch.nn.functional.triplet_margin_loss(x, x_pos, x_neg, reduction="none")',
        ours=_OURS,
        differs=_TORCH_DIFFERS,
    ),
    Mode(
        objective=Objective(_TORCH_DISTANCE, _TORCH_SWAP, like="torch-swap"),
        library="PyTorch 2.13",
        call='torch.nn.functional.triplet_margin_loss(x, x_pos, x_neg, swap=True, reduction="none")',
        ours=_OURS,
        differs=(
            (
                "d_neg is replaced by the smaller of d(x, x_neg) and d(x_pos, x_neg); where they are equal, half of "
                "the slope goes to each",
                "which of the two points is the anchor is known where triplets are made, and swapping is mining",
            ),
            *_TORCH_DIFFERS,
        ),
    ),
    Mode(
        objective=Objective(_OPTAX_DISTANCE, _OPTAX_MARGIN, like="optax"),
        library="optax 0.2.8",
        call="optax.losses.triplet_margin_loss(x, x_pos, x_neg)",
        ours=_OURS,
        differs=(
            (
                "1e-6 is added to the sum of squares: at x = y the distance is 1e-3, with a gradient of 0, and below "
                "0.01 both are off by more than half a per cent",
                "a distance is right as long as it can be written down, and its gradient as well",
            ),
            (_AT_THE_KINK[0].format("1/2"), _AT_THE_KINK[1]),
            _DEFAULT_MARGIN,
        ),
    ),
    Mode(
        objective=Objective(DISTANCES["l2"], _AUTHORS_MSE, like="authors"),
        library="TripletNet (Lua Torch)",
        call="nn.MSECriterion on nn.SoftMax of nn.TripletNetBatch({x, x_neg, x_pos}), with the target {1, 0}",
        ours=Objective(DISTANCES["l2"], LOSSES["softmax-mse"]),
        differs=(
            (
                "the squared error is averaged over the two outputs, so it is s^2, and its gradients are half of ours",
                "the paper's loss is the sum, 2*s^2",
            ),
            (
                "the pair is (d_neg, d_pos), because a triplet is {x, x_neg, x_pos}, and the target is (1, 0)",
                "it is the same loss, for softmax and target change places together; ours is the order of the paper",
            ),
            (
                "there is no temperature",
                "without one the loss of embeddings of norm 1 does not fall below 0.028; at 1 it changes nothing",
            ),
            (
                "nn.PairwiseDistance divides by d + 1e-6 in its gradient, which is not that of its value; this mode "
                "divides by d, so that its gradients are 1 + 1e-6/d times those of the code",
                "what is derived is the gradient of the loss",
            ),
        ),
    ),
)

PARITY: Mapping[str, Mode] = MappingProxyType({mode.name: mode for mode in _MODES})
