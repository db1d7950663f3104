"""A tree of generated files: written, checked against what would be written, and mended by the command it is told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from derive_triplet import DISTANCES, LOSSES, differentiate, generate, own_loss
from derive_triplet.cli import main
from derive_triplet.derive import requests
from derive_triplet.derive.regenerate import check, write
from derive_triplet.derive.targets import pdf as pdf_target
from derive_triplet.derive.targets.base import MARK
from derive_triplet.derive.targets.registry import targets
from derive_triplet.derive.typeset import HOW_TO_GET_ONE

COMMITTED = Path(__file__).parents[1] / "generated"
HINGE, MSE = "numpy/triplet_hinge_l2.py", "numpy/triplet_softmax_mse_l2.py"
HEADER, LAUNCHERS = "cuda/triplet_hinge_l2.cuh", "cuda/triplet_hinge_l2.cu"
MANIFEST = "manifest.json"
EVERYTHING = ("--norm", "all", "--loss", "all", "--target", "all")
ONLY_HINGE = ("--norm", "l2", "--loss", "hinge", "--target", "numpy")


Plant = Callable[[Path], object]
"""Makes a tree drift."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def make(root: Path, options: str) -> None:
    result = run(*shlex.split(options), "--no-verify", "-o", str(root))
    assert result.exit_code == 0, result.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two losses as NumPy, and one of them as CUDA."""
    root = tmp_path / "tree"
    make(root, "--loss hinge --loss softmax-mse")
    make(root, "--loss hinge --target cuda")
    return root


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All by which a write would be noticed: names of files and folders, modification times, inodes, contents."""
    seen = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.stat()
        seen[str(path)] = (status.st_mtime_ns, status.st_ino, path.read_bytes() if path.is_file() else b"")
    return seen


def drift(root: Path, *arguments: str) -> dict[str, str]:
    """Path -> kind of what has drifted, from a check that must not write."""
    before = snapshot(root.parent)
    result = run("--check", "--json", "-o", str(root), *arguments)
    assert snapshot(root.parent) == before
    parsed = json.loads(result.stdout)
    assert parsed["ok"] is (not parsed["drift"])
    assert result.exit_code == (1 if parsed["drift"] else 0)
    return {found["path"]: found["kind"] for found in parsed["drift"]}


def mend(root: Path, *arguments: str) -> str:
    """Do what the check says, as a shell would; what it said."""
    said = run("--check", "-o", str(root), *arguments).stdout
    commands = [shlex.split(line) for line in said.partition("To mend:\n")[2].splitlines()]
    assert commands
    for program, *options in commands:
        if program == "rm":
            for path in options:
                Path(path).unlink()
        else:
            assert program == "derive-triplet"
            result = run(*options, "--no-verify")
            assert result.exit_code == 0, result.output
    return said


# ---------------------------------------------------------------- clean


def test_tree_that_was_just_written_is_clean(root: Path) -> None:
    assert drift(root) == {}
    result = run("--check", "-o", str(root))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "3 products" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--norm l2-squared",
        "--norm l2 --target cuda",
        "--loss hinge --margin 0.5",
        "--norm all --loss all --target numpy --dtype float32",
    ],
)
def test_options_that_wrote_a_tree_find_it_clean(options: str, tmp_path: Path) -> None:
    make(tmp_path / "tree", options)
    assert drift(tmp_path / "tree", *shlex.split(options)) == {}


@pytest.mark.parametrize(
    ("options", "others"),
    [
        ("--loss hinge --margin 0.5", "--loss hinge"),
        ("--loss hinge --margin 0.5", "--loss hinge --margin 0.25"),
        ("--loss softmax-mse --temperature 2", "--loss softmax-mse"),
        ("--loss hinge --dtype float32", "--loss hinge"),
        ("--loss hinge --dtype float64 --margin 0", "--loss hinge --dtype float64"),
    ],
)
def test_options_are_taken_from_the_manifest(options: str, others: str, tmp_path: Path) -> None:
    make(tmp_path / "tree", options)
    assert drift(tmp_path / "tree") == {}
    explicit = ("--norm", "l2", "--target", "numpy", *shlex.split(others))
    assert set(drift(tmp_path / "tree", *explicit).values()) == {"changed"}


def test_writing_again_touches_nothing(root: Path) -> None:
    before = snapshot(root)
    make(root, "--loss hinge --loss softmax-mse")
    assert snapshot(root) == before
    make(root, "--loss hinge --margin 0.5")
    changed = {path for path, seen in snapshot(root).items() if seen[2] != before[path][2]}
    assert changed == {str(root / HINGE), str(root / MANIFEST)}


