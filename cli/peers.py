"""The step `peers`: every network of a job beside other engines, where the job asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgecompress.errors import EdgeCompressError
from edgecompress.files import read_json, write_json

from ..targets import Board

_ELSEWHERE = (
    "not measured on a board over SSH: other engines are compared on this machine (--board host)"
    " or counted for a core (--board virtual-pi4)"
)


def installed() -> dict[str, str]:
    """What a comparison depends on here: each engine's version, and what counting lacks."""
    from ..bench.emulated import why_not
    from ..bench.peers.engines import PEERS

    return {**{peer.name: peer.version() for peer in PEERS}, "counting": why_not()}


def compare_network(
    onnx: Path,
    board: Board,
    threads: int,
    database: Path | None,
    compiler: Mapping[str, Any],
) -> dict[str, Any]:
    """One network's part of peers.json: `network`, `macs` and one row an engine.

    An engine that is absent or fails is a row with its reason, and so is our own.
    """
    from ..bench.peers import Row, compare
    from ..bench.peers.engines import OURS

    if board.kind == "ssh":
        rows, macs = (Row("peers", "other engines", threads, reason=_ELSEWHERE),), None
    else:
        try:
            found = compare(onnx, board, [threads], database, compiler=compiler)
            rows, macs = found.rows, found.macs
        except EdgeCompressError as error:
            rows, macs = (Row(OURS, "EdgeCompress", threads, reason=error.message),), None
    return {"network": onnx.stem, "macs": macs, "rows": [asdict(row) for row in rows]}


def write_peers(path: Path, board: Board, parts: list[Path]) -> None:
    """Put the networks' parts together as peers.json."""
    measured = {"host": "time", "virtual": "cycles", "ssh": "nothing"}[board.kind]
    networks = [read_json(part, "comparison") for part in parts]
    write_json(path, {"measured": measured, "core": board.fast.core, "networks": networks})
