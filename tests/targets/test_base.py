"""What every target shares: settings and the command that says them, headers and their fingerprints."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pytest
from click.testing import CliRunner

from derive_triplet import DISTANCES, LOSSES, Objective, Product, Settings, UsageError, differentiate, generate
from derive_triplet import objective as named
from derive_triplet.cli import main
from derive_triplet.derive.lower import lower
from derive_triplet.derive.regenerate import is_ours
from derive_triplet.derive.targets import base
from derive_triplet.derive.targets.base import MARK
from derive_triplet.derive.targets.numpy import NumpyTarget
from derive_triplet.derive.targets.registry import targets

SETTINGS = [
    Settings(),
    Settings(("float32",)),
    Settings(("float64",), {"temperature": 0.5}),
    Settings(parameters={"temperature": 1e-05}),
    Settings(parameters={"temperature": 1.0}),
    Settings(parameters={"temperature": 0.1 + 0.2}),
]
TARGETS = ("numpy", "cuda", "prototxt")


def made(settings: Settings = SETTINGS[0], target: str = "numpy", loss: str = "softmax-mse") -> Product:
    derivation = differentiate("l2", loss)
    return generate(derivation, target, dtypes=settings.dtypes, parameters=settings.parameters)


def fingerprint(product: Product) -> str:
    (found,) = {line for file in product.files for line in re.findall(r"Inputs: ([0-9a-f]+)\n", file.text)}
    return found


# ---------------------------------------------------------------- settings


def test_values_are_the_defaults_of_the_catalogue_unless_set() -> None:
    hinge, softmax = named("l2", "hinge"), named("l2", "softmax-nll")
    assert Settings().values(hinge) == {"margin": LOSSES["hinge"].parameters[0].default}
    assert Settings(parameters={"margin": 1}).values(hinge) == {"margin": 1.0}
    assert Settings(parameters={"margin": 1}).values(softmax) == {"temperature": 1.0}


@pytest.mark.parametrize(
    ("loss", "name", "bad"),
    [
        ("softmax-mse", "temperature", 0.0),
        ("softmax-nll", "temperature", -1.0),
        ("softmax-nll", "temperature", float("nan")),
        ("hinge", "margin", -1e-300),
        ("hinge", "margin", float("inf")),
    ],
)
def test_a_value_outside_its_domain_is_refused_by_name(loss: str, name: str, bad: float) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a finite .* number, not {bad}"):
        Settings(parameters={name: bad}).values(named("l2", loss))
    with pytest.raises(UsageError, match=name):
        made(Settings(parameters={name: bad}), loss=loss)


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (Settings(), ""),
        (Settings(("float64", "float32")), ""),
        (Settings(("float32",)), "--dtype float32"),
        (Settings(("float16", "float32")), "--dtype float16 --dtype float32"),
        (Settings(("float64",), {"temperature": 0.5}), "--dtype float64 --temperature 0.5"),
        (Settings(parameters={"temperature": 1e-05}), "--temperature 1e-05"),
        (Settings(parameters={"temperature": 1.0}), ""),  # the default need not be said
        (Settings(parameters={"margin": 0.5}), ""),  # not of this loss
    ],
)
def test_arguments_say_what_differs_from_the_defaults(settings: Settings, arguments: str) -> None:
    assert " ".join(settings.arguments(named("l2", "softmax-mse"))) == arguments


# ---------------------------------------------------------------- the command


def test_the_command_names_everything_that_was_chosen() -> None:
    expected = "derive-triplet --norm l2-squared --loss hinge --target cuda --dtype float32 --margin 0.5"
    settings = Settings(("float32",), {"margin": 0.5})
    assert targets()["cuda"].command(named("l2-squared", "hinge"), settings) == expected
    product = generate(differentiate("l2-squared", "hinge"), "cuda", dtypes=["float32"], parameters={"margin": 0.5})
    assert product.command == expected


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("target", TARGETS)
def test_the_command_in_a_header_makes_the_same_bytes(target: str, settings: Settings, tmp_path: Path) -> None:
    product = made(settings, target)
    for file in product.files:
        (said,) = re.findall(r"derive-triplet --norm.*", file.text)
        program, *arguments = shlex.split(said)
        assert program == "derive-triplet"
        done = CliRunner().invoke(main, [*arguments, "--no-verify", "-o", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert (tmp_path / file.path).read_bytes() == file.text.encode()


# ---------------------------------------------------------------- the header


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_begins_with_mark_command_and_fingerprint_and_no_date(target: str, tmp_path: Path) -> None:
    product = made(Settings(("float32",), {"temperature": 0.5}), target)
    for file in product.files:
        mark, said, inputs = (line.lstrip("#/ ") for line in file.text.splitlines()[:3])
        assert mark.startswith(f"{MARK} {base.__version__}. Do not edit")
        assert said == product.command
        assert re.fullmatch("Inputs: [0-9a-f]{16}", inputs)
        assert not re.search(r"\b(19|20)\d\d-\d\d-\d\d\b|\b\d\d:\d\d\b", file.text)
        (tmp_path / "file").write_text(file.text)
        assert is_ours(tmp_path / "file")
        (tmp_path / "file").write_text(file.text.replace(MARK, ""))
        assert not is_ours(tmp_path / "file")


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_ends_with_one_newline(target: str) -> None:
    assert all(re.search(r"[^\n]\n\Z", file.text) for file in made(target=target).files)


def test_the_text_of_a_file_is_found_by_its_suffix() -> None:
    product = made(target="cuda")
    assert {file.path for file in product.files if file.text in (product.text(".cu"), product.text(".cuh"))} == {
        "cuda/triplet_softmax_mse_l2.cu",
        "cuda/triplet_softmax_mse_l2.cuh",
    }
    assert "#pragma once" in product.text(".cuh")
    assert "#pragma once" not in product.text(".cu")


# ---------------------------------------------------------------- the fingerprint


def test_the_fingerprint_is_the_same_every_time_and_for_all_files_of_a_product() -> None:
    for target in TARGETS:
        assert fingerprint(made(target=target)) == fingerprint(made(target=target))


def test_settings_products_and_targets_have_their_own_fingerprints() -> None:
    # the two that set a parameter to its default are one and the same
    products = [made(settings) for settings in SETTINGS if settings.parameters != {"temperature": 1.0}]
    products += [made(loss=loss) for loss in ("softmax-nll", "hinge")] + [made(target="cuda")]
    products.append(generate(differentiate("l2-squared", "softmax-mse"), "numpy"))
    assert len({fingerprint(product) for product in products}) == len(products)
    assert fingerprint(made(Settings(parameters={"temperature": 1.0}))) == fingerprint(made())


def test_the_fingerprint_changes_with_a_definition() -> None:
    turned = replace(DISTANCES["l2"], definition="sqrt(sum((y - x)**2))")
    product = generate(differentiate(Objective(turned, LOSSES["hinge"])), "numpy")
    original = made(loss="hinge")
    assert fingerprint(product) != fingerprint(original)
    assert product.command == original.command


def test_the_fingerprint_changes_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(made())
    monkeypatch.setattr(base, "__version__", "99.0")
    after = made()
    assert fingerprint(after) != before
    assert f"{MARK} 99.0." in after.text(".py")


class Elsewhere(NumpyTarget):
    """The NumPy target with templates of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def template_root(self) -> Path:  # type: ignore[override]
        return self._root

    def made(self, settings: Settings = SETTINGS[0]) -> Product:
        derivation = differentiate("l2", "softmax-mse")
        return self.generate(derivation, lower(derivation), settings)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    shutil.copytree(str(files("derive_triplet") / "templates" / "numpy"), tmp_path / "numpy")
    return Elsewhere(tmp_path)


