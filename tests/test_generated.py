"""The index of generated files links each of them, and nothing that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from derive_triplet import DISTANCES, LOSSES

GENERATED = Path(__file__).parents[1] / "generated"
README = (GENERATED / "README.md").read_text(encoding="utf-8")
LISTED = {
    path
    for product in json.loads((GENERATED / "manifest.json").read_text(encoding="utf-8"))["products"]
    for path in product["files"]
}
OWN = {"README.md", "manifest.json"}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def problems(text: str) -> list[str]:
    found = links(text)
    return [
        *(f"not linked: {path}" for path in sorted(LISTED - set(found))),
        *(f"linked, but not there: {path}" for path in sorted(set(found) - OWN) if not (GENERATED / path).is_file()),
        *(f"linked twice: {path}" for path in sorted(set(found)) if found.count(path) > 1),
    ]


def test_every_file_of_the_manifest_is_linked_and_every_link_leads_to_a_file() -> None:
    assert len(LISTED) >= 5 * len(DISTANCES) * len(LOSSES)
    assert problems(README) == []


@pytest.mark.parametrize("path", sorted(LISTED))
def test_a_link_that_is_left_out_is_missed(path: str) -> None:
    assert problems(README.replace(f"({path})", "(manifest.json)")) != []
    assert f"not linked: {path}" in problems(README.replace(f"({path})", ""))


def test_a_link_to_nothing_is_seen() -> None:
    assert problems(README + "\n[more](pdf/no_such_file.pdf)\n") == ["linked, but not there: pdf/no_such_file.pdf"]


@pytest.mark.parametrize("end", ["", "_normalized"])
def test_a_row_links_the_files_of_its_own_loss_and_distance(end: str) -> None:
    raw, normalized = README.split("`--normalize`")
    pairs = []
    for row in (line for line in (normalized if end else raw).splitlines() if line.startswith("|") and links(line)):
        loss, distance = (cell.strip() for cell in row.strip("| ").split("|")[:2])
        stem = f"triplet_{loss}_{distance}".replace("-", "_") + end
        assert {re.sub("^test_|(_(layer|siamese))+$", "", Path(link).stem) for link in links(row)} == {stem}
        pairs.append((loss, distance))
    distances = ["l2"] if end else DISTANCES  # of normalized embeddings, enough to read
    assert sorted(pairs) == sorted((loss, distance) for loss in LOSSES for distance in distances)


def test_the_tree_holds_what_the_manifest_lists_and_nothing_else() -> None:
    there = {path.relative_to(GENERATED).as_posix() for path in GENERATED.rglob("*") if path.is_file()}
    assert there == LISTED | OWN
