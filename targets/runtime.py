"""The few files that run a compiled network on a board, cut out of pinned wheels.

A board gets no compiler and no TVM build: `libtvm_runtime.so` (3 MB of the 281 MB that the TVM
wheel unpacks to), the Python package `tvm_ffi` without its headers, sources and generators, and
`typing_extensions`, which `tvm_ffi` imports. Together below 10 MB. (The library of `tvm_ffi`'s own
tests has to come along: the extension module is linked against it.) The wheels are opened as zip
files: nothing of another architecture is installed or run here.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgecompress import wheels
from edgecompress.errors import BoardError
from edgecompress.wheels import Wheel

from .description import Board

TVM_VERSION = "0.27.0.post1"
TVM_FFI_VERSION = "0.1.14.post1"
TYPING_EXTENSIONS_VERSION = "4.15.0"

_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17")

# SHA-256 of the wheel files. TVM's serves every Python; tvm_ffi's hold an extension module each.
_TVM = {
    "aarch64": "4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
    "x86_64": "f503fc903b6e16fda5daacac6698ecb8bc38937f57da7aa29f6c7ab169d08657",
}
_TVM_FFI = {
    ("aarch64", "3.9"): "fc4f48d7124dc78c9fbb72f240b31b15bf6f3ad5c2f2c0a0be213a6628ccaebb",
    ("aarch64", "3.10"): "79c69493bd607b3e37e69ce542bc551833bfa40d0ba208f37fb87dd30cf86e69",
    ("aarch64", "3.11"): "c7a759781d4fbf2b99fa12f2741f250b882b06acc2747bb02831d491d1ac7d3c",
    ("aarch64", "3.12"): "3fd2255a2e363a40c51ec1eeedb1110a2c74e443f95ae351ee5a81b5ff6808cf",
    ("aarch64", "3.13"): "d6aebe30f21dcbd9e76c5aab56afe0fe228804a4ad73e413b067ae3d27e02f93",
    ("aarch64", "3.14"): "8d4a0f356bbc89a648841b8a913a98478a65dc006c05017ca80f539c35974d96",
    ("x86_64", "3.9"): "c096f5d16d85e976100d06c0fc9670a9bb5007abc21417de2f1a99572854ec6e",
    ("x86_64", "3.10"): "c5dd9ebb97d2c47c3aed57646714afbecba086bddc4e2d5e649825fb3ea46074",
    ("x86_64", "3.11"): "4b01a5a3fa07ed3315d5ef1e05d3542dae57a119ef7e77c54bc062414e242f65",
    ("x86_64", "3.12"): "eb759c039866b541ec2cb07d498082f8ba6ded74d58d9196180a5932f365c077",
    ("x86_64", "3.13"): "e59657d99d52f83c32ce60db4fdca95f5ca5b73425e33653862d06f7b1feffdc",
    ("x86_64", "3.14"): "a22cb9637e49c67837c9705be59d3c9b9a525c12f601f894532a16260612a95a",
}
_TYPING_EXTENSIONS = "f0fa19c6845758ab08074a0cfa8b7aecb71c999ca73d62883bc25cc018c4e548"

# What `import tvm_ffi` never opens: headers, sources and generators of bindings.
_FFI_WITHOUT = ("3rdparty", "cython", "include", "share", "src", "stub", "testing")
_FFI_SUFFIXES = (".py", ".so", "METADATA", "RECORD", "LICENSE", "NOTICE")


def versions() -> dict[str, str]:
    """The pinned versions, as a bundle's manifest states them."""
    return {"tvm": TVM_VERSION, "tvm_ffi": TVM_FFI_VERSION}


def python_versions(arch: str) -> tuple[str, ...]:
    """The Python versions for which there is a runtime on an architecture, oldest first."""
    return tuple(python for known, python in _TVM_FFI if known == arch)


def runtime_files(board: Board) -> dict[str, bytes]:
    """The runtime for a board: path below the bundle's `runtime/` folder, content.

    `tvm_ffi`'s own metadata comes with it: it looks its library up there first, and would otherwise
    find that of another version which happens to be installed on the board.

    Raises:
        BoardError: no wheel fits the board's architecture or Python.
        InputError: a wheel cannot be fetched, or is not the pinned one.
    """
    if board.arch not in _TVM:
        raise BoardError(
            f"there is no TVM runtime for {board.arch} ({board.name})",
            "use the board's 64-bit operating system and its board description",
        )
    key = (board.arch, board.python)
    if key not in _TVM_FFI:
        raise BoardError(
            f"there is no tvm_ffi for Python {board.python} on {board.arch} ({board.name})",
            f"Python {', '.join(python_versions(board.arch))} are supported",
        )
    tvm = tvm_wheel(board)
    ffi = Wheel(
        f"apache-tvm-ffi=={TVM_FFI_VERSION}", _TVM_FFI[key], _platforms(board), board.python
    )
    typing = Wheel(f"typing_extensions=={TYPING_EXTENSIONS_VERSION}", _TYPING_EXTENSIONS)
    return {
        "libtvm_runtime.so": wheels.read(tvm, "tvm/lib/libtvm_runtime.so"),
        "typing_extensions.py": wheels.read(typing, "typing_extensions.py"),
        **_licences(tvm),
        **_ffi_files(ffi),
    }


def write_runtime(board: Board, folder: Path) -> None:
    """Write `runtime_files` below a folder. Raises as `runtime_files`."""
    for name, content in runtime_files(board).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def tvm_wheel(board: Board) -> Wheel:
    """TVM's wheel for a board's architecture; one file serves every Python."""
    return Wheel(f"apache-tvm=={TVM_VERSION}", _TVM[board.arch], _platforms(board))


def _platforms(board: Board) -> tuple[str, ...]:
    return tuple(f"{tag}_{board.arch}" for tag in (*_PLATFORMS, "manylinux2014"))


def _licences(wheel: Wheel) -> dict[str, bytes]:
    """The licence and notice of a wheel whose library is passed on."""
    with zipfile.ZipFile(wheels.fetch(wheel)) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if name.endswith((".dist-info/licenses/LICENSE", ".dist-info/licenses/NOTICE"))
        }


def _ffi_files(wheel: Wheel) -> dict[str, bytes]:
    with zipfile.ZipFile(wheels.fetch(wheel)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if _ffi_needs(name)}


def _ffi_needs(name: str) -> bool:
    parts = name.split("/")
    if parts[0] == "tvm_ffi" and parts[1] in _FFI_WITHOUT:
        return False
    return name.endswith(_FFI_SUFFIXES)
