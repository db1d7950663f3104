"""Verification of proofs: what they display, and what TeX made of it."""

from __future__ import annotations

from ..errors import StepError
from ..steps import DIGITS
from ..targets.base import Product
from ..typeset import typeset
from .report import Check, Report

_FRESH_SEEDS = (1, 2, 3)  # not those on which the steps were made


def verify_latex(product: Product, thorough: bool) -> Report:
    """Every displayed equality once more, on points that it was not made with."""
    checks = _displayed_equalities(product, _FRESH_SEEDS if thorough else _FRESH_SEEDS[:1])
    return Report(product.target, f"run (every displayed equality at {DIGITS} digits)", tuple(checks))


def verify_pdf(product: Product, thorough: bool) -> Report:
    """The equalities, and that the document is set without a complaint; `thorough` sets it again and compares bytes."""
    if product.lacks:
        return Report(product.target, "rendered", notes=(product.lacks,))
    checks = _displayed_equalities(product, _FRESH_SEEDS if thorough else _FRESH_SEEDS[:1])
    done, engine = product.facts["typeset"], product.facts["engine"]
    complaints = done.complaints
    checks.append(Check("complaints of TeX", engine[0], "", len(complaints), 0, "lines", detail="; ".join(complaints)))
    fonts = done.pdf.count(b"/Type /FontDescriptor") - done.pdf.count(b"/FontFile")
    if thorough:
        again = typeset.__wrapped__(product.files[0].text, engine).pdf
        checks.append(Check("bytes of a second run", engine[0], "", int(again != done.pdf), 0, "differ"))
    checks.append(Check("fonts not embedded", engine[0], "", max(fonts, 0), 0, "fonts"))
    return Report(product.target, f"run (typeset by {engine[0]})", tuple(checks))


def _displayed_equalities(product: Product, seeds: tuple[int, ...]) -> list[Check]:
    steps = product.facts["proof"].steps
    checks = []
    for seed in seeds:
        worst, detail = 0.0, ""
        for step in steps:
            try:
                worst = max(worst, float(step.check(seed)))
            except StepError as error:
                worst, detail = float("inf"), str(error)
        regime = f"{len(steps)} on fresh points, {seed}"
        checks.append(Check("displayed equalities", regime, "", worst, 10.0**-DIGITS, "relative", detail))
    return checks
