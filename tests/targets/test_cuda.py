"""The generated CUDA, as far as a machine without a GPU can tell: compiled, linked, and its mathematics, which is
ordinary C++, executed on the CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from objectives import COVER

from derive_triplet import LOSSES, Objective, Product, differentiate, generate, verify
from derive_triplet import objective as named
from derive_triplet.derive.launches import FLOAT_TYPES, kernels, qualified
from derive_triplet.derive.rescale import rescale
from derive_triplet.derive.verify import compiled, nvcc, nvrtc
from derive_triplet.derive.verify.checks import Runner, run_checks

OBJECTIVES = list(COVER)
# compiling takes seconds for each objective; these differ the most, in weights and in parameters
ON_ALL_ARCHITECTURES = [("l2", "softmax-mse")]
LAUNCHED = [*ON_ALL_ARCHITECTURES, ("l2", "softmax-nll")]
NEWEST = 100

SCALARS = {"float32": "float", "float64": "double"}
KINDS = ("forward", "backward", "forward_backward", "reduce", "active")

needs_nvrtc, needs_nvcc = pytest.mark.needs("nvrtc"), pytest.mark.needs("nvcc")


def made(norm: str, loss: str, **options: Any) -> Product:
    return generate(differentiate(norm, loss), "cuda", **options)


def names_of(product: Product, dtypes: Sequence[str] = ()) -> list[str]:
    there = kernels(dtypes or product.settings.dtypes)
    return [qualified(product.objective.stem, kernel) for kernel in there]


def offered() -> list[str]:
    return [name for name in nvrtc.architectures() if int(name.removeprefix("sm_")) <= NEWEST]


# ---------------------------------------------------------------- compiled by NVRTC


@needs_nvrtc
@pytest.mark.parametrize(("norm", "loss"), ON_ALL_ARCHITECTURES)
def test_every_architecture_compiles_without_warnings_or_spills(
    norm: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvcc, "find", lambda: None)  # it has a test of its own
    report = verify(made(norm, loss, dtypes=FLOAT_TYPES), thorough=True)
    assert report.passed, str(report)
    assert report.level == f"run, PTX on the CPU (NVRTC {nvrtc.version()}: {', '.join(offered())})"
    compiled = {(check.regime, check.dtype) for check in report.checks if check.name == "kernels compiled"}
    assert compiled == set(itertools.product(offered(), FLOAT_TYPES))


@needs_nvrtc
@pytest.mark.parametrize(("norm", "loss"), [pair for pair in OBJECTIVES if pair not in ON_ALL_ARCHITECTURES])
def test_the_oldest_and_the_newest_architecture_compile_without_warnings_or_spills(norm: str, loss: str) -> None:
    """Each of them has a type of 16 bits, whose rows take the most registers, and one of the others.

    That an architecture treats types differently is seen on all architectures of the objective above.
    """
    product = made(norm, loss, dtypes=FLOAT_TYPES)
    oldest, *_, newest = offered()
    pairs = [(oldest, "float64"), (oldest, "float16"), (newest, "float32"), (newest, "bfloat16")]
    assert {dtype for _, dtype in pairs} == {*FLOAT_TYPES}

    def compiled_for(pair: tuple[str, str]) -> tuple[list[str], nvrtc.Compiled]:
        names = names_of(product, [pair[1]])
        return names, nvrtc.compile_source(product.text(".cuh"), pair[0], names)

    with ThreadPoolExecutor() as pool:
        for names, found in pool.map(compiled_for, pairs):
            assert found.warnings == ()
            assert {kernel.name: kernel.spilled_bytes for kernel in found.usage} == dict.fromkeys(names, 0)


@pytest.mark.parametrize(
    "dtypes", [["float32"], ["float64"], ["float16"], ["bfloat16"], ["float32", "float64"], list(FLOAT_TYPES)]
)
def test_only_the_float_types_asked_for_are_instantiated(dtypes: list[str]) -> None:
    product = made("l2", "hinge", dtypes=dtypes)
    types = [FLOAT_TYPES[dtype] for dtype in dtypes]
    rows = [name for name in names_of(product) if not re.search("::(reduce|active)<", name)]
    storage = {re.split(", ", name)[1].rstrip(">").rpartition("::")[2] for name in rows}
    assert storage == {scalar.storage for scalar in types}
    for suffix in (".cuh", ".cu"):
        text = product.text(suffix)
        launchers = re.findall(rf"cudaError_t {product.objective.stem}_[a-z_]+_(\w+)\(", text)
        assert sorted(launchers) == sorted(6 * [scalar.suffix for scalar in types])
        for scalar in FLOAT_TYPES.values():
            if scalar.storage != scalar.argument:  # a type that only these launchers take
                assert bool(re.search(rf"\b{scalar.argument}\b", text)) == (scalar in types)
                assert bool(re.search(rf"\b{scalar.storage}\b", text)) == (scalar in types)


def test_the_source_knows_every_dimension_and_its_size_does_not_depend_on_it() -> None:
    for norm, loss in OBJECTIVES:
        for file in made(norm, loss).files:
            assert len(file.text.splitlines()) < 1300
            assert "long long dim" in file.text


@pytest.mark.parametrize(
    ("chosen", "fit"),
    [
        (named("l2", "hinge"), True),
        (named("l2-squared", "hinge"), True),
        (named("l2-smooth", "hinge"), False),  # a hypotenuse
        (named("linf", "hinge"), False),  # a second stage
        (named(like="torch"), False),  # a number that is added to components
    ],
    ids=lambda chosen: getattr(chosen, "stem", ""),
)
def test_two_blocks_of_the_longest_rows_fit_on_a_multiprocessor_where_registers_allow(
    chosen: Objective, fit: bool
) -> None:
    header = generate(differentiate(chosen), "cuda").text(".cuh")
    assert ("blocks fit on a multiprocessor, but for the longest rows" not in header) is fit


@pytest.mark.parametrize(("loss", "parameter"), [("softmax-mse", "temperature"), ("hinge", "margin")])
def test_the_defaults_of_the_parameters_are_in_the_code(loss: str, parameter: str) -> None:
    header = made("l2", loss, parameters={parameter: 0.625}).text(".cuh").partition("#pragma once")[2]
    assert f"    T {parameter} = T(0.625);  // " in header
    standard = made("l2", loss).text(".cuh").partition("#pragma once")[2]
    assert header.replace("T(0.625)", f"T({LOSSES[loss].parameters[0].default})") == standard


@needs_nvrtc
@pytest.mark.parametrize("thorough", [False, True], ids=["in PTX", "in machine code"])
def test_a_kernel_that_the_compiler_does_not_report_fails(thorough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    oldest, compile_source = nvrtc.architectures()[:1], nvrtc.compile_source

    def without_one(*arguments: Any) -> nvrtc.Compiled:
        found = compile_source(*arguments)
        assert found.has_machine_code == thorough
        if thorough:
            return dataclasses.replace(found, usage=found.usage[1:])
        return dataclasses.replace(found, ptx=found.ptx.replace(".entry", "", 1))

    monkeypatch.setattr(nvcc, "find", lambda: None)
    monkeypatch.setattr(nvrtc, "architectures", lambda: oldest)
    monkeypatch.setattr(compiled, "kernels_to_execute", lambda dtype, depth: kernels([dtype])[:2])
    monkeypatch.setattr(compiled, "_executed", lambda *arguments: [])
    product = made("l2", "hinge", dtypes=["float32"])
    assert verify(product, thorough=thorough).passed
    monkeypatch.setattr(nvrtc, "compile_source", without_one)
    assert {check.name for check in verify(product, thorough=thorough).failures} == {"kernels compiled"}


# ---------------------------------------------------------------- built by nvcc


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All generated files of all objectives."""
    folder = tmp_path_factory.mktemp("cuda")
    for norm, loss in OBJECTIVES:
        write(made(norm, loss), folder)
    return folder


