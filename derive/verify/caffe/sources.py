"""Caffe's sources: where they are fetched from, which of them are compiled, and what is changed in copies of them.

Official Caffe is no longer packaged for Debian 12, but Debian 11's source package is on the same mirrors.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
            *("absval", "accuracy", "argmax", "base_conv", "base_data", "batch_norm", "bias", "bnll", "concat"),
            *("contrastive_loss", "conv", "deconv", "dropout", "dummy_data", "eltwise", "elu", "euclidean_loss", "exp"),
            *("flatten", "hinge_loss", "inner_product", "input", "log", "loss", "lrn", "memory_data", "mvn", "neuron"),
            *("parameter", "pooling", "power", "prelu", "reduction", "relu", "reshape", "scale", "sigmoid"),
            *("sigmoid_cross_entropy_loss", "silence", "slice", "softmax", "softmax_loss", "split", "tanh"),
            *("threshold", "tile"),
        )
    ),
)
"""The sources of libcaffe, below ``src/caffe`` and without their suffix: what a net of dense arrays is made of."""

Patches = Mapping[str, tuple[tuple[str, str], ...]]
"""What is replaced in which file. Each text is there exactly once."""

_IMAGES = (("import skimage.io\n", ""), ("from scipy.ndimage import zoom\n", ""))  # that pycaffe imports for them


class UnavailableError(UsageError):
    """Sources that cannot be fetched, or are not what they were."""


@dataclass(frozen=True)
class Source:
    """An archive of Caffe's sources, and what it takes to build them.

    fetch: puts the archive into a folder, or raises `UsageError`.
    inside: the folder of the archive that they are in.
    patches: what is changed in copies of them.
    stale: folders of what another version of protoc generated.
    more: sources of libcaffe besides `LIBRARY`.
    flags, linked, packages: besides those of every source; packages as header -> Debian package.
    """

    title: str
    archive: str
    sha256: str
    fetch: Callable[[Path], None]
    inside: str = ""
    patches: Patches = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def library(self) -> tuple[str, ...]:
        return (*LIBRARY, *self.more)


def unpack(source: Source, folder: Path) -> None:
    """The patched sources of Caffe, in `folder`, which is made.

    Raises `UnavailableError` if they cannot be had, `UsageError` if they cannot be patched.
    """
    folder.mkdir()
    try:
        source.fetch(folder)
    except UsageError as error:
        raise UnavailableError(f"{source.title}: {error}") from error
    archive = folder / source.archive
    if not archive.is_file():
        raise UnavailableError(f"{source.title}: no {source.archive} was downloaded")
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != source.sha256:
        raise UnavailableError(f"{source.title}: {source.archive} has the SHA-256 {found}, expected {source.sha256}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    if source.inside:
        for entry in (folder / source.inside).iterdir():
            entry.rename(folder / entry.name)
    for name in source.stale:
        shutil.rmtree(folder / name)
    for file, replacements in source.patches.items():
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
    title=f"Debian's source package caffe {_VERSION}",
    archive=f"caffe_{_VERSION.rpartition('-')[0]}.orig.tar.gz",
    sha256="e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c",
    fetch=_from_debian,
    patches={
        # Protocol Buffers dropped the second argument
        "src/caffe/util/io.cpp": (
            ("SetTotalBytesLimit(kProtoReadBytesLimit, 536870912)", "SetTotalBytesLimit(kProtoReadBytesLimit)"),
        ),
        # a call outside its own #ifdef USE_HDF5
        "src/caffe/net.cpp": (("if (H5Fis_hdf5(trained_filename.c_str())) {", "if (false) {"),),
        "python/caffe/io.py": (*_IMAGES, ("from skimage.transform import resize\n", "")),
    },
)


# ---------------------------------------------------------------- PyPI, where Debian's mirror is out of reach

_FORK = "brocolli-caffe"
_FORK_VERSION = "9.0.2"
_FORK_SHA256 = "c6410cc60bdd6db685d441b66be7df05410f8850ac88d6b75d48ef9b2315c08a"


def _from_pypi(folder: Path) -> None:
    """By pip, which looks at the hash before it looks inside."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_FORK}=={_FORK_VERSION} --hash=sha256:{_FORK_SHA256}\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-binary=:all:", "--require-hashes", f"--dest={folder}"]
    run([sys.executable, "-m", "pip", "download", *options, f"--requirement={requirements}"], folder)


PYPI = Source(
    title=f"PyPI's {_FORK} {_FORK_VERSION}, a fork with the same core",
    archive=f"{_FORK}-{_FORK_VERSION}.tar.gz",
    sha256=_FORK_SHA256,
    fetch=_from_pypi,
    inside=f"{_FORK}-{_FORK_VERSION}",
    patches={"python/caffe/io.py": _IMAGES},
    stale=("include/caffe/proto", "python/caffe/proto"),
    more=("util/hdf5", "util/bbox_util"),
    flags=("-I/usr/include/hdf5/serial",),
    linked=(f"-L/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/hdf5/serial", "-lhdf5_hl", "-lhdf5"),
    packages={"hdf5/serial/hdf5.h": "libhdf5-dev"},
)

SOURCES = (DEBIAN, PYPI)
"""In the order in which they are tried."""
