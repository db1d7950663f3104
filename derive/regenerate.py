"""A tree of generated files on disk: writing it, and checking that it is what would be written now.

The tree holds a manifest, which records the options of every product, so that a check needs no options.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from .catalogue import Loss, Objective
from .errors import DeriveTripletError, UsageError
from .requests import Request, requests_for
from .targets.base import MARK, GeneratedFile, Settings
from .targets.registry import targets
from .version import __version__

MANIFEST = "manifest.json"
_MARKED_WITHIN = 512  # bytes


class NotOursError(UsageError):
    """A file that the tool did not generate stands where it would write."""


class Output(Protocol):
    """What of a product is written: a `Product`, or what is left of one that another process has made."""

    @property
    def objective(self) -> Objective: ...
    @property
    def target(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def files(self) -> tuple[GeneratedFile, ...]: ...
    @property
    def command(self) -> str: ...
    @property
    def lacks(self) -> str: ...


@dataclass(frozen=True)
class Drift:
    """A file that is not as it would be written, and the commands that mend it.

    kind: 'changed', 'missing', 'extra', or 'not compared' where this machine cannot make it.
    """

    path: str
    kind: str
    mend: tuple[str, ...]
    diff: str = ""


# ---------------------------------------------------------------- the manifest


def read_manifest(root: Path) -> tuple[Request, ...] | None:
    """The requests that a tree was made from; None if it has no manifest.

    Raises `DeriveTripletError` for a manifest that cannot be read.
    """
    entries = _manifest_entries(root)
    return None if entries is None else tuple(_request(entry, root) for entry in entries)


def _manifest_entries(root: Path) -> list[dict[str, Any]] | None:
    path = root / MANIFEST
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["products"]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise TypeError("products is not a list of mappings")
        return entries
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DeriveTripletError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it and generate the files again"
        ) from None


def _request(entry: Mapping[str, Any], root: Path) -> Request:
    try:
        norm, loss, target = (entry[kind] for kind in ("norm", "loss", "target"))
        if not entry["dtypes"] or not all(isinstance(name, str) for name in (norm, loss, target)):
            raise TypeError("norm, loss and target are not names, or dtypes is empty")
        parameters = {str(name): float(value) for name, value in entry["parameters"].items()}
        normalize = entry.get("normalize", False) is True
        modes = [str(entry["like"])] if "like" in entry else []
        (made,) = _own_loss(entry["source"], root) if "source" in entry else (loss,)
        (request,) = requests_for(
            [norm], [made], [target], entry["dtypes"], parameters, normalize=normalize, modes=modes
        )
        engine, accuracy = str(entry.get("engine", "")), float(entry.get("accuracy", 0.0))
        return replace(request, settings=replace(request.settings, engine=engine, accuracy=accuracy))
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise DeriveTripletError(
            f"{root / MANIFEST} has an entry that cannot be read ({type(error).__name__}: {error}); "
            "delete it and generate the files again"
        ) from None


def _own_loss(source: Mapping[str, Any], root: Path) -> list[str | Loss]:
    """The loss of an entry that is not of the catalogue, made as its command makes it."""
    from .custom import losses_from

    try:
        return losses_from([source["loss"]], source["parameters"], source["name"])[0]
    except UsageError as error:
        raise DeriveTripletError(f"{root / MANIFEST}: a loss cannot be made again: {error}") from None


def _source(product: Output) -> dict[str, Any]:
    """How a loss of one's own is made: what follows its options in the command, with the defaults that it declares."""
    loss = product.objective.loss
    if not loss.source:
        return {}
    options = loss.options({p.name: p.default for p in loss.parameters})
    said = list(zip(options[::2], options[1::2], strict=True))
    follows = {option: [value for name, value in said if name == option] for option in ("--loss", "--param", "--name")}
    return {
        "source": {
            "loss": follows["--loss"][0],
            "parameters": follows["--param"],
            "name": next(iter(follows["--name"]), ""),
        }
    }


