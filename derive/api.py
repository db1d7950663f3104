"""The library in four calls: `differentiate`, `generate`, `verify`, and `accuracy`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from .catalogue import Loss, Objective
from .differentiate import Derivation
from .differentiate import differentiate as _differentiate
from .errors import UsageError
from .lower import lower
from .requests import Request, chosen_dtypes, executable_targets, lookup, objective
from .targets.base import Product, Settings
from .targets.registry import targets_for
from .verify.report import Report

if TYPE_CHECKING:
    from .verify.accuracy import Accuracy

_lowered = cache(lower)


def differentiate(
    norm: str | Objective = "l2", loss: str | Loss | None = None, *, normalize: bool | None = None
) -> Derivation:
    """The checked derivation of a loss, by default softmax-mse, on a distance; or of an `Objective` of your own.

    loss: a name from the catalogue, or what `own_loss` makes.

    >>> differentiate("l2", "hinge").loss.value.result
    positive_part(z)

    normalize: the embeddings are divided by their Euclidean norms first.
    Raises `UsageError` for an unknown name or a loss beside an objective, and `StepError` if a step of the
    derivation is not an equality.
    """
    if not isinstance(norm, Objective):
        return _differentiate(objective(norm, loss or "softmax-mse", bool(normalize)))
    if loss is not None:
        raise UsageError(f"an objective has its loss, {norm.loss.name!r}; give no other beside it")
    if normalize is not None:
        raise UsageError("an objective says itself whether it normalizes; give it normalize=...")
    return _differentiate(norm)


def generate(
    derivation: Derivation,
    target: str = "numpy",
    *,
    dtypes: Iterable[str] | None = None,
    parameters: Mapping[str, float] | None = None,
    engine: str = "",
    accuracy: float = 0.0,
) -> Product:
    """The source of one target; nothing is written.

    dtypes: the float types to generate for; None for the target's usual ones.
    parameters: default values that differ from the catalogue's, such as ``{"temperature": 0.5}``.
    engine: the program that finishes the files, where a target needs one; '' for the first that is found.
    accuracy: the error in ULPs that `verify` accepts, if it is more than usual.
    Raises `UsageError` for an unknown target, dtype or parameter, and for a value outside its domain.
    """
    of = derivation.objective
    known = {parameter.name: parameter for parameter in of.parameters}
    for name in parameters or {}:
        lookup(known, name, f"parameter of {of.title}")
    maker = lookup(targets_for(target), target, "target")
    chosen = chosen_dtypes((dtypes,) if isinstance(dtypes, str) else dtypes, maker)
    settings = Settings(chosen, {name: float(value) for name, value in (parameters or {}).items()}, engine, accuracy)
    return maker.generate(derivation, _lowered(derivation), settings)


def verify(product: Product, *, thorough: bool = False) -> Report:
    """Verification of a product's own text, as far as this machine can.

    thorough: everything that can be checked here, such as every GPU architecture, instead of what takes a second.
    """
    report = targets_for(product.target)[product.target].verify(product, thorough)
    if any(check.name == "gradient" for check in report.checks):
        from .verify.regimes import NOT_JUDGED, unjudged

        values = product.settings.values(product.objective)
        if left_out := unjudged(product.objective, product.settings.dtypes, values):
            report = replace(report, notes=(*report.notes, f"{NOT_JUDGED}: {', '.join(left_out)}"))
    return report.accepting(product.settings.accuracy) if product.settings.accuracy else report


def accuracy(
    derivation: Derivation | Objective,
    targets: str | Iterable[str] = "numpy",
    *,
    dtypes: Iterable[str] | None = None,
    parameters: Mapping[str, float] | None = None,
    accepted: float = 0.0,
) -> Accuracy:
    """The errors in ULPs of generated code, of the naive formula and of PyTorch's autograd, regime by regime.

    targets: names of targets whose code can be executed.
    dtypes, parameters: as for `generate`.
    accepted: the error in ULPs that generated code may have, if it is more than usual.

    >>> accuracy(differentiate("l2", "hinge"), dtypes=["float32"]).passed
    True

    Raises `UsageError` as `generate` does and for a target without code to execute, and `DeriveTripletError` where
    nothing can be measured.
    """
    from .verify.accuracy import measure

    of = derivation if isinstance(derivation, Derivation) else differentiate(derivation)
    names = executable_targets((targets,) if isinstance(targets, str) else tuple(targets))
    return measure([generate(of, name, dtypes=dtypes, parameters=parameters, accuracy=accepted) for name in names])


def product_of(request: Request) -> Product:
    """What was requested, derived and generated. Raises as `differentiate` and `generate` do."""
    settings = request.settings
    return generate(
        differentiate(request.objective),
        request.target,
        dtypes=settings.dtypes,
        parameters=settings.parameters,
        engine=settings.engine,
        accuracy=settings.accuracy,
    )
