"""The command line: what it writes, prints and returns, and how it answers mistakes."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner, Result
from objectives import code_of

from derive_triplet import DISTANCES, LOSSES, PARITY, Check, Product, Report, __version__, differentiate, generate
from derive_triplet.cli import main
from derive_triplet.derive import api
from derive_triplet.derive.targets.base import MARK
from derive_triplet.derive.targets.numpy import NumpyTarget, load
from derive_triplet.derive.targets.registry import targets

TARGETS = tuple(name for name, target in targets().items() if target.in_all)
DEFAULT = Path("generated/numpy/triplet_softmax_mse_l2.py")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    """The command in this process; what would be a traceback for a user is raised."""
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert isinstance(result.exception, SystemExit | None)
    return result


def succeed(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def outcome(*arguments: str) -> dict[str, Any]:
    parsed = json.loads(succeed(*arguments, "--json"))
    assert isinstance(parsed, dict)
    return parsed


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "derive_triplet.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(result: Result) -> str:
    """The single line that answers a mistake of the user."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def written() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


def output_files(norms: Sequence[str], losses: Sequence[str], target_names: Sequence[str]) -> set[str]:
    stems = [f"triplet_{loss}_{norm}".replace("-", "_") for loss in losses for norm in norms]
    patterns = [f"{name}/{pattern}" for name in target_names for pattern in targets()[name].templates.values()]
    if "pdf" in target_names:
        patterns = [pattern for pattern in patterns if not pattern.startswith("pdf/")]
        patterns += ["latex/{stem}.tex", "pdf/{stem}.pdf"]
    return {pattern.format(stem=stem) for pattern in patterns for stem in stems}


def module(path: Path) -> ModuleType:
    found = ModuleType(path.stem)
    exec(path.read_text(), found.__dict__)
    return found


def random_triplet(dtype: str = "float64") -> list[np.ndarray[Any, Any]]:
    return [RNG.normal(size=(4, 3)).astype(dtype) for _ in range(3)]


# ---------------------------------------------------------------- what it does


@pytest.mark.parametrize(
    ("target", "names", "level"),
    [
        pytest.param("numpy", ["{}.py"], "run (NumPy"),
        pytest.param("cuda", ["{}.cuh", "{}.cu"], "run, PTX on the CPU (NVRTC", marks=pytest.mark.needs("nvrtc")),
        pytest.param(
            "caffe",
            ["{}_layer.hpp", "{}_layer.cpp", "{}_layer.cu", "test_{}_layer.cpp"],
            "run (Caffe); ",
            marks=pytest.mark.needs("caffe"),
        ),
    ],
)
def test_main_command_writes_the_files_and_says_what_was_derived_written_and_verified(
    target: str, names: list[str], level: str
) -> None:
    said = succeed("--norm", "l2", "--target", target)
    made = {f"generated/{target}/{name.format('triplet_softmax_mse_l2')}" for name in names}
    assert written() == made | {"generated/manifest.json"}
    assert "softmax-mse on l2" in said
    for formula in ("dL/dx[k]", "dL/dx_pos[k]", "dL/dx_neg[k]"):
        assert re.search(rf"^{re.escape(formula)} += ", said, re.MULTILINE)
    for path in made:
        assert re.search(rf"^written +{path}$", said, re.MULTILINE)
    assert re.search(rf"^verified to level: {re.escape(level)}", said, re.MULTILINE)


def test_defaults_are_the_papers_loss_on_l2_as_numpy_in_generated() -> None:
    succeed("--no-verify")
    assert written() == {DEFAULT.as_posix(), "generated/manifest.json"}