@pytest.mark.parametrize("template", ["layer.py.jinja", "sigmoid.py.jinja", "softplus.py.jinja"])
def test_the_fingerprint_changes_with_any_template(elsewhere: Elsewhere, template: str) -> None:
    before = elsewhere.made()
    assert before.files == made().files
    path = elsewhere.template_root / "numpy" / template
    path.write_text(path.read_text() + "{# nothing that is printed #}")
    assert fingerprint(elsewhere.made()) != fingerprint(before)


def test_a_file_that_is_no_template_does_not_count(elsewhere: Elsewhere) -> None:
    (elsewhere.template_root / "numpy" / "notes.txt").write_text("?")
    assert elsewhere.made().files == made().files


# ---------------------------------------------------------------- rendering


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{{ no_such_name }}", jinja2.UndefinedError),
        ("{{ objective.no_such_attribute }}", jinja2.UndefinedError),
        ('{% include "numpy/no_such_file.jinja" %}', jinja2.TemplateNotFound),
        ("{% if %}", jinja2.TemplateSyntaxError),
    ],
)
def test_a_mistake_in_a_template_is_never_rendered_as_nothing(
    elsewhere: Elsewhere, text: str, error: type[Exception]
) -> None:
    (elsewhere.template_root / "numpy" / "layer.py.jinja").write_text(text)
    with pytest.raises(error):
        elsewhere.made()


def test_templates_print_text_as_it_is_and_keep_the_last_newline(elsewhere: Elsewhere) -> None:
    class Own(Elsewhere):
        def context(self, *_: Any) -> Mapping[str, Any]:
            return {"own": "a < b && 'c'"}

    (elsewhere.template_root / "numpy" / "layer.py.jinja").write_text(
        "  {% if true %}\n{{ own }} {{ stem }}\n  {% endif %}\n"
    )
    (file,) = Own(elsewhere.template_root).made().files
    assert file.text == "a < b && 'c' triplet_softmax_mse_l2\n"
    assert file.path == "numpy/triplet_softmax_mse_l2.py"
