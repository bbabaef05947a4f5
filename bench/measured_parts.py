"""The parts of a report that come from a board's measurements alone: made as soon as these are
fetched, since what makes no report is to be measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from edgecompress.errors import plain

from ..targets import Board
from .measurement import measurement_facts
from .schema import BoardFacts, BoardShare, Latency, Measurement, Memory, RunFacts, Telemetry
from .sections import Missing, network_layers

UNSOUND = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What making a section raises where its material is not what it should be."""


def cause(error: Exception) -> str:
    """What is wrong, on one line."""
    if isinstance(error, ValidationError):
        one = error.errors()[0]
        where = ".".join(str(part) for part in one["loc"]) or error.title
        return f"{where}: {one['msg']}"
    return f"no {error}" if isinstance(error, KeyError) else str(error)


@dataclass(frozen=True)
class MeasuredParts:
    """What a report has of a run's measurements alone; `software` are versions of it, by name."""

    board: BoardFacts
    software: dict[str, str]
    latency_ms: dict[str, Latency]
    measurement: Measurement | None
    run: RunFacts
    memory: Memory


def measured_parts(
    board: Board,
    measured: dict[str, Any],
    runs: Mapping[str, Sequence[Any]],
    missing: Missing,
) -> MeasuredParts:
    """Take measurements apart; raises one of `UNSOUND` where they are not what they should be.

    Args:
        runs: photo id to the runs of the latency pass that counts.
    """
    for network, operators in (measured["operators"]["value"] or {}).items():
        network_layers(network, {}, operators)  # as `layers` does, with what was compiled
    identity = measured["identity"]
    software = {key: plain(str(identity[key])) for key in ("python", "numpy", "pillow", "jpeg")}
    return MeasuredParts(
        board=_board_facts(board, measured, missing),
        software=software,
        latency_ms={
            part: Latency(**values)
            for part, values in measured["latency_ms"].items()
            if values["n"] > 0
        },
        measurement=measurement_facts(measured, board.kind == "virtual", missing),
        run=RunFacts(
            boards=_shares(measured),
            repeated=measured.get("photos_repeated"),
            load_ms=measured["load_ms"],
            wall_s=measured["wall_s"],
            repeat=min(map(len, runs.values()), default=0),
            **{key: measured["options"][key] for key in ("threads", "warmup")},
            **{key: measured["cpus"][key] for key in ("cluster", "core", "cpus")},
        ),
        memory=Memory(peak_rss_mib=measured["peak_rss_mib"]),
    )


def _shares(measured: Mapping[str, Any]) -> list[BoardShare] | None:
    """Which boards answered photos; None where that was not kept."""
    told = measured.get("boards")
    if told is None:
        return None
    return [BoardShare(name=one["name"], photos=one["photos"]) for one in told]


def _board_facts(board: Board, measured: dict[str, Any], missing: Missing) -> BoardFacts:
    """The board's description, and what it said of itself."""
    identity = measured["identity"]
    facts = {key: identity[key] for key in ("model", "kernel", "os", "cores", "memory_mib")}
    for key, value in facts.items():
        if value is None:
            missing[f"board.{key}"] = "the board does not tell"
    return BoardFacts(
        name=board.name,
        title=board.title,
        soc=board.soc,
        arch=board.arch,
        mcpu=board.mcpu,
        kind=board.kind,
        before=_telemetry(measured["telemetry"]["before"], "board.before", missing),
        after=_telemetry(measured["telemetry"]["after"], "board.after", missing),
        **facts,
    )


def _telemetry(sample: dict[str, Any], path: str, missing: Missing) -> Telemetry:
    missing.update({f"{path}.{key}": reason for key, reason in sample["reasons"].items()})
    return Telemetry(**{key: sample[key] for key in Telemetry.model_fields})
