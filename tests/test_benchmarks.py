"""The benchmarks take ratios as they say, keep and show what they measured, and name what they could not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import measure
import numpy as np
import numpy_layer
import pytest
import run
import unrolled
from click.testing import CliRunner

RESULTS = Path(run.__file__).parent / "results"
ROWS = (
    measure.Row("n = 4", 4, "ours", "ours", 0.25, 1.0, 1.0, 1.0),
    measure.Row("n = 4", 4, "peer", "ours", 0.5, 2.0, 1.9, 2.1, measure.Aim(">=", 2.5)),
    measure.Row("n = 8", 8, "peer", "ours", 0.75e-3, 3.0, 2.9, 3.1, measure.Aim(">=", 2.5)),
    measure.Row("n = 8", 8, "peer", "ours", 1200, 3.0, 3.0, 3.0, unit="lines"),
)


class Clock:
    """Stands still until a contender spends time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_each_contender_runs_once_in_each_round_and_about_as_often_after_each_other() -> None:
    """A contender that always runs after the same other one is measured in the cache which that one left."""
    order: list[str] = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = measure.in_turns(contenders, seconds=0, rounds=(60, 60), warm=False)
    assert {len(seconds) for seconds in times.values()} == {60}
    assert all(sorted(order[first : first + 3]) == ["a", "b", "c"] for first in range(0, 180, 3))
    successions = Counter(pair for pair in itertools.pairwise(order) if len(set(pair)) == 2)
    assert len(successions) == 6
    assert min(successions.values()) > 15


def test_the_order_of_turns_is_the_same_in_every_run() -> None:
    def order() -> list[str]:
        ran: list[str] = []
        measure.in_turns({name: (lambda name=name: ran.append(name)) for name in "abc"}, seconds=0, rounds=(9, 9))
        return ran

    assert order() == order()


def test_rounds_end_when_their_time_is_over() -> None:
    clock = Clock()
    times = measure.in_turns({"a": lambda: clock.spend(1.0)}, seconds=5.5, rounds=(2, 99), warm=False, clock=clock)
    assert times == {"a": [1.0] * 6}


