"""The README says what the tool does: its commands are run, and their output is compared."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def without_versions(text: str) -> str:
    """What another machine prints too; the architectures depend on the compiler's release."""
    return re.sub(r"(NumPy|NVRTC|PyTorch) [\d.]+", r"\1", text)


def shown_output(console: str) -> tuple[str, str]:
    """The derive-triplet command of a console block and the output that the README shows for it."""
    command, _, output = console.removeprefix("$ ").partition("\n")
    return command[command.index("derive-triplet --") :], output


CONSOLE = [shown_output(block) for block in blocks("console") if block.startswith("$ ")]


def outcome(command: str, folder: Path, status: int = 0) -> str:
    """What a command prints: an error, if it has to end with another status than 0."""
    run = subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stderr
    return run.stderr if status else run.stdout


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize(("command", "output"), CONSOLE, ids=[command for command, _ in CONSOLE])
def test_commands_print_what_the_readme_shows(command: str, output: str, tmp_path: Path) -> None:
    if "autograd of PyTorch" in output and not find_spec("torch"):
        pytest.skip("PyTorch is not installed")
    assert is_shown(outcome(command, tmp_path, status=2 if output.startswith("Error: ") else 0), output)


def is_shown(printed: str, output: str) -> bool:
    """Whether the README shows what was printed, but for lines that it leaves out at '...'."""
    pattern = re.escape(without_versions(output)).replace("\\.\\.\\.\\\n", "(?:.*\n)+")
    return re.fullmatch(pattern, without_versions(printed)) is not None


def test_a_planted_difference_is_seen() -> None:
    _, output = CONSOLE[0]
    printed = output.replace("...\n", "one\ntwo\n")
    assert printed != output
    assert is_shown(printed, output)
    assert not is_shown(printed.replace("4*q*s^2", "2*q*s^2"), output)
    assert not is_shown(output.replace("...\n", ""), output)


def test_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome("derive-triplet --loss hinge --target numpy -o .", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "numpy"))
    examples = [block for block in blocks("python") if "import" in block]
    assert len(examples) == 2
    for example in examples:
        scope: dict[str, object] = {}
        exec(compile(example, "README.md", "exec"), scope)
        assert "loss" in scope or "report" in scope


def test_the_example_entry_is_the_one_in_the_catalogue() -> None:
    (entry,) = (block for block in blocks("python") if block.startswith("Distance("))
    catalogue = (ROOT / "derive" / "catalogue.py").read_text(encoding="utf-8")
    assert textwrap.indent(entry.rstrip(), "    ") + "," in catalogue


def test_the_tables_list_every_loss_and_every_distance_and_the_text_every_target() -> None:
    from derive_triplet import DISTANCES, LOSSES
    from derive_triplet.derive.targets.registry import targets

    def entries(header: str) -> list[str]:
        table = README[README.index(header) :].partition("\n\n")[0]
        return re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)

    assert entries("| loss | |") == list(LOSSES)
    assert entries("| distance | |") == list(DISTANCES)
    said = README[README.index("every target: ") :].partition(".")[0]
    assert re.findall(r"`([\w-]+)`", said) == list(targets())


@pytest.mark.needs("nvrtc")
def test_the_table_of_errors_says_what_is_not_finite() -> None:
    from derive_triplet import accuracy, differentiate

    table = README[README.index("| softmax-mse on l2 |") :].partition("\n\n")[0]
    header, _, *rows = (re.split(r" (?<!\\)\| ", line[2:-2]) for line in table.splitlines())
    found = accuracy(differentiate("l2", "softmax-mse"), ["numpy", "cuda"], dtypes=["float32"])
    errors = {column.method.name: dict(column.errors) for column in found.columns}
    assert {"numpy", "cuda", "naive"} <= errors.keys() <= {*header}
    for regime, *cells in rows:
        shown = dict(zip(header[1:], map(float, cells), strict=True))
        assert all(shown[ours] <= found.bound for ours in ("numpy", "cuda", "caffe"))
        for method, of_regime in errors.items():
            finite = all(math.isfinite(worst.error) for worst in of_regime[regime.replace("\\|", "|")])
            assert math.isfinite(shown[method]) == finite
