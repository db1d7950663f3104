"""Requests carried out in several processes: the same as in one, in the same order, errors included."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from derive_triplet import UsageError
from derive_triplet.derive import batch, forked
from derive_triplet.derive.batch import Made, make, make_all
from derive_triplet.derive.requests import Request, requests_for

pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where another test has imported it
COMMAND = (sys.executable, "-m", "derive_triplet.cli")
NORMS, TARGETS = ["l2", "l1", "l2-squared"], ["numpy", "prototxt"]


def asked() -> list[Request]:
    return requests_for(NORMS, ["hinge"], TARGETS)


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another test has imported."""
    monkeypatch.setattr(forked, "_THREADED", set())


def made_by(monkeypatch: pytest.MonkeyPatch, processors: int, requests: Sequence[Request]) -> list[Made]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    return list(make_all(requests, False))


def test_of_one_objective_every_request_may_have_a_process() -> None:
    assert batch._parts(requests_for(["l2"], ["hinge"], ["numpy", "latex", "cuda"]), 2) == [[0], [1], [2]]


def test_requests_of_a_distance_stay_together_or_of_an_objective_where_there_are_few() -> None:
    requests = asked()
    assert batch._parts([*requests[::2], *requests[1::2]], 2) == [[0, 3], [1, 4], [2, 5]]
    both = requests_for(["l2", "cosine"], ["hinge", "softmax-nll"], TARGETS)
    assert batch._parts(both, 1) == [[2, 3, 6, 7], [0, 1, 4, 5]]  # of unit vectors first, which take longest
    assert batch._parts(both, 2) == [[2, 3], [6, 7], [0, 1], [4, 5]]
    assert len(batch._parts(both, 16)) == 8


def test_several_processes_make_what_one_makes_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked()[::2] + asked()[1::2]
    alone = made_by(monkeypatch, 1, requests)
    assert [(made.objective.distance.name, made.target) for made in alone] == [(r.norm, r.target) for r in requests]
    assert made_by(monkeypatch, 3, requests) == alone == [make(request, False) for request in requests]


@pytest.mark.parametrize("processors", [1, 3])
def test_the_first_error_comes_after_what_was_made_before_it(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    requests = asked()
    requests[3] = replace(requests[3], settings=replace(requests[3].settings, parameters={"margin": float("nan")}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    found = make_all(requests, False)
    assert [next(found).target for _ in range(3)] == ["numpy", "prototxt", "numpy"]
    with pytest.raises(UsageError, match="margin must be a finite nonnegative number, not nan"):
        next(found)


def test_how_far_it_is_is_told_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, told = asked(), list[str]()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    list(make_all(requests, False, told.append))
    bars = [text for text in told if text]
    assert bars[0] == f"[{24 * '-'}] 0 of 6"
    assert told[-1] == ""  # nothing is left of it
    assert bars == sorted(bars, key=lambda text: text.count("#"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    told.clear()
    list(make_all(requests, False, told.append))
    assert told[3:5] == [
        f"[####{20 * '-'}] deriving hinge on l2, prototxt",
        f"[####{20 * '-'}] verifying hinge on l2, prototxt",
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_there_is_a_bar_where_there_is_more_than_one(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    told = list[str]()
    list(make_all(asked()[:count], False, told.append))
    assert any(text.startswith("[") for text in told) is (count > 1)


def test_a_terminal_has_a_bar_and_a_pipe_has_none(tmp_path: Path) -> None:
    command = [*COMMAND, "--norm", "l1", "--norm", "l2", "--no-verify", "-o", str(tmp_path)]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (piped.stderr, "#" in piped.stdout) == ("", False)
    ours, theirs = pty.openpty()
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs)
    assert f"\r\033[K[{24 * '-'}] 0 of 2" in os.read(ours, 10_000).decode()
    os.close(ours)
    assert shown.stdout.splitlines()[0] == piped.stdout.splitlines()[0]
