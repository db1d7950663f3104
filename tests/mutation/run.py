"""Mutation testing: ``python tests/mutation/run.py SUBJECT...`` says which small errors nothing sees.

SUBJECT is a file of the library (``derive/units.py``), a template (``templates/cuda/kernels.cuh.jinja``), or rendered
text that `verify` judges (``numpy:l2/softmax-mse``, ``cuda:l2/softmax-mse``). A mutant lives in a process of its own,
forked for it; no file is changed. Code that a test starts in another process is not mutated.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from judges import TESTS
from mutants import Mutant, sample
from subjects import KILLED, SURVIVED, UNREACHED, Subject, subject

_MEMORY = 8 << 30
_SAID = {SURVIVED: "SURVIVED", UNREACHED: "not reached", None: "late"}


@dataclass(frozen=True)
class Outcome:
    """What became of a sample of the mutants of a subject."""

    subject: str
    of: int
    became: Sequence[tuple[Mutant, int | None]]

    def those(self, status: int | None) -> list[Mutant]:
        """The mutants that ended like this; None is too late."""
        return [mutant for mutant, became in self.became if became == status]

    @property
    def row(self) -> str:
        late, unreached, survived = (len(self.those(status)) for status in (None, UNREACHED, SURVIVED))
        killed = len(self.became) - late - unreached - survived
        return f"| {self.subject} | {self.of} | {len(self.became)} | {killed} | {late} | {unreached} | {survived} |"


def status_of(job: Callable[[], int], seconds: int) -> int | None:
    """The exit status of a job in a process of its own, which says nothing; None if it takes longer, or all memory.

    seconds: of a processor, which a busy machine does not change; ten times as many may pass.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = KILLED
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            with tempfile.TemporaryFile() as silent:
                os.dup2(silent.fileno(), 1)
                os.dup2(silent.fileno(), 2)
                status = job()
        finally:
            os._exit(status)
    until = time.monotonic() + 10 * seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code
        if _resident(child) > _MEMORY:
            break
        time.sleep(0.02)
    os.killpg(child, 9)  # with what it has started
    os.waitpid(child, 0)
    return None


def _resident(process: int) -> int:
    """Bytes of memory; its addresses cannot be limited, of which AddressSanitizer takes terabytes in what it starts."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def _used() -> float:
    """Seconds of a processor that children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def outcome(of: Subject, count: int, seed: int, only: str) -> Outcome:
    """Of a sample of mutants; where the text as it is does not survive, nothing can be said of its mutants."""
    began = _used()
    if (status := status_of(lambda: of.judge(None), 600)) != SURVIVED:
        raise SystemExit(f"{of.name}: its tests do not pass, or do not import it, without a mutant ({status})")
    limit = 10 + 2 * int(_used() - began)
    became = []
    for mutant in sample(of.mutants, count, seed):
        if only in str(mutant):
            status = status_of(lambda mutant=mutant: of.judge(mutant), limit)  # type: ignore[misc]
            print(f"    {of.name} {mutant}: {_SAID.get(status, 'killed')}", flush=True)
            became.append((mutant, status))
    return Outcome(of.name, len(of.mutants), became)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="+", metavar="SUBJECT", help=f"one of {', '.join(TESTS)}, or any other")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="mutants of each subject [default: 20]")
    parser.add_argument("--seed", type=int, default=0, help="of the choice [default: 0]")
    parser.add_argument("--tests", nargs="+", default=(), metavar="TEST", help="instead of those of the subject")
    parser.add_argument("--only", default="", metavar="TEXT", help="of the choice, those whose line here has this text")
    given = parser.parse_args()
    outcomes = []
    for name in given.subjects:
        with tempfile.TemporaryDirectory() as folder:
            of = subject(name, given.tests, Path(folder))
            outcomes.append(outcome(of, given.sample, given.seed, given.only))
    print("| subject | mutants | tried | killed | too slow | not reached | survived |\n|---|---|---|---|---|---|---|")
    print(*(outcome.row for outcome in outcomes), sep="\n")
    for status, word in ((SURVIVED, "survived"), (UNREACHED, "not reached")):
        for outcome_ in outcomes:
            for mutant in outcome_.those(status):
                print(f"{word}: {outcome_.subject} {mutant}")
    return int(any(outcome_.those(SURVIVED) for outcome_ in outcomes))


if __name__ == "__main__":
    sys.exit(main())
