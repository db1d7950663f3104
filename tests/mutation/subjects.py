"""What mutants are made of, and who has to see them: modules by their tests, templates and texts by verification.

A judge runs in a process of its own, forked for it: it may change what it has imported.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from judges import TEMPLATES, TESTS
from mutants import Mutant, mutants_of, text_mutants_of

ROOT = Path(__file__).parents[2]
SURVIVED, KILLED, UNREACHED, UNUSED = 75, 1, 76, 77  # 0 is what a process ends with that a mutant has ended
_PRELOADED = ("click", "jinja2", "mpmath", "numpy", "sympy")


@dataclass(frozen=True)
class Subject:
    """A text with its mutants. judge: what becomes of one; of None, that is of the text as it is, SURVIVED."""

    name: str
    mutants: Sequence[Mutant]
    judge: Callable[[Mutant | None], int]


def subject(name: str, tests: Sequence[str], folder: Path) -> Subject:
    """By the name on the command line. tests: instead of those that are known. folder: for what is found out."""
    if name.endswith(".jinja"):
        return _template(name, tests)
    return _text(name) if ":" in name else _module(name, tests or TESTS.get(name, _mirrored(name)), folder)


def _mirrored(path: str) -> tuple[str, ...]:
    """The tests of a module's name, in the place that mirrors its own."""
    of = Path(path)
    tests = Path("tests", *of.parent.parts[1:], f"test_{of.name}")
    return (tests.as_posix(),) if (ROOT / tests).is_file() else ()


# ---------------------------------------------------------------- modules


class Watch:
    """A plugin of pytest: how long every test takes, and which statements of a file it runs; '' is before all tests."""

    def __init__(self) -> None:
        self._lines, self._skipped = set[int](), set[str]()
        self.seen = {"": (0.0, self._lines)}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began, self._lines = time.perf_counter(), set()
        result = yield
        if item.nodeid not in self._skipped:
            self.seen[item.nodeid] = time.perf_counter() - began, self._lines
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._skipped.add(report.nodeid)

    def watched(self, text: str) -> ast.Module:
        """The code of the file, which says of every statement that it is run: a trace takes several times as long."""
        tree = ast.parse(text)
        builtins.__ran__ = lambda line: self._lines.add(line)  # type: ignore[attr-defined]
        for node in ast.walk(tree):
            for field in ("body", "orelse", "finalbody"):
                if isinstance(block := getattr(node, field, None), list):
                    setattr(node, field, [part for statement in block for part in self._said(statement)])
        return ast.fix_missing_locations(tree)

    def _said(self, statement: ast.stmt) -> list[ast.stmt]:
        match statement:  # what comes first in a file stays there
            case ast.Expr(value=ast.Constant()) | ast.ImportFrom(module="__future__"):
                return [statement]
        return [*ast.parse(f"__ran__({statement.lineno})").body, statement]


class Order:
    """A plugin of pytest: tests that run a line come first, the quickest before; others may use what they made.

    One that is skipped now was not before: a mutant that hides a tool is seen, as by --require.
    """

    def __init__(self, seen: Mapping[str, tuple[float, set[int]]], within: range) -> None:
        self.seen, self.within = seen, within

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=self._rank)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and report.nodeid in self.seen:
            pytest.exit("a test is skipped", KILLED)

    def _rank(self, item: pytest.Item) -> tuple[bool, float]:
        duration, lines = self.seen.get(item.nodeid, (0.0, set[int]()))
        return lines.isdisjoint(self.within), duration


def _module(path: str, tests: Sequence[str], folder: Path) -> Subject:
    file = (ROOT / path).resolve()
    inside = file.is_relative_to(ROOT)
    name = ".".join(("derive_triplet", *file.relative_to(ROOT).with_suffix("").parts)) if inside else file.stem
    name = name.removesuffix(".__init__")  # which is the package
    for preloaded in _PRELOADED if inside else ():
        importlib.import_module(preloaded)  # once, and not for every mutant
    text = file.read_text(encoding="utf-8")
    if not tests:
        raise SystemExit(f"{path}: no tests are known for it; give --tests")
    found = folder / "seen"

    def judge(mutant: Mutant | None) -> int:
        if mutant is None:
            watch = Watch()
            status = _tested(name, str(file), text, tests, watch)
            found.write_bytes(pickle.dumps(watch.seen))
            return status
        seen = pickle.loads(found.read_bytes())
        if all(lines.isdisjoint(mutant.within) for _, lines in seen.values()):
            return UNREACHED
        return _tested(name, str(file), mutant.text, tests, Order(seen, mutant.within))

    return Subject(path, mutants_of(text), judge)


