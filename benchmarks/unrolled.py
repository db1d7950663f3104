"""Generators of code from symbolic mathematics, for the same gradients.

    python benchmarks/unrolled.py {derive-triplet,wrenfold,symforce} N

prints what one of them makes of the paper's loss on l2, with its three gradients, for embeddings of N components;
`run.py` times that as whole processes, and counts the lines.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

from measure import Chart, Result, Row, beside, in_turns, say, versions_of

TITLE = "Vectors of any length, beside generators that unroll them"
ABOUT = """\
Loss and gradients of softmax-mse on l2 as source code: the time of a whole process, imports and all, and the lines that
it prints. wrenfold and SymForce know vectors of a fixed length, and write a line or more for each component; here the
length is a symbol, and the code a loop. `derive-triplet` also decides every step of the derivation, evaluates it at 50
digits, and guards the range of the type; it writes weights, masks and Hessian products as well, which is why its file
is longer than what the others make of a short vector. SymForce is measured up to n = 256: at 1024 a run takes more than
a minute."""

OURS = "derive-triplet"
LENGTHS = (4, 16, 64, 256, 1024)
QUICK = (4, 16)
LONGEST = {"symforce": 256}
"""What is measured at most: at n = 1024 SymForce takes more than a minute a run."""


def derive_triplet(n: int) -> str:
    """The C source; `n` has no part in it."""
    from derive_triplet import differentiate, generate

    return generate(differentiate("l2", "softmax-mse"), "c").text(".c")


def wrenfold(n: int) -> str:
    from typing import Annotated

    from wrenfold import CppGenerator, OutputArg, ReturnValue, Shape, generate_function, sym

    def triplet(x, x_pos, x_neg):  # type: ignore[no-untyped-def]
        loss = 2 / (1 + sym.exp((x - x_neg).norm() - (x - x_pos).norm())) ** 2
        inputs = {"grad_x": x, "grad_x_pos": x_pos, "grad_x_neg": x_neg}
        gradients = (OutputArg(sym.jacobian([loss], vector).T, name) for name, vector in inputs.items())
        return [ReturnValue(loss), *gradients]

    vector = Annotated[sym.MatrixExpr, Shape(rows=n, cols=1)]
    triplet.__annotations__ = dict.fromkeys(("x", "x_pos", "x_neg"), vector)
    return generate_function(triplet, CppGenerator())


def symforce(n: int) -> str:
    import symforce

    symforce.set_epsilon_to_number(0)
    symforce.set_log_level("ERROR")
    import symforce.symbolic as sf
    from symforce.codegen import Codegen, CppConfig
    from symforce.values import Values

    vector = sf.matrix_type_from_shape((n, 1))
    inputs = Values(**{name: vector.symbolic(name) for name in ("x", "x_pos", "x_neg")})
    x, x_pos, x_neg = inputs.values()
    loss = 2 / (1 + sf.exp((x - x_neg).norm(epsilon=0) - (x - x_pos).norm(epsilon=0))) ** 2
    gradients = {f"grad_{name}": sf.Matrix([[loss]]).jacobian(inputs[name]).T for name in inputs}
    made = Codegen(inputs, Values(loss=loss, **gradients), CppConfig(), name="triplet", return_key="loss")
    return "".join(path.read_text() for path in made.generate_function().generated_files)


GENERATORS: dict[str, Callable[[int], str]] = {OURS: derive_triplet, "wrenfold": wrenfold, "symforce": symforce}


def _count(name: str, n: int, lines: dict[str, int]) -> None:
    """Runs a generator in a process, and counts what it prints; raises `CalledProcessError` if it fails."""
    command = [sys.executable, __file__, name, str(n)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    lines[name] = len(made.stdout.splitlines())


def measure(quick: bool) -> Result:
    peers = [name for name in GENERATORS if name == OURS or find_spec(name)]
    missing = tuple(f"{name}: `pip install {name}`" for name in GENERATORS if name not in peers)
    rows: list[Row] = []
    for n in QUICK if quick else LENGTHS:
        say(f"unrolled: n = {n}")
        lines: dict[str, int] = {}
        runs = {name: partial(_count, name, n, lines) for name in peers if n <= LONGEST.get(name, n)}
        times = in_turns(runs, rounds=(3, 3), warm=False)
        for name in runs:
            rows.append(beside(times, name, OURS, f"n = {n}", n))
            ratio = lines[name] / lines[OURS]
            rows.append(Row(f"n = {n}", n, name, OURS, lines[name], ratio, ratio, ratio, unit="lines"))
    return Result(tuple(rows), missing, versions_of(("derive-triplet", "sympy", "wrenfold", "symforce")))


def charts(rows: Sequence[Row]) -> list[Chart]:
    x = "components of an embedding"
    return [
        Chart("time of a process", x, "seconds", tuple(row for row in rows if row.unit == "s")),
        Chart("lines of code", x, "lines", tuple(row for row in rows if row.unit == "lines")),
    ]


if __name__ == "__main__":
    print(GENERATORS[sys.argv[1]](int(sys.argv[2])))
