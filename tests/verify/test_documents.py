"""The verification of documents fails on each error that is planted into one."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import sympy as sp

from derive_triplet import DISTANCES, LOSSES, Objective, Product, differentiate, generate, verify
from derive_triplet.derive.targets.latex import LatexTarget
from derive_triplet.derive.typeset import HOW_TO_GET_ONE

needs_tinytex = pytest.mark.needs("tinytex")


@cache
def latex() -> Product:
    return generate(differentiate("l2-squared", "hinge"), "latex")


@cache
def pdf() -> Product:
    return generate(differentiate("l2-squared", "hinge"), "pdf", engine="tinytex")


def failed(product: Product, thorough: bool = False) -> set[str]:
    report = verify(product, thorough=thorough)
    assert report.passed == (not report.failures)
    return {check.name for check in report.failures}


def smuggled(right: Any, field: str, value: Any) -> Any:
    """A step, or a proof, that was never checked."""
    wrong = copy.copy(right)
    object.__setattr__(wrong, field, value)
    return wrong


def with_wrong_step(product: Product, chain: str, amount: sp.Expr) -> Product:
    proof = product.facts["proof"]
    *before, last = proof.chains[chain]
    wrong = replace(last, step=smuggled(last.step, "after", last.step.after + amount))
    chains = {**proof.chains, chain: (*before, wrong)}
    return replace(product, facts={**product.facts, "proof": smuggled(proof, "chains", chains)})


@cache
def normalized() -> Product:
    objective = Objective(DISTANCES["l2"], LOSSES["softmax-nll"], normalize=True)
    return generate(differentiate(objective), "latex")


CHAINS = tuple(name for name, chain in latex().facts["proof"].chains.items() if chain)


# ---------------------------------------------------------------- the LaTeX


@pytest.mark.parametrize("thorough", [False, True])
def test_the_document_as_made_passes(thorough: bool) -> None:
    report = verify(latex(), thorough=thorough)
    assert report.passed, str(report)
    assert report.level.startswith("run (every displayed equality")
    assert len(report.checks) >= (3 if thorough else 1)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("amount", [sp.S.One, sp.Rational(1, 10**40)], ids=["gross", "fine"])
def test_a_wrong_step_in_any_chain_fails(chain: str, amount: sp.Expr) -> None:
    wrong = with_wrong_step(latex(), chain, amount)
    assert failed(wrong) == {"displayed equalities", "equalities not displayed"}
    assert "is wrong" in str(verify(wrong))


NORMALIZED = (
    "gradient x",
    "unit",
    "raw gradient x",
    "block x_pos x_pos",
    "raw block x_pos x_pos",
    "raw block x_pos x_neg",
)


def test_the_document_of_normalized_embeddings_passes() -> None:
    assert failed(normalized(), thorough=True) == set()


@pytest.mark.parametrize("chain", NORMALIZED)
def test_a_wrong_step_on_the_way_through_the_normalization_fails(chain: str) -> None:
    wrong = with_wrong_step(normalized(), chain, sp.Rational(1, 10**40))
    assert failed(wrong) == {"displayed equalities", "equalities not displayed"}


def test_a_raw_gradient_changed_in_the_document_alone_fails() -> None:
    (file,) = normalized().files
    (right,) = normalized().facts["proof"].chains["raw gradient x"][-1].right
    changed = file.text.replace(right, right.replace("-", "+", 1))
    assert changed != file.text
    assert failed(replace(normalized(), files=(replace(file, text=changed),))) == {
        "changed by hand",
        "equalities not displayed",
    }


def test_the_failure_names_the_rule_of_the_wrong_step() -> None:
    wrong = with_wrong_step(latex(), "gradient x", sp.S.One)
    rule = wrong.facts["proof"].chains["gradient x"][-1].step.rule
    assert rule in str(verify(wrong))


def test_a_wrong_step_does_not_pass_into_other_products() -> None:
    with_wrong_step(latex(), "gradient x", sp.S.One)
    assert failed(latex()) == set()


def test_a_formula_changed_in_the_document_alone_fails() -> None:
    # what is verified is the product's own text
    (file,) = latex().files
    right = latex().facts["proof"].chains["gradient x_pos"][-1].right[0]
    assert right.startswith("-")
    for changed in (file.text.replace(right, right[1:]), file.text.replace(f"{right}\\;}}", f"{right[1:]}\\;}}")):
        assert changed != file.text
        assert "changed by hand" in failed(replace(latex(), files=(replace(file, text=changed),)))


def test_a_line_that_the_template_leaves_out_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = latex().files
    line = next(line for line in file.text.splitlines() if "gradient of the distance" in line)
    shorter = replace(file, text=file.text.replace(line, ""))
    without = replace(latex(), files=(shorter,))
    monkeypatch.setattr(LatexTarget, "generate", lambda self, *_: without)  # as if it had been rendered so
    assert failed(without) == {"equalities not displayed"}


def test_a_line_that_does_not_print_its_step_fails() -> None:
    proof = latex().facts["proof"]
    *before, last = proof.chains["gradient x_pos"]
    chains = {**proof.chains, "gradient x_pos": (*before, replace(last, right=("0",)))}
    wrong = replace(latex(), facts={**latex().facts, "proof": replace(proof, chains=chains)})
    assert failed(wrong) == {"equalities not displayed"}


# ---------------------------------------------------------------- the PDF


@needs_tinytex
def test_the_pdf_as_made_passes() -> None:
    report = verify(pdf(), thorough=True)
    assert report.passed, str(report)
    assert report.level == "run (typeset by tinytex)"
    names = {check.name for check in report.checks}
    assert names == {
        "displayed equalities",
        "equalities not displayed",
        "changed by hand",
        "complaints of TeX",
        "bytes other than those set",
        "bytes of a second run",
        "fonts not embedded",
    }
    assert {check.regime for check in report.checks if "TeX" in check.name or check.unit == "differ"} == {"tinytex"}


@needs_tinytex
def test_a_wrong_step_fails_the_pdf_too() -> None:
    assert "displayed equalities" in failed(with_wrong_step(pdf(), "slope d_pos", sp.S.One))


def with_bytes(pdf_bytes: bytes) -> Product:
    """The product with another PDF, as if TeX had made that."""
    text, file = pdf().files
    done = replace(pdf().facts["typeset"], pdf=pdf_bytes)
    return replace(pdf(), files=(text, replace(file, binary=pdf_bytes)), facts={**pdf().facts, "typeset": done})


@needs_tinytex
def test_a_complaint_of_tex_fails_and_is_shown() -> None:
    complaint = "Overfull \\hbox (12.3pt too wide) in paragraph at lines 7--9"
    done = replace(pdf().facts["typeset"], complaints=(complaint,))
    wrong = replace(pdf(), facts={**pdf().facts, "typeset": done})
    assert failed(wrong) == {"complaints of TeX"}
    assert complaint in str(verify(wrong))


@needs_tinytex
def test_a_font_that_is_not_embedded_fails() -> None:
    right = pdf().files[1].content
    assert b"/FontFile" in right
    for planted in (
        right.replace(b"/FontFile", b"/FontFoul", 1),
        re.sub(rb"/FontDescriptor (?=\d)", b"/FontForgotten ", right, count=1),
    ):
        assert planted != right
        assert failed(with_bytes(planted)) == {"fonts not embedded"}


@needs_tinytex
def test_a_font_of_the_reader_that_has_no_description_fails() -> None:
    # the way in which a PDF uses one of the fonts that every reader has
    font = b"999 0 obj\n<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>\nendobj\n"
    wrong = with_bytes(pdf().files[1].content.replace(b"xref\n", font + b"xref\n", 1))
    assert failed(wrong) == {"fonts not embedded"}
    assert "Helvetica" in str(verify(wrong))


@needs_tinytex
def test_bytes_that_another_run_does_not_give_fail_a_thorough_verification() -> None:
    wrong = with_bytes(pdf().files[1].content + b"%\n")
    assert failed(wrong) == set()
    assert failed(wrong, thorough=True) == {"bytes of a second run"}


@needs_tinytex
def test_a_file_other_than_the_one_that_was_typeset_fails() -> None:
    text, file = pdf().files
    wrong = replace(pdf(), files=(text, replace(file, binary=file.content + b"%\n")))
    assert failed(wrong) == {"bytes other than those set"}


def test_what_could_not_be_typeset_is_called_rendered_and_says_why() -> None:
    report = verify(replace(latex(), target="pdf", lacks=HOW_TO_GET_ONE))
    assert report.level == "rendered"
    assert HOW_TO_GET_ONE in str(report)
