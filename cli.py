"""The command line: options in, one call, a readable answer out.

Of the library only the catalogue is imported before the options are understood, so that ``--help`` is immediate.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .derive.catalogue import DISTANCES, LOSSES, PARAMETERS
from .derive.errors import DeriveTripletError, UsageError
from .derive.version import __version__

if TYPE_CHECKING:
    from .derive.batch import Made
    from .derive.catalogue import Loss, Objective, Parameter
    from .derive.regenerate import Drift
    from .derive.requests import Request
    from .derive.targets.base import GeneratedFile
    from .derive.verify.report import Report

_EPILOG = """\b
Examples:
  derive-triplet --norm l2 --target cuda
      the paper's loss on the Euclidean distance, as CUDA, in generated/cuda/
  derive-triplet --loss hinge --margin 0.5 --norm all --target numpy -o src
      every distance, with another default margin, in src/numpy/
  derive-triplet --target numpy -o - > layer.py
      to standard output
  derive-triplet --loss 'log(1 + exp((d_pos - d_neg)/tau))' --param "tau=0.5:>0" --name soft --target cuda
      a loss of your own
  derive-triplet --like torch --target cuda
      what torch.nn.functional.triplet_margin_loss computes
  derive-triplet --loss hinge --accuracy
      by how many ULPs its code is off, from tiny to huge distances, and the naive formula, and PyTorch's autograd
  derive-triplet --check
      does generated/ still hold what the tool generates? For CI.

\b
Exit status: 0 done, 1 verification failed, files drifted or too inaccurate, 2 wrong usage.
"""


class _Failure(click.ClickException):
    """An error of ours as click shows it: one line, and the exit status it deserves."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.exit_code = 2 if isinstance(error, UsageError | OSError) else 1  # type: ignore[misc]