def _entry(product: Output) -> dict[str, Any]:
    return {
        "norm": product.objective.distance.name,
        "loss": product.objective.loss.name,
        **({"like": product.objective.like} if product.objective.like else {}),
        **({"normalize": True} if product.objective.normalize else {}),
        **_source(product),
        "target": product.target,
        "dtypes": list(product.settings.dtypes),
        "parameters": dict(sorted(product.settings.parameters.items())),
        **({"engine": product.settings.engine} if product.settings.engine else {}),
        **({"accuracy": product.settings.accuracy} if product.settings.accuracy else {}),
        "files": {file.path: hashlib.sha256(file.content).hexdigest() for file in product.files},
    }


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str, bool]:
    return str(entry.get("target")), str(entry.get("loss")), str(entry.get("norm")), entry.get("normalize") is True


def _manifest_text(entries: Iterable[Mapping[str, Any]]) -> str:
    products = [_indented(json.dumps(entry)) for entry in sorted(entries, key=_key)]
    about = json.dumps(f"{MARK} {__version__}; lists what it generated here")
    listed = ["[", ",\n".join(products), "  ]"] if products else ["[]"]
    return f'{{\n  "about": {about},\n  "products": ' + "\n".join(listed) + "\n}\n"


@cache  # a manifest is written as often as there are products
def _indented(entry: str) -> str:
    return textwrap.indent(json.dumps(json.loads(entry), indent=2), "    ")


# ---------------------------------------------------------------- writing


def write(product: Output, root: Path, force: bool = False) -> dict[str, str]:
    """Write a product's files under `root` and enter it in the manifest; path -> 'written' or 'unchanged'.

    Raises `NotOursError`, before anything is written, where a file stands that the tool did not generate, unless
    `force`. Files are replaced whole: nobody sees half of one.
    """
    contents = {file.path: file.content for file in product.files}
    if not force:
        refuse_foreign((*contents, MANIFEST), root)
    recorded = [] if _is_foreign(root / MANIFEST) else _manifest_entries(root) or []
    mine = _entry(product)
    others = [kept for entry in recorded if _key(entry) != _key(mine) and (kept := _beside(entry, mine))]
    contents[MANIFEST] = _manifest_text([*others, mine]).encode()
    status = {path: _write_if_changed(root / path, content) for path, content in contents.items()}
    del status[MANIFEST]
    return status


