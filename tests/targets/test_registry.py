"""A target that another package brings, found through its entry point; and what is refused."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from derive_triplet import UsageError, differentiate, generate, verify
from derive_triplet.derive.targets import registry

MODULE = """
from pathlib import Path

from derive_triplet import Check, Report, Target
from derive_triplet.derive.text import to_text


class ListingTarget(Target):
    name = "listing"
    title = "the scalars of a row, one a line"
    templates = {"scalars.txt.jinja": "{stem}.txt", "about.md.jinja": "{stem}_about.md"}
    template_root = Path(__file__).parent / "listing_templates"

    def context(self, derivation, kernel, settings):
        return {"scalars": [(a.name, to_text(a.value)) for a in kernel.scalars]}

    def verify(self, product, thorough=False):
        missing = sum(a.name not in product.text(".txt") for a in product.kernel.scalars)
        check = Check("scalars listed", "all", "", missing, 0, unit="missing")
        return Report(self.name, "thoroughly read" if thorough else "read", (check,))


an_instance = ListingTarget()
not_a_target = "listing"


class Impostor(ListingTarget):
    name = "numpy"
"""
TEMPLATES = {
    "scalars.txt.jinja": "{% for name, value in scalars %}\n{{ name }} = {{ value }}\n{% endfor %}\n",
    "about.md.jinja": "<!-- {{ mark }}: {{ command }} ({{ fingerprint }}) -->\n{{ objective.loss.title }}\n",
}

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts an installed distribution with the given entry points on the path."""
    site = tmp_path / "site"

    def make(**entry_points: str) -> Path:
        metadata = site / "listing_target-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: listing-target\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[derive_triplet.targets]", *lines, ""]))
        (site / "listing_target.py").write_text(MODULE)
        folder = site / "listing_templates" / "listing"
        folder.mkdir(parents=True)
        for name, text in TEMPLATES.items():
            (folder / name).write_text(text)
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        registry.targets.cache_clear()
        return site

    yield make
    monkeypatch.undo()
    sys.modules.pop("listing_target", None)
    registry.targets.cache_clear()


def test_targets_are_found_by_name_our_own_first(install: Install) -> None:
    install(anything="listing_target:ListingTarget")
    assert {"numpy", "cuda"} <= set(registry.targets())
    assert list(registry.targets())[-1] == "listing"
    for name, target in registry.targets().items():
        assert target.name == name
        assert target.title
        assert "\n" not in target.title


@pytest.mark.parametrize("offered", ["listing_target:ListingTarget", "listing_target:an_instance"])
def test_a_target_of_another_package_generates_and_is_verified(install: Install, offered: str) -> None:
    install(anything=offered)
    derivation = differentiate("l2-squared", "hinge")
    product = generate(derivation, "listing", parameters={"margin": 0.5})
    assert [file.path for file in product.files] == [
        "listing/triplet_hinge_l2_squared.txt",
        "listing/triplet_hinge_l2_squared_about.md",
    ]
    listed = dict(line.split(" = ") for line in product.text(".txt").splitlines())
    assert listed["loss"] == "positive_part(z)"
    about = product.text("_about.md")
    assert "derive-triplet --norm l2-squared --loss hinge --target listing --margin 0.5" in about
    assert derivation.objective.loss.title in about
    assert verify(product).level == "read"
    assert verify(product, thorough=True).level == "thoroughly read"
    assert verify(product).passed


def test_a_target_is_gone_with_its_package(install: Install) -> None:
    site = install(listing="listing_target:ListingTarget")
    assert "listing" in registry.targets()
    sys.path.remove(str(site))
    importlib.invalidate_caches()
    registry.targets.cache_clear()
    with pytest.raises(UsageError, match="no target is called 'listing'"):
        generate(differentiate("l2", "hinge"), "listing")


def test_the_command_line_knows_a_target_of_another_package(install: Install, tmp_path: Path) -> None:
    site = install(listing="listing_target:ListingTarget")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert str(site) in sys.path

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "derive_triplet.cli", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "the scalars of a row, one a line" in run("--list")
    outcome = json.loads(run("--norm", "l2", "--target", "listing", "--json"))
    assert outcome["products"][0]["report"]["level"] == "read"
    assert "sigmoid" in (tmp_path / "generated" / "listing" / "triplet_softmax_mse_l2.txt").read_text()
    assert json.loads(run("--check", "--json"))["ok"] is True


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("listing_target:Impostor", "a target 'numpy' already exists"),
        ("listing_target:not_a_target", "is not a derive_triplet Target"),
        ("listing_target:Path", "is not a derive_triplet Target"),
        ("listing_target:no_such_name", "broken"),
        ("no_such_module:Target", "broken"),
    ],
)
def test_what_is_no_target_is_refused_by_the_name_of_its_entry_point(
    install: Install, value: str, message: str
) -> None:
    install(broken=value)
    with pytest.raises(UsageError, match=message) as error:
        registry.targets()
    assert "'broken'" in str(error.value)
    assert value in str(error.value)


def test_two_packages_with_one_name_clash(install: Install) -> None:
    install(a="listing_target:ListingTarget", b="listing_target:an_instance")
    with pytest.raises(UsageError, match=r"'b'.*a target 'listing' already exists"):
        registry.targets()
