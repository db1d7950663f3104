"""The reference computed by another process is the reference; where that process fails, nothing is lost."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from derive_triplet.derive.requests import Request, requests_for
from derive_triplet.derive.verify import ahead, checks, curvature


class Ahead:
    """A process that has these results, and has failed then."""

    def __init__(self, *results: object) -> None:
        self.process, self.taken, self.results = self, list[str](), iter(results)

    def result(self) -> object:
        for found in self.results:
            return found
        raise EOFError


@pytest.fixture
def request_of_hinge() -> Request:
    (request,) = requests_for(["l1"], ["hinge"], ["numpy"], ["float32"])
    return request


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_references", {})
    monkeypatch.setattr(curvature, "_products", {})


def computed_here(request: Request) -> tuple[dict[Any, Any], dict[Any, Any]]:
    values = request.settings.values(request.objective)
    return (
        checks.remember(request.objective, "float32", values, (), full_range=True),
        curvature.remember_products(request.objective, "float32", values, (), full_range=True),
    )


@pytest.mark.usefixtures("forgotten")
@pytest.mark.skipif(sys.platform != "linux", reason="it forks on Linux only")
def test_its_results_are_those_of_this_process(request_of_hinge: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = ahead._Ahead(request_of_hinge)
    monkeypatch.setattr(ahead, "_begun", begun)
    references = ahead.computed("references")
    assert ahead.computed("references") == {}  # they are taken
    products = ahead.computed("products")
    begun.process.end()
    monkeypatch.setattr(ahead, "_begun", None)
    assert (references, products) == computed_here(request_of_hinge)
    assert len(references) > 20
    assert len(products) > 10


@pytest.mark.usefixtures("forgotten")
def test_what_is_among_them_is_not_computed_again(request_of_hinge: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    references, products = computed_here(request_of_hinge)
    monkeypatch.setattr(ahead, "_begun", Ahead(references, products))
    monkeypatch.setattr(checks, "_references", {})
    monkeypatch.setattr(curvature, "_products", {})
    monkeypatch.setattr(checks, "reference", lambda *_: pytest.fail("a reference was computed"))
    monkeypatch.setattr(curvature, "product", lambda *_: pytest.fail("a product was computed"))
    assert computed_here(request_of_hinge) == (references, products)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("results", [(), ({"of": "another"},)], ids=["none", "other"])
def test_what_is_not_is_computed(
    results: tuple[object, ...], request_of_hinge: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = computed_here(request_of_hinge)
    monkeypatch.setattr(ahead, "_begun", Ahead(*results))
    monkeypatch.setattr(checks, "_references", {})
    monkeypatch.setattr(curvature, "_products", {})
    assert computed_here(request_of_hinge) == right


@pytest.mark.parametrize(("count", "begins"), [(1, False), (2, True)])
def test_it_takes_a_processor_of_its_own(
    count: int, begins: bool, request_of_hinge: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_begun", None)
    monkeypatch.setattr(ahead, "_Ahead", lambda request: Ahead(request))
    monkeypatch.setattr(ahead, "processors", lambda: count)
    monkeypatch.delitem(sys.modules, "sympy", raising=False)
    ahead.begin(request_of_hinge)
    assert (ahead._begun is not None) == begins


def test_with_sympy_there_is_nothing_to_do_meanwhile(
    request_of_hinge: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sympy

    monkeypatch.setattr(ahead, "_begun", None)
    ahead.begin(request_of_hinge)
    assert sympy
    assert ahead._begun is None
