"""Whether a run's times can be trusted: the runner's doubts, and what is known here beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .schema import Cooling, Doubt, LatencyPass, Measurement

_ADVICE = {
    "emulated": "measure on a real board: --board NAME",
    "throttled": "cool the board (heat sink, fan), give it a stronger power supply, or let it begin"
    " cooler: cool_below_c in [bench.latency]",
    "clock": "cool the board (heat sink, fan), or give it a clock that it can hold",
    "load": "end what else runs there (the command top shows it), or wait until the board is idle",
    "governor": "on the board: echo performance |"
    " sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    "spread": "measure longer on an idle board: seconds in [bench.latency]",
    "few": "give it more time: runs, seconds and most_seconds in [bench.latency]",
    "short": "give it more time: most_seconds in [bench.latency]",
}
_UNREAD = {
    "temperature_c": "The temperature",
    "mhz": "The clock",
    "throttled": "Throttling",
    "others": "What other programs took",
}

EMULATED = Doubt(
    kind="emulated",
    text="the CPU is emulated: its times compare with no other",
    advice=_ADVICE["emulated"],
)


def measurement_facts(
    measured: Mapping[str, Any], emulated: bool, missing: dict[str, str]
) -> Measurement | None:
    """What the board says of how it measured, checked; None where it measured no latency.

    Of an emulated board there is one doubt: what else the emulated kernel tells is the host's.
    """
    told, series = measured.get("latency"), measured.get("series")
    if told is None or series is None or told["reason"] is not None:
        why = "measured by an older release" if told is None else f"latency: {told['reason']}"
        missing["measurement"] = missing["latency_ms"] = why
        return None
    passes = [_pass(one) for one in told["passes"]]
    coolings = [Cooling(**one) for one in told["coolings"]]
    doubts = [EMULATED] if emulated else [_doubt(one) for one in told["doubts"]]
    accuracy = measured["accuracy"]
    notes = (
        [] if emulated else list(_notes(series["reasons"], passes[told["counted"] - 1], coolings))
    )
    return Measurement(
        trust="doubtful" if doubts else "good",
        doubts=doubts,
        notes=notes,
        photos=told["photos"],
        counted=told["counted"],
        passes=passes,
        coolings=coolings,
        accuracy_s=(accuracy["began_s"], accuracy["ended_s"]),
        governor=told["governor"],
        interval_s=series["interval_s"],
        sample_ms=series["sample_ms"],
        samples=series["samples"],
    )


def _doubt(told: Mapping[str, Any]) -> Doubt:
    kind = str(told["kind"])
    return Doubt(kind=kind, text=told["text"], advice=_ADVICE.get(kind, ""))


def _pass(told: Mapping[str, Any]) -> LatencyPass:
    return LatencyPass(**{**told, "disturbed": [_doubt(one) for one in told["disturbed"]]})


def _notes(
    unread: Mapping[str, str], counted: LatencyPass, coolings: list[Cooling]
) -> Iterator[str]:
    for name, what in _UNREAD.items():
        if name in unread:
            yield f"{what} could not be looked at: {unread[name]}."
    if counted.spread is None:
        yield "Each photo ran fewer than three times: how far its runs lie apart is not known."
    for one in coolings:
        if one.reached is False:
            waited = one.ended_s - one.began_s
            yield f"The board was still at {one.to_c:g} °C after {waited:.0f} s of cooling down."
