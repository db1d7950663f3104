"""What verification found: one check a line, and the level that was reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import DeriveTripletError


@dataclass(frozen=True)
class Check:
    """One property, measured: it holds when `worst` is at most `bound`.

    `unit` is that of both, 'ulp' of the result type unless stated otherwise; a worst of NaN fails.
    """

    name: str
    regime: str
    dtype: str
    worst: float
    bound: float
    unit: str = "ulp"
    detail: str = ""
    point: str = ""
    """The distances at which accuracy is lost, if it is."""

    @property
    def passed(self) -> bool:
        return self.worst <= self.bound

    @classmethod
    def finding(cls, name: str, regime: str, dtype: str, found: Exception | str, there: bool = True) -> Check:
        """An error, where none may be.

        found: what somebody said; or what code under test has raised, which may be anything, and is told with its type.
        there: whether there is an error at all.
        """
        detail = found if isinstance(found, str) else f"{type(found).__name__}: {found}"
        return cls(name, regime, dtype, int(there), 0, unit="errors", detail=detail)


def measured(name: str, regime: str, dtype: str, bound: float, unit: str, measure: Callable[[], float]) -> Check:
    """A check of a number; what code under test refuses, or may not do where that is watched, is a finding."""
    try:
        return Check(name, regime, dtype, measure(), bound, unit=unit)
    except DeriveTripletError as error:
        return Check.finding(name, regime, dtype, str(error))


def exactly(name: str, dtype: str, differing: Callable[[], int]) -> Check:
    """A check that no number differs."""
    return measured(name, "bit for bit", dtype, 0, "numbers", differing)


@dataclass(frozen=True, repr=False)
class Report:
    """The outcome for one generated product.

    level: 'rendered', 'compiled (...)' or 'run (...)', the strongest that was reached.
    notes: what was not done, and how to get more.
    """

    target: str
    level: str
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "target": self.target,
            "level": self.level,
            "passed": self.passed,
            "checks": [_check_as_dict(check) for check in self.checks],
            "notes": list(self.notes),
        }

    def accepting(self, ulps: float) -> Report:
        """The same, with a larger bound for the errors of losses and gradients."""
        checks = (
            replace(c, bound=max(c.bound, ulps)) if c.unit == "ulp" and c.name in ("loss", "gradient") else c
            for c in self.checks
        )
        return replace(self, checks=tuple(checks))

    @property
    def inaccurate(self) -> tuple[Check, ...]:
        """The checks at whose points more accuracy is lost than verification allows by itself."""
        return tuple(check for check in self.checks if check.point)

    @property
    def summary(self) -> str:
        """One line: the level, how much was checked, and how close the worst check came to its bound."""
        if not self.passed:
            return f"FAILED: {len(self.failures)} of {len(self.checks)} checks"
        accepted = f"; accepted: {len(self.inaccurate)} lose accuracy" if self.inaccurate else ""
        return f"{self.level}; {len(self.checks)} checks{accepted}" if self.checks else self.level

    def __repr__(self) -> str:
        return f"<Report of {self.target}: {self.summary}>"

    def __str__(self) -> str:
        """A table with a line per property and regime and a column per float type."""
        rows = self._rows()
        lines = aligned(rows, range(2, len(rows[0]) - 2)) if self.checks else []
        lines += [f"{c.name}, {c.regime}, {c.dtype}: {c.detail}" for c in self.failures if c.detail]
        lines += [
            f"loses accuracy: {c.regime}, {c.dtype}: {c.name} {c.worst:.2g} {c.unit} at {c.point}"
            for c in self.inaccurate
        ]
        lines += [*self.notes, f"verified to level: {self.level}" if self.passed else "verification FAILED"]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, ...]]:
        dtypes = tuple(dict.fromkeys(check.dtype for check in self.checks))
        lines: dict[tuple[str, str], dict[str, Check]] = {}
        for check in self.checks:
            lines.setdefault((check.name, check.regime), {})[check.dtype] = check
        rows: list[tuple[str, ...]] = [("check", "regime", *dtypes, "bound", "")]
        for (name, regime), by_dtype in lines.items():
            cells = (f"{by_dtype[dtype].worst:.2g}" if dtype in by_dtype else "" for dtype in dtypes)
            first = next(iter(by_dtype.values()))
            verdict = "ok" if all(check.passed for check in by_dtype.values()) else "FAILED"
            rows.append((name, regime, *cells, f"{first.bound:g} {first.unit}", verdict))
        return rows


def _check_as_dict(check: Check) -> dict[str, Any]:
    # JSON has no infinity and no NaN
    data = {**asdict(check), "worst": plain(check.worst), "passed": check.passed}
    return data if check.point else {name: value for name, value in data.items() if name != "point"}


def plain(value: float) -> float | str:
    """A number for JSON."""
    return value if math.isfinite(value) else str(value)


def aligned(rows: Sequence[tuple[str, ...]], numeric: Container[int]) -> list[str]:
    """Rows as lines, columns lined up; those that are numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (f"{cell:{'>' if at in numeric else '<'}{widths[at]}}" for at, cell in enumerate(row))
        lines.append("  ".join(cells).rstrip())
    return lines
