"""Parity modes: generated code against the libraries themselves, and what is said about them.

The libraries are real where they can be installed; `WRITTEN` says the same by hand, so that much is known without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import sympy as sp
from click.testing import CliRunner, Result

from derive_triplet import PARITY, Mode, Product, StepError, UsageError, differentiate, generate, verify
from derive_triplet.cli import main
from derive_triplet.derive import regenerate
from derive_triplet.derive.api import product_of
from derive_triplet.derive.functions import select
from derive_triplet.derive.highprecision import objective_value
from derive_triplet.derive.latex import to_latex
from derive_triplet.derive.properties import find_kinks
from derive_triplet.derive.requests import requests_for
from derive_triplet.derive.targets.cpp import CppPrinter
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.text import table, to_text
from derive_triplet.derive.verify.reference import reference

Array = npt.NDArray[np.floating[Any]]
Results = tuple[Array, Sequence[Array]]
"""The loss of each row, and the gradients of x, x_pos and x_neg."""
Computed = Callable[..., Results]

ROOT = Path(__file__).parents[1]
MODES = tuple(PARITY)
LIBRARIES = {"torch": "torch", "torch-swap": "torch", "optax": "optax"}
REAL = [pytest.param(mode, marks=pytest.mark.needs(tool)) for mode, tool in LIBRARIES.items()]
BOUNDS = {"float64": 1e-12, "float32": 8 * float(np.finfo(np.float32).eps)}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


# ---------------------------------------------------------------- the libraries


def of_torch(x: Array, x_pos: Array, x_neg: Array, margin: float = 1.0, *, swap: bool) -> Results:
    import torch

    leaves: list[Any] = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, x_pos, x_neg)]
    function = torch.nn.functional.triplet_margin_loss
    loss = function(*leaves, margin=margin, swap=swap, reduction="none")
    loss.sum().backward()
    return loss.detach().numpy(), [leaf.grad.numpy() for leaf in leaves]


def of_optax(x: Array, x_pos: Array, x_neg: Array, margin: float = 1.0) -> Results:
    import jax
    import optax

    with jax.enable_x64(True):

        def total(*embeddings: Any) -> Any:
            return optax.losses.triplet_margin_loss(*embeddings, margin=margin).sum()

        gradients = jax.grad(total, argnums=(0, 1, 2))(x, x_pos, x_neg)
        loss = optax.losses.triplet_margin_loss(x, x_pos, x_neg, margin=margin)
        return np.asarray(loss), [np.asarray(gradient) for gradient in gradients]


LIBRARY: dict[str, Computed] = {
    "torch": lambda *given: of_torch(*given, swap=False),
    "torch-swap": lambda *given: of_torch(*given, swap=True),
    "optax": of_optax,
}


# ---------------------------------------------------------------- the same by hand


def torch_distance(x: Array, y: Array) -> tuple[Array, Array]:
    """The distance of rows, and its gradient in x."""
    shifted = x - y + 1e-6
    d = np.sqrt(np.sum(shifted**2, axis=1))
    return d, shifted / d[:, None]


def optax_distance(x: Array, y: Array) -> tuple[Array, Array]:
    d = np.sqrt(np.sum((x - y) ** 2, axis=1) + 1e-6)
    return d, (x - y) / d[:, None]


def lua_distance(x: Array, y: Array) -> tuple[Array, Array]:
    """nn.PairwiseDistance(2), whose gradient is divided by d + 1e-6."""
    d = np.sqrt(np.sum((x - y) ** 2, axis=1))
    return d, (x - y) / (d + 1e-6)[:, None]


def by_torch(x: Array, x_pos: Array, x_neg: Array, margin: float = 1.0) -> Results:
    (d_pos, to_pos), (d_neg, to_neg) = torch_distance(x, x_pos), torch_distance(x, x_neg)
    slope = np.where(margin + d_pos - d_neg >= 0, 1.0, 0.0)[:, None]
    loss = np.maximum(margin + d_pos - d_neg, 0)
    return loss, [slope * (to_pos - to_neg), -slope * to_pos, slope * to_neg]


def by_torch_swap(x: Array, x_pos: Array, x_neg: Array, margin: float = 1.0) -> Results:
    (d_pos, to_pos), (d_neg, to_neg) = torch_distance(x, x_pos), torch_distance(x, x_neg)
    d_swap, to_swap = torch_distance(x_pos, x_neg)
    near = np.minimum(d_neg, d_swap)
    slope = np.where(margin + d_pos - near >= 0, 1.0, 0.0)[:, None]
    share = np.where(d_neg == d_swap, 0.5, np.where(d_neg < d_swap, 1.0, 0.0))[:, None]
    of_x = slope * (to_pos - share * to_neg)
    of_pos = slope * (-to_pos - (1 - share) * to_swap)
    of_neg = slope * (share * to_neg + (1 - share) * to_swap)
    return np.maximum(margin + d_pos - near, 0), [of_x, of_pos, of_neg]


def by_optax(x: Array, x_pos: Array, x_neg: Array, margin: float = 1.0) -> Results:
    (d_pos, to_pos), (d_neg, to_neg) = optax_distance(x, x_pos), optax_distance(x, x_neg)
    z = d_pos - d_neg + margin
    slope = np.where(z > 0, 1.0, np.where(z < 0, 0.0, 0.5))[:, None]
    return np.maximum(z, 0), [slope * (to_pos - to_neg), -slope * to_pos, slope * to_neg]


def by_authors(x: Array, x_pos: Array, x_neg: Array) -> Results:
    """The chain of Torch modules, row by row: MSECriterion averages over the two outputs and the rows."""
    (d_neg, to_neg), (d_pos, to_pos) = lua_distance(x, x_neg), lua_distance(x, x_pos)
    pair, target = np.stack([d_neg, d_pos], axis=1), np.array([1.0, 0.0])
    exponentials = np.exp(pair - pair.max(axis=1, keepdims=True))
    output = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = np.mean((output - target) ** 2, axis=1)
    upstream = 2 * (output - target) / 2
    of_pair = output * (upstream - np.sum(upstream * output, axis=1, keepdims=True))
    of_neg, of_pos = (column[:, None] for column in of_pair.T)
    return loss, [of_pos * to_pos + of_neg * to_neg, -of_pos * to_pos, -of_neg * to_neg]


WRITTEN: dict[str, Computed] = {
    "torch": by_torch,
    "torch-swap": by_torch_swap,
    "optax": by_optax,
    "authors": by_authors,
}


# ---------------------------------------------------------------- ours


@cache
def product(mode: str) -> Product:
    return generate(differentiate(PARITY[mode].objective), "numpy")


def ours(mode: str, *given: Any, text: str = "") -> Results:
    """What the generated module computes, or what `text` does in its place."""
    (file,) = product(mode).files
    made = load(replace(product(mode), files=(replace(file, text=text or file.text),)))
    margin = {"margin": given[3]} if len(given) > 3 else {}
    found: Results = made.value_and_grad(*given[:3], reduction="none", **margin)
    return found


def batch(dtype: str, rows: int = 16, dim: int = 12) -> list[Array]:
    random = np.random.default_rng(0)
    return [random.uniform(-1, 1, (rows, dim)).astype(dtype) for _ in range(3)]


def difference(found: Results, wanted: Results) -> float:
    """The largest of all numbers, relative to the largest of its row or to 1, whatever is larger."""
    worst = 0.0
    for a, b in zip((found[0][:, None], *found[1]), (wanted[0][:, None], *wanted[1]), strict=True):
        assert a.shape == b.shape
        size = np.maximum(np.max(np.abs(b), axis=1, keepdims=True), 1)
        error = np.abs(a.astype(np.float64) - b) / size
        worst = max(worst, float(np.max(np.where(np.isnan(error), np.inf, error))))
    return worst


def coincident(dtype: str) -> list[list[Array]]:
    """x = x_pos, x = x_neg, x_pos = x_neg, and all three."""
    x, other, _ = batch(dtype, rows=3)
    return [[x, x, other], [x, other, x], [x, other, other], [x, x, x]]


def on_the_kink(dtype: str) -> list[Any]:
    """d_pos - d_neg + margin = 0 to the last bit: 1e-6 is nothing beside distances that are so large."""
    size = 2.0**40
    x, x_pos, x_neg = (np.array([[at]], dtype) for at in (0.0, size, -2 * size))
    return [x, x_pos, x_neg, size]


# ---------------------------------------------------------------- they agree


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("mode", REAL)
class TestAgainstTheLibrary:
    def test_ordinary_rows(self, mode: str, dtype: str) -> None:
        for margin in (1.0, 0.25, 3.0):
            given = (*batch(dtype), margin)
            assert difference(ours(mode, *given), LIBRARY[mode](*given)) <= BOUNDS[dtype]

    def test_coincident_points(self, mode: str, dtype: str) -> None:
        for given in coincident(dtype):
            assert difference(ours(mode, *given), LIBRARY[mode](*given)) <= BOUNDS[dtype]

    def test_the_slope_at_the_kink(self, mode: str, dtype: str) -> None:
        given = on_the_kink(dtype)
        (loss, gradients), wanted = ours(mode, *given), LIBRARY[mode](*given)
        assert loss == 0
        assert abs(gradients[1][0, 0]) == (0.5 if mode == "optax" else 1)
        assert difference((loss, gradients), wanted) == 0


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "authors"])
def test_what_is_written_by_hand_agrees(mode: str, dtype: str) -> None:
    for given in ([*batch(dtype), 0.5], *coincident(dtype), on_the_kink(dtype)):
        assert difference(ours(mode, *given), WRITTEN[mode](*given)) <= BOUNDS[dtype]


@pytest.mark.parametrize("mode", REAL)
def test_what_is_written_by_hand_is_what_the_library_does(mode: str) -> None:
    for given in ([*batch("float64"), 0.5], *coincident("float64"), on_the_kink("float64")):
        assert difference(WRITTEN[mode](*given), LIBRARY[mode](*given)) <= 1e-12


def test_the_authors_code_has_the_same_loss_and_gradients_but_for_its_1e_6() -> None:
    given = batch("float64")
    (loss, gradients), (wanted, theirs) = ours("authors", *given), by_authors(*given)
    assert np.max(np.abs(loss - wanted)) <= 1e-15
    # each of the two parts of a gradient is theirs times 1 + 1e-6/d
    for other, mine, written in zip(given[1:], gradients[1:], theirs[1:], strict=True):
        d = np.sqrt(np.sum((given[0] - other) ** 2, axis=1, keepdims=True))
        assert np.allclose(mine, written * (1 + 1e-6 / d), rtol=1e-12, atol=0)
        assert np.max(np.abs(mine / written - 1)) <= 1e-6 / np.min(d) * 1.001
    assert np.max(np.abs(sum(gradients))) <= 1e-15


def test_the_authors_loss_is_half_of_ours() -> None:
    given = batch("float64")
    paper = load(generate(differentiate(PARITY["authors"].ours), "numpy"))
    loss, gradients = paper.value_and_grad(*given, reduction="none")
    half_loss, half_gradients = ours("authors", *given)
    assert np.allclose(2 * half_loss, loss, rtol=1e-15, atol=0)
    assert all(np.allclose(2 * half, g, rtol=1e-14, atol=0) for half, g in zip(half_gradients, gradients, strict=True))


# ---------------------------------------------------------------- and where they do not, it is seen

PLANTED = [
    pytest.param("torch", "1e-6", "-1e-6", id="the shift's sign"),
    pytest.param("torch", "1e-6", "1e-7", id="the shift's size"),
    pytest.param("torch", "np.subtract(x, x_pos", "np.subtract(x_pos, x", id="the order of the pair"),
    pytest.param("torch", "np.heaviside(t1, 0.0)", "np.heaviside(t1, 1.0)", id="the kink"),
    pytest.param("torch-swap", "_select(t0, d_swap, d_neg / 2 + d_swap / 2)", "d_neg", id="no swap"),
    pytest.param("torch-swap", "1 / 2", "1", id="a tie"),
    pytest.param("torch-swap", "1e-6 - w", "1e-6 + w", id="the order of the swapped pair"),
    pytest.param("optax", "1e-6", "1e-7", id="epsilon"),
    pytest.param("optax", "1 / 2", "1 / 4", id="the slope"),
    pytest.param("authors", "loss = s * s", "loss = 2 * s * s", id="the factor 2"),
]


@pytest.mark.parametrize(("mode", "right", "wrong"), PLANTED)
def test_planted_errors_are_seen(mode: str, right: str, wrong: str) -> None:
    (file,) = product(mode).files
    code, planted = (file.text[file.text.index("def _row") :] for _ in range(2))
    planted = file.text.replace(code, code.replace(right, wrong))
    assert planted != file.text
    points = [batch("float64"), *coincident("float64")]
    if mode != "authors":
        points.append(on_the_kink("float64"))
    worst = max(difference(ours(mode, *given, text=planted), WRITTEN[mode](*given)) for given in points)
    assert worst > 1e-7 > BOUNDS["float64"]


# ---------------------------------------------------------------- the tool


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", ["numpy", "latex"])
def test_every_mode_is_verified_as_any_loss_is(mode: str, target: str) -> None:
    report = verify(generate(differentiate(PARITY[mode].objective), target))
    assert report.passed, str(report)


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize("mode", ["torch", "torch-swap"])
def test_the_kernels_of_a_distance_that_is_not_0_and_of_a_third_distance_are_run(mode: str) -> None:
    report = verify(generate(differentiate(PARITY[mode].objective), "cuda"))
    assert report.passed, str(report)
    assert any("of 8196 components" in check.regime for check in report.checks)


@pytest.mark.needs("nvrtc")
def test_kernels_that_add_numbers_take_the_registers_that_they_need() -> None:
    from derive_triplet.derive.launches import qualified
    from derive_triplet.derive.verify import nvrtc

    made = generate(differentiate(PARITY["torch"].objective), "cuda", dtypes=["float32"])
    kernel = qualified(made.objective.stem, "forward_backward<Warp, float, 4, 8>")
    header = made.text(".cuh")
    (usage,) = nvrtc.compile_source(header, "sm_100", [kernel]).usage
    assert usage.spilled_bytes == 0
    (usage,) = nvrtc.compile_source(header.replace(" && N < 8 ?", " ?"), "sm_100", [kernel]).usage
    assert usage.spilled_bytes > 0


@pytest.mark.needs("nvrtc")
def test_a_component_that_is_0_in_all_embeddings_is_judged_where_it_has_a_distance() -> None:
    from derive_triplet.derive.targets.cuda import CudaTarget

    made = generate(differentiate(PARITY["torch"].objective), "cuda", dtypes=["float32"])
    header = next(file for file in made.files if file.path.endswith(".cuh"))
    text = header.text.replace("(v + T(1e-6))", "(v + T(v ? 1e-6 : 0.0))")
    assert text != header.text
    wrong = replace(made, files=tuple(replace(f, text=text) if f is header else f for f in made.files))
    failed = {check.regime for check in CudaTarget().verify(wrong).checks if not (check.worst <= check.bound)}
    assert any("of 8196 components" in regime for regime in failed)


def test_a_command_generates_and_checks_a_mode(tmp_path: Path) -> None:
    root = str(tmp_path)
    made = run("--like", "torch", "--like", "torch-swap", "--margin", "0.5", "-o", root, "--no-verify")
    assert made.exit_code == 0, made.output
    text = (tmp_path / "numpy" / "triplet_like_torch_swap.py").read_text()
    assert "derive-triplet --like torch-swap --target numpy --margin 0.5\n" in text
    assert "as PyTorch 2.13 computes it" in text
    assert run("--check", "-o", root).exit_code == 0
    assert run("--check", "--like", "torch", "--margin", "0.5", "-o", root).exit_code == 0
    (tmp_path / "numpy" / "triplet_like_torch.py").write_text(text)
    drifted = run("--check", "-o", root)
    assert drifted.exit_code == 1
    assert f"derive-triplet --like torch --target numpy --margin 0.5 -o {root}" in drifted.output


def test_modes_are_left_alone_by_a_check_of_everything_else(tmp_path: Path) -> None:
    assert run("--like", "authors", "-o", str(tmp_path), "--no-verify").exit_code == 0
    assert run("--loss", "all", "--norm", "all", "-o", str(tmp_path), "--no-verify").exit_code == 0
    (entry,) = (e for e in json.loads((tmp_path / "manifest.json").read_text())["products"] if "like" in e)
    assert entry["like"] == "authors"
    requests = requests_for(["all"], ["all"], ["numpy"])
    drift = regenerate.check((product_of(request) for request in requests), tmp_path, complete=True)
    assert drift == []


def test_all_modes_are_requested_by_all() -> None:
    assert [request.objective.like for request in requests_for((), (), ["numpy"], modes=["all"])] == list(MODES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--norm", "l2"], "does not go with --norm"),
        (["--loss", "hinge"], "does not go with --loss"),
        (["--loss", "d_pos - d_neg", "--name", "mine"], "does not go with --loss"),
        (["--normalize"], "takes embeddings as they are"),
        (["--temperature", "2"], "no chosen loss has a temperature"),
        (["--margin", "0"], "margin must be a finite positive number"),
    ],
)
def test_what_does_not_go_with_a_mode_is_refused_in_one_line(options: list[str], said: str) -> None:
    result = run("--like", "torch", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_name_that_is_unknown_is_answered_with_the_closest() -> None:
    result = run("--like", "pytorch")
    assert result.exit_code == 2
    assert result.stderr == "Error: no parity mode is called 'pytorch'; did you mean 'torch'?\n"
    with pytest.raises(UsageError, match="takes embeddings as they are"):
        replace(PARITY["torch"].objective, normalize=True)


def test_layers_that_caffe_does_not_have_are_refused() -> None:
    result = run("--like", "torch-swap", "--target", "prototxt", "--no-verify")
    assert result.exit_code == 2
    assert "Caffe has no layer for" in result.stderr
    assert result.stderr.count("\n") == 1


# ---------------------------------------------------------------- what it takes


@pytest.mark.parametrize("mode", ["torch", "torch-swap"])
def test_the_reference_is_the_derivative_of_the_definition(mode: str) -> None:
    of = PARITY[mode].objective
    rows = {"x": [0.5, -0.25], "x_pos": [0.75, 0.125], "x_neg": [1.0, -0.5]}
    exact = reference(of, *rows.values(), {"margin": 1.0})
    with mpmath.workdps(60):
        at = {name: [mpmath.mpf(c) for c in row] for name, row in rows.items()}
        assert abs(exact.loss.value[0] - objective_value(of, **at, parameters={})) < 1e-30
        h = mpmath.mpf(10) ** -20
        for name, row in at.items():
            for k in range(2):
                ahead, behind = (
                    objective_value(
                        of, **{**at, name: [c + s * h * (i == k) for i, c in enumerate(row)]}, parameters={}
                    )
                    for s in (1, -1)
                )
                assert abs(exact.gradients[name].value[k] - (ahead - behind) / (2 * h)) < 1e-25


def test_the_last_component_of_a_reference_may_stand_for_several() -> None:
    of, rows = PARITY["torch-swap"].objective, ([0.5, 0.25], [0.75, 0.5], [1.0, -0.5])
    one = reference(of, *rows, {"margin": 1.0}, copies=3)
    all_of_them = reference(of, *([*row, row[-1], row[-1]] for row in rows), {"margin": 1.0})
    assert abs(one.loss.value[0] - all_of_them.loss.value[0]) < 1e-30
    for name, exact in one.gradients.items():
        wanted = all_of_them.gradients[name].value
        assert max(abs(a - b) for a, b in zip([*exact.value, exact.value[-1]], wanted[:3], strict=True)) < 1e-30


def test_a_cone_point_that_is_elsewhere_is_refused() -> None:
    of = PARITY["torch"].objective
    (singularity,) = of.distance.singularities
    assert [kink.where for kink in find_kinks(of)][:2] == ["x_pos = x + 1e-6", "x_neg = x + 1e-6"]
    wrong = replace(of.distance, singularities=(replace(singularity, apart="0"),))
    with pytest.raises(StepError, match="it is smooth"):
        find_kinks(replace(of, distance=wrong))


def test_powers_of_ten_are_written_as_such_and_stay_in_their_sums() -> None:
    gradient = differentiate(PARITY["torch"].objective).distance.gradients["x"].result
    assert to_text(gradient) == "(x[k] + 1e-6 - y[k])/d"
    assert to_latex(gradient) == r"\frac{x_{k} + 10^{-6} - y_{k}}{d}"
    small = sp.Rational(3, 10**5)
    assert (to_text(small), CppPrinter()(small), to_latex(-small)) == ("3e-5", "T(3e-5)", r"-3 \cdot 10^{-5}")
    assert to_text(sp.Rational(1, 1000)) == "1/1000"


def test_a_selection_of_negative_numbers_is_minus_one_of_positive_numbers() -> None:
    z = sp.Symbol("z", real=True)
    assert select(z, 0, -1) == -select(z, 0, 1)
    assert select(z, sp.Rational(-1, 2), -select(-z, 0, 1)) == -select(z, sp.S.Half, select(-z, 0, 1))
    assert select(z, 1, -1).func is select


# ---------------------------------------------------------------- what is said

PAGE = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", PARITY.values(), ids=MODES)
def test_the_page_says_what_the_catalogue_says(mode: Mode) -> None:
    section = PAGE.partition(f"## `{mode.name}`")[2].partition("\n## ")[0]
    words = " ".join(section.split())
    assert mode.call in words
    assert f"derive-triplet --like {mode.name}" in section
    for what, why in mode.differs:
        assert " ".join(f"| {what} | {why} |".split()) in words
    assert f"`{mode.name}`" in PAGE.partition("\n## ")[0]


def test_a_list_shows_the_modes() -> None:
    listed = json.loads(run("--list", "--json").stdout)
    assert list(listed["parity modes"]) == list(MODES)
    assert listed["parity modes"]["torch"].endswith(", PyTorch 2.13; --margin [1.0]")
    assert all(mode.title in run("--list").stdout for mode in PARITY.values())


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("mode", REAL)
def test_the_page_shows_what_is_measured(mode: str, dtype: str) -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{mode}` |"))
    shown = float(row.split("|")[4 + list(BOUNDS).index(dtype)])
    points = [[*batch(dtype), 1.0], *coincident(dtype), on_the_kink(dtype)]
    assert max(difference(ours(mode, *given), LIBRARY[mode](*given)) for given in points) <= shown <= BOUNDS[dtype]


def test_long_formulas_are_broken_before_terms_and_behind_factors() -> None:
    lines = table([("L", " + ".join(["f(a + b)"] * 16)), ("d", "*".join(["g(x - y)"] * 16))])
    assert max(map(len, lines)) <= 113
    assert [line[:5] for line in lines] == ["L = f", "    +", "d = g", "    g"]
    assert "".join(line[4:] for line in lines[2:]) == "*".join(["g(x - y)"] * 16)
    for mode in PARITY.values():
        for target in ("numpy", "cuda", "caffe"):
            made = generate(differentiate(mode.objective), target)
            assert max(len(line) for file in made.files for line in file.text.splitlines()) <= 120
