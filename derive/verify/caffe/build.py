"""Finds Caffe, or builds it: CPU only, with the reference BLAS, cached by a hash of all that goes into it.

OpenBLAS would be faster, but its sscal takes NaN times anything for 0, and hides gradients that are not numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from . import sources
from .sources import SOURCES, Source, UnavailableError, run

ROOT_VARIABLE = "CAFFE_ROOT"
"""Names a folder with a CPU-only Caffe of one's own: built by its Makefile, or installed."""

COMMAND = "python -m derive_triplet.derive.verify.caffe"
"""Builds Caffe into the cache."""

FLAGS = ("-std=c++14", "-O2", "-fPIC", "-DCPU_ONLY", "-DNDEBUG", "-DCAFFE_VERSION=1.0.0", "-w")

LAYER_FLAGS = ("-std=c++14", "-fPIC", "-DCPU_ONLY", "-Wall", "-Wextra", "-Werror")

_PACKAGES = {  # what has to be there -> the Debian package that brings it
    "boost/filesystem.hpp": "libboost-filesystem-dev",
    "boost/thread.hpp": "libboost-thread-dev",
    "boost/python.hpp": "libboost-python-dev",
    "glog/logging.h": "libgoogle-glog-dev",
    "gflags/gflags.h": "libgflags-dev",
    "google/protobuf/message.h": "libprotobuf-dev",
    "cblas.h": "libblas-dev",
}
_PROGRAMS = {"g++": "g++", "protoc": "protobuf-compiler"}
# whichever BLAS the machine's libblas.so.3 is; LD_LIBRARY_PATH chooses another one all the same
_REFERENCE_BLAS = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/blas"
_LINKED = (
    *("-lboost_system", "-lboost_filesystem", "-lboost_thread", "-lglog", "-lgflags", "-lprotobuf"),
    *(f"-L{_REFERENCE_BLAS}", f"-Wl,-rpath,{_REFERENCE_BLAS}", "-lblas"),
)


@dataclass(frozen=True)
class Caffe:
    """A Caffe that layers can be compiled against and run in.

    includes: folders of headers, that of caffe.pb.h among them.
    library: libcaffe.so.
    python: the folder to put on the path for ``import caffe``.
    proto: caffe.proto.
    gtest: the folder that holds gtest/, the version of Google Test that Caffe ships.
    """

    root: Path
    includes: tuple[Path, ...]
    library: Path
    python: Path
    proto: Path
    gtest: Path

    @property
    def headers(self) -> tuple[str, ...]:
        """The options of a compiler that find them; warnings about them are not ours to heed."""
        return tuple(part for folder in (*self.includes, self.gtest) for part in ("-isystem", str(folder)))

    def compile(self, *arguments: str | Path, folder: Path) -> None:
        """Compile what needs Caffe, and link it with libcaffe; raises `UsageError` with what the compiler says."""
        linked = [str(self.library), f"-Wl,-rpath,{self.library.parent}", "-lglog", "-lprotobuf", "-lboost_system"]
        run(["g++", *LAYER_FLAGS, *self.headers, *map(str, arguments), *linked, "-ldl", "-lpthread"], folder)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of a process that imports pycaffe, or runs a net: only errors are logged."""
        path = os.pathsep.join([str(self.python), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, "GLOG_minloglevel": "2", "OMP_NUM_THREADS": "1"}


def find() -> Caffe | None:
    """The Caffe of CAFFE_ROOT if that is set, else the one in the cache, if it was built.

    Raises `UsageError` if CAFFE_ROOT is set and there is none, or one for GPUs.
    """
    if chosen := os.environ.get(ROOT_VARIABLE):
        own = _at(Path(chosen).expanduser().absolute())
        if b"cublasCreate" in own.library.read_bytes():
            raise UsageError(f"{own.library} is for GPUs; layers are verified in a Caffe that was built with CPU_ONLY")
        return own
    if shutil.which("g++") is None or shutil.which("protoc") is None:
        return None
    return next((_at(root) for root in map(cached, SOURCES) if root.is_dir()), None)


def _at(root: Path) -> Caffe:
    """The Caffe in a folder that its Makefile, its CMake or `build` has filled."""

    def first(what: str, *candidates: str) -> Path:
        for candidate in candidates:
            if (root / candidate / what).exists():
                return root / candidate
        raise UsageError(f"no {what} in {root}; {ROOT_VARIABLE} names a folder in which Caffe was built")

    headers = first("caffe/caffe.hpp", "include")
    generated = first("caffe/proto/caffe.pb.h", "build/src", ".build_release/src", "build/include", "include")
    return Caffe(
        root,
        (headers, generated),
        first("libcaffe.so", "build/lib", "lib") / "libcaffe.so",
        first("caffe/__init__.py", "python"),
        first("caffe/proto/caffe.proto", "src", "share") / "caffe/proto/caffe.proto",
        first("gtest/gtest.h", "src", "include"),
    )


def cached(source: Source) -> Path:
    """The folder in the user's cache for a build of `source` by this machine's tools."""
    return _home() / f"caffe-{_key(source)}"


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "derive-triplet"


@cache
def _version(tool: str) -> str:
    return subprocess.check_output([tool, "--version"], text=True)


def _key(source: Source) -> str:
    return _hash(
        {
            "source": [source.sha256, source.stale],
            "library": source.library,
            "patches": source.patches,
            "flags": [*FLAGS, *source.flags],
            "linked": [*_LINKED, *source.linked],
            "tools": [_version(tool) for tool in ("g++", "protoc")],
            "python": [sysconfig.get_config_var("SOABI"), np.__version__.partition(".")[0]],
        }
    )


def _hash(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def missing(source: Source) -> tuple[str, ...]:
    """The Debian packages that a build needs and this machine does not have."""
    packages = {**_PACKAGES, **source.packages}
    absent = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if "g++" not in absent:
        tests = "".join(f'#if !__has_include(<{header}>)\n"{header}"\n#endif\n' for header in packages)
        command = ["g++", *_python_headers(), "-E", "-P", "-x", "c++", "-"]
        found = subprocess.run(command, input=tests, capture_output=True, text=True, check=True).stdout
        absent |= {package for header, package in packages.items() if f'"{header}"' in found}
    return tuple(sorted(absent))


def build(say: Callable[[str], None] = print) -> Caffe:
    """The Caffe in the cache, fetched and built first if there is none; takes about a minute.

    Raises `UsageError`, with what to do about it, if something is missing or fails.
    """
    refusals = []
    for source in SOURCES:
        try:
            caffe = _built(source, say)
        except UnavailableError as error:
            refusals.append(str(error))
            say(refusals[-1])
        else:
            tools(caffe)
            return caffe
    raise UsageError(f"Caffe's sources cannot be had: {'; '.join(refusals)}")


def _built(source: Source, say: Callable[[str], None]) -> Caffe:
    if packages := missing(source):
        raise UsageError(f"Caffe needs Debian packages: apt-get install {' '.join(packages)}")
    root = cached(source)

    def fill(folder: Path) -> None:
        say(f"fetching {source.title}")
        sources.unpack(source, folder)
        say("compiling")
        _compile(source, folder)

    if not root.is_dir():
        _made_whole(root, fill)
    return _at(root)


@dataclass(frozen=True)
class Tools:
    """What runs nets and tests in a Caffe: `harness.cpp`, compiled, and Google Test with its main program."""

    harness: Path
    gtest: Path


def tools(caffe: Caffe) -> Tools:
    """The tools for one Caffe, compiled into the user's cache when they are first asked for, in some seconds."""
    source = files(__package__).joinpath("harness.cpp").read_text(encoding="utf-8")
    changed = caffe.library.stat().st_mtime_ns
    inputs = {"harness": source, "library": str(caffe.library), "changed": changed, "flags": LAYER_FLAGS}
    root = _home() / f"tools-{_hash(inputs)}"

    def fill(folder: Path) -> None:
        folder.mkdir()
        (folder / "harness.cpp").write_text(source, encoding="utf-8")
        caffe.compile("-O2", "harness.cpp", "-o", "harness", folder=folder)
        for name in ("gtest-all.cpp", "gtest_main.cc"):
            run(["g++", *FLAGS, f"-I{caffe.gtest}", "-c", str(caffe.gtest / "gtest" / name)], folder)
        run(["ar", "rcs", "libgtest.a", "gtest-all.o", "gtest_main.o"], folder)

    if not root.is_dir():
        _made_whole(root, fill)
    return Tools(root / "harness", root / "libgtest.a")


