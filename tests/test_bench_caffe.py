"""The benchmark in Caffe measures what it says, and refuses to time nets that do not compute the same."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from derive_triplet import Product, differentiate, generate
from derive_triplet.derive.verify.caffe import build

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PAGE = BENCHMARKS / "results/caffe.md"
needs_caffe = pytest.mark.needs("caffe")


def imported() -> ModuleType:
    """The benchmark, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location("caffe_layers", BENCHMARKS / "caffe_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = imported()


@pytest.fixture(scope="module")
def caffe() -> build.Caffe:
    found = build.find()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def program(caffe: build.Caffe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = bench.driver(caffe, tmp_path_factory.mktemp("driver"))
    return found


@pytest.fixture(scope="module")
def results() -> Any:
    """Those that are committed."""
    return bench.loaded(PAGE.with_suffix(".json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- memory

BY_HAND = bench.Net(
    "by hand",
    """
    force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 } } }
    layer { name: "x_pos" type: "Input" top: "x_pos" input_param { shape { dim: 1 dim: 1 } } }
    layer { name: "x_neg" type: "Input" top: "x_neg" input_param { shape { dim: 1 dim: 1 } } }
    layer { name: "one" type: "Eltwise" bottom: "x" bottom: "x_pos" top: "one" }
    layer { name: "other" type: "Eltwise" bottom: "x" bottom: "x_neg" top: "other" }
    layer { name: "loss" type: "EuclideanLoss" bottom: "one" bottom: "other" top: "loss" }
    """,
)
SHAPE = (64, 128)
ARRAY = 4 * SHAPE[0] * SHAPE[1]  # bytes


def miscounted(said: Any) -> set[str]:
    """What the driver says of BY_HAND, and is not so.

    Its blobs have 5 arrays of data: x, which the two tops of its split share, x_pos, x_neg, one and other; and 7 of
    gradients, because those two have their own. Caffe counts 7 of data. EuclideanLoss keeps a difference, one array.
    """
    memory, least = (bench.Memory(**said["nets"][0][name]) for name in ("memory", "least"))
    own = (memory.allocated - memory.blobs) - (least.allocated - least.blobs)
    wrong = {
        "caffe": memory.caffe != 7 * ARRAY + 4,
        "blobs": memory.blobs != 12 * ARRAY + 8,
        "inputs": memory.inputs != 6 * ARRAY,
        "allocated": abs(own - ARRAY) > 256,  # malloc rounds each of 13 arrays up to 16 bytes, or the least block
    }
    return {name for name, is_wrong in wrong.items() if is_wrong}


def said_of_net(program: Path) -> Any:
    return bench.driven(program, [], [BY_HAND], SHAPE, bench.blases()[0])


@needs_caffe
def test_memory_is_that_of_a_net_counted_by_hand(program: Path) -> None:
    assert miscounted(said_of_net(program)) == set()


@needs_caffe
@pytest.mark.parametrize(
    ("right", "wrong", "seen"),
    [
        ("counted.insert(memory.get()).second", "true", "blobs"),  # shared data twice
        ("{blob->data(), blob->diff()}", "{blob->data()}", "inputs"),  # no gradients
        ("said = strtoull", "if (said == 0) said = strtoull", "caffe"),  # the first layer only
        ("net->ForwardBackward();\n  memory->allocated", "memory->allocated", "blobs"),  # before Caffe has allocated
        ("return info.uordblks", "return info.arena", "allocated"),  # what the heap has, used or not
    ],
)
def test_a_wrong_count_is_seen(caffe: build.Caffe, tmp_path: Path, right: str, wrong: str, seen: str) -> None:
    text = (BENCHMARKS / "caffe_layers.cpp").read_text(encoding="utf-8")
    assert text.count(right) == 1
    (tmp_path / "wrong.cpp").write_text(text.replace(right, wrong), encoding="utf-8")
    caffe.compile("-O0", "wrong.cpp", "-o", "wrong", folder=tmp_path)
    assert seen in miscounted(said_of_net(tmp_path / "wrong"))


# ---------------------------------------------------------------- agreement


def nets_of(product: Product) -> Any:
    composed = generate(product.derivation, "prototxt")
    nets = bench.Net(bench.COMPOSED, composed.files[0].text), bench.fused(bench.FUSED, product)
    return bench.Subject("both", nets, ())


def measured(caffe: build.Caffe, program: Path, subject: Any, folder: Path, shape: tuple[int, int]) -> Any:
    libraries = [bench.library(caffe, net.product, net.flags, folder) for net in subject.nets if net.product]
    return bench.measure(program, libraries, subject, shape, bench.blases()[0], 0.01)


@needs_caffe
@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
@pytest.mark.parametrize("loss", ["softmax-mse", "hinge"])
def test_nets_are_compared_and_timed(caffe: build.Caffe, program: Path, tmp_path: Path, norm: str, loss: str) -> None:
    subject = nets_of(generate(differentiate(norm, loss), "caffe"))
    run = measured(caffe, program, subject, tmp_path, (5, 6))
    composed, fused = run.nets
    assert (run.rows, run.dim, run.turns >= 15) == (5, 6, True)
    assert composed.loss == pytest.approx(fused.loss, rel=bench.BOUND)
    assert 0 < fused.difference <= bench.BOUND
    assert composed.ratio == bench.Quartiles(1, 1, 1)
    for times in (fused.forward, fused.backward, fused.both, run.copy):
        assert 0 < times.low <= times.median <= times.high
    assert composed.beyond > fused.beyond > 0


@needs_caffe
def test_the_normalized_net_agrees_with_the_fused_loss_on_its_units(
    caffe: build.Caffe, program: Path, tmp_path: Path
) -> None:
    (subject,) = (subject for subject in bench.subjects(quick=True) if subject.title == bench.NORMALIZED)
    run = measured(caffe, program, subject, tmp_path, (4, 8))
    assert [net.net for net in run.nets] == [bench.COMPOSED, bench.FUSED, bench.NATIVE, bench.MIXED]
    assert [net.layers for net in run.nets[1:]] == [1, 1, 10]


@needs_caffe
@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("grad_x_pos = -u", "grad_x_pos = u", "the gradients are"),
        ("a / b", "a / (b - b)", "the gradients are"),  # infinity
        ("T(2) * s * s", "T(2.0001) * s * s", "the loss is"),
    ],
)
def test_what_does_not_agree_is_not_timed(
    caffe: build.Caffe, program: Path, tmp_path: Path, right: str, wrong: str, complaint: str
) -> None:
    product = generate(differentiate("l2", "softmax-mse"), "caffe")
    assert right in product.text(".hpp")
    planted = tuple(replace(file, text=file.text.replace(right, wrong)) for file in product.files)
    with pytest.raises(bench.DisagreementError, match=complaint):
        measured(caffe, program, nets_of(replace(product, files=planted)), tmp_path, (5, 6))


def test_parts_larger_than_the_whole_are_refused() -> None:
    memory = {"caffe": 1, "blobs": 12, "inputs": 6, "allocated": 11}
    said = {"nets": [{"loss": 1.0, "difference": 0.0, "memory": memory}]}
    with pytest.raises(bench.DisagreementError, match="more than the whole"):
        bench.agree([BY_HAND], said)


# ---------------------------------------------------------------- what is written


def test_the_page_has_the_figures_of_the_json(results: Any) -> None:
    assert PAGE.read_text(encoding="utf-8") == bench.page(results)
    assert bench.loaded(json.dumps(asdict(results))) == results


def test_everything_that_is_to_be_measured_was(results: Any) -> None:
    wanted = {(s.title, shape, tuple(n.name for n in s.nets)) for s in bench.subjects() for shape in s.shapes}
    assert {(r.subject, (r.rows, r.dim), tuple(n.net for n in r.nets)) for r in results.runs} == wanted


def test_a_missed_aim_is_listed(results: Any) -> None:
    run = results.of(bench.MAIN, results.blases[0])[0]
    first, fused, _ = run.nets
    fast, slow = (replace(fused, ratio=bench.Quartiles(ratio, ratio, ratio)) for ratio in (3.01, 2.99))

    def missed(net: Any) -> list[str]:
        found: list[str] = bench.shortfalls(bench.Results({}, (replace(run, nets=(first, net)),)))
        return found

    assert missed(fast) == []
    (line,) = missed(slow)
    assert "fused: 2.99 times faster" in line
    large = replace(fast, memory=replace(fast.memory, allocated=first.memory.allocated))
    (line,) = missed(large)
    assert "1.00 times less memory" in line


def test_tables_line_up_and_are_markdown(results: Any) -> None:
    for lines in (bench.memory_table(results), bench.time_table(results, results.blases[0])):
        assert len({len(line) for line in lines}) == 1
        assert len({tuple(at.start() for at in re.finditer(r"\|", line)) for line in lines}) == 1


def test_the_plot_has_the_same_bytes_twice(results: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bench.plot(results, tmp_path / name)
    drawn = [(tmp_path / name / "caffe.svg").read_bytes() for name in ("a", "b")]
    assert drawn[0] == drawn[1]
    assert b"<dc:date>" not in drawn[0]


def test_the_page_can_be_written_anew_without_caffe(tmp_path: Path) -> None:
    (tmp_path / "caffe.json").write_bytes(PAGE.with_suffix(".json").read_bytes())
    done = CliRunner().invoke(bench.main, ["--page-only", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "caffe.md").read_bytes() == PAGE.read_bytes()