@pytest.mark.parametrize(
    ("options", "norms", "losses", "targets"),
    [
        ("--norm all --loss all --target all", [*DISTANCES], [*LOSSES], [*TARGETS]),
        ("--norm all", [*DISTANCES], ["softmax-mse"], ["numpy"]),
        ("--loss all", ["l2"], [*LOSSES], ["numpy"]),
        ("--target all", ["l2"], ["softmax-mse"], [*TARGETS]),
        ("--loss hinge --loss all", ["l2"], [*LOSSES], ["numpy"]),
        ("--norm l2 --norm l2-squared --loss hinge --loss softmax-nll", ["l2", "l2-squared"], ["hinge", "softmax-nll"],
         ["numpy"]),
        ("--target cuda --target numpy --target cuda", ["l2"], ["softmax-mse"], ["cuda", "numpy"]),
    ],
)  # fmt: skip
def test_options_repeat_and_all_is_a_value_of_each(
    options: str, norms: list[str], losses: list[str], targets: list[str]
) -> None:
    products = outcome(*shlex.split(options), "--no-verify", "-o", "out")["products"]
    expected = output_files(norms, losses, targets)
    assert {file["path"] for product in products for file in product["files"]} == expected
    assert len(products) == len(norms) * len(losses) * len(targets)
    assert written() == {f"out/{path}" for path in expected} | {"out/manifest.json"}


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ("", {"float32", "float64"}),
        ("--dtype all", {"float32", "float64"}),
        ("--dtype float64 --dtype float32", {"float32", "float64"}),
        ("--dtype float32", {"float32"}),
        ("--dtype float64", {"float64"}),
    ],
)
def test_dtype_chooses_what_the_code_accepts(options: str, accepted: set[str]) -> None:
    succeed("--no-verify", *shlex.split(options))
    value = module(DEFAULT).value
    for dtype in ("float32", "float64"):
        if dtype in accepted:
            assert value(*random_triplet(dtype)).dtype == dtype
        else:
            with pytest.raises(TypeError, match=dtype):
                value(*random_triplet(dtype))


@pytest.mark.parametrize(
    ("loss", "parameter", "chosen"), [("softmax-nll", "temperature", 0.25), ("hinge", "margin", 3)]
)
def test_parameter_option_changes_the_default_of_the_code(loss: str, parameter: str, chosen: float) -> None:
    succeed("--no-verify", "--loss", loss, "-o", "standard")
    succeed("--no-verify", "--loss", loss, "-o", "changed", f"--{parameter}", str(chosen))
    name = f"numpy/triplet_{loss}_l2.py".replace("-", "_")
    standard, changed = (module(Path(folder) / name).value for folder in ("standard", "changed"))
    triplet = random_triplet()
    assert changed(*triplet) == standard(*triplet, **{parameter: chosen})
    assert changed(*triplet) != standard(*triplet)


def test_parameter_goes_to_the_losses_that_have_it() -> None:
    products = outcome("--loss", "all", "--margin", "0.5", "--no-verify")["products"]
    assert {product["loss"]: "--margin 0.5" in product["command"] for product in products} == {
        loss: loss == "hinge" for loss in LOSSES
    }


