"""The reference of a verification, computed by a process of its own while this one imports SymPy and derives.

It needs the definitions only, and its results are taken for what they are computed from: what is not among them, and
everything where that process fails, is computed where it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..forked import Forked, processors
from ..requests import Request

_WHAT = ("references", "products")
_begun: _Ahead | None = None


class _Ahead:
    """A process that computes references and then products, and which of these were taken."""

    def __init__(self, request: Request) -> None:
        self.process = Forked([partial(_compute, what, request) for what in _WHAT])
        self.taken: list[str] = []


def begin(request: Request) -> None:
    """Start the process, where there is a processor for it and something else to do: SymPy has to be imported."""
    global _begun
    if processors() > 1 and "sympy" not in sys.modules:
        _begun = _Ahead(request)


def computed(what: str) -> Mapping[Any, Any]:
    """What the process has computed of one of `_WHAT`, when it is first asked for; nothing if there is none."""
    ahead = _begun
    if ahead is None or what in ahead.taken:
        return {}
    found: Mapping[Any, Any] = {}
    try:
        while what not in ahead.taken:
            ahead.taken.append(_WHAT[len(ahead.taken)])
            found = ahead.process.result()
    except EOFError:  # it has failed
        ahead.taken = list(_WHAT)
    return found


def _compute(what: str, request: Request) -> dict[Any, Any]:
    from .checks import remember
    from .curvature import remember_products

    compute: Mapping[str, Callable[..., dict[Any, Any]]] = {"references": remember, "products": remember_products}
    objective, settings = request.objective, request.settings
    found: dict[Any, Any] = {}
    for dtype in settings.dtypes:
        found |= compute[what](objective, dtype, settings.values(objective), (), full_range=True)
    return found
