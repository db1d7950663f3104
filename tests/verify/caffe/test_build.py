"""Caffe is found where it is, built only as a whole, and what is missing is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from derive_triplet import UsageError
from derive_triplet.derive.verify.caffe import build, sources
from derive_triplet.derive.verify.caffe.build import ROOT_VARIABLE
from derive_triplet.derive.verify.caffe.sources import DEBIAN, Source

needs_caffe = pytest.mark.needs("caffe")


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


def test_nothing_is_found_in_an_empty_cache_and_nothing_is_made_there(cache: Path) -> None:
    assert build.find() is None
    assert not cache.exists()


def test_a_build_is_kept_for_its_sources_and_flags(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build.cached(DEBIAN)
    assert root.parent == cache
    assert root != build.cached(replace(DEBIAN, sha256="0" * 64))
    for name, other in (("FLAGS", ("-O0",)), ("PATCHES", {}), ("LIBRARY", ()), ("_LINKED", ())):
        with monkeypatch.context() as patched:
            patched.setattr(build, name, other)
            build._key.cache_clear()
            assert build.cached(DEBIAN) != root, name
    build._key.cache_clear()
    assert build.cached(DEBIAN) == root


@pytest.mark.skipif(bool(build.missing()), reason="it looks beyond what is missing")
def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def fetch(folder: Path) -> None:
        (folder / "made up.tar").touch()

    with pytest.raises(UsageError, match=r"made up: made up.tar has the SHA-256 e3b0c44.*, expected 0000"):
        build.build(Source("made up", "made up.tar", "0" * 64, fetch), say=lambda _: None)
    assert list(cache.iterdir()) == []


def test_an_archive_that_was_not_fetched_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"made up: no made up.tar was downloaded"):
        sources.unpack(Source("made up", "made up.tar", "0" * 64, lambda folder: None), tmp_path / "caffe")


def test_missing_packages_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_PACKAGES", {**build._PACKAGES, "no/such/header.h": "libnone-dev"})
    monkeypatch.setattr(build, "_PROGRAMS", {**build._PROGRAMS, "no-such-program": "none"})
    assert set(build.missing()) >= {"libnone-dev", "none"}
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
    assert done.stderr.startswith("Error: Caffe needs Debian packages: apt-get install apt g++ ")
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
