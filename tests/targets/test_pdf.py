"""The PDF: set without a complaint, the same bytes every time, fonts embedded, text that can be selected."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from objectives import COVER, named

from derive_triplet import DISTANCES, LOSSES, Distance, Loss, Objective, Parameter, Product, differentiate, generate
from derive_triplet.cli import main
from derive_triplet.derive.targets import pdf as pdf_target
from derive_triplet.derive.typeset import HOW_TO_GET_ONE, Typeset, find_engine, typeset

COMMITTED = Path(__file__).parents[2] / "generated"
OBJECTIVES = named(COVER)
NORMALIZED = [
    Objective(DISTANCES["l2"], LOSSES["softmax-mse"], normalize=True),
    Objective(DISTANCES["l2-squared"], LOSSES["softmax-nll"], normalize=True),
    Objective(DISTANCES["l2"], LOSSES["hinge"], normalize=True),
]
everything = pytest.mark.parametrize("objective", [*OBJECTIVES, *NORMALIZED], ids=lambda objective: objective.stem)
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
needs_tinytex = pytest.mark.needs("tinytex")


def pdf_of(product: Product) -> bytes:
    return product.files[1].content


@pytest.fixture(scope="module")
def made() -> Mapping[Objective, Product]:
    """Every combination, set once; TeX runs beside TeX, but documents are made one after the other.

    What makes them is not for threads, which share the precision of mpmath.
    """
    engine = find_engine("tinytex")
    assert engine is not None
    texts = [generate(differentiate(o), "latex").files[0].text for o in (*OBJECTIVES, *NORMALIZED)]
    with ThreadPoolExecutor() as pool:
        done = dict(zip(texts, pool.map(lambda text: pdf_target.typeset(text, engine), texts), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdf_target, "typeset", lambda text, engine: done[text])
        return {o: generate(differentiate(o), "pdf", engine="tinytex") for o in (*OBJECTIVES, *NORMALIZED)}


@pytest.fixture(scope="module")
def set_again(made: Mapping[Objective, Product]) -> Mapping[Objective, bytes]:
    """The same documents once more, in another time zone and language."""
    engine = find_engine("tinytex")
    assert engine is not None
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setenv("TZ", "Pacific/Kiritimati")
        patch.setenv("LC_ALL", "C")
        patch.setenv("SOURCE_DATE_EPOCH", "123456789")
        set_anew = typeset.__wrapped__  # which remembers nothing
        again = pool.map(lambda o: set_anew(made[o].files[0].text, engine).pdf, made)
        return dict(zip(made, again, strict=True))


def text_of(pdf: bytes, folder: Path) -> list[str]:
    """The text of each page, as a reader selects it; without pdftotext, the letters of all pages as one."""
    (folder / "document.pdf").write_bytes(pdf)
    if program := shutil.which("pdftotext"):
        done = subprocess.run([program, folder / "document.pdf", "-"], capture_output=True, check=True)
        return done.stdout.decode().rstrip("\f").split("\f")
    letters = b""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            page = zlib.decompress(stream)
        except zlib.error:
            continue
        for shown in re.findall(rb"\[((?:\((?:\\.|[^\\)])*\)|[-\d.\s])*)\]TJ", page):
            pieces = re.findall(rb"\(((?:\\.|[^\\)])*)\)|(-\d+)", shown)
            letters += b"".join(text or (b" " if int(gap) < -200 else b"") for text, gap in pieces) + b"\n"
    return [letters.decode("latin-1")]


def fonts_without_file(pdf: bytes) -> list[str]:
    """The fonts whose shapes are not in the PDF; objects are not compressed in it."""
    objects = {int(o[1]): o[2] for o in re.finditer(rb"^(\d+) 0 obj\b(.*?)\bendobj", pdf, re.DOTALL | re.MULTILINE)}
    fonts = {number: body for number, body in objects.items() if re.search(rb"/Type\s*/Font\b(?!D)", body)}
    assert fonts
    bare = []
    for number, body in fonts.items():
        descriptor = re.search(rb"/FontDescriptor (\d+) 0 R", body)
        if not descriptor or b"/FontFile" not in objects[int(descriptor[1])]:
            name = re.search(rb"/BaseFont\s*/(\S+)", body)
            bare.append(name[1].decode() if name else str(number))
    return bare


# ---------------------------------------------------------------- every combination


@needs_tinytex
@everything
def test_tex_has_nothing_to_complain_about(objective: Objective, made: Mapping[Objective, Product]) -> None:
    assert made[objective].facts["typeset"].complaints == ()


@needs_tinytex
@everything
def test_a_second_run_gives_the_same_bytes(
    objective: Objective, made: Mapping[Objective, Product], set_again: Mapping[Objective, bytes]
) -> None:
    assert pdf_of(made[objective]) == set_again[objective]


@needs_tinytex
@objectives
def test_the_committed_files_are_those_that_tinytex_makes(
    objective: Objective, made: Mapping[Objective, Product]
) -> None:
    for file in made[objective].files:
        assert (COMMITTED / file.path).read_bytes() == file.content, file.path


@needs_tinytex
@everything
def test_the_shapes_of_every_font_are_in_the_file(objective: Objective, made: Mapping[Objective, Product]) -> None:
    assert fonts_without_file(pdf_of(made[objective])) == []


@needs_tinytex
def test_a_font_that_is_not_embedded_is_seen(made: Mapping[Objective, Product]) -> None:
    pdf = pdf_of(made[OBJECTIVES[0]])
    assert fonts_without_file(pdf.replace(b"/FontFile", b"/FontFoul", 1))
    assert fonts_without_file(re.sub(rb"/FontDescriptor (\d+) 0 R", b"/FontUndescribed", pdf, count=1))


@needs_tinytex
@everything
def test_text_can_be_selected_and_pages_are_numbered(
    objective: Objective, made: Mapping[Objective, Product], tmp_path: Path
) -> None:
    pdf = pdf_of(made[objective])
    pages = text_of(pdf, tmp_path)
    text = re.sub(r"\s+", " ", " ".join(pages))
    for words in ("The gradient of the triplet loss", "Second derivatives", "From symbols to", objective.loss.name):
        assert words in text
    count = len(re.findall(rb"/Type /Page\b", pdf))
    assert count >= 4
    if len(pages) > 1:
        assert len(pages) == count
        for number, page in enumerate(pages, start=1):
            assert re.search(rf"^{number}$", page, re.MULTILINE), f"page {number} has no number"


@needs_tinytex
@everything
def test_references_are_links_and_the_file_has_a_title(objective: Objective, made: Mapping[Objective, Product]) -> None:
    pdf = pdf_of(made[objective])
    assert b"/Subtype /Link" in pdf or b"/Subtype/Link" in pdf
    assert b"/Title" in pdf
    assert b"/CreationDate" not in pdf
    assert b"/ModDate" not in pdf


# ---------------------------------------------------------------- the TeX of a distribution


@pytest.mark.needs("latexmk")
@objectives
def test_another_engine_sets_the_same_document_without_a_complaint(objective: Objective, tmp_path: Path) -> None:
    engine = find_engine("latexmk")
    assert engine is not None
    source = generate(differentiate(objective), "latex").files[0].text
    first, second = (typeset.__wrapped__(source, engine) for _ in range(2))
    assert first.complaints == ()
    assert first.pdf == second.pdf
    assert fonts_without_file(first.pdf) == []
    text = re.sub(r"\s+", " ", " ".join(text_of(first.pdf, tmp_path)))
    for words in ("The gradient of the triplet loss", "Second derivatives", "From symbols to", objective.loss.name):
        assert words in text


@pytest.mark.needs("latexmk")
def test_another_engine_complains_of_what_does_not_fit() -> None:
    engine = find_engine("latexmk")
    assert engine is not None
    source = generate(differentiate("l2", "hinge"), "latex").files[0].text
    planted = source.replace(r"\section{Setting}", r"\section{Setting}\mbox{" + "wide " * 60 + "}")
    assert any("Overfull" in complaint for complaint in typeset(planted, engine).complaints)


# ---------------------------------------------------------------- names and values that are hostile

HOSTILE = "l_2 \\alpha %5 {x} #1 & ~ ^2 $y$"
HOSTILE_DISTANCE = Distance(
    "l_2\\%{#&~^$}",
    HOSTILE,
    "unit_scale * sum((x - y)**2)",
    HOSTILE,
    (Parameter("unit_scale", 2.0, "positive", HOSTILE),),
)
HOSTILE_LOSS = Loss("a_b\\%{#&~^$}", HOSTILE, "d_pos**2 / (1 + d_neg)", HOSTILE)


@needs_tinytex
@pytest.mark.parametrize(
    "objective",
    [Objective(HOSTILE_DISTANCE, LOSSES["softmax-mse"]), Objective(DISTANCES["l2-squared"], HOSTILE_LOSS)],
    ids=["distance", "loss"],
)
def test_hostile_names_are_set_as_they_are(objective: Objective, tmp_path: Path) -> None:
    product = generate(differentiate(objective), "pdf", engine="tinytex")
    assert product.facts["typeset"].complaints == ()
    text = re.sub(r"\s+", "", "".join(text_of(pdf_of(product), tmp_path)))
    if shutil.which("pdftotext"):
        hostile = objective.loss.name if objective.loss is HOSTILE_LOSS else objective.distance.name
        assert re.sub(r"\s", "", hostile) in text


@needs_tinytex
@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        ("softmax-mse", {"temperature": 1e-12}),
        ("softmax-mse", {"temperature": 123456.789}),
        ("softmax-nll", {"temperature": 1e-12}),
        ("hinge", {"margin": 123456.789}),
    ],
)
def test_extreme_parameters_fit_on_the_page(loss: str, parameters: Mapping[str, float]) -> None:
    product = generate(differentiate("l2", loss), "pdf", parameters=parameters, engine="tinytex")
    assert product.facts["typeset"].complaints == ()


def test_a_product_says_which_engine_set_it_and_not_where_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_target, "find_engine", lambda name="": ("pdflatex", "/somewhere/pdflatex"))
    monkeypatch.setattr(pdf_target, "typeset", lambda text, engine: Typeset(b"%PDF", ()))
    product = generate(differentiate("l2", "hinge"), "pdf")
    assert product.settings.engine == "pdflatex"
    assert pdf_of(product) == b"%PDF"


# ---------------------------------------------------------------- without an engine


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_target, "find_engine", lambda name="": None)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_document_is_written_and_one_line_says_how_to_get_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--target", "pdf", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if HOW_TO_GET_ONE in line] != []
    assert result.stderr.strip() == f"Error: {HOW_TO_GET_ONE}"
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert "latex/triplet_softmax_mse_l2.tex" in written
    assert not any(path.endswith(".pdf") for path in written)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_several_documents_lack_it_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--target", "pdf", "--norm", "all", "--loss", "hinge", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.count(HOW_TO_GET_ONE) == 1
    assert len(list(tmp_path.glob("latex/*.tex"))) == len(DISTANCES)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_product_has_the_document_and_says_what_it_lacks() -> None:
    product = generate(differentiate("l2", "hinge"), "pdf")
    latex = generate(differentiate("l2", "hinge"), "latex")
    assert [file.path for file in product.files] == ["latex/triplet_hinge_l2.tex"]
    assert product.lacks == HOW_TO_GET_ONE
    assert not latex.lacks
    assert product.files == latex.files


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_a_check_does_not_pass() -> None:
    result = CliRunner().invoke(main, ["--check", "--target", "pdf", "-o", str(COMMITTED)])
    assert result.exit_code == 1
    assert HOW_TO_GET_ONE in result.output


def test_the_default_engine_does_not_change_what_others_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pdf_target, "find_engine", lambda name="": asked.append(name))
    generate(differentiate("l2", "hinge"), "pdf", engine="latexmk")
    generate(differentiate("l2", "hinge"), "pdf")
    assert asked == ["latexmk", ""]
    assert os.environ.get("SOURCE_DATE_EPOCH") in (None, os.environ.get("SOURCE_DATE_EPOCH"))