@pytest.mark.parametrize(("options", "thorough"), [([], False), (["--verify"], True)])
def test_verify_option_asks_for_thorough_verification(
    options: list[str], thorough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def verify(self: NumpyTarget, product: Product, thorough: bool = False) -> Report:
        asked.append(thorough)
        return Report("numpy", "rendered")

    monkeypatch.setattr(NumpyTarget, "verify", verify)
    succeed(*options)
    assert asked == [thorough]


def test_no_verify_verifies_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(*_: object) -> NoReturn:
        raise AssertionError("verified")

    monkeypatch.setattr(NumpyTarget, "verify", verify)
    assert "not verified" in succeed("--no-verify")
    assert outcome("--no-verify")["products"][0]["report"] is None
    with pytest.raises(AssertionError, match="verified"):
        run()


def test_second_run_leaves_the_files_alone_and_says_so() -> None:
    succeed("--no-verify")
    before = DEFAULT.stat()
    assert re.search(rf"^unchanged +{DEFAULT}$", succeed("--no-verify"), re.MULTILINE)
    assert (DEFAULT.stat().st_mtime_ns, DEFAULT.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


# ---------------------------------------------------------------- what it prints


@pytest.mark.parametrize("target", ["numpy", "cuda"])
def test_dash_prints_exactly_the_text_to_stdout_and_the_rest_to_stderr(target: str) -> None:
    result = run("--target", target, "-o", "-")
    assert result.exit_code == 0
    files = generate(differentiate("l2"), target).files
    alone = len(files) == 1
    assert result.stdout == "".join(file.text if alone else f"==> {file.path} <==\n{file.text}" for file in files)
    assert "dL/dx[k]" in result.stderr
    assert "verified to level" in result.stderr
    assert written() == set()


def test_what_is_not_text_is_not_printed() -> None:
    said = refused(run("--target", "pdf", "-o", "-"))
    assert "triplet_softmax_mse_l2.pdf is not text and cannot be printed; give a folder with -o DIR" in said


def test_a_reader_that_has_gone_is_no_error() -> None:
    command = [sys.executable, "-m", "derive_triplet.cli", "--no-verify", "--norm", "all", "--loss", "all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_without_an_error_stream_all_is_well() -> None:
    command = [sys.executable, "-c", "import sys; sys.stderr = None; import derive_triplet.cli as c; c.main()"]
    done = subprocess.run([*command, "--no-verify", "-o", "out"], stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert Path("out/numpy/triplet_softmax_mse_l2.py").exists()


def test_a_foreign_file_is_found_before_anything_is_written() -> None:
    foreign = Path("generated/numpy/triplet_hinge_l2.py")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    assert "was not generated by derive-triplet" in refused(run("--loss", "all"))
    assert written() == {"generated/numpy/triplet_hinge_l2.py"}


def test_json_of_a_failure_is_json_for_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check("loss", "", "float32", math.inf, 4.0)
    report = Report("numpy", "run", (check, replace(check, worst=math.nan)))
    monkeypatch.setattr(api, "verify", lambda product, thorough: report)
    result = run("--json")
    assert result.exit_code == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    parsed = json.loads(result.stdout, parse_constant=refuse)
    assert [c["worst"] for c in parsed["products"][0]["report"]["checks"]] == ["inf", "nan"]


def test_json_holds_formulas_files_and_report() -> None:
    parsed = outcome()
    assert parsed["ok"] is True
    (product,) = parsed["products"]
    assert {"dL/dx[k]", "dL/dx_pos[k]", "dL/dx_neg[k]", "L"} <= product["formulas"].keys()
    assert product["files"] == [{"path": "numpy/triplet_softmax_mse_l2.py", "status": "written"}]
    assert DEFAULT.is_file()
    assert product["report"]["passed"] is True
    assert product["report"]["level"].startswith("run (NumPy")
    assert all(check.keys() >= {"regime", "worst", "bound", "passed"} for check in product["report"]["checks"])
    assert len(product["report"]["checks"]) > 10


def test_json_names_a_parity_mode_where_there_is_one() -> None:
    for options, mode in (("--like torch", "torch"), ("", None)):
        (product,) = outcome(*shlex.split(options), "-o", "-", "--no-verify")["products"]
        assert product.get("like") == mode


def test_json_with_dash_holds_the_text() -> None:
    (product,) = outcome("-o", "-", "--no-verify")["products"]
    assert product["files"][0]["text"] == generate(differentiate("l2")).files[0].text
    assert written() == set()


def evaluate(definition: str, **names: Any) -> Any:
    """A definition of the catalogue, as it stands: assignments, then a formula."""
    *assignments, formula = definition.strip().splitlines()
    scope = {**vars(np), "max": max, **names}
    exec("\n".join(line.strip() for line in assignments), scope)
    return eval(formula.strip(), scope)


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize("loss", LOSSES)
def test_printed_formulas_are_the_central_differences_of_the_definition(norm: str, loss: str) -> None:
    (product,) = outcome("--norm", norm, "--loss", loss, "--no-verify")["products"]
    point = {"x": [0.3, -0.7], "x_pos": [0.9, 0.4], "x_neg": [0.6, -1.9]}
    constants = {p.name: p.default for p in (*DISTANCES[norm].parameters, *LOSSES[loss].parameters)}

    def distances(at: dict[str, list[float]]) -> dict[str, Any]:
        x, definition = np.array(at["x"]), DISTANCES[norm].definition
        return {f"d_{to}": evaluate(definition, x=x, y=np.array(at[f"x_{to}"]), **constants) for to in ("pos", "neg")}

    def value(at: dict[str, list[float]]) -> float:
        return float(evaluate(LOSSES[loss].definition, **distances(at), **constants))

    lengths = {name: math.hypot(*components) for name, components in point.items()}
    names: dict[str, Any] = {
        **point,
        **distances(point),
        **constants,
        "exp": math.exp,
        "log": math.log,
        "sign": np.sign,
        "abs": abs,
        **{f"norm_{name}": length for name, length in lengths.items()},
        **{f"unit_{name}": [c / lengths[name] for c in components] for name, components in point.items()},
        "total": lambda term: sum(map(term, range(2))),
    }
    for name, formula in product["formulas"].items():
        if function := re.fullmatch(r"(\w+)\((t|a, m)\)", name):
            names[function[1]] = eval(f"lambda {function[2]}: {code_of(formula)}", names)
        elif name.endswith("[k]"):
            names[name.removesuffix("[k]")] = [eval(code_of(formula), {**names, "k": k}) for k in range(2)]
        elif name and not name.startswith(("d", "unit")):  # the distances are given above, and unit vectors
            names[name] = eval(code_of(formula), names)
    assert names["L"] == pytest.approx(value(point))
    for name, (first, second) in point.items():
        high, low = (value({**point, name: [first, second + h]}) for h in (1e-6, -1e-6))
        slope = (high - low) / 2e-6
        assert abs(slope) > 1e-3  # a wrong sign or factor would be seen
        assert names[f"dL/d{name}"][1] == pytest.approx(slope, rel=1e-7)


def test_list_has_a_line_for_every_norm_loss_and_target() -> None:
    listed = succeed("--list")
    for name, title in [(e.name, e.title) for e in (*DISTANCES.values(), *LOSSES.values())]:
        assert re.search(rf"^ +{name} +{re.escape(title)}", listed, re.MULTILINE)
    for target in TARGETS:
        assert re.search(rf"^ +{target} +\S", listed, re.MULTILINE)
    assert re.search(r"^ +hinge .*--margin \[0\.2\]$", listed, re.MULTILINE)


def test_list_as_json_has_the_same_names() -> None:
    listed = outcome("--list")
    assert {kind: [*names] for kind, names in listed.items()} == {
        "norms": [*DISTANCES],
        "losses": [*LOSSES],
        "parity modes": [*PARITY],
        "targets": [*targets()],
    }


def test_version_is_that_of_the_package() -> None:
    assert __version__ in succeed("--version")


def test_examples_of_the_help_run() -> None:
    examples = re.findall(r"^ +derive-triplet (-.*?)(?: > .*)?$", succeed("--help"), re.MULTILINE)
    assert len(examples) >= 3
    for example in sorted(examples, key=lambda example: "--check" in example):
        if "--check" in example or "--accuracy" in example:  # of what an example before it has written, or nothing
            assert run(*shlex.split(example)).exit_code == 0
        else:
            succeed(*shlex.split(example), "--no-verify")


def test_short_help_is_the_help() -> None:
    assert succeed("-h") == succeed("--help")


@pytest.mark.parametrize(
    ("arguments", "banned", "loaded"),
    [
        ("--help", {"sympy", "numpy", "jinja2"}, set()),
        ("--list", {"sympy", "numpy", "jinja2"}, set()),
        ("--no-verify -o -", {"sympy", "numpy", "jinja2"}, {"sympy", "numpy", "jinja2"}),  # the probe does see them
    ],
)
def test_help_and_list_do_not_import_what_is_slow(arguments: str, banned: set[str], loaded: set[str]) -> None:
    probe = (
        "import sys; from derive_triplet.cli import main; main(sys.argv[1:], standalone_mode=False);"
        f"print(*sorted({banned!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *shlex.split(arguments)], capture_output=True, text=True, check=True
    )
    assert done.stdout
    assert set(done.stderr.splitlines()[-1].split()) == loaded


@pytest.mark.parametrize(
    "arguments", ["--norm l3", "--target cudda", "--margin 1", "--check --dtype float31", "--version"]
)
def test_wrong_usage_is_told_before_sympy_is_imported(arguments: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "derive_triplet.cli", *shlex.split(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert done.returncode == (0 if arguments == "--version" else 2)
    assert "derive_triplet.derive.catalogue" in imported
    assert "sympy" not in imported


# ---------------------------------------------------------------- exit status


def test_process_exits_with_0_where_all_is_well_and_with_1_after_drift() -> None:
    succeed("--no-verify")
    assert process("--check").returncode == 0
    DEFAULT.write_text(DEFAULT.read_text() + "# drift\n")
    done = process("--check")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"changed: {DEFAULT}" in done.stdout


@pytest.mark.parametrize("arguments", [["--norm", "l3"], ["--no-such-option"], ["--temperature", "warm"]])
def test_process_exits_with_2_after_wrong_usage(arguments: list[str]) -> None:
    done = process(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert written() == set()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("option", "given", "meant"),
    [
        ("--norm", "l2squared", "l2-squared"),
        ("--norm", "L2_squared", "l2-squared"),
        ("--norm", "L2", "l2"),
        ("--loss", "softmax_mse", "softmax-mse"),
        ("--loss", "hinges", "hinge"),
        ("--loss", "nll", "softmax-nll"),
        ("--target", "numpi", "numpy"),
        ("--target", "CUDA", "cuda"),
        ("--dtype", "float23", "float32"),
    ],
)
@pytest.mark.parametrize("mode", [[], ["--check", "--norm", "l2"]])
def test_close_name_is_suggested(option: str, given: str, meant: str, mode: list[str]) -> None:
    said = refused(run(*mode, option, given))
    assert repr(given) in said
    assert f"did you mean {meant!r}?" in said


def test_all_names_that_may_be_meant_are_suggested() -> None:
    assert "did you mean 'softmax-mse' or 'softmax-nll'?" in refused(run("--loss", "softmax"))


@pytest.mark.parametrize("option", ["--norm", "--loss", "--target", "--dtype"])
def test_all_does_not_hide_a_misspelt_name(option: str) -> None:
    assert "'zzz'" in refused(run(option, "all", option, "zzz"))


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("--norm", [*DISTANCES]),
        ("--loss", [*LOSSES]),
        ("--target", [*TARGETS]),
        ("--dtype", ["float32", "float64"]),
    ],
)
def test_name_that_is_close_to_none_is_answered_with_all(option: str, known: list[str]) -> None:
    said = refused(run(option, "zzz"))
    assert "did you mean" not in said
    assert all(name in said for name in known)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ("--temperature 0", "temperature must be"),
        ("--temperature -1", "temperature must be"),
        ("--temperature nan", "temperature must be"),
        ("--temperature inf", "temperature must be"),
        ("--loss hinge --margin -0.1", "margin must be"),
        ("--loss hinge --margin nan", "margin must be"),
        ("--loss softmax-mse --margin 0.5", "no chosen loss has a margin"),
        ("--loss hinge --temperature 0.5", "no chosen loss has a temperature"),
        ("--check -o -", "--check"),
        ("--check --margin 0.5", "manifest"),
        ("--check --dtype float32", "manifest"),
    ],
)
def test_value_that_cannot_be_is_refused_in_one_line(arguments: str, about: str) -> None:
    assert about in refused(run(*shlex.split(arguments)))
    assert written() == set()


def test_margin_of_zero_is_a_margin() -> None:
    succeed("--loss", "hinge", "--margin", "0", "--no-verify")


@pytest.mark.parametrize("mode", [[], ["--check"]])
@pytest.mark.parametrize("output", ["taken", "taken/below"])
def test_output_folder_that_is_a_file_is_refused_in_one_line(output: str, mode: list[str]) -> None:
    Path("taken").write_text("a file\n")
    assert "taken" in refused(run("--no-verify", "-o", output, *mode))
    assert Path("taken").read_text() == "a file\n"


def test_folder_in_the_place_of_a_file_is_refused_in_one_line() -> None:
    DEFAULT.mkdir(parents=True)
    assert str(DEFAULT) in refused(run("--no-verify"))


def test_unwritable_folder_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **options: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(options["dir"]))

    monkeypatch.setattr(tempfile, "mkstemp", denied)  # a mode would not stop an administrator
    assert "Permission denied" in refused(run("--no-verify", "-o", "locked"))
    assert written() == set()


# ---------------------------------------------------------------- other people's files


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("generated/numpy/triplet_softmax_mse_l2.py", "print('mine')\n"),
        ("generated/manifest.json", '{"name": "mine"}\n'),
        ("generated/manifest.json", "[1]\n"),
        ("generated/cuda/triplet_softmax_mse_l2.cu", "// mine\n"),
    ],
)
def test_foreign_file_is_overwritten_only_by_force(path: str, content: str) -> None:
    foreign = Path(path)
    foreign.parent.mkdir(parents=True)
    foreign.write_text(content)
    arguments = ["--target", "all", "--no-verify"] if "cuda" not in path else ["--target", "cuda", "--no-verify"]
    said = refused(run(*arguments))
    assert path in said
    assert "--force" in said
    assert written() == {path}
    assert foreign.read_text() == content
    succeed(*arguments, "--force")
    assert MARK in foreign.read_text()


