"""Caffe is found where it is, built only as a whole, and what is missing is named."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from derive_triplet import UsageError
from derive_triplet.derive.verify.caffe import build, sources
from derive_triplet.derive.verify.caffe.build import ROOT_VARIABLE
from derive_triplet.derive.verify.caffe.sources import DEBIAN, PYPI, Source, UnavailableError

needs_caffe = pytest.mark.needs("caffe")
STATE = "--option=Dir::State="


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no CAFFE_ROOT."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/derive-triplet"


def filled(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


BY_MAKE = (
    "include/caffe/caffe.hpp",
    ".build_release/src/caffe/proto/caffe.pb.h",
    "build/lib/libcaffe.so",
    "python/caffe/__init__.py",
    "src/caffe/proto/caffe.proto",
    "src/gtest/gtest.h",
)


def test_a_caffe_of_ones_own_is_found_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = filled(tmp_path, *BY_MAKE)
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    caffe = build.find()
    assert caffe is not None
    assert caffe.library == root / "build/lib/libcaffe.so"
    assert caffe.includes == (root / "include", root / ".build_release/src")
    assert caffe.environment["PYTHONPATH"].split(os.pathsep)[0] == str(root / "python")


@pytest.mark.parametrize("left_out", BY_MAKE)
def test_what_a_root_lacks_is_named(left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, *(file for file in BY_MAKE if file != left_out))
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=rf"^no .*{Path(left_out).name} in {tmp_path}; CAFFE_ROOT names a folder"):
        build.find()


def test_a_caffe_for_gpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (filled(tmp_path, *BY_MAKE) / "build/lib/libcaffe.so").write_bytes(b"\0cublasCreate_v2\0")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=r"libcaffe.so is for GPUs; layers are verified in .* built with CPU_ONLY"):
        build.find()


def test_nothing_is_found_in_an_empty_cache_and_nothing_is_made_there(cache: Path) -> None:
    assert build.find() is None
    assert not cache.exists()


def test_a_build_is_kept_for_its_sources_and_flags(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build.cached(DEBIAN)
    assert root.parent == cache
    others = {"sha256": "0" * 64, "patches": {}, "more": ("util/hdf5",), "flags": ("-O0",), "linked": ("-lm",)}
    for name, other in others.items():
        assert build.cached(replace(DEBIAN, **{name: other})) != root, name  # type: ignore[arg-type]
    for name in ("FLAGS", "_LINKED"):
        with monkeypatch.context() as patched:
            patched.setattr(build, name, ())
            assert build.cached(DEBIAN) != root, name
    assert build.cached(DEBIAN) == root


@needs_caffe
def test_a_source_that_cannot_be_had_is_followed_by_the_next(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(folder: Path) -> None:
        (folder / "made up.tar").touch()

    def refuse(folder: Path) -> None:
        raise UsageError("it rains")

    first, second = Source("first", "made up.tar", "0" * 64, fetch), Source("second", "made up.tar", "", refuse)
    monkeypatch.setattr(build, "SOURCES", (first, second))
    said: list[str] = []
    with pytest.raises(UsageError, match=r"^Caffe's sources .*: first: .* expected 0000.*; second: it rains$"):
        build.build(said.append)
    assert said[::2] == ["fetching first", "fetching second"]
    assert said[1].startswith("first: made up.tar has the SHA-256 e3b0c44298fc1c149afb")
    assert list(cache.iterdir()) == []  # nor is anything left of what failed


@pytest.mark.parametrize("source", sources.SOURCES, ids=lambda source: source.title)
def test_a_cached_build_of_either_source_is_found(source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = filled(build.cached(source), *BY_MAKE)
    found = build.find()
    assert found is not None
    assert found.root == root


@pytest.mark.parametrize("absent", ["g++", "protoc"])
def test_without_a_tool_that_a_build_was_made_with_none_is_found(
    absent: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(build.cached(DEBIAN), *BY_MAKE)
    monkeypatch.setattr(build.shutil, "which", lambda program: None if program == absent else program)
    assert build.find() is None


def test_what_another_process_has_made_meanwhile_is_kept(tmp_path: Path) -> None:
    def fill(made: Path) -> None:
        filled(made, "ours")
        filled(tmp_path / "root", "theirs")

    build._made_whole(tmp_path / "root", fill)
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "theirs"]
    with pytest.raises(FileNotFoundError):
        build._made_whole(tmp_path / "other", lambda made: None)


def test_a_command_says_what_it_prints_or_why_it_fails(tmp_path: Path) -> None:
    assert sources.run(["sh", "-c", "pwd; echo aside >&2"], tmp_path) == f"{tmp_path}\n"
    with pytest.raises(UsageError, match=r"^sh, exit status 3: said$"):
        sources.run(["sh", "-c", "echo said >&2; exit 3"], tmp_path)
    with pytest.raises(UsageError, match=r"^no-such-program is not on the PATH$"):
        sources.run(["no-such-program"], tmp_path)


@pytest.mark.parametrize(
    ("indexed", "mirror"),
    [
        ("http://own/debian trixie\nhttp://own/debian bookworm\nhttp://other bookworm\n", "http://own/debian"),
        ("http://own/ubuntu noble\n", "http://deb.debian.org/debian"),
    ],
)
def test_debian_is_asked_at_the_mirror_of_the_machine_and_with_an_index_of_its_own(
    indexed: str, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(command: list[str], folder: Path) -> str:
        if command[1] == "indextargets":
            return indexed
        (state,) = (Path(word.removeprefix(STATE)) for word in command if word.startswith(STATE))
        there = {path.relative_to(state).as_posix() for path in state.rglob("*")}
        assert {"lists/partial", "archives/partial", "status"} <= there
        (line,) = (state / "sources.list").read_text().splitlines()
        asked.append((command[0], line.split()[0], line.split()[-3:]))
        return ""

    monkeypatch.setattr(sources, "run", run)
    DEBIAN.fetch(tmp_path)
    assert asked == [("apt-get", "deb-src", [mirror, "bullseye", "main"])] * 2
    assert list(tmp_path.iterdir()) == []


def test_sources_are_unpacked_without_the_folder_around_them_and_without_what_is_stale(tmp_path: Path) -> None:
    files = {"around/src/a.cpp": b"one two", "around/stale/b.h": b"", "around/c.txt": b""}

    def fetch(folder: Path) -> None:
        with tarfile.open(folder / "made up.tar", "w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

    (tmp_path / "once").mkdir()
    fetch(tmp_path / "once")
    sha256 = hashlib.sha256((tmp_path / "once/made up.tar").read_bytes()).hexdigest()
    patches = {"src/a.cpp": (("two", "three"),)}
    made_up = Source("made up", "made up.tar", sha256, fetch, "around", patches, ("stale",))
    sources.unpack(made_up, tmp_path / "caffe")
    assert (tmp_path / "caffe/src/a.cpp").read_text() == "one three"
    assert (tmp_path / "caffe/c.txt").exists()
    assert not (tmp_path / "caffe/stale").exists()


def test_an_archive_that_was_not_fetched_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"made up: no made up.tar was downloaded"):
        sources.unpack(Source("made up", "made up.tar", "0" * 64, lambda folder: None), tmp_path / "caffe")


def test_missing_packages_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_PACKAGES", {**build._PACKAGES, "no/such/header.h": "libnone-dev"})
    monkeypatch.setattr(build, "_PROGRAMS", {**build._PROGRAMS, "no-such-program": "none"})
    assert set(build.missing(DEBIAN)) >= {"libnone-dev", "none"}
    assert "libhdf5-dev" not in build.missing(DEBIAN)
    assert PYPI.packages["hdf5/serial/hdf5.h"] == "libhdf5-dev"
    with pytest.raises(UsageError, match=r"^Caffe needs Debian packages: apt-get install .*libnone-dev none$"):
        build.build()
    assert not cache.exists()


def test_the_command_says_what_it_misses_in_one_line(cache: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *build.COMMAND.split()[1:]],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Caffe needs Debian packages: apt-get install g++ ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "io.cpp").write_text("one two two")
    yield tmp_path / "io.cpp"


def test_a_patch_replaces_what_is_there_once(file: Path) -> None:
    sources.patch(file, (("one", "1"),))
    assert file.read_text() == "1 two two"


@pytest.mark.parametrize(("old", "times"), [("two", 2), ("three", 0)])
def test_a_patch_of_something_else_is_refused(file: Path, old: str, times: int) -> None:
    with pytest.raises(UsageError, match=f"io.cpp: '{old}' is there {times} times, expected once"):
        sources.patch(file, ((old, ""),))
    assert file.read_text() == "one two two"


NAN = """
import caffe, numpy, pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    net = pathlib.Path(folder) / "net.prototxt"
    net.write_text('''
        force_backward: true
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
        layer { name: "y" type: "Reduction" bottom: "x" top: "y" reduction_param { operation: SUMSQ } loss_weight: nan }
    ''')
    net = caffe.Net(str(net), caffe.TRAIN)
net.blobs["x"].data[...] = 1, 0
net.forward()
net.backward()
assert numpy.isnan(net.blobs["x"].diff).all(), net.blobs["x"].diff
"""


@needs_caffe
def test_a_gradient_that_is_not_a_number_is_not_hidden() -> None:
    """As OpenBLAS would, whose sscal takes NaN times anything for 0; SUMSQ multiplies by it."""
    caffe = build.find()
    assert caffe is not None
    done = subprocess.run(
        [sys.executable, "-c", NAN], env=caffe.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