def _beside(entry: Mapping[str, Any], written: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is left of an entry once another product, such as a document's PDF, has written a file of both.

    The same content under the same options; nothing if the options differ.
    """
    mine, theirs = dict(entry.get("files") or {}), dict(written["files"])
    shared = mine.keys() & theirs.keys()
    if all(mine[path] == theirs[path] for path in shared):
        return entry
    if any(entry.get(option) != written[option] for option in ("dtypes", "parameters")):
        return None
    return {**entry, "files": {**mine, **{path: theirs[path] for path in shared}}}


def refuse_foreign(paths: Iterable[str], root: Path) -> None:
    """Raise `NotOursError` where a file stands that the tool did not generate."""
    for path in paths:
        if _is_foreign(root / path):
            raise NotOursError(f"{root / path} was not generated by derive-triplet; --force overwrites it")


def _is_foreign(path: Path) -> bool:
    return path.exists() and not is_ours(path)


def is_ours(path: Path) -> bool:
    """Whether the tool generated the file: its mark stands in the first lines, or in a PDF's information."""
    with path.open("rb") as file:
        head = file.read(_MARKED_WITHIN)
        return MARK.encode() in head + (file.read() if head.startswith(b"%PDF") else b"")


def _write_if_changed(path: Path, content: bytes) -> str:
    if path.exists() and path.read_bytes() == content:
        return "unchanged"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    return "written"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------- checking


def check(products: Iterable[Output], root: Path, complete: bool) -> list[Drift]:
    """How the tree differs from `products`; writes nothing.

    complete: the products are all that belongs in the tree, so that any other generated file is extra.
    """
    recorded = _manifest_entries(root) or []
    everything = list(products)
    lacking = [product for product in everything if product.lacks]
    products = [product for product in everything if not product.lacks]
    found: dict[str, Drift] = {}
    for product in products:
        mend = (_command(product, root),)
        for file in product.files:
            if drifted := _compare(root, file.path, file.content, mend):
                found.setdefault(file.path, drifted)
    drift = list(found.values())
    drift += [Drift(p.command, "not compared", (), f"{p.command}: {p.lacks}\n") for p in lacking]
    if complete:
        expected = {path for product in everything for path in targets()[product.target].paths(product.objective)}
        left = _left_alone(recorded, everything)
        expected |= {path for entry in left for path in entry.get("files") or {}}
        unasked = _unasked(everything)
        extra = [p for p in _generated_files(root) if p not in expected and p.partition("/")[0] not in unasked]
        drift += [Drift(path, "extra", (f"rm {shlex.quote(str(root / path))}",)) for path in extra]
    if not lacking and (manifest := _compare_manifest(root, recorded, products, complete)):
        drift.insert(0, manifest)
    return drift


def _unasked(products: Iterable[Output]) -> set[str]:
    """The targets that have to be named, and were not: their files are nobody's business here."""
    return {name for name, target in targets().items() if not target.in_all} - {product.target for product in products}


def _left_alone(entries: Iterable[dict[str, Any]], products: Sequence[Output]) -> list[dict[str, Any]]:
    """The entries of what 'all' does not mean and nobody asked for; their files are nobody's business here.

    That is a target that has to be named, normalized embeddings, a loss of one's own, and a parity mode.
    """
    unasked = _unasked(products)
    normalize = {product.objective.normalize for product in products}
    own = any(product.objective.loss.source for product in products)
    like = any(product.objective.like for product in products)
    return [
        entry
        for entry in entries
        if entry.get("target") in unasked
        or (entry.get("normalize") is True) not in normalize
        or ("source" in entry and not own)
        or ("like" in entry and not like)
    ]


def _command(product: Output, root: Path) -> str:
    force = " --force" if any(_is_foreign(root / file.path) for file in product.files) else ""
    return f"{product.command} -o {shlex.quote(str(root))}{force}"


def _compare_manifest(
    root: Path, recorded: Sequence[dict[str, Any]], products: Sequence[Output], complete: bool
) -> Drift | None:
    """Writing a product corrects its own entry only; entries of nothing go with the whole manifest."""
    expected = {_key(_entry(product)): _entry(product) for product in products}
    others = [entry for entry in recorded if _key(entry) not in expected]
    left = _left_alone(others, products) if complete else []
    others = [entry for entry in others if entry not in left]
    wrong = [_command(product, root) for product in products if _entry(product) not in recorded]
    mend = tuple(wrong or [_command(product, root) for product in products[:1]])
    if complete and others:
        mend = (f"rm {shlex.quote(str(root / MANIFEST))}", *(_command(product, root) for product in products))
    entries = [*expected.values(), *left, *([] if complete else others)]
    return _compare(root, MANIFEST, _manifest_text(entries).encode(), mend)


def _compare(root: Path, path: str, content: bytes, mend: tuple[str, ...]) -> Drift | None:
    try:
        found = (root / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Drift(path, "missing", mend)
    if found == content:
        return None
    if b"\0" in found + content:
        return Drift(
            path, "changed", mend, f"{root / path}: {len(found)} bytes found, {len(content)} other bytes expected\n"
        )
    import difflib

    before, after = (side.decode(errors="replace").splitlines(keepends=True) for side in (found, content))
    lines = difflib.unified_diff(before, after, f"{root / path} (found)", f"{path} (expected)")
    diff = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return Drift(path, "changed", mend, diff)


def _generated_files(root: Path) -> list[str]:
    """The files one folder down that bear the tool's mark."""
    paths = (path for path in sorted(root.glob("*/*")) if path.is_file())
    return [path.relative_to(root).as_posix() for path in paths if is_ours(path)]
