"""Linking: right architecture, old glibc, libm calls resolved, errors that name the cause."""

from __future__ import annotations

import ctypes
import math
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompress.compile import link as link_module
from edgecompress.compile.elf import read_library
from edgecompress.compile.link import check_library, linker, zig_binary
from edgecompress.errors import CompileError, InputError
from edgecompress.targets import Board, load_board

SOURCE = "float expf(float); float kernel(float x) { return expf(x); }\n"


def make_object(folder: Path, triple: str, source: str = SOURCE) -> str:
    zig = zig_binary()
    assert zig is not None, "ziglang is a dependency of the project"
    (folder / "kernel.c").write_text(source)
    output = folder / f"{triple}.o"
    subprocess.run(
        [zig, "cc", "-target", triple, "-O1", "-c", folder / "kernel.c", "-o", output], check=True
    )
    return str(output)


@pytest.fixture
def host() -> Board:
    return load_board("host")


@pytest.fixture
def pi4() -> Board:
    return load_board("virtual-pi4")


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "zig_binary", lambda: None)


def test_links_for_another_architecture(tmp_path: Path, pi4: Board) -> None:
    objects = [make_object(tmp_path, "aarch64-linux-gnu")]
    linker(pi4)(str(tmp_path / "a.so"), objects)
    linker(pi4)(str(tmp_path / "b.so"), objects, options=[])
    library = read_library(tmp_path / "a.so")
    assert library.arch == "aarch64"
    assert library.glibc is not None and library.glibc <= (2, 28)
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()


@pytest.mark.parametrize("with_zig", [True, False])
def test_links_for_this_machine(
    tmp_path: Path, host: Board, with_zig: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_zig:
        monkeypatch.setattr(link_module, "zig_binary", lambda: None)
    output = tmp_path / "kernel.so"
    linker(host)(output, make_object(tmp_path, f"{platform.machine()}-linux-gnu"))
    # libtvm_runtime.so brings libm in on a board; here the fallback needs it before.
    ctypes.CDLL("libm.so.6", ctypes.RTLD_GLOBAL)
    kernel = ctypes.CDLL(str(output)).kernel
    kernel.restype, kernel.argtypes = ctypes.c_float, [ctypes.c_float]
    assert kernel(1.0) == pytest.approx(math.e, rel=1e-6)


@pytest.mark.parametrize("with_zig", [True, False])
def test_objects_of_another_architecture_are_refused(
    tmp_path: Path, pi4: Board, with_zig: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = [make_object(tmp_path, "x86_64-linux-gnu")]
    if not with_zig:
        monkeypatch.setattr(link_module, "zig_binary", lambda: None)
    try:
        link = linker(pi4)
    except CompileError:
        pytest.skip("no cross-compiler on this machine")
    with pytest.raises(CompileError, match=r"linking failed: .*(incompatible|x86_64|recognized)"):
        link(tmp_path / "x.so", objects)


def test_missing_object_is_named(tmp_path: Path, pi4: Board) -> None:
    with pytest.raises(CompileError, match=r"missing\.o"):
        linker(pi4)(tmp_path / "x.so", [str(tmp_path / "missing.o")])


def test_unknown_architecture(host: Board) -> None:
    with pytest.raises(CompileError, match="riscv64"):
        linker(replace(host, arch="riscv64"))


@pytest.mark.usefixtures("no_zig")
def test_no_linker_at_all(host: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CompileError) as caught:
        linker(host)
    assert "ziglang" in caught.value.hint


def test_a_library_for_a_newer_glibc_is_refused(tmp_path: Path, host: Board) -> None:
    triple = f"{platform.machine()}-linux-gnu"
    strict = linker(replace(host, glibc="2.28"))

    def newer(path: Path) -> None:
        # `fmod` got a new version in glibc 2.38: linking against those stubs asks for it.
        source = "double fmod(double, double); double f(double x) { return fmod(x, 3.0); }\n"
        linker(replace(host, glibc="2.38"))(path, make_object(tmp_path, triple, source))

    newer(tmp_path / "newer.so")
    assert read_library(tmp_path / "newer.so").glibc == (2, 38)
    with pytest.raises(CompileError, match=r"glibc 2\.38"):
        check_library(tmp_path / "newer.so", replace(host, glibc="2.28"))
    strict(tmp_path / "fine.so", make_object(tmp_path, triple))


@pytest.mark.parametrize("content", [b"", b"not an ELF file at all........", b"\x7fELF\x02\x01"])
def test_what_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_library(path)


def test_an_object_file_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a shared library"):
        read_library(Path(make_object(tmp_path, "aarch64-linux-gnu")))
