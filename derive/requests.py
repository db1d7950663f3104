"""What is asked for, by names; understood without SymPy, so that what cannot be is refused at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from .catalogue import DISTANCES, LOSSES, Loss, Objective
from .errors import UsageError
from .parity import PARITY
from .targets.base import Settings, Target
from .targets.registry import targets_for

Named = TypeVar("Named")


def lookup(entries: Mapping[str, Named], name: str, kind: str) -> Named:
    """The entry called `name`; raises `UsageError` with the closest known name otherwise."""
    if name in entries:
        return entries[name]
    import difflib

    meant = name.lower().replace("_", "-")
    close = [known for known in entries if meant == known] or [known for known in entries if meant and meant in known]
    close = close or difflib.get_close_matches(meant, entries, n=1, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"choose from {', '.join(entries)}"
    raise UsageError(f"no {kind} is called {name!r}; {hint}")


def objective(norm: str = "l2", loss: str | Loss = "softmax-mse", normalize: bool = False, like: str = "") -> Objective:
    """The objective of two names, or of a loss of one's own. Raises `UsageError` for a name that is unknown.

    like: a parity mode, which has a distance and a loss of its own.
    """
    if like:
        return replace(lookup(PARITY, like, "parity mode").objective, normalize=normalize)
    own = loss if isinstance(loss, Loss) else lookup(LOSSES, loss, "loss")
    return Objective(lookup(DISTANCES, norm, "norm"), own, normalize)


def chosen_dtypes(asked: Iterable[str] | None, maker: Target) -> tuple[str, ...]:
    """What is asked of a target, in its own order. Raises `UsageError` for a type that it does not have, or none."""
    if asked is None:
        return maker.usual_dtypes
    chosen = _chosen(tuple(asked), dict.fromkeys(maker.dtypes), f"dtype of {maker.name}")
    if not chosen:
        raise UsageError(f"no dtype was given; choose from {', '.join(maker.dtypes)}")
    return tuple(sorted(chosen, key=maker.dtypes.index))


def executable_targets(names: Sequence[str]) -> list[str]:
    """Targets by name, 'all' being one of each whose code can be executed.

    Raises `UsageError` for one without code, and if there is none.
    """
    known = targets_for(*names)
    executable = [name for name, maker in known.items() if maker.executable]
    if not names:
        raise UsageError(f"no target was given; choose from {', '.join(executable)}")
    for name in names:
        if name != "all" and not lookup(known, name, "target").executable:
            raise UsageError(f"{name} has no code whose accuracy can be measured; choose from {', '.join(executable)}")
    return list(executable if "all" in names else dict.fromkeys(names))


@dataclass(frozen=True)
class Request:
    """What a product is made from, by names; a loss of one's own has none in the catalogue.

    like: a parity mode, beside which norm and loss say nothing.
    """

    norm: str
    loss: str | Loss
    target: str
    settings: Settings
    normalize: bool
    like: str

    @property
    def objective(self) -> Objective:
        return objective(self.norm, self.loss, self.normalize, self.like)


def requests_for(
    norms: Sequence[str],
    losses: Sequence[str | Loss],
    target_names: Sequence[str],
    dtypes: Sequence[str] = (),
    parameters: Mapping[str, float] | None = None,
    accuracy: float = 0.0,
    normalize: bool = False,
    modes: Sequence[str] = (),
) -> list[Request]:
    """Every combination of the names, 'all' being one of each, but for targets that have to be named.

    Those of one objective stand together.

    A parameter goes to the objectives that have it. Beside names there may be losses of one's own.
    modes: parity modes, which stand in the place of norms and losses.

    Raises `UsageError` for an unknown name, a value outside its domain, or a parameter that no objective has.
    """
    requests, used = [], set()
    makers = targets_for(*target_names)
    usual = {name: maker for name, maker in makers.items() if maker.in_all or name in target_names}
    targets = _chosen(target_names, usual if "all" in target_names else makers, "target")
    of_target = {target: chosen_dtypes(dtypes or None, makers[target]) for target in targets}
    for norm, loss, like in _objectives(norms, losses, modes):
        has = {p.name: p for p in objective(norm, loss, like=like).parameters}
        mine = {name: has[name].check(value) for name, value in (parameters or {}).items() if name in has}
        used |= set(mine)
        for target in targets:
            settings = Settings(of_target[target], mine, accuracy=accuracy)
            requests.append(Request(norm, loss, target, settings, normalize, like))
    for name in parameters or {}:
        if name not in used:
            raise UsageError(f"no chosen loss has a {name}; --list shows which have")
    return requests


def _objectives(
    norms: Sequence[str], losses: Sequence[str | Loss], modes: Sequence[str]
) -> list[tuple[str, str | Loss, str]]:
    """Norm, loss and parity mode of each objective."""
    if modes:
        return [("", "", like) for like in _chosen(modes, PARITY, "parity mode")]
    own = list(dict.fromkeys(loss for loss in losses if isinstance(loss, Loss)))
    _refuse_equal_names(own)
    named = _chosen([name for name in losses if isinstance(name, str)], LOSSES, "loss")
    both: list[str | Loss] = [*named, *own]
    return [(norm, loss, "") for loss in both for norm in _chosen(norms, DISTANCES, "norm")]


def _refuse_equal_names(losses: Sequence[Loss]) -> None:
    names = [loss.name for loss in losses]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two losses are called {name!r}; their files would have the same names")


def _chosen(given: Sequence[str], known: Mapping[str, object], kind: str) -> list[str]:
    for name in given:
        if name != "all":
            lookup(known, name, kind)
    return list(known if "all" in given else dict.fromkeys(given))