def _tested(name: str, file: str, text: str, tests: Sequence[str], plugin: Watch | Order) -> int:
    """Whether tests see `text` in the place of the module called `name`, which is in `file`."""
    original, loaded = SourceFileLoader.get_code, []

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        if fullname != name:
            return original(loader, fullname)
        loaded.append(fullname)
        return compile(plugin.watched(text) if isinstance(plugin, Watch) else text, file, "exec")

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    status = _pytest(tests, plugin)  # which loads it
    return status if loaded else UNUSED


def _pytest(tests: Sequence[str], *plugins: object) -> int:
    status = pytest.main(["-qx", "-n", "0", "-p", "no:cacheprovider", *tests], list(plugins))
    if status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        return UNUSED
    return SURVIVED if status == pytest.ExitCode.OK else KILLED


# ---------------------------------------------------------------- templates


def _template(path: str, tests: Sequence[str]) -> Subject:
    """Mutants of what is outside of tags. Seen is one by the verification of products that differ, or by tests."""
    from derive_triplet import verify
    from derive_triplet.derive.targets import base
    from derive_triplet.derive.verify import nvcc

    text = (ROOT / path).read_text(encoding="utf-8")
    judges = next((judges for pattern, judges in TEMPLATES.items() if fnmatch(path, pattern)), None)
    if judges is None:
        raise SystemExit(f"{path}: nothing is known to judge it")
    tests = tests or judges.tests
    if not judges.has_nvcc:
        nvcc.find = lambda: None  # type: ignore[attr-defined]
    right = []
    for product in judges.products():
        right.append(product.files)
        verify(product)  # what it computes once need not be computed for every mutant

    def judge(mutant: Mutant | None) -> int:
        if mutant is not None:
            _replace_template(base, path.removeprefix("templates/"), mutant.text)
        products = [
            product
            for product, files in zip(judges.products(), right, strict=True)
            if mutant is None or product.files != files
        ]
        for product in products if mutant is None else products[: judges.tried]:
            if not verify(product).passed:
                return KILLED
        if not products and not tests:
            return UNREACHED
        return _pytest(tests) if tests else SURVIVED

    language = {"prototxt": " *#", "latex": "%", "numpy": r'"""[\s\S]*?"""| *#'}.get(Path(path).parts[1], "")
    return Subject(path, text_mutants_of(text, tags=True, comment=language), judge)


def _replace_template(base: Any, name: str, text: str) -> None:
    import jinja2

    original = base._environment

    def environment(root: Any, delimiters: Mapping[str, str]) -> jinja2.Environment:
        made: jinja2.Environment = original(root, delimiters)
        others: Any = made.loader
        made.loader = jinja2.FunctionLoader(lambda asked: text if asked == name else others.load_func(asked))
        return made

    base._environment = environment
    base._ENVIRONMENTS.clear()


# ---------------------------------------------------------------- rendered texts


def _text(what: str) -> Subject:
    """Of a rendered text, by the verification of its target."""
    from derive_triplet import differentiate, generate, verify

    target, _, names = what.partition(":")
    product = generate(differentiate(*names.split("/")), target, dtypes=["float32"])
    (file, *others) = product.files
    verified = re.split(r"^(?:#|//) -+ (?:blocks and checks|storage).*", file.text, flags=re.MULTILINE)[0]
    mutants = mutants_of(file.text) if file.path.endswith(".py") else text_mutants_of(file.text)

    def judge(mutant: Mutant | None) -> int:
        text = file.text if mutant is None else mutant.text
        return SURVIVED if verify(replace(product, files=(replace(file, text=text), *others))).passed else KILLED

    return Subject(what, [mutant for mutant in mutants if mutant.line <= verified.count("\n")], judge)