def test_a_ratio_is_that_of_rounds_and_not_of_medians() -> None:
    """A machine that slows down by the round changes the times and no ratio."""
    clock, turns = Clock(), itertools.count()

    def taking(seconds: float) -> Callable[[], None]:
        return lambda: clock.spend(seconds * (1 + next(turns) // 2))

    times = measure.in_turns({"ours": taking(1), "peer": taking(3)}, 0, (2, 2), False, clock)
    assert times == {"ours": [1.0, 2.0], "peer": [3.0, 6.0]}
    row = measure.beside({"ours": [1.0, 2.0, 4.0], "peer": [3.0, 6.0, 12.0]}, "peer", "ours", "n = 4", 4)
    assert (row.median, row.ratio, row.low, row.high) == (6.0, 3.0, 3.0, 3.0)
    skewed = measure.beside({"ours": [1.0, 2.0, 4.0], "peer": [8.0, 2.0, 2.0]}, "peer", "ours", "n = 4", 4)
    assert (skewed.median, skewed.ratio, skewed.low, skewed.high) == (2.0, 1.0, 0.75, 4.5)


def test_a_contender_that_fails_is_no_result() -> None:
    def broken() -> None:
        raise RuntimeError("no such peer")

    with pytest.raises(RuntimeError, match="no such peer"):
        measure.in_turns({"a": lambda: None, "broken": broken})


@pytest.mark.parametrize(("comparison", "met"), [("<=", (True, True, False)), (">=", (False, True, True))])
def test_aims(comparison: str, met: tuple[bool, ...]) -> None:
    assert tuple(measure.Aim(comparison, 2.0).is_met(ratio) for ratio in (1.9, 2.0, 2.1)) == met


def test_the_table_says_which_aims_were_missed() -> None:
    assert measure.table(ROWS)[2:] == [
        "| n = 4 | ours | 250 ms |  |  |  |  |",
        "| n = 4 | peer | 500 ms | ours | 2 | 1.9 to 2.1 | ≥ 2.5: **missed** |",
        "| n = 8 | peer | 750 µs | ours | 3 | 2.9 to 3.1 | ≥ 2.5: met |",
        "| n = 8 | peer | 1,200 lines | ours | 3 | 3 to 3 |  |",
    ]


def test_a_result_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    result = measure.Result(ROWS, ("jax: `pip install jax`",), {"numpy": "2.4.6"})
    measure.save(tmp_path / "deeper/it.json", result)
    assert measure.load(tmp_path / "deeper/it.json") == (measure.machine(), result)
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["it.json"]


def test_a_plot_has_the_same_bytes_for_the_same_rows(tmp_path: Path) -> None:
    charts = [measure.Chart("time", "n", "seconds", ROWS), measure.Chart("ratio", "n", "times ours", ROWS, ratios=True)]
    for name in ("one", "two"):
        measure.draw(charts, tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").read_text().count("<svg") == 1


def test_the_page_names_what_was_not_measured(tmp_path: Path) -> None:
    assert "Not measured: `python benchmarks/run.py unrolled`." in run.page(tmp_path)
    measure.save(tmp_path / "unrolled.json", measure.Result(ROWS, ("symforce: `pip install symforce`",)))
    page = run.page(tmp_path)
    assert "Not measured, because it is missing: symforce: `pip install symforce`." in page
    assert f"On {measure.machine()}." in page
    assert "**missed**" in page


def test_the_committed_page_is_that_of_the_committed_rows(tmp_path: Path) -> None:
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == run.page(RESULTS)
    for name, module in run.BENCHMARKS.items():
        _, result = measure.load(RESULTS / f"{name}.json")
        assert not result.missing
        assert (RESULTS / f"{name}.svg").exists() == bool(module.charts(result.rows))


def test_a_peer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command measures what there is, writes it, and says what is not there."""
    monkeypatch.setattr(unrolled, "find_spec", lambda name: None)
    monkeypatch.setattr(unrolled, "QUICK", (4,))
    monkeypatch.setattr(unrolled, "_count", lambda name, n, lines: lines.setdefault(name, n))
    outcome = CliRunner().invoke(run.main, ["unrolled", "--quick", "-o", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert "not measured: wrenfold: `pip install wrenfold`" in outcome.output
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "unrolled.json", "unrolled.svg"}


def test_the_numpy_module_is_measured_beside_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_layer, "find_spec", lambda name: None)
    monkeypatch.setattr(numpy_layer, "SIZES", ((4, 3), (40, 3)))
    monkeypatch.setattr(numpy_layer, "in_turns", lambda runs, seconds: measure.in_turns(runs, rounds=(2, 2)))
    rows = numpy_layer.measure_cores(1, quick=True)
    ours = [row for row in rows if row.subject == numpy_layer.OURS]
    assert [(row.beside, row.aim) for row in ours] == [(numpy_layer.COPY, measure.Aim("<=", 2.0))] * 2
    assert {row.beside for row in rows if "block" not in row.point and row not in ours} == {numpy_layer.OURS}
    assert {row.subject for row in rows if row.point.startswith("blocks")} == {"measured", "0 KiB"}
    assert [len(chart.rows) for chart in numpy_layer.charts(rows)] == [8, 1]


def test_what_numpy_does_at_least_goes_over_every_block() -> None:
    inputs, outputs = numpy_layer.batch(5, 3)
    numpy_layer.passing(inputs, outputs, block=2 * inputs[0][:1].nbytes)()
    x, x_pos, x_neg = inputs
    wanted = (x_pos + x_neg - 2 * x, x - x_pos, x - x_neg)
    assert all(np.allclose(found, right, atol=1e-6) for found, right in zip(outputs, wanted, strict=True))


def test_peers_of_the_numpy_module_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_layer, "find_spec", lambda name: None)
    monkeypatch.setattr(numpy_layer.subprocess, "run", lambda *args, **options: SimpleNamespace(stdout="[]\n"))
    missing = "\n".join(numpy_layer.measure(quick=True).missing)
    assert all(f"{peer}: `pip install {package}`" in missing for peer, package in numpy_layer.PEERS.items())


@pytest.mark.parametrize("contender", ["JAX", "torch.compile", "PyTorch"])
def test_peers_of_the_numpy_module_have_the_aims_of_their_sizes(contender: str) -> None:
    (small, *_, large), aims = numpy_layer.SIZES, numpy_layer.AIMS
    assert numpy_layer.aim(contender, small) == measure.Aim(">=", 1.0)
    assert numpy_layer.aim(contender, large) == measure.Aim(">=", aims[contender])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("wrenfold", "symforce")]
)
def test_what_others_write_grows_with_the_vector(name: str) -> None:
    short, long = (len(unrolled.GENERATORS[name](n).splitlines()) for n in (4, 8))
    assert long > short + 4


def test_what_is_written_here_does_not() -> None:
    assert unrolled.GENERATORS[unrolled.OURS](4) == unrolled.GENERATORS[unrolled.OURS](8)
