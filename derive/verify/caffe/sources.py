"""Caffe's sources: where they are fetched from, which of them are compiled, and what is changed in copies of them.

Official Caffe is no longer packaged for Debian 12, but Debian 11's source package is on the same mirrors.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError

LIBRARY = (
    *("blob", "common", "data_transformer", "internal_thread", "layer", "layer_factory", "net", "parallel", "solver"),
    *("syncedmem", "util/benchmark", "util/blocking_queue", "util/db", "util/im2col", "util/insert_splits", "util/io"),
    *("util/math_functions", "util/signal_handler", "util/upgrade_proto"),
    *(f"solvers/{name}_solver" for name in ("adadelta", "adagrad", "adam", "nesterov", "rmsprop", "sgd")),
    *(
        f"layers/{name}_layer"
        for name in (
            *("absval", "accuracy", "argmax", "base_conv", "base_data", "batch_norm", "bias", "concat"),
            *("contrastive_loss", "conv", "deconv", "dropout", "dummy_data", "eltwise", "elu", "euclidean_loss", "exp"),
            *("flatten", "hinge_loss", "inner_product", "input", "log", "loss", "lrn", "memory_data", "mvn", "neuron"),
            *("parameter", "pooling", "power", "prelu", "reduction", "relu", "reshape", "scale", "sigmoid"),
            *("sigmoid_cross_entropy_loss", "silence", "slice", "softmax", "softmax_loss", "split", "tanh"),
            *("threshold", "tile"),
        )
    ),
)
"""The sources of libcaffe, below ``src/caffe`` and without their suffix: what a net of dense arrays is made of."""

PATCHES: Mapping[str, tuple[tuple[str, str], ...]] = {
    # Protocol Buffers dropped the second argument
    "src/caffe/util/io.cpp": (("SetTotalBytesLimit(kProtoReadBytesLimit, 536870912)", "SetTotalBytesLimit(INT_MAX)"),),
    # a call outside its own #ifdef USE_HDF5
    "src/caffe/net.cpp": (("if (H5Fis_hdf5(trained_filename.c_str())) {", "if (false) {"),),
    # for images only
    "python/caffe/io.py": (
        ("import skimage.io\n", ""),
        ("from scipy.ndimage import zoom\n", ""),
        ("from skimage.transform import resize\n", ""),
    ),
}
"""What is replaced in which file. Each text is there exactly once."""


@dataclass(frozen=True)
class Source:
    """An archive of Caffe's sources.

    fetch: puts the archive into a folder, or raises `UsageError`.
    """

    title: str
    archive: str
    sha256: str
    fetch: Callable[[Path], None]


def unpack(source: Source, folder: Path) -> None:
    """The patched sources of Caffe, in `folder`, which is made. Raises `UsageError` if they cannot be had."""
    folder.mkdir()
    source.fetch(folder)
    archive = folder / source.archive
    if not archive.is_file():
        raise UsageError(f"{source.title}: no {source.archive} was downloaded")
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != source.sha256:
        raise UsageError(f"{source.title}: {source.archive} has the SHA-256 {found}, expected {source.sha256}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    for file, replacements in PATCHES.items():
        patch(folder / file, replacements)


def patch(file: Path, replacements: tuple[tuple[str, str], ...]) -> None:
    """Replace texts in a file; raises `UsageError` unless each is there exactly once."""
    text = file.read_text(encoding="utf-8")
    for old, new in replacements:
        if text.count(old) != 1:
            raise UsageError(f"{file.name}: {old.strip()!r} is there {text.count(old)} times, expected once")
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def run(command: list[str], folder: Path) -> str:
    """The standard output of a command; raises `UsageError` with the beginning of its complaint if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError(f"{command[0]} is not on the PATH") from None
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[:20])
        raise UsageError(f"{Path(command[0]).name}, exit status {done.returncode}: {said}")
    return done.stdout


# ---------------------------------------------------------------- Debian

_VERSION = "1.0.0+git20180821.99bd997-8"
_MIRROR = "http://deb.debian.org/debian"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def _from_debian(folder: Path) -> None:
    """By apt, but with an index of its own: the machine's is neither read nor changed."""
    state = folder / "apt"
    for name in ("lists/partial", "archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    signed = f"[signed-by={_KEYS}] " if _KEYS.is_file() else ""
    (state / "sources.list").write_text(f"deb-src {signed}{_mirror(folder)} bullseye main\n", encoding="utf-8")
    options = {
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::Status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Sandbox::User": "",  # which may not write here
        "Acquire::Languages": "none",
    }
    isolated = [f"--option={key}={value}" for key, value in options.items()]
    run(["apt-get", *isolated, "update", "-qq"], folder)
    run(["apt-get", *isolated, "source", "-qq", "--download-only", "--tar-only", f"caffe={_VERSION}"], folder)
    shutil.rmtree(state)


def _mirror(folder: Path) -> str:
    """The mirror that this machine takes Debian from, else the official one."""
    lines = run(["apt-get", "indextargets", "--format=$(SITE) $(CODENAME)", "Created-By: Packages"], folder).split("\n")
    sites = [site for site, _, codename in (line.partition(" ") for line in lines) if codename == "bookworm"]
    return sites[0] if sites else _MIRROR


DEBIAN = Source(
    f"Debian's source package caffe {_VERSION}",
    f"caffe_{_VERSION.rpartition('-')[0]}.orig.tar.gz",
    "e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c",
    _from_debian,
)