def test_generated_file_is_overwritten_without_force() -> None:
    succeed("--no-verify")
    first = DEFAULT.read_text()
    succeed("--no-verify", "--temperature", "0.5")
    assert DEFAULT.read_text() != first


# ---------------------------------------------------------------- when something fails


@pytest.fixture
def wrong_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NumPy template that negates every gradient."""
    root = tmp_path.with_name(f"{tmp_path.name}-templates")
    with as_file(files("derive_triplet") / "templates") as templates:
        shutil.copytree(templates, root)
    layer = root / "numpy" / "layer.py.jinja"
    right = layer.read_text()
    wrong = right.replace("found[factors == 0] = 0", "found[factors == 0] = 0\n        found *= -1")
    assert wrong != right
    layer.write_text(wrong)
    monkeypatch.setattr(NumpyTarget, "template_root", root)


@pytest.mark.usefixtures("wrong_sign")
def test_failed_verification_writes_nothing_and_exits_with_1() -> None:
    result = run()
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert re.fullmatch(r"Error: .*verification failed.*\n", result.stderr)
    assert written() == set()


@pytest.mark.usefixtures("wrong_sign")
def test_failed_verification_prints_no_text_to_stdout() -> None:
    result = run("-o", "-")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "FAILED" in result.stderr


@pytest.mark.usefixtures("wrong_sign")
def test_failed_verification_in_json() -> None:
    result = run("--json")
    assert result.exit_code == 1
    parsed = json.loads(result.stdout)
    assert parsed["ok"] is False
    (product,) = parsed["products"]
    assert product["report"]["passed"] is False
    assert {check["name"] for check in product["report"]["checks"] if not check["passed"]} >= {"gradient"}
    assert [file["status"] for file in product["files"]] == ["not written"]


def test_failed_verification_leaves_the_old_files_in_place(request: pytest.FixtureRequest) -> None:
    succeed("--no-verify")
    before = {path: Path(path).read_bytes() for path in written()}
    request.getfixturevalue("wrong_sign")
    assert run().exit_code == 1
    assert {path: Path(path).read_bytes() for path in written()} == before
    succeed("--no-verify")  # the error does reach the file where nobody verifies
    assert DEFAULT.read_bytes() != before[DEFAULT.as_posix()]


def test_one_failed_product_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(self: NumpyTarget, product: Product, thorough: bool = False) -> Report:
        worst = 1.0 if product.objective.loss.name == "softmax-nll" else 0.0
        return Report("numpy", "run", (Check("planted", "ordinary", "float64", worst, bound=0.5),))

    monkeypatch.setattr(NumpyTarget, "verify", verify)
    result = run("--loss", "all")
    assert result.exit_code == 1
    good = output_files(["l2"], [loss for loss in LOSSES if loss != "softmax-nll"], ["numpy"])
    assert written() == {f"generated/{path}" for path in good} | {"generated/manifest.json"}


@pytest.mark.parametrize("replaced", [0, 1])
def test_interrupted_writing_leaves_whole_files_and_no_temporary(
    replaced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at the first file of two, or at the second."""
    succeed("--target", "cuda", "--no-verify")
    old = {path: Path(path).read_bytes() for path in written()}
    calls = []

    def failing(source: Path, destination: Path, replace: Callable[[Path, Path], None] = os.replace) -> None:
        calls.append(destination)
        if len(calls) > replaced:
            raise OSError(28, "No space left on device", str(destination))
        replace(source, destination)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        assert "No space left" in refused(run("--target", "cuda", "--no-verify", "--temperature", "0.5"))
    assert len(calls) == replaced + 1
    interrupted = {path: Path(path).read_bytes() for path in written()}
    succeed("--target", "cuda", "--no-verify", "--temperature", "0.5")
    assert interrupted.keys() == old.keys()
    for path, content in interrupted.items():
        assert content in (old[path], Path(path).read_bytes())
    assert sum(content == old[path] for path, content in interrupted.items()) == len(old) - replaced


def test_module_that_was_written_is_the_module_that_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    original = NumpyTarget.verify

    def verify(self: NumpyTarget, product: Product, thorough: bool = False) -> Report:
        verified.append(load(product).__dict__["value"].__code__)
        assert not DEFAULT.exists()
        return original(self, product, thorough)

    monkeypatch.setattr(NumpyTarget, "verify", verify)
    succeed()
    assert [code.co_code for code in verified] == [module(DEFAULT).value.__code__.co_code]