def test_foreign_files_are_left_alone_and_not_reported(root: Path) -> None:
    for path in ("README.md", "numpy/notes.txt", "numpy/__init__.py", "other/layer.py", "numpy/deep/layer.py"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("written by hand\n")
    before = snapshot(root)
    assert drift(root) == {}
    make(root, "--loss hinge --loss softmax-mse")
    assert snapshot(root) == before


# ---------------------------------------------------------------- drift


def edit(path: str, change: Callable[[str], str]) -> Plant:
    def plant(root: Path) -> None:
        text = (root / path).read_text()
        assert change(text) != text
        (root / path).write_text(change(text), newline="")

    return plant


def edit_products(change: Callable[[list[Any]], object]) -> Plant:
    def changed(text: str) -> str:
        content = json.loads(text)
        change(content["products"])
        return json.dumps(content, indent=2) + "\n"

    return edit(MANIFEST, changed)


def tamper(at: int) -> Plant:
    """Another hash for the first file of a product."""
    return edit_products(lambda products: products[at]["files"].update({min(products[at]["files"]): "0" * 64}))


def remove(path: str) -> Plant:
    return lambda root: (root / path).unlink()


def add(path: str) -> Plant:
    def plant(root: Path) -> None:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(f"# {MARK} 0.0\n")

    return plant


def together(*plants: Plant) -> Plant:
    return lambda root: [plant(root) for plant in plants]


DRIFTS: Mapping[str, tuple[Plant, dict[str, str]]] = {
    "a line": (edit(HINGE, lambda text: text.replace("numpy as np", "numpy as xp")), {HINGE: "changed"}),
    "the last newline": (edit(HEADER, lambda text: text.removesuffix("\n")), {HEADER: "changed"}),
    "line ends": (edit(LAUNCHERS, lambda text: text.replace("\n", "\r\n")), {LAUNCHERS: "changed"}),
    "the mark is gone": (edit(HINGE, lambda text: text.replace(MARK, "Mine")), {HINGE: "changed"}),
    "emptied": (edit(HINGE, lambda text: ""), {HINGE: "changed"}),
    "missing": (remove(HEADER), {HEADER: "missing"}),
    "missing folder": (lambda root: shutil.rmtree(root / "cuda"), {HEADER: "missing", LAUNCHERS: "missing"}),
    "extra": (add("numpy/triplet_hinge_l3.py"), {"numpy/triplet_hinge_l3.py": "extra"}),
    "extra folder": (add("fortran/triplet_hinge_l2.f90"), {"fortran/triplet_hinge_l2.f90": "extra"}),
    "all at once": (
        together(remove(HEADER), remove(MSE), edit(HINGE, lambda text: text + "#\n"), add("cuda/triplet_old.cu")),
        {HEADER: "missing", MSE: "missing", HINGE: "changed", "cuda/triplet_old.cu": "extra"},
    ),
    "hash of the first": (tamper(0), {MANIFEST: "changed"}),
    "hash of the second": (tamper(1), {MANIFEST: "changed"}),
    "hash of the last": (tamper(-1), {MANIFEST: "changed"}),
    "all hashes": (together(tamper(0), tamper(1), tamper(2)), {MANIFEST: "changed"}),
    "layout of the manifest": (edit(MANIFEST, lambda text: text.replace("  ", " ")), {MANIFEST: "changed"}),
    "order of the manifest": (edit_products(lambda products: products.reverse()), {MANIFEST: "changed"}),
    "unlisted": (edit_products(lambda products: products.pop(0)), {HEADER: "extra", LAUNCHERS: "extra"}),
    "other margin": (
        edit_products(lambda products: products[1]["parameters"].update(margin=0.75)),
        {HINGE: "changed", MANIFEST: "changed"},
    ),
}


@pytest.mark.parametrize("planted", DRIFTS)
def test_planted_drift_is_found_and_nothing_else_and_the_printed_command_mends_it(planted: str, root: Path) -> None:
    plant, expected = DRIFTS[planted]
    plant(root)
    assert drift(root) == expected
    said = mend(root)
    for path, kind in expected.items():
        assert re.search(rf"^{kind}: {re.escape(str(root / path))}$", said, re.MULTILINE)
    assert drift(root) == {}


def test_mending_restores_every_byte(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    DRIFTS["all at once"][0](root)
    mend(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_changed_file_is_shown_as_a_unified_diff(root: Path) -> None:
    DRIFTS["a line"][0](root)
    said = run("--check", "-o", str(root)).stdout
    assert re.search(rf"^--- .*{re.escape(HINGE)}.*\n\+\+\+ .*{re.escape(HINGE)}.*\n@@ ", said, re.MULTILINE)
    lines = said.partition("\n@@ ")[2].splitlines()[1:]
    assert [line for line in lines if line.startswith("-")] == ["-import numpy as xp"]
    assert [line for line in lines if line.startswith("+")] == ["+import numpy as np"]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """All there is, of a catalogue of one distance and two losses."""
    monkeypatch.setattr(requests, "DISTANCES", {"l2": DISTANCES["l2"]})
    monkeypatch.setattr(requests, "LOSSES", {name: LOSSES[name] for name in ("softmax-mse", "hinge")})
    make(tmp_path / "tree", " ".join(EVERYTHING))
    return tmp_path / "tree"


def test_lost_manifest_is_reported_and_mended(complete: Path) -> None:
    root = complete
    (root / MANIFEST).unlink()
    assert drift(root) == {MANIFEST: "missing"}
    mend(root)
    assert drift(root) == {}


@pytest.mark.parametrize(
    "plant",
    [tamper(5), edit_products(lambda products: products.pop(5)), remove(MANIFEST)],
    ids=["hash", "unlisted", "missing"],
)
def test_manifest_is_mended_when_everything_is_asked_for(plant: Plant, complete: Path) -> None:
    root = complete
    plant(root)
    assert drift(root, *EVERYTHING).keys() == {MANIFEST}
    mend(root, *EVERYTHING)
    assert drift(root, *EVERYTHING) == drift(root) == {}


@pytest.mark.parametrize("planted", ["a line", "missing", "extra"])
def test_drift_is_found_when_everything_is_asked_for(planted: str, complete: Path) -> None:
    plant, expected = DRIFTS[planted]
    plant(complete)
    assert drift(complete, *EVERYTHING) == expected


def test_losses_of_ones_own_are_left_alone_unless_one_is_asked_for(tmp_path: Path) -> None:
    losses = ("hinge", *(own_loss(f"d_pos - {factor}*d_neg", name=name) for factor, name in ((1, "one"), (2, "two"))))
    hinge, one, two = (generate(differentiate("l2-squared", loss), "numpy") for loss in losses)
    for product in (hinge, one, two):
        write(product, tmp_path)
    assert check([hinge, one, two], tmp_path, complete=True) == []
    assert check([hinge], tmp_path, complete=True) == []
    found = {drift.path: drift.kind for drift in check([hinge, one], tmp_path, complete=True)}
    assert found == {MANIFEST: "changed", two.files[0].path: "extra"}


def test_mending_works_in_a_folder_with_a_difficult_name(tmp_path: Path) -> None:
    root = tmp_path / "it's a $tree"
    make(root, "--loss hinge")
    (root / HINGE).unlink()
    add("numpy/triplet_old.py")(root)
    mend(root)
    assert drift(root) == {}


def test_folder_that_is_not_there_is_all_missing_and_is_not_made(tmp_path: Path) -> None:
    assert drift(tmp_path / "nowhere", *ONLY_HINGE) == {HINGE: "missing", MANIFEST: "missing"}
    assert [*tmp_path.iterdir()] == []


def test_check_of_some_products_sees_only_those(root: Path) -> None:
    assert drift(root, *ONLY_HINGE) == {}
    edit(MSE, lambda text: text + "#\n")(root)
    add("numpy/triplet_old.py")(root)
    assert drift(root, *ONLY_HINGE) == {}
    edit(HINGE, lambda text: text + "#\n")(root)
    assert drift(root, *ONLY_HINGE) == {HINGE: "changed"}
    mend(root, *ONLY_HINGE)
    assert drift(root, *ONLY_HINGE) == {}
    assert drift(root) == {MSE: "changed", "numpy/triplet_old.py": "extra"}


# ---------------------------------------------------------------- the manifest


def test_manifest_keeps_one_entry_per_product(root: Path) -> None:
    def products() -> dict[tuple[str, str, str], dict[str, float]]:
        entries = json.loads((root / MANIFEST).read_text())["products"]
        found = {(entry["target"], entry["loss"], entry["norm"]): entry["parameters"] for entry in entries}
        assert len(found) == len(entries)
        return found

    written: dict[tuple[str, str, str], dict[str, float]] = {
        ("numpy", "hinge", "l2"): {},
        ("numpy", "softmax-mse", "l2"): {},
        ("cuda", "hinge", "l2"): {},
    }
    assert products() == written
    make(root, "--loss hinge --margin 0.5")
    assert products() == {**written, ("numpy", "hinge", "l2"): {"margin": 0.5}}


def _entry(**changed: Any) -> dict[str, Any]:
    entry = {"norm": "l2", "loss": "hinge", "target": "numpy", "dtypes": ["float32"], "parameters": {}, "files": {}}
    return entry | changed


UNREADABLE = {
    "empty": b"",
    "binary": b"\xff\xfe",
    "truncated": f'{{"about": "{MARK}", "products": ['.encode(),
    "conflict": f'<<<<<<< ours\n{{"about": "{MARK}"\n=======\n'.encode(),
    "no products": f'{{"about": "{MARK}"}}'.encode(),
    "a number of products": f'{{"about": "{MARK}", "products": 3}}'.encode(),
    "products in a string": f'{{"about": "{MARK}", "products": "abc"}}'.encode(),
    "products in a mapping": f'{{"about": "{MARK}", "products": {{"a": 1}}}}'.encode(),
    "numbers for products": f'{{"about": "{MARK}", "products": [1, 2]}}'.encode(),
}
SENSELESS: dict[str, dict[str, Any]] = {
    "empty entry": {},
    "unknown norm": _entry(norm="l3"),
    "norm that is not text": _entry(norm=3),
    "norm that is a list": _entry(norm=["l2"]),
    "unknown loss": _entry(loss="contrastive"),
    "unknown target": _entry(target="fortran"),
    "unknown dtype": _entry(dtypes=["float16"]),
    "no dtype": _entry(dtypes=[]),
    "parameters in a list": _entry(parameters=[1]),
    "parameter that is not a number": _entry(parameters={"margin": "wide"}),
    "parameter outside its domain": _entry(parameters={"margin": -1}),
    "unknown parameter": _entry(parameters={"temperature": 1}),
}
CORRUPT = UNREADABLE | {
    name: json.dumps({"about": MARK, "products": [_entry(), entry]}).encode() for name, entry in SENSELESS.items()
}


def complains_of_the_manifest(result: Result, root: Path) -> None:
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert str(root / MANIFEST) in result.stderr


@pytest.mark.parametrize("corrupt", CORRUPT)
def test_check_answers_a_corrupt_manifest_with_one_line_that_names_it(corrupt: str, root: Path) -> None:
    (root / MANIFEST).write_bytes(CORRUPT[corrupt])
    before = snapshot(root)
    complains_of_the_manifest(run("--check", "-o", str(root)), root)
    assert snapshot(root) == before


@pytest.mark.parametrize("corrupt", [name for name in UNREADABLE if name not in ("empty", "binary")])
def test_writing_answers_an_unreadable_manifest_with_one_line_that_names_it(corrupt: str, root: Path) -> None:
    (root / MANIFEST).write_bytes(UNREADABLE[corrupt])
    before = snapshot(root)
    complains_of_the_manifest(run("-o", str(root), "--no-verify", "--temperature", "2"), root)
    assert snapshot(root) == before
    complains_of_the_manifest(run("--check", "-o", str(root), *ONLY_HINGE), root)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_interrupted_writing_leaves_the_old_file_and_no_temporary(
    error: type[BaseException], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise error

    product = generate(differentiate("l2", "hinge"), parameters={"margin": 0.5})
    before = {path: seen[1:] for path, seen in snapshot(root).items()}
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(os, "replace", interrupted)
        write(product, root)
    assert {path: seen[1:] for path, seen in snapshot(root).items()} == before
    assert write(product, root) == {HINGE: "written"}


# ---------------------------------------------------------------- what is committed


def built_in_targets() -> set[str]:
    return {name for name, target in targets().items() if type(target).__module__.startswith("derive_triplet.")}


def test_committed_tree_is_clean() -> None:
    assert drift(COMMITTED) == {}


def test_committed_manifest_lists_every_objective_for_every_target_and_the_files_that_are_there() -> None:
    products = json.loads((COMMITTED / MANIFEST).read_text())["products"]
    listed = [(p["norm"], p["loss"], p["target"], p.get("normalize", False)) for p in products]
    assert len(listed) == len(set(listed))
    every = {(norm, loss, target) for norm in DISTANCES for loss in LOSSES for target in built_in_targets()}
    # of normalized embeddings, and of registers, enough to read
    usage = {names for names in every if names[2] == "cuda-usage"}
    paper = {("l2", "softmax-mse", target) for target in built_in_targets()}
    assert {tuple(names) for *names, normalize in listed if not normalize} == every - usage | paper
    code = {names for names in every - usage if names[0] == "l2" and names[2] not in ("latex", "pdf")}
    assert {tuple(names) for *names, normalize in listed if normalize} == code | paper - usage
    assert {"l2", "l2-squared"} <= DISTANCES.keys()
    assert {"softmax-mse", "softmax-nll", "hinge"} <= LOSSES.keys()
    assert {"numpy", "cuda"} <= built_in_targets()
    hashes = {path: digest for product in products for path, digest in product["files"].items()}
    present = {path.relative_to(COMMITTED).as_posix(): path for path in COMMITTED.rglob("*.*") if path.is_file()}
    del present[MANIFEST], present["README.md"]  # which people wrote
    assert hashes == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in present.items()}


def test_drift_planted_in_a_copy_of_the_committed_tree_is_found(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(COMMITTED, tmp_path / "copy"))
    expected: dict[str, str] = {}
    for planted in ("a line", "missing", "extra"):
        plant, found = DRIFTS[planted]
        plant(copy)
        expected |= found
    assert drift(copy) == expected


# ---------------------------------------------------------------- files that two products share, or that cannot be made

TEX, PDF = "latex/triplet_hinge_l2.tex", "pdf/triplet_hinge_l2.pdf"


@pytest.mark.needs("tinytex")
def test_a_document_that_its_pdf_overwrites_under_other_options_is_recorded_once(tmp_path: Path) -> None:
    make(tmp_path, "--loss hinge --target latex --margin 2")
    make(tmp_path, "--loss hinge --target pdf")
    assert [entry["target"] for entry in json.loads((tmp_path / MANIFEST).read_text())["products"]] == ["pdf"]
    assert run("--check", "-o", str(tmp_path)).exit_code == 0


@pytest.mark.needs("tinytex")
def test_a_document_and_its_pdf_under_the_same_options_are_both_recorded(tmp_path: Path) -> None:
    make(tmp_path, "--loss hinge --target latex")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["products"][0]["files"][TEX] = "of an older version"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    make(tmp_path, "--loss hinge --target pdf")
    first, second = json.loads((tmp_path / MANIFEST).read_text())["products"]
    assert (first["target"], second["target"]) == ("latex", "pdf")
    assert first["files"][TEX] == second["files"][TEX]
    assert run("--check", "-o", str(tmp_path)).exit_code == 0


@pytest.mark.needs("tinytex")
def test_a_shared_file_that_is_missing_is_named_once(tmp_path: Path) -> None:
    make(tmp_path, "--loss hinge --target latex --target pdf")
    (tmp_path / TEX).unlink()
    assert run("--check", "-o", str(tmp_path)).output.count("missing: ") == 1


@pytest.mark.needs("tinytex")
def test_what_cannot_be_compared_does_not_hide_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "--loss hinge --target pdf")
    make(tmp_path, "--loss hinge")
    (tmp_path / HINGE).unlink()
    monkeypatch.setattr(pdf_target, "find_engine", lambda name="": None)
    result = run("--check", "-o", str(tmp_path))
    assert result.exit_code == 1
    assert f"missing: {tmp_path / HINGE}" in result.output
    assert "not compared: derive-triplet --norm l2 --loss hinge --target pdf" in result.output
    assert HOW_TO_GET_ONE in result.output
    assert "extra" not in result.output
    (tmp_path / PDF).unlink()
    assert run("--check", "-o", str(tmp_path)).exit_code == 1


def test_a_foreign_file_is_mended_by_the_command_that_is_printed(root: Path) -> None:
    (root / HINGE).write_text("mine")
    assert mend(root).count("--force") == 1
    assert (root / HINGE).read_text() != "mine"


def test_a_tree_without_a_manifest_is_said_to_have_none(tmp_path: Path) -> None:
    result = run("--check", "-o", str(tmp_path / "nosuch"))
    assert result.exit_code == 1
    assert result.output.startswith(
        f"{tmp_path / 'nosuch'} has no manifest; it is compared with all that the tool makes"
    )
