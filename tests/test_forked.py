"""Jobs of other processes: their results, their order, and what becomes of those that fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial

import pytest

from derive_triplet.derive import forked
from derive_triplet.derive.forked import Forked, apart, each, processors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks on Linux only")


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(forked, "_THREADED", set())
    assert processors() == 2


def test_results_come_in_order_however_long_they_are() -> None:
    longer_than_a_pipe_holds = "x" * 1_000_000
    process = Forked([lambda: longer_than_a_pipe_holds, os.getpid, processors])
    assert process.result() == longer_than_a_pipe_holds
    assert process.result() != os.getpid()
    assert process.result() == 1  # no process of a process
    with pytest.raises(EOFError):
        process.result()
    process.end()
    with pytest.raises(ChildProcessError):  # nothing is left of it
        os.waitpid(process._number, 0)


def test_a_process_whose_results_nobody_reads_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    Forked([lambda: "x" * 1_000_000, int]).end()
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("two_processors")
def test_each_job_but_the_first_is_done_elsewhere() -> None:
    first, *others = each([os.getpid, os.getpid, os.getpid])
    assert first == os.getpid()
    assert len({first, *others}) == 3


def test_with_one_processor_all_are_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert each([os.getpid] * 2) == [os.getpid()] * 2


def elsewhere(here: int, fail: Callable[[], object]) -> str:
    if os.getpid() != here:
        fail()
    return "done"


def killed() -> None:
    os.kill(os.getpid(), 9)


def refused() -> None:
    sys.stderr.close()  # the traceback of what is planted is nobody's concern
    raise ValueError("planted")


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("fail", [killed, refused])
def test_what_another_process_cannot_do_is_done_here(fail: Callable[[], object]) -> None:
    assert each([str, partial(elsewhere, os.getpid(), fail)]) == ["", "done"]


@pytest.mark.usefixtures("two_processors")
def test_what_fails_everywhere_is_an_error_here() -> None:
    with pytest.raises(ZeroDivisionError):
        each([str, lambda: 1 // 0])
    with pytest.raises(ZeroDivisionError):
        each([lambda: 1 // 0, str])


@pytest.mark.parametrize("library", ["jax", "torch"])
def test_beside_the_threads_of_a_library_there_is_one_processor(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for name in ("jax", "torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert processors() == 2
    monkeypatch.setitem(sys.modules, library, sys)
    assert processors() == 1


def test_what_ends_its_process_ends_another_one() -> None:
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(EOFError):
        apart(killed)
