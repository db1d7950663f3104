"""The C target: one header and one source of C11, compiled by the C compiler of the machine and run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..printing import ATOM, UNARY, InfixPrinter, ShortLines
from .base import Product, Settings, Target
from .cpp import LEAST, Places, declared, placed_slots

if TYPE_CHECKING:
    import sympy as sp

    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..rescale import Rescaled
    from ..verify.checks import Method
    from ..verify.report import Report

_LINE = 64
"""Bytes of a line of the cache, and of the widest vectors: so much of a row is computed side by side."""


@dataclass(frozen=True)
class CType:
    """A float type of C.

    real: its name. suffix: of our functions. letter: of its numbers, and of the functions of math.h.
    steps: sums of squares below a power of two, by which power of two components are then multiplied; and by which
    they are where a sum has overflown. A square of the smallest number over the unit roundoff is in none of them.
    """

    real: str
    suffix: str
    letter: str
    size: int
    steps: tuple[tuple[int, int], ...]
    overflown: int

    @property
    def lanes(self) -> int:
        """How many components of a row are computed side by side."""
        return _LINE // self.size


C_TYPES: Mapping[str, CType] = MappingProxyType(
    {
        "float32": CType("float", "f32", "f", 4, ((-126, 106), (-102, 57)), -96),
        "float64": CType("double", "f64", "", 8, ((-1022, 793), (-969, 498)), -768),
    }
)

_OF_MATH_H = {
    **{name: name for name in ("sqrt", "exp", "log", "log1p", "expm1", "tanh", "hypot")},
    "Abs": "fabs",
    "absolute": "fabs",
}
_OURS = {
    **{name: name for name in ("sigmoid", "softplus", "positive_part", "step", "sign", "select")},
    **{name: name for name in ("masked_ratio", "masked_power", "attains")},
    "signum": "sign",
    "pow": "power",
    "logaddexp": "log_of_sum_of_exponentials",
}


class CPrinter(ShortLines, InfixPrinter):
    """Expressions in a float type, with functions of math.h and those of `functions.jinja`."""

    room = 101  # of 120 columns, before a declaration

    def __init__(self, of: CType, names: Mapping[str, str] | None = None) -> None:
        super().__init__(names)
        self.of = of
        self.functions = {
            **{name: f"{called}{of.letter}" for name, called in _OF_MATH_H.items()},
            **{name: f"{called}_{of.suffix}" for name, called in _OURS.items()},
        }

    def _print_Integer(self, expr: Any) -> tuple[str, int]:
        return self.integer(int(expr)), ATOM if expr >= 0 else UNARY

    def integer(self, value: int) -> str:
        return f"{value}.0{self.of.letter}"

    def decimal(self, text: str) -> str:
        return f"{text}{self.of.letter}"

    def _print_rounded(self, expr: Any) -> tuple[str, int]:
        factors = ", ".join(map(self, expr.args[0].as_two_terms()))
        return f"rounded_product_{self.of.suffix}({factors})", ATOM


class CTarget(Target):
    name = "c"
    title = "C11 (.h, .c), with OpenMP where it is enabled: forward, forward_backward, hvp"
    templates = {"layer.h.jinja": "{stem}.h", "layer.c.jinja": "{stem}.c"}
    executable = True

    def context(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Mapping[str, Any]:
        from ..hvp import hessian_product
        from ..rescale import rescale

        types = [
            {
                "of": (of := C_TYPES[dtype]),
                "loss": _program(rescale(kernel), of, "", EMBEDDINGS, settings.values(kernel.objective)),
                "product": _program(hessian_product(kernel), of, "product_", (*EMBEDDINGS, *DIRECTION)),
            }
            for dtype in settings.dtypes
        ]
        return {
            "types": types,
            "functions": _functions(types),
            "least": LEAST,
        }

    def generate(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Product:
        product = super().generate(derivation, kernel, settings)
        return replace(product, files=tuple(replace(file, text=folded(file.text)) for file in product.files))

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.c import verify_c

        return verify_c(product, thorough)

    def methods(self, product: Product) -> AbstractContextManager[Sequence[Method]]:
        from ..verify.c import methods

        return methods(product)


def folded(text: str, columns: int = 120) -> str:
    """Source with lines of code that are too long broken, after a comma or before an operator."""
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        while len(line) > columns and "//" not in line:
            at = max(match.end() for match in re.finditer(r",(?= )|(?<=\S)(?= (?:\|\||[-+*/]) )", line[: columns + 1]))
            lines.append(line[:at])
            line = indent + line[at + 1 :]
        lines.append(line)
    return "\n".join(lines) + "\n"


NO_DEFAULTS: Mapping[str, float] = MappingProxyType({})
EMBEDDINGS, DIRECTION = ("x", "x_pos", "x_neg"), ("dx", "dx_pos", "dx_neg")


def _program(
    rescaled: Rescaled, of: CType, prefix: str, vectors: Sequence[str], defaults: Mapping[str, float] = NO_DEFAULTS
) -> dict[str, Any]:
    """The slots of `row.jinja`; `prefix` is of its names, `vectors` are what a row holds components of.

    usual: exponents of components that are whole numbers if parameters have these defaults.
    """
    kernel = rescaled.kernel
    usual = [] if rescaled.scales else _usual(kernel, defaults)
    places = Places("row->", "row->scale.", "row->sums.", "row->parameters.", of.real)
    printed = placed_slots(rescaled, places, partial(CPrinter, of), partial(CPrinter, of))
    for stage, its in zip(printed["stages"], kernel.stages, strict=True):
        stage["reads"] = _read(kernel, vectors, *(reduction.term for reduction in its.reductions))
        stage["raises"] = any(name in text for name, _ in usual for _, text in stage["reductions"])
    return {
        **printed,
        "prefix": prefix,
        "unscaled": bool(rescaled.scales) and not prefix,
        "usual": usual,
        "vectors": vectors,
        "reads": _read(kernel, vectors, *(one.value for one in kernel.maps)),
        "maps": list(declared(printed["maps"], {}, of.real)),
        "outputs": [one.name for one in kernel.maps],
        "sums": [reduction.name for reduction in kernel.reductions],
        "known": [*printed["constants"], *([] if prefix else ["loss"]), *printed["weights"]],
    }


def _usual(kernel: RowKernel, defaults: Mapping[str, float]) -> list[tuple[str, str]]:
    """Constants of a row that are exponents of its components, and the small whole numbers that they are by default."""
    import sympy as sp

    written = sp.Tuple(*(r.term for r in kernel.reductions), *(one.value for one in (*kernel.components, *kernel.maps)))
    exponents = sp.Tuple(*(power.exp for power in written.atoms(sp.Pow))).free_symbols
    scalars = {one.symbol: one.value for stage in kernel.stages for one in stage.scalars}
    values = {symbol.name: defaults.get(str(scalars.get(symbol))) for symbol in kernel.constants if symbol in exponents}
    return [(name, f"{value:.1f}") for name, value in values.items() if value in range(5)]


def _read(kernel: RowKernel, vectors: Sequence[str], *terms: sp.Expr) -> list[str]:
    """Of which vectors some elementwise expressions use the components."""
    used = {symbol.name for symbol in kernel.used(terms)}
    return [name for name in vectors if name in used]


def _functions(types: Sequence[Mapping[str, Any]]) -> set[str]:
    """The functions of `functions.jinja` that the programs call."""
    programs = [type_[which] for type_ in types for which in ("loss", "product") if type_[which]]
    stages = [stage for program in programs for stage in program["stages"]]
    called = {name for stage in stages for _, name in stage["scales"]}
    called |= {{"sum": "total", "max": "larger"}[kind] for program in programs for kind in program["kinds"]}
    parts = [part for of in (*stages, *programs) for part in of.values() if isinstance(part, list)]
    printed = (text for part in parts for pair in part if isinstance(pair, tuple) for text in pair)
    return called.union(*(re.findall(r"\b(\w+)_f(?:32|64)\(", text) for text in printed))
