"""Writes README.md beside it: what the tool makes of the losses in this folder, found by running it.

python examples/losses/gallery.py
"""

from __future__ import annotations

from pathlib import Path

from derive_triplet import DISTANCES, Derivation, Loss, differentiate, generate, verify
from derive_triplet.derive.custom import losses_from
from derive_triplet.derive.text import formulas, missing, to_text

HERE = Path(__file__).parent
INTRODUCTION = """\
# Losses from the literature

Each is a file like those that you can write yourself, and is derived, generated and verified like a loss of the
catalogue:

```console
$ derive-triplet --loss examples/losses/soft-margin.toml --norm l2 --target cuda
```

A loss of several positives or negatives is that of one of each here, and what a paper says of cosines is said of
distances. This page is made by [`gallery.py`](gallery.py).
"""


def loss_of(path: Path) -> Loss:
    """The loss of a file, named without its folder."""
    (loss,), _ = losses_from([str(path)])
    assert isinstance(loss, Loss)
    return loss


def slopes(derivation: Derivation) -> str:
    """The loss in its stable form and its derivatives in the two distances, with what they are written in."""
    rows = [(name, value) for name, value in formulas(derivation) if name[0] not in "d" and name != "L"]
    rows.append(("L", to_text(derivation.loss.value.result)))
    rows += [(f"dL/d{which}", to_text(lemma.result)) for which, lemma in derivation.loss.slopes.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}} = {value}" for name, value in rows)


def section(path: Path) -> str:
    """What there is to say of one loss."""
    loss = loss_of(path)
    derivations = [differentiate(norm, loss) for norm in DISTANCES]
    reports = [(norm, verify(generate(of, "numpy"))) for norm, of in zip(DISTANCES, derivations, strict=True)]
    own = {singularity.where for singularity in loss.singularities}
    kinks = [
        f"Kink at `{kink.where}`: {kink.shape.partition(': ')[2]}."
        for kink in derivations[0].kinks
        if kink.where in own
    ]
    verified = ", ".join(
        f"{len(report.checks)} checks on `{norm}` {'pass' if report.passed else 'FAIL'}" for norm, report in reports
    )
    parameters = [f"`{p.option(p.default)}`, {p.meaning}" for p in loss.parameters]
    lines = [
        f"## [`{path.stem}`]({path.name})",
        "",
        f"{loss.title[0].upper()}{loss.title[1:]}. {loss.reference}.",
        "",
        *(["Parameters: " + "; ".join(parameters) + ".", ""] if parameters else []),
        "```text",
        loss.formula.source.strip(),
        "",
        slopes(derivations[0]),
        "```",
        *kinks,
        *(f"{line[0].upper()}{line[1:]}." for line in missing(loss)),
        f"NumPy, within 4 ULP: {verified}.",
        "",
    ]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *map(section, sorted(HERE.glob("*.toml")))])


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(), encoding="utf-8")