def _parameter_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each parameter of the catalogue."""
    for parameter in reversed(tuple(PARAMETERS.values())):
        text = f"Default {parameter.name}: {parameter.meaning}. [default: {parameter.default:g}]"
        command = click.option(f"--{parameter.name}", type=float, metavar="X", help=text)(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.option("--norm", "norms", multiple=True, metavar="N", help="Distance, or 'all'. [default: l2]")
@click.option(
    "--loss",
    "losses",
    multiple=True,
    metavar="L",
    help="Loss, or 'all', or your own: a formula in d_pos and d_neg, or FILE.toml. [default: softmax-mse]",
)
@click.option(
    "--like", "modes", multiple=True, metavar="M", help="Instead of norm and loss: those of a library, or 'all'."
)
@click.option("--normalize", is_flag=True, help="Divide the embeddings by their Euclidean norms first.")
@click.option("--target", "targets", multiple=True, metavar="T", help="What to generate, or 'all'. [default: numpy]")
@click.option(
    "-o",
    "--output",
    default="generated",
    metavar="DIR",
    show_default=True,
    help="Where to, as DIR/<target>/...; '-' prints.",
)
@click.option("--dtype", "dtypes", multiple=True, metavar="D", help="Float type, or 'all'. [default: float32, float64]")
@_parameter_options
@click.option(
    "--param", "own_parameters", multiple=True, metavar="P", help="A parameter of your own loss, NAME=DEFAULT:DOMAIN."
)
@click.option("--name", default="", metavar="NAME", help="What your own loss is called.")
@click.option(
    "--accept-accuracy",
    default=0.0,
    metavar="ULPS",
    type=click.FloatRange(min=0),
    help="Write also what is less accurate than verification allows, up to this error.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Verify thoroughly, or not at all; by default what takes about a second.",
)
@click.option(
    "--accuracy",
    is_flag=True,
    help="Write nothing; show the errors of generated code in ULPs by regime, beside those of the naive formula and of "
    "PyTorch's autograd, and fail if they exceed the bound.",
)
@click.option("--force", is_flag=True, help="Overwrite files that the tool did not generate.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--check", is_flag=True, help="Write nothing; fail if the files in DIR are not what would be written.")
@click.option("--list", "as_list", is_flag=True, help="Show the norms, losses, parity modes and targets.")
@click.version_option(__version__, prog_name="derive-triplet")
def main(
    norms: tuple[str, ...],
    losses: tuple[str, ...],
    modes: tuple[str, ...],
    normalize: bool,
    targets: tuple[str, ...],
    output: str,
    dtypes: tuple[str, ...],
    own_parameters: tuple[str, ...],
    name: str,
    accept_accuracy: float,
    verify: bool | None,
    accuracy: bool,
    force: bool,
    as_json: bool,
    check: bool,
    as_list: bool,
    **given: float | None,
) -> None:
    """Derive the gradients of a triplet loss, generate a layer from them, and verify it.

    Each of --norm, --loss, --like, --target and --dtype may be given several times; --list shows their values.
    """
    parameters = {name: value for name, value in given.items() if value is not None}
    try:
        for option, value in {"--norm": norms, "--loss": losses, "--param": own_parameters, "--name": name}.items():
            if modes and value:
                raise UsageError(f"--like {modes[0]} has a norm and a loss of its own; it does not go with {option}")
        chosen: Sequence[str | Loss] = losses or ("softmax-mse",)
        if own_parameters or name or any(loss not in LOSSES and loss != "all" for loss in losses):
            from .derive.custom import losses_from

            chosen, defaults = losses_from(losses, own_parameters, name)
            parameters |= defaults
        names = (norms or ("l2",), chosen, targets or ("numpy",))
        if as_list:
            _list(as_json)
        elif accuracy:
            for option, is_given in {
                "--check": check,
                "--force": force,
                "--verify" if verify else "--no-verify": verify is not None,
                f"-o {output}": output != "generated",
            }.items():
                if is_given:
                    raise UsageError(f"--accuracy measures and writes nothing; it does not go with {option}")
            _accuracy(names, dtypes, parameters, accept_accuracy, normalize, modes, as_json)
        elif check:
            if output == "-":
                raise UsageError("--check compares files; give their folder with -o DIR")
            given_names = names if norms or losses or modes or targets else None
            _check(Path(output), given_names, dtypes, parameters, accept_accuracy, normalize, modes, as_json)
        else:
            from .derive.requests import requests_for

            requests = requests_for(*names, dtypes, parameters, accept_accuracy, normalize, modes)
            _generate(requests, output, verify, force, as_json)
    except BrokenPipeError:  # the reader has gone, and click ends quietly
        raise
    except (DeriveTripletError, OSError) as error:
        raise _Failure(error) from error


# ---------------------------------------------------------------- generate


def _generate(requests: Sequence[Request], output: str, verify: bool | None, force: bool, as_json: bool) -> None:
    to_stdout, single = output == "-", len(requests) == 1
    _refuse_early(requests, output, force)
    if single and verify is not False:
        _begin_verification(requests[0])

    from .derive.batch import make_all
    from .derive.regenerate import write

    say = _silent if as_json else _to_stderr if to_stdout else click.echo
    outcomes: list[dict[str, Any]] = []
    described, lacking = set(), list[str]()
    for made in make_all(requests, verify, _status):
        if made.objective not in described:
            described.add(made.objective)
            say(f"{made.description}\n" if single else made.description.splitlines()[0])
        status: dict[str, str] = {}
        if made.report is None or made.report.passed:
            status = {} if to_stdout else write(made, Path(output), force)
            if to_stdout and not as_json:
                _print(made.files, alone=single and len(made.files) == 1)
        _tell(say, made.report, status, output, single)
        outcomes.append(_outcome(made, status, with_text=to_stdout))
        lacking += [made.lacks] if made.lacks else []
    failed = any(outcome["report"] and not outcome["report"]["passed"] for outcome in outcomes)
    if as_json:
        _print_json({"version": __version__, "ok": not failed, "products": outcomes})
    if failed:
        raise DeriveTripletError("verification failed; the files of what failed were not written")
    if lacking:
        raise DeriveTripletError("; ".join(dict.fromkeys(lacking)))


def _begin_verification(request: Request) -> None:
    """Let another processor compute the reference that code will be compared with."""
    from .derive.targets.registry import targets_for

    if targets_for(request.target)[request.target].executable:
        from .derive.verify import ahead

        ahead.begin(request)


def _refuse_early(requests: Sequence[Request], output: str, force: bool) -> None:
    """Raise `UsageError` for what could not be written, or not be printed, before anything is derived."""
    from .derive.regenerate import refuse_foreign
    from .derive.targets.registry import targets_for

    known = targets_for(*(request.target for request in requests))
    paths = [path for request in requests for path in known[request.target].paths(request.objective)]
    if output == "-":
        binary = [path for path in paths if path.endswith(".pdf")]
        if binary:
            raise UsageError(f"{binary[0]} is not text and cannot be printed; give a folder with -o DIR")
    elif not force:
        refuse_foreign(paths, Path(output))


def _print(files: Sequence[GeneratedFile], alone: bool) -> None:
    """The text of files; where there are several, each below a line with its path."""
    for file in files:
        click.echo(file.text if alone else f"==> {file.path} <==\n{file.text}", nl=False)


def _tell(say: Any, report: Report | None, status: Mapping[str, str], output: str, full: bool) -> None:
    if report and (full or not report.passed):
        say(str(report) + ("\n" if status else ""))
    for path, what in status.items():
        tail = "" if full else f"  {report.summary if report else 'not verified'}"
        say(f"{what:9}  {Path(output) / path}{tail}")
    if report is None and full:
        say("not verified")


def _outcome(made: Made, status: Mapping[str, str], with_text: bool) -> dict[str, Any]:
    return {
        "norm": made.objective.distance.name,
        "loss": made.objective.loss.name,
        **({"like": made.objective.like} if made.objective.like else {}),
        "normalize": made.objective.normalize,
        "target": made.target,
        "command": made.command,
        "formulas": made.formulas,
        "steps": made.steps,
        "files": [
            {
                "path": file.path,
                "status": status.get(file.path, "not written"),
                **({"text": file.text} if with_text else {}),
            }
            for file in made.files
        ],
        "report": made.report.as_dict() if made.report else None,
    }


def _status(text: str = "") -> None:
    """A passing line on a terminal, which says how far it is and what takes so long; none in a pipe."""
    if sys.stderr and sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def _print_json(content: object) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def _silent(text: str) -> None:
    """For JSON, which is printed at the end."""


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


# ---------------------------------------------------------------- accuracy


def _accuracy(
    names: tuple[Sequence[str], Sequence[str | Loss], Sequence[str]],
    dtypes: tuple[str, ...],
    parameters: Mapping[str, float],
    accepted: float,
    normalize: bool,
    modes: Sequence[str],
    as_json: bool,
) -> None:
    from .derive.requests import executable_targets, requests_for

    norms, losses, targets = names
    requests = requests_for(norms, losses, executable_targets(targets), dtypes, parameters, accepted, normalize, modes)

    from .derive.api import product_of
    from .derive.verify.accuracy import measure

    by_objective: dict[Objective, list[Request]] = {}
    for request in requests:
        by_objective.setdefault(request.objective, []).append(request)
    found = []
    for number, (objective, of) in enumerate(by_objective.items(), start=1):
        _status(f"deriving {objective.title} ({number} of {len(by_objective)})")
        found.append(measure([product_of(request) for request in of], _status))
        _status()
        if not as_json:
            click.echo(f"{found[-1]}\n" if number < len(by_objective) else str(found[-1]))
    failed = [failure for accuracy in found for failure in accuracy.complaints]
    if as_json:
        _print_json({"version": __version__, "ok": not failed, "accuracy": [accuracy.as_dict() for accuracy in found]})
    if failed:
        raise DeriveTripletError("; ".join(failed))


# ---------------------------------------------------------------- check


def _check(
    root: Path,
    names: tuple[Sequence[str], Sequence[str | Loss], Sequence[str]] | None,
    dtypes: tuple[str, ...],
    parameters: Mapping[str, float],
    accuracy: float,
    normalize: bool,
    modes: Sequence[str],
    as_json: bool,
) -> None:
    from .derive import regenerate
    from .derive.requests import requests_for

    if names is None and (dtypes or parameters or accuracy or normalize):
        raise UsageError("--check without --norm, --loss, --like or --target takes all options from the manifest")
    everything = (("all",), ("all",), ("all",))
    recorded = regenerate.read_manifest(root) if names is None else None
    if names is None and recorded is None and not as_json:
        click.echo(f"{root} has no manifest; it is compared with all that the tool makes")
    requests: Sequence[Request] = (
        requests_for(*(names or everything), dtypes, parameters, accuracy, normalize, modes)
        if recorded is None
        else recorded
    )
    complete = names in (None, everything)

    from .derive.batch import make_all

    drift = regenerate.check(make_all(requests, False, _status), root, complete)
    if as_json:
        entries = [{"path": d.path, "kind": d.kind, "mend": d.mend, "diff": d.diff} for d in drift]
        _print_json({"version": __version__, "ok": not drift, "drift": entries})
    else:
        _tell_drift(drift, root, len(requests))
    if drift:
        sys.exit(1)


def _tell_drift(drift: list[Drift], root: Path, count: int) -> None:
    for found in drift:
        click.echo(found.diff, nl=False)
    for found in drift:
        click.echo(f"{found.kind}: {found.path if found.kind == 'not compared' else root / found.path}")
    if drift:
        click.echo("\nTo mend:")
        for mend in dict.fromkeys(mend for found in drift for mend in found.mend):
            click.echo(f"    {mend}")
    else:
        click.echo(f"{root}: all files of {count} product{'s' * (count != 1)} are as generated")


# ---------------------------------------------------------------- list


def _list(as_json: bool) -> None:
    from .derive.parity import PARITY
    from .derive.targets import registry

    groups = {
        "norms": {entry.name: entry.title for entry in DISTANCES.values()},
        "losses": {entry.name: entry.title + _defaults(entry.parameters) for entry in LOSSES.values()},
        "parity modes": {mode.name: mode.title + _defaults(mode.objective.parameters) for mode in PARITY.values()},
        "targets": {target.name: target.title for target in registry.targets().values()},
    }
    if as_json:
        _print_json(groups)
        return
    width = max(len(name) for group in groups.values() for name in group)
    for at, (kind, group) in enumerate(groups.items()):
        click.echo(("\n" if at else "") + f"{kind}:")
        for name, title in group.items():
            click.echo(f"  {name:<{width}}  {title}")


def _defaults(parameters: Sequence[Parameter]) -> str:
    return "".join(f"; --{p.name} [{p.default}]" for p in parameters)


# ---------------------------------------------------------------- process


def run() -> None:
    """The command as a process of its own, which neither looks for garbage nor takes itself apart.

    It hardly makes any, and looking takes a sixth of the time, again and again while modules are imported; taking apart
    what is there when it ends takes some more, and the system frees all of it anyway.
    """
    gc.disable()
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int):
            _end(end.code)
        raise


def _end(status: int) -> None:
    """End the process at once, unless what it said cannot be written."""
    with suppress(OSError):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


if __name__ == "__main__":
    run()
