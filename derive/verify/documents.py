"""Verification of proofs: what they display, and what TeX made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest

import sympy as sp

from ..errors import StepError
from ..latex import broken
from ..proof import Line, names_in
from ..steps import DIGITS
from ..targets.base import Product
from ..typeset import typeset
from .report import Check, Report

_FRESH_SEEDS = (1, 2, 3)  # not those on which the steps were made


def verify_latex(product: Product, again: str, thorough: bool) -> Report:
    """Every displayed equality once more, on points that it was not made with, and that the text displays it.

    again: the text, generated once more from the derivation.
    """
    level = f"run (every displayed equality at {DIGITS} digits)"
    return Report(product.target, level, (*_displayed_equalities(product, thorough), *_text(product, again)))


def verify_pdf(product: Product, again: str, thorough: bool) -> Report:
    """The document, and that it is set without a complaint; `thorough` sets it again and compares bytes."""
    if product.lacks:
        return Report(product.target, "rendered", notes=(product.lacks,))
    done, engine = product.facts["typeset"], product.facts["engine"]
    document, pdf = product.files
    complaints, wide = done.complaints, tuple[str, ...]()
    loss = product.objective.loss
    if loss.source or len(loss.distances) > 2:  # a formula of one's own may be wider than any page, as those of three
        wide = tuple(line for line in complaints if line.startswith("Overfull"))
        complaints = tuple(line for line in complaints if line not in wide)
    checks = [
        *_displayed_equalities(product, thorough),
        *_text(product, again),
        Check("complaints of TeX", engine[0], "", len(complaints), 0, "lines", detail="; ".join(complaints)),
        Check("bytes other than those set", engine[0], "", int(pdf.content != done.pdf), 0, "files"),
    ]
    if thorough:
        second = typeset.__wrapped__(document.text, engine).pdf
        checks.append(Check("bytes of a second run", engine[0], "", int(second != pdf.content), 0, "differ"))
    bare = fonts_without_shapes(pdf.content)
    checks.append(Check("fonts not embedded", engine[0], "", len(bare), 0, "fonts", detail=", ".join(bare)))
    notes = (f"{len(wide)} formulas are wider than the page",) if wide else ()
    return Report(product.target, f"run (typeset by {engine[0]})", tuple(checks), notes)


def _displayed_equalities(product: Product, thorough: bool) -> Iterator[Check]:
    steps = product.facts["proof"].steps
    for seed in _FRESH_SEEDS if thorough else _FRESH_SEEDS[:1]:
        worst, detail = 0.0, ""
        for step in steps:
            try:
                worst = max(worst, float(step.check(seed)))
            except StepError as error:
                worst, detail = float("inf"), str(error)
        regime = f"{len(steps)} on fresh points, {seed}"
        yield Check("displayed equalities", regime, "", worst, 10.0**-DIGITS, "relative", detail)


def _text(product: Product, again: str) -> Iterator[Check]:
    """That the document is its steps, printed: line by line, and as a whole once more from the derivation."""
    proof, document = product.facts["proof"], product.files[0]
    words = " ".join(document.text.split())
    missing = []
    for name, chain in proof.chains.items():
        named = names_in(name, product.derivation)
        missing += [f"{name}: {line.step.rule}" for line in chain if not _is_displayed(line, named, words)]
    yield Check("equalities not displayed", document.path, "", len(missing), 0, "lines", detail="; ".join(missing))
    ours, theirs = document.text.splitlines(), again.splitlines()
    differ = sum(a != b for a, b in zip_longest(ours, theirs))
    yield Check("changed by hand", document.path, "", differ, 0, "lines")


def _is_displayed(line: Line, named: Mapping[sp.Expr, str], words: str) -> bool:
    pieces = broken(line.step.after, named)
    begun = " ".join(f"{line.left} &= {pieces[0]}".split())
    return line.right == pieces and all(" ".join(piece.split()) in words for piece in (begun, *pieces[1:]))


def fonts_without_shapes(pdf: bytes) -> list[str]:
    """The fonts of a PDF, whose objects are not compressed, that it does not hold the shapes of."""
    objects = {int(o[1]): o[2] for o in re.finditer(rb"^(\d+) 0 obj\b(.*?)\bendobj", pdf, re.DOTALL | re.MULTILINE)}
    bare = []
    for number, body in objects.items():
        if re.search(rb"/Type\s*/Font\b", body):
            described = re.search(rb"/FontDescriptor (\d+) 0 R", body)
            if not described or b"/FontFile" not in objects.get(int(described[1]), b""):
                name = re.search(rb"/BaseFont\s*/(\S+)", body)
                bare.append(name[1].decode() if name else f"object {number}")
    return bare