def write(product: Product, folder: Path) -> None:
    for file in product.files:
        (folder / Path(file.path).name).write_text(file.text, encoding="utf-8")


def build(folder: Path, name: str, *arguments: str) -> ctypes.CDLL:
    """A shared library from sources in `folder`; unoptimised, because only the host's part is executed."""
    compiler = nvcc.find()
    assert compiler is not None
    options = ["-std=c++17", "-arch=compute_80", "-Xcicc=-O0", "--threads=0", "-shared", "-Xcompiler=-fPIC"]
    command = [compiler, *options, *nvcc.WARNINGS_AS_ERRORS, *arguments, "-o", f"{name}.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / f"{name}.so"))


@needs_nvcc
def test_launchers_of_several_objectives_have_c_names_and_share_a_program(folder: Path) -> None:
    """With a static CUDA runtime, so that it loads without a driver."""
    stems = [made(norm, loss).objective.stem for norm, loss in LAUNCHED]
    library = build(folder, "launchers", "--cudart=static", *(f"{stem}.cu" for stem in stems))
    for stem, kind, suffix in itertools.product(stems, KINDS, ("f32", "f64")):
        assert hasattr(library, f"{stem}_{kind}_{suffix}")
    assert not hasattr(library, "triplet_hinge_l2_forward_f32")


@needs_nvcc
def test_nvcc_compiles_for_all_major_architectures_without_warnings() -> None:
    assert nvcc.errors(made("l2", "softmax-nll", dtypes=["bfloat16"]).files) == ""


# ---------------------------------------------------------------- the mathematics of a row, on the CPU

ON_THE_CPU = """
extern "C" void {stem}_{type}(const {type}* x, const {type}* x_pos, const {type}* x_neg, int dim,
                              const {type}* p, {type}* loss, {type}* a, {type}* b, {type}* c) {{
    using namespace {stem};
    Row<{type}> row{{}};
    Scales<{type}> scale = unscaled<{type}>();
    const Parameters<{type}> parameters{{{parameters}}};
{stages}
    *loss = row.loss;
    for (int k = 0; k < dim; ++k) gradient(row, scale, x[k], x_pos[k], x_neg[k], a[k], b[k], c[k]);
}}
"""
STAGE = """
    Sums{number}<{type}> sums{number};
    do {{
        sums{number} = {{}};
        for (int k = 0; k < dim; ++k) accumulate(sums{number}, row, scale, x[k], x_pos[k], x_neg[k]);
    }} while (leave_the_range(sums{number}, scale));
    evaluate(sums{number}, scale, parameters, row);
"""


def function_of_a_row(product: Product, scalar: str) -> str:
    """A C function around those of a header: the loss and the gradients of one row."""
    count = len(product.kernel.stages)
    numbers = range(1, count + 1) if count > 1 else ("",)
    stages = "".join(STAGE.format(type=scalar, number=number) for number in numbers)
    parameters = ", ".join(f"p[{at}]" for at, _ in enumerate(product.objective.parameters))
    return ON_THE_CPU.format(stem=product.objective.stem, type=scalar, stages=stages, parameters=parameters)


def on_the_cpu(folder: Path, products: Sequence[Product]) -> ctypes.CDLL:
    """The functions of the headers, behind a C interface, all in one translation unit of ordinary C++."""
    lines = [f'#include "{product.objective.stem}.cuh"' for product in products]
    for product, scalar in itertools.product(products, SCALARS.values()):
        lines.append(function_of_a_row(product, scalar))
    (folder / "rows.cpp").write_text("\n".join(lines))
    return build(folder, "rows", "--cudart=none", "-O2", "rows.cpp")


def cpu_runner(library: ctypes.CDLL, product: Product) -> Runner:
    def run(
        x: Any, x_pos: Any, x_neg: Any, parameters: Mapping[str, float], reduction: str = "none"
    ) -> tuple[Any, list[Any]]:
        scalar = SCALARS[x.dtype.name]
        function = getattr(library, f"{product.objective.stem}_{scalar}")
        loss, gradients = np.empty(len(x), x.dtype), [np.empty_like(x) for _ in range(3)]
        values = np.array([parameters[p.name] for p in product.objective.parameters], x.dtype)
        for row in range(len(x)):
            inputs = [np.ascontiguousarray(e[row]) for e in (x, x_pos, x_neg)]
            outputs = [loss[row:], *(g[row] for g in gradients)]
            address = [ctypes.c_void_p(array.ctypes.data) for array in (*inputs, values, *outputs)]
            function(*address[:3], x.shape[1], *address[3:])
        # batches are the kernels' business: the rows here are only scaled and added up
        factor = x.dtype.type(1 / len(x) if reduction == "mean" else 1)
        return (loss if reduction == "none" else factor * loss.sum()), [factor * g for g in gradients]

    return run


def failures(run: Runner, product: Product) -> list[Any]:
    defaults = {p.name: p.default for p in product.objective.parameters}
    full_range = rescale(product.kernel).full_range
    invariant = product.derivation.translation_invariant
    # a long row is a matter of the kernels: here its components are added up one by one
    checks = run_checks(product.objective, run, list(SCALARS), defaults, invariant, dims=(), full_range=full_range)
    return [check for check in checks if not check.passed]


@pytest.fixture(scope="module")
def rows(folder: Path) -> Iterator[ctypes.CDLL]:
    yield on_the_cpu(folder, [made(norm, loss) for norm, loss in OBJECTIVES])


@needs_nvcc
@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_the_mathematics_of_a_row_agrees_with_the_reference(rows: ctypes.CDLL, norm: str, loss: str) -> None:
    product = made(norm, loss)
    assert failures(cpu_runner(rows, product), product) == []


@needs_nvcc
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("grad_x_pos = -u", "grad_x_pos = u"),
        ("b == T(0) ? T(0) : a / b", "a / b"),
        ("const T q = sigmoid(-z)", "const T q = T(1) - s"),
        ("z >= T(0) ? T(1) : t", "T(1)"),
        ("T(4) * q", "T(2) * q"),
        ("u = scale.sum_pos * (x - x_pos)", "u = scale.sum_pos * (x_pos - x)"),
        # where sums leave the range
        ("u = scale.sum_pos * (x - x_pos)", "u = x - x_pos"),
        ("d_neg / scale.sum_neg", "d_neg"),
        ("8.112963841460668e+31f", "1.4411518807585587e+17f"),
        ("magnitude(sum) <= 1.7976931348623157e+308", "sum == sum"),
        ("1.262177448353619e-29f", "8.67e-19f"),
        ("5.209386275687386e+238", "8.18e+149"),
    ],
)
def test_an_error_in_the_mathematics_of_a_row_is_seen(tmp_path: Path, old: str, new: str) -> None:
    product = made("l2", "softmax-mse")
    write(product, tmp_path)
    (header,) = tmp_path.glob("*.cuh")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new))
    assert failures(cpu_runner(on_the_cpu(tmp_path, [product]), product), product)


@needs_nvcc
@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_a_nan_is_not_hidden(rows: ctypes.CDLL, norm: str, loss: str) -> None:
    run = cpu_runner(rows, product := made(norm, loss))
    for dtype, where in itertools.product(("float32", "float64"), range(3)):
        triplet = [np.array([row], dtype) for row in ([0.0, 0.1], [0.2, 0.3], [0.4, 0.5])]
        triplet[where][0, 1] = np.nan
        found, gradients = run(*triplet, {p.name: p.default for p in product.objective.parameters})
        assert np.isnan(found[0])
        assert all(np.isnan(g).any() for g in gradients)