def _made_whole(root: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder, which then appears as `root`, complete or not at all."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{root.name}-", dir=root.parent) as scratch:
        made = Path(scratch) / "made"
        fill(made)
        try:
            made.rename(root)
        except OSError:  # another process was faster
            if not root.is_dir():
                raise


def _compile(source: Source, root: Path) -> None:
    """libcaffe and pycaffe in the unpacked sources, laid out as Caffe's Makefile does."""
    generated, objects, library = root / "build/src", root / "build/objects", root / "build/lib"
    for folder in (generated, objects, library):
        folder.mkdir(parents=True)
    python_proto = root / "python/caffe/proto"
    python_proto.mkdir()
    (python_proto / "__init__.py").touch()
    proto = root / "src/caffe/proto"
    run(["protoc", f"-I{root / 'src'}", f"--cpp_out={generated}", str(proto / "caffe.proto")], root)
    run(["protoc", f"-I{proto}", f"--python_out={python_proto}", str(proto / "caffe.proto")], root)

    # a few large translation units read the headers a few times, not a hundred
    parts = 4
    for part in range(parts):
        lines = [f'#include "{root}/src/caffe/{name}.cpp"\n' for name in source.library[part::parts]]
        (objects / f"library{part}.cpp").write_text("".join(lines), encoding="utf-8")
    units = {
        "pb": generated / "caffe/proto/caffe.pb.cc",
        **{f"library{part}": objects / f"library{part}.cpp" for part in range(parts)},
        "pycaffe": root / "python/caffe/_caffe.cpp",
    }
    headers = [f"-I{root / 'include'}", f"-I{generated}", *_python_headers(), *source.flags]
    linked = [*_LINKED, *source.linked]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = [
            pool.submit(run, ["g++", *FLAGS, *headers, "-c", str(unit), "-o", f"{objects / name}.o"], root)
            for name, unit in units.items()
        ]
        for outcome in compiled:
            outcome.result()
    parts_of_library = [f"{objects / name}.o" for name in units if name != "pycaffe"]
    run(["g++", "-shared", "-o", f"{library}/libcaffe.so", *parts_of_library, *linked], root)
    boost_python = f"-lboost_python{''.join(sysconfig.get_python_version().split('.'))}"
    libcaffe = ["-Wl,-rpath,$ORIGIN/../../build/lib", f"-L{library}", "-lcaffe"]
    pycaffe = [f"{objects}/pycaffe.o", *libcaffe, boost_python, *linked]
    run(["g++", "-shared", "-o", "python/caffe/_caffe.so", *pycaffe], root)
    shutil.rmtree(objects)


def _python_headers() -> list[str]:
    return [f"-I{sysconfig.get_paths()['include']}", f"-I{np.get_include()}"]
