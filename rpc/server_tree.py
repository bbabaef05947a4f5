"""The Python tree that an RPC server on a board needs: TVM without its compiler, about 28 MB.

It is cut out of pinned wheels on the host, packed once into the cache, and unpacked on the board
under a name that holds its hash, so that it is sent once.
"""

from __future__ import annotations

import compileall
import py_compile
import sys
import tempfile
from pathlib import Path

from edgecompress import events, wheels
from edgecompress.errors import BoardError
from edgecompress.files import cache_dir, sha256_file, sha256_json, writing

from ..targets import Board
from ..targets.runtime import TVM_VERSION, runtime_files, tvm_wheel
from .session import Session
from .trees import NUMPY, archive, send, unpack_wheels

LAYOUT = 1

_PINS = ("ml_dtypes==0.5.4", "psutil==7.2.2", "cloudpickle==3.1.2")

_TVM_LIBRARIES = ("tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so")


def provision(session: Session) -> str:
    """Bring the tree to the board; returns its absolute path there, for PYTHONPATH.

    Raises:
        BoardError: no wheels for the board's Python, no space, or the board cannot unpack it.
        InputError: a wheel cannot be fetched.
    """
    packed = pack(session.board)
    folder = f"{session.workdir}/rpc-server-{sha256_file(packed)[:16]}"
    if session.run(["test", "-d", folder], timeout=30).returncode == 0:
        return folder
    send(session, packed, folder, "the RPC server")
    return folder


def pack(board: Board) -> Path:
    """The packed tree for a board's architecture and Python, made now if it is not cached."""
    if board.python not in NUMPY:
        raise BoardError(
            f"tuning on {board.name} needs Python {', '.join(NUMPY)} there, not {board.python}",
            "use a newer operating system on the board",
        )
    key = sha256_json(
        [LAYOUT, TVM_VERSION, board.arch, board.python, NUMPY, _PINS, _compiles(board)]
    )
    path = cache_dir("rpc-server") / f"{board.arch}-{board.python}-{key[:16]}.tar.gz"
    if not path.exists():
        with (
            events.task("packing the RPC server (once)"),
            tempfile.TemporaryDirectory(dir=path.parent) as temporary,
            writing(path) as new,
        ):
            _collect(board, Path(temporary))
            if _compiles(board):
                _compile(Path(temporary))
            archive(Path(temporary), new)
    return path


def _collect(board: Board, folder: Path) -> None:
    for name, content in runtime_files(board).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    # The server takes the library from TVM's own folder.
    (folder / "libtvm_runtime.so").unlink()
    wheels.extract(tvm_wheel(board), _needed_of_tvm, folder)
    pins = (f"numpy=={NUMPY[board.python]}", *_PINS)
    unpack_wheels(pins, board.arch, board.python, folder)


def _needed_of_tvm(name: str) -> bool:
    parts = name.split("/")
    python = parts[0] == "tvm" and name.endswith(".py") and parts[1] != "3rdparty"
    return python or name in _TVM_LIBRARIES


def _compiles(board: Board) -> bool:
    """Whether this interpreter's byte code is that of the board."""
    return board.python == ".".join(map(str, sys.version_info[:2]))


def _compile(folder: Path) -> None:
    """Byte code beside the sources: under emulation, or on a small board, it takes minutes."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, workers=0, stripdir=str(folder), invalidation_mode=mode)
