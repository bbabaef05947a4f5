"""The house: imports run one way, and the board's part stands on its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "edgecompress": set(),
    "runner": set(),
    "targets": {"edgecompress"},
    "compress": {"edgecompress", "runner"},
    "compile": {"edgecompress", "targets", "runner"},
    "rpc": {"edgecompress", "targets"},
    "bench": {"edgecompress", "targets", "runner", "compress", "compile", "rpc"},
    "cli": {"edgecompress", "targets", "runner", "compress", "compile", "rpc", "bench"},
}
COMPRESS = (
    "choices",
    "likelihood",
    "machine",
    "data",
    "networks",
    "recipe",
    "budget",
    "config",
    "training",
    "cropping",
    "shrinking",
    "cascading",
    "int8",
    "comparing",
    "steps",
    "plan",
)
"""The parts of that room: each may import those before it."""
ON_THE_BOARD = {"numpy", "PIL", "tvm_ffi"}


def imported(path: Path) -> Iterator[str]:
    """Absolute dotted names of everything that a file imports, relative ones resolved."""
    package = ["edgecompress", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join([*base, name]) for name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room_of(name: str) -> str | None:
    """The room that a dotted name lives in, or None for a library."""
    parts = name.split(".")
    if parts[0] != "edgecompress":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "edgecompress"


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_downwards(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(room)
        for name in imported(path)
        if (room_of(name) or room) not in allowed
    ]
    assert not wrong


def test_imports_within_compress_run_downwards() -> None:
    above = []
    for path in sources("compress"):
        inner = path.relative_to(ROOT / "compress").with_suffix("").parts[0]
        if inner == "__init__":
            continue
        allowed = COMPRESS[: COMPRESS.index(inner) + 1]
        for name in imported(path):
            parts = name.split(".")
            if parts[:2] == ["edgecompress", "compress"] and parts[2] not in allowed:
                above.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not above


def test_runner_needs_little() -> None:
    import sys

    outside = {
        name.split(".")[0]
        for path in sources("runner")
        for name in imported(path)
        if room_of(name) is None
    }
    assert outside - set(sys.stdlib_module_names) <= ON_THE_BOARD


@pytest.mark.parametrize("path", sources("runner"), ids=lambda path: path.name)
def test_runner_is_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))


def test_library_code_never_prints() -> None:
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in MAY_IMPORT.keys() - {"cli", "runner"}
        for path in sources(room)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not printing


def test_every_folder_with_code_is_a_package() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mapped = set(project["tool"]["setuptools"]["package-dir"].values())
    folders = {str(path.parent.relative_to(ROOT)) for room in MAY_IMPORT for path in sources(room)}
    assert folders == mapped
