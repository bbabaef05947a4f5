"""Linking object files into the shared library that a board loads, for any board, on any host.

The first choice is the linker inside the `ziglang` wheel: it needs no system package, pins the
board's oldest glibc, and gives the same bytes for the same objects. The cross-compiler of the
distribution stands in where that wheel does not run.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.errors import CompileError, InputError
from edgecompress.files import cache_dir

from .elf import read_library

if TYPE_CHECKING:
    from ..targets import Board

Link = Callable[..., None]

_TRIPLES = {
    "aarch64": "aarch64-linux-gnu",
    "x86_64": "x86_64-linux-gnu",
    "armv7l": "arm-linux-gnueabihf",
}
_DEADLINE_S = 300


def linker(board: Board) -> Link:
    """The link function for `export_library(path, fcompile=linker(board))`.

    It is called as `link(output, objects, options=None)` and leaves a shared library for the
    board's architecture that asks for no glibc newer than `board.glibc`. Equal objects give
    equal bytes.

    Raises:
        CompileError: no linker for the board's architecture can be found (at once), or, when
            called, the linker fails or its result does not fit the board.
    """
    command, environment = _find_command(board)

    def link(
        output: str | Path,
        objects: str | Sequence[str],
        options: Sequence[str] | None = None,
        **_: object,
    ) -> None:
        inputs = [objects] if isinstance(objects, str) else list(objects)
        head, tail = command
        _run([*head, "-o", str(output), *inputs, *(options or ()), *tail], environment)
        check_library(Path(output), board)

    return link


Command = tuple[list[str], list[str]]


def _find_command(board: Board) -> tuple[Command, dict[str, str]]:
    """The link command before and after the inputs, and its environment."""
    triple = _TRIPLES.get(board.arch)
    if triple is None:
        raise CompileError(
            f"no linker for architecture '{board.arch}'", f"known: {', '.join(_TRIPLES)}"
        )
    zig = zig_binary()
    if zig is not None:
        head = [str(zig), "cc", "-target", f"{triple}.{board.glibc}", "-nostdlib", "-shared"]
        # zig makes stub libraries of exactly that glibc, so that `expf` of a kernel is resolved
        # by the library itself and at a version that the board has. Without -nostdlib it would
        # build a whole runtime first (17 s).
        cache = str(cache_dir("zig"))
        return (head, ["-lm", "-lc"]), {
            "ZIG_GLOBAL_CACHE_DIR": cache,
            "ZIG_LOCAL_CACHE_DIR": cache,
        }
    names = ["c++", "g++", "cc"] if board.arch == platform.machine() else []
    names.append(f"{triple}-g++")
    for name in names:
        path = shutil.which(name)
        if path is not None:
            # The system's own libm may be newer than the board's: leave `expf` and the like open;
            # libtvm_runtime.so has loaded the board's libm before any network.
            return ([path, "-nostdlib", "-shared", "-Wl,--build-id=none"], []), {}
    raise CompileError(
        f"no linker for {board.arch}",
        f"pip install ziglang, or apt install g++-{triple}",
    )


def zig_binary() -> Path | None:
    """The executable inside the `ziglang` wheel, or None where it is not installed."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "zig"
    return path if os.access(path, os.X_OK) else None


def _run(argv: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"the linker {argv[0]} did not end in {_DEADLINE_S} s") from None
    except OSError as error:
        raise CompileError(f"cannot run the linker {argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        # GNU's driver ends with a line that only says that its linker said something.
        causes = [line for line in lines if not line.startswith("collect2:")]
        cause = causes[-1] if causes else f"exit code {done.returncode}"
        raise CompileError(f"linking failed: {cause}", f"does `{argv[0]} --help` run?")


def check_library(output: Path, board: Board) -> None:
    """Refuse a linked library that the board could not load.

    Raises:
        CompileError: it is no shared library, for another architecture, or for a newer glibc.
    """
    try:
        library = read_library(output)
    except (OSError, InputError) as error:
        raise CompileError(f"the linker left no shared library: {error}") from error
    if library.arch != board.arch:
        raise CompileError(f"linked for {library.arch}, but {board.name} is {board.arch}")
    oldest = tuple(int(part) for part in board.glibc.split(".")[:2])
    if library.glibc is not None and library.glibc > oldest:
        asked = ".".join(map(str, library.glibc))
        raise CompileError(
            f"the linked library asks for glibc {asked}, but {board.name} may have {board.glibc}",
            "pip install ziglang: it links for an older glibc",
        )
