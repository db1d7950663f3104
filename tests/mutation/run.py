"""Mutation testing: ``python tests/mutation/run.py MODULE...`` says which small errors no test sees.

MODULE is a file of the library (``derive/units.py``), or rendered text that `verify` judges
(``numpy:l2/softmax-mse``, ``cuda:l2/softmax-mse``). A mutant lives in a process of its own, forked for it; no file is
changed. Code that a test starts in another process is not mutated.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from mutants import Mutant, c_mutants_of, mutants_of, sample

ROOT = Path(__file__).parents[2]
_KERNEL = "tests/test_kernel.py"
_DIFFERENTIATE = "tests/test_differentiate.py"
_SURVIVORS = "tests/mutation/test_survivors.py"
_PROPERTIES = "tests/test_properties.py"
_CUSTOM = "tests/test_custom.py::test_"
TESTS: Mapping[str, tuple[str, ...]] = {
    "derive/expression.py": (
        "tests/test_expression.py",
        f"{_CUSTOM}a_formula_is_refused_with_the_place_and_the_reason",
        f"{_CUSTOM}what_cannot_be_a_loss_is_told_with_a_point",
        "tests/test_fuzz.py",
        _SURVIVORS,
    ),
    "derive/stabilise.py": ("tests/test_stabilise.py", _DIFFERENTIATE),
    "derive/lemmas.py": (_SURVIVORS, _DIFFERENTIATE, _KERNEL),
    "derive/lower.py": (
        _KERNEL,
        _SURVIVORS,
        f"{_CUSTOM}a_weight_whose_divisor_cancels_is_not_masked_for_the_other_distance",
    ),
    "derive/units.py": (_SURVIVORS, _KERNEL),
    "derive/rescale.py": ("tests/test_rescale.py", _PROPERTIES),
    "derive/verify/reference.py": ("tests/verify/test_reference.py", _SURVIVORS),
    "derive/verify/checks.py": (_SURVIVORS, "tests/verify/test_checks.py"),
}
"""For each module the tests that have to see its mutants, the quickest first."""

SURVIVED, KILLED, UNUSED = 0, 1, 77
_MEMORY = 8 << 30
_PRELOADED = ("click", "jinja2", "mpmath", "numpy", "pytest", "sympy")


@dataclass(frozen=True)
class Outcome:
    """What became of a sample of the mutants of one module."""

    module: str
    of: int
    killed: int
    late: int
    survivors: Sequence[Mutant]

    @property
    def row(self) -> str:
        tried = self.killed + self.late + len(self.survivors)
        return f"| {self.module} | {self.of} | {tried} | {self.killed} | {self.late} | {len(self.survivors)} |"


def status_of(job: Callable[[], int], limit: float) -> int | None:
    """The exit status of a job in a process of its own, which says nothing; None if it takes longer than the limit."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = KILLED
        try:
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            with tempfile.TemporaryFile() as silent:
                os.dup2(silent.fileno(), 1)
                os.dup2(silent.fileno(), 2)
                status = job()
        finally:
            os._exit(status)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def tested(name: str, text: str, tests: Sequence[str]) -> int:
    """Whether tests see `text` in the place of the module called `name`: a job for `status_of`."""
    import pytest

    original, loaded = SourceFileLoader.get_code, []

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        if fullname != name:
            return original(loader, fullname)
        loaded.append(fullname)
        return compile(text, loader.get_filename(fullname), "exec")

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    status = pytest.main(["-qx", "-n", "0", "-p", "no:cacheprovider", *tests])
    if not loaded or status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        return UNUSED
    return SURVIVED if status == pytest.ExitCode.OK else KILLED


def outcome(
    module: str, mutants: list[Mutant], text: str, judge: Callable[[str], int], count: int, seed: int, only: str
) -> Outcome:
    """Of a sample of mutants; `judge` is SURVIVED for the text as it is, or nothing can be said of its mutants."""
    began = time.monotonic()
    if (status := status_of(lambda: judge(text), 600)) != SURVIVED:
        raise SystemExit(f"{module}: its tests do not pass, or do not import it, without a mutant ({status})")
    limit = 5 + 4 * (time.monotonic() - began)
    survivors, late, chosen = [], 0, [mutant for mutant in sample(mutants, count, seed) if only in str(mutant)]
    for mutant in chosen:
        status = status_of(lambda mutant=mutant: judge(mutant.text), limit)  # type: ignore[misc]
        late += status is None
        if status == SURVIVED:
            survivors.append(mutant)
        print(f"    {module} {mutant}: {'late' if status is None else 'SURVIVED' if status == SURVIVED else 'killed'}")
    return Outcome(module, len(mutants), len(chosen) - late - len(survivors), late, survivors)


def of_module(path: str, tests: Sequence[str], *choice: Any) -> Outcome:
    """Of a file of Python, by its tests."""
    file = (ROOT / path).resolve()
    inside = file.is_relative_to(ROOT)
    name = ".".join(("derive_triplet", *file.relative_to(ROOT).with_suffix("").parts)) if inside else file.stem
    for preloaded in _PRELOADED if inside else ("pytest",):
        importlib.import_module(preloaded)  # once, and not for every mutant
    text = file.read_text(encoding="utf-8")
    if not tests:
        raise SystemExit(f"{path}: no tests are known for it; give --tests")
    return outcome(path, mutants_of(text), text, lambda mutated: tested(name, mutated, tests), *choice)


def of_text(what: str, *choice: Any) -> Outcome:
    """Of a rendered text, by the verification of its target."""
    from derive_triplet import differentiate, generate, verify

    target, _, names = what.partition(":")
    norm, _, loss = names.partition("/")
    product = generate(differentiate(norm, loss), target, dtypes=["float32"])
    (file, *others) = product.files
    verified = re.split(r"^(?:#|//) -+ (?:blocks and checks|storage).*", file.text, flags=re.MULTILINE)[0]
    mutants = mutants_of(file.text) if file.path.endswith(".py") else c_mutants_of(file.text)

    def judge(text: str) -> int:
        return SURVIVED if verify(replace(product, files=(replace(file, text=text), *others))).passed else KILLED

    mutants = [mutant for mutant in mutants if mutant.line <= verified.count("\n")]
    return outcome(what, mutants, file.text, judge, *choice)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+", metavar="MODULE", help=f"one of {', '.join(TESTS)}, or any file, or text")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="mutants of each module [default: 20]")
    parser.add_argument("--seed", type=int, default=0, help="of the choice [default: 0]")
    parser.add_argument("--tests", nargs="+", default=(), metavar="TEST", help="instead of those of the module")
    parser.add_argument("--only", default="", metavar="TEXT", help="of the choice, those whose line here has this text")
    given = parser.parse_args()
    choice = given.sample, given.seed, given.only
    outcomes = [
        of_text(module, *choice) if ":" in module else of_module(module, given.tests or TESTS.get(module, ()), *choice)
        for module in given.modules
    ]
    print("| module | mutants | tried | killed | too slow | survived |\n|---|---|---|---|---|---|")
    print(*(outcome.row for outcome in outcomes), sep="\n")
    for outcome in outcomes:
        for survivor in outcome.survivors:
            print(f"survived: {outcome.module} {survivor}")
    return int(any(outcome.survivors for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
