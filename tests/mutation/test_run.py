"""The driver itself: it reports a mutant that no test sees, and none that one sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mutation import judges
from mutation.mutants import mutants_of, sample, text_mutants_of

RUN = Path(__file__).with_name("run.py")
TARGET = '''"""A docstring: 1 + 1."""


def clamped(x: int = 1 + 1) -> int:
    """2 + 2."""
    if x > 10:
        return 10
    return x + 1
'''
TESTS = """import sys
sys.path.insert(0, {folder!r})

def test_clamped():
    from target import clamped
    assert (clamped(1), clamped(20)) == (2, 10)
"""


def run(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    (folder / "target.py").write_text(TARGET)
    (folder / "test_target.py").write_text(tests.format(folder=str(folder)))
    command = [sys.executable, RUN, folder / "target.py", "--tests", folder / "test_target.py", "--only", ": x "]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_a_mutant_that_no_test_sees_is_reported(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS)
    assert done.returncode == 1, done.stderr
    survived = [line.partition(" line ")[2] for line in done.stdout.splitlines() if line.startswith("survived: ")]
    assert survived == ["6: x > 10 -> (x >= 10)"]
    assert "line 8: x + 1 -> (x - 1): killed" in done.stdout
    assert f"| {tmp_path / 'target.py'} | 5 | 2 | 1 | 0 | 0 | 1 |" in done.stdout
    assert (tmp_path / "target.py").read_text() == TARGET


def test_a_mutant_by_which_a_test_is_skipped_is_seen(tmp_path: Path) -> None:
    done = run(
        tmp_path, TESTS.replace("    assert", "    import pytest\n    if clamped(1) != 2: pytest.skip()\n    assert")
    )
    assert "line 8: x + 1 -> (x - 1): killed" in done.stdout, done.stderr


def test_a_mutant_that_no_test_reaches_is_told_apart(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS.replace("(clamped(1), clamped(20)) == (2, 10)", "clamped(20) == 10"))
    assert "line 8: x + 1 -> (x - 1): not reached" in done.stdout, done.stderr
    assert f"| {tmp_path / 'target.py'} | 5 | 2 | 0 | 0 | 1 | 1 |" in done.stdout


def test_nothing_is_said_without_tests_that_import_the_module(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_nothing():\n    assert True\n")
    assert done.returncode == 1
    assert "its tests do not pass, or do not import it, without a mutant" in done.stderr


def test_tests_that_end_their_process_do_not_pass(tmp_path: Path) -> None:
    done = run(tmp_path, f"{TESTS}    import os; os._exit(0)\n")
    assert done.returncode == 1
    assert "its tests do not pass" in done.stderr


def test_mutants_are_of_what_runs_and_stand_where_they_say() -> None:
    found = mutants_of(TARGET)
    assert {mutant.line for mutant in found} == {6, 7, 8}
    assert len({mutant.text for mutant in found}) == len(found)
    assert mutants_of("é = 'é' ; b = not (1 -\n 2)\n")[0].text == "é = 'é' ; b = (1 - 2)\n"
    assert sample(found, 3, seed=1) == sample(found, 3, seed=1)


def test_mutants_of_c_are_of_code() -> None:
    found = [mutant.text for mutant in text_mutants_of("#define A a + b\nx = -a + T(0);  // a + b\n")]
    assert found == [
        "#define A a + b\nx = a + T(0);  // a + b\n",
        "#define A a + b\nx = -a - T(0);  // a + b\n",
        "#define A a + b\nx = -a + T(1);  // a + b\n",
        "#define A a + b\n;\n",
    ]


def test_mutants_of_a_template_leave_its_tags_alone() -> None:
    text = '{# 1 + 1 #}{% if n + 1 %}\n    x_pos += {{ n - 1 }} * 2.5f;\n{% endif %}\n/* 1 + 1 */ f("1 + 1");\n'
    found = [mutant.text for mutant in text_mutants_of(text, tags=True)]
    line = "    x_pos += {{ n - 1 }} * 2.5f;"
    changed = (
        line.replace("pos", "neg"),
        line.replace("+=", "-="),
        line.replace("*", "/"),
        line.replace("2.5f", "(1024 * 2.5f)"),
        "    ;",
    )
    assert found == [*(text.replace(line, new) for new in changed), text.replace('f("1 + 1");', ";")]
    assert [m.text for m in text_mutants_of("% 1\n$a + 2$\n", comment="%")] == ["% 1\n$a - 2$\n", "% 1\n$a + 3$\n"]


def test_statements_are_known_by_their_lines() -> None:
    (first, *_, last) = mutants_of("if a == (1 +\n 2):\n  b(\n   3 + 3)\n")
    assert (list(first.within), list(last.within)) == ([1, 2], [3, 4])


def test_judges_and_what_they_judge_are_there() -> None:
    root = RUN.parents[2]
    of_templates = (judge.tests for judge in judges.TEMPLATES.values())
    tests = {test for tests in (*judges.TESTS.values(), *of_templates) for test in tests}
    named = {test.removeprefix("--deselect=").partition("::") for test in tests}
    files = {file: (root / file).read_text(encoding="utf-8") for file, _, _ in named if (root / file).is_file()}
    assert {file for file, _, _ in named if file not in files and not (root / file).is_dir()} == set()
    functions = {(file, test.partition("[")[0]) for file, _, test in named if test}
    assert [(file, test) for file, test in functions if f"def {test}(" not in files[file]] == []
    assert [module for module in judges.TESTS if not (root / module).is_file()] == []
    assert [pattern for pattern in judges.TEMPLATES if not any(root.glob(pattern))] == []
