"""How latency is measured: a few photos again and again, on a board that is cool and left alone.

A pass that something disturbed is repeated; what is still to be said against the one that counts
is said with it.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from . import measure
from .errors import RunnerError
from .telemetry import Sample, Sampler, others

MOST_RUNS = 10_000
FEWEST_RUNS = 30
"""With fewer a percentile is hardly one."""
MOST_DROP = 0.05
MOST_OTHERS = 0.1
MOST_SPREAD = 1.25

DISTURBED = ("throttled", "clock", "load")
"""What another pass may do without; the other doubts would be the same again."""

_TELL_S = 0.5
_PAUSE_S = 5.0
# Not "powersave": intel_pstate and amd-pstate move the clock under it, and which driver there is is
# not known here. Where it does hold a low clock, times are doubted for that alone.
_FIXED = {"performance", "userspace"}

Timings = dict[str, float]
Say = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long latency is measured.

    Attributes:
        photos: that are measured, spread evenly over all; 0 is no measuring.
        runs: at least so many classifications,
        seconds: and at least so long; then the photo that is last of all ends the pass.
        most_seconds: longer than this is no pass.
        cool_below_c: a pass begins below this temperature, where it can be read.
        cool_seconds: the longest wait for that.
        retries: so many more passes where something disturbed the ones before.
    """

    photos: int = 20
    runs: int = 60
    seconds: float = 10.0
    most_seconds: float = 120.0
    cool_below_c: float = 65.0
    cool_seconds: float = 120.0
    retries: int = 2


@dataclasses.dataclass(frozen=True)
class Doubt:
    """One thing that speaks against a number: `kind` is what it is filed under."""

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Cooling:
    """A wait for the board to cool down; temperatures in degrees Celsius.

    Attributes:
        reached: whether it fell below what was asked for; None where it cannot be read.
    """

    began_s: float
    ended_s: float
    from_c: Optional[float]
    to_c: Optional[float]
    reached: Optional[bool]


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass over the photos, and what happened to the board meanwhile.

    Attributes:
        began_s, ended_s: by the telemetry's clock.
        runs: photo and milliseconds of each part, in order.
        throttled: flags of the time of the pass.
        clock_drop: how far the clock fell below the highest one seen, as a share; None where it
            cannot be read or its governor may move it.
        others: share of the cores used that other processes had.
    """

    began_s: float
    ended_s: float
    runs: tuple[tuple[str, Timings], ...]
    throttled: tuple[str, ...] = ()
    clock_drop: Optional[float] = None
    others: Optional[float] = None

    @property
    def seconds(self) -> float:
        """How long it took; both are in whole milliseconds, and so is this."""
        return round(self.ended_s - self.began_s, 3)

    @property
    def by_photo(self) -> "dict[str, list[Timings]]":
        """The runs of each photo."""
        found: dict[str, list[Timings]] = {}
        for photo, timings in self.runs:
            found.setdefault(photo, []).append(timings)
        return found

    @property
    def spread(self) -> Optional[float]:
        """See `measure.spread`; of whole photos."""
        return measure.spread([one["total"] for one in runs] for runs in self.by_photo.values())


def disturbances(one: Pass) -> "list[Doubt]":
    """What disturbed a pass, the worst first."""
    found = []
    if one.throttled:
        found.append(Doubt("throttled", f"the board was throttled ({', '.join(one.throttled)})"))
    if one.clock_drop is not None and one.clock_drop > MOST_DROP:
        found.append(
            Doubt("clock", f"the clock fell by {_percent(one.clock_drop)} under a fixed governor")
        )
    if one.others is not None and one.others > MOST_OTHERS:
        found.append(Doubt("load", f"other programs had {_percent(one.others)} of the cores used"))
    return found


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def doubts(one: Pass, plan: Plan, governors: Optional[Sequence[str]]) -> "list[Doubt]":
    """All that speaks against the times of a pass, the worst first; none is a good one.

    Args:
        governors: of the cores used; None where the kernel does not tell, which is no doubt.
    """
    found = disturbances(one)
    loose = sorted(set(governors or ()) - _FIXED)
    if loose:
        named = ", ".join(f"'{name}'" for name in loose)
        found.append(Doubt("governor", f"the governor is {named}, not 'performance'"))
    spread = one.spread
    if spread is not None and spread > MOST_SPREAD:
        text = f"one run in ten of a photo takes over {spread:.2f} times its median"
        found.append(Doubt("spread", text))
    need = max(FEWEST_RUNS, plan.runs)
    if len(one.runs) < need:
        found.append(Doubt("few", f"only {len(one.runs)} runs, not {need}"))
    if one.seconds < plan.seconds and len(one.runs) < MOST_RUNS:
        found.append(
            Doubt(
                "short",
                f"it ended after {one.seconds:.1f} s, before the least of {plan.seconds:g} s",
            )
        )
    return found


def best(passes: Sequence[Pass]) -> int:
    """The pass that counts: the first that nothing disturbed, else the least disturbed one."""

    def badness(index: int) -> "tuple[int, float, float]":
        one = passes[index]
        return len(one.throttled), one.clock_drop or 0.0, one.others or 0.0

    good = (index for index, one in enumerate(passes) if not disturbances(one))
    return next(good, min(range(len(passes)), key=badness))


def choose(answered: "Sequence[tuple[str, int]]", count: int) -> "list[str]":
    """Photos for a pass: members answer as large a share of them as of all photos.

    Args:
        answered: photos and the index of the member that answered, in their order.
        count: how many are wanted; more where members would be missing.

    Returns:
        The photos in their order; of each member's evenly spread ones.
    """
    if count <= 0:
        return []
    by_stage: dict[int, list[int]] = {}
    for index, (_, stage) in enumerate(answered):
        by_stage.setdefault(stage, []).append(index)
    count = min(count, len(answered))
    shares = {stage: count * len(own) / len(answered) for stage, own in by_stage.items()}
    quotas = {stage: max(1, int(share)) for stage, share in shares.items()}
    for stage in sorted(shares, key=lambda stage: int(shares[stage]) - shares[stage]):
        if sum(quotas.values()) < count and quotas[stage] < len(by_stage[stage]):
            quotas[stage] += 1
    chosen = [
        own[(2 * k + 1) * len(own) // (2 * quotas[stage])]
        for stage, own in by_stage.items()
        for k in range(quotas[stage])
    ]
    return [answered[index][0] for index in sorted(chosen)]


def cool_down(plan: Plan, sampler: Sampler, say: Say) -> Cooling:
    """Wait until the board is cool enough, or as long as the plan allows; tells of it."""
    began = sampler.now()
    first = now = sampler.temperature()
    while now is not None and now >= plan.cool_below_c:
        waited = sampler.now() - began
        if waited >= plan.cool_seconds:
            break
        told = {"temperature_c": now, "below_c": plan.cool_below_c, "waited_s": round(waited, 1)}
        say({"event": "cooling", **told})
        time.sleep(min(1.0, plan.cool_seconds - waited))
        now = sampler.temperature()
    reached = None if now is None else now < plan.cool_below_c
    return Cooling(round(began, 3), round(sampler.now(), 3), first, now, reached)


def one_pass(
    photos: Sequence[str],
    time_photo: "Callable[[str], Timings]",
    plan: Plan,
    sampler: Sampler,
    *,
    governors: Optional[Sequence[str]],
    tell: Callable[[int, float], None],
) -> Pass:
    """Classify the photos in turn until both of the plan's minimums are met.

    A pass ends behind the last photo, so that all have run as often, unless its time is over.

    Args:
        time_photo: classifies a photo; milliseconds of each part.
        governors: of the cores used.
        tell: is told now and then of the runs done and the seconds passed.
    """
    runs: list[tuple[str, Timings]] = []
    start, usage = sampler.sample(), sampler.usage()
    began = told = sampler.now()
    passed, going = 0.0, True
    while going:
        for photo in photos:
            runs.append((photo, time_photo(photo)))
            passed = sampler.now() - began
            if passed >= plan.most_seconds or len(runs) >= MOST_RUNS:
                going = False
                break
            if sampler.now() - told >= _TELL_S:
                told = sampler.now()
                tell(len(runs), passed)
        going = going and (len(runs) < plan.runs or passed < plan.seconds)
    ended = began + passed
    now = sampler.usage()
    end = sampler.sample()
    tell(len(runs), passed)
    meanwhile = [one for one in sampler.samples if start.t <= one.t <= end.t]
    return Pass(
        began_s=round(began, 3),
        ended_s=round(ended, 3),
        runs=tuple(runs),
        throttled=_throttled(start, meanwhile),
        clock_drop=_clock_drop(sampler.samples, meanwhile, governors),
        others=others(usage, now),
    )


def _throttled(start: Sample, meanwhile: Iterable[Sample]) -> "tuple[str, ...]":
    """Flags that were set during a pass.

    One that "has occurred" lasts until the board is switched off: one that was there at the
    beginning says nothing.
    """
    found: dict[str, None] = {}
    for one in meanwhile:
        for flag in one.throttled or ():
            if flag.endswith(" now") or flag not in (start.throttled or ()):
                found[flag] = None
    return tuple(found)


def _clock_drop(
    before: Iterable[Sample], meanwhile: Iterable[Sample], governors: Optional[Sequence[str]]
) -> Optional[float]:
    """How far a core's clock fell in a pass below the highest one seen so far, as a share."""
    if set(governors or ()) - _FIXED:
        return None
    seen = [one.mhz for one in before if one.mhz]
    low = [one.mhz for one in meanwhile if one.mhz]
    if not low:
        return None
    highest, lowest = np.max(seen, axis=0), np.min(low, axis=0)
    return round(float(np.max(1 - lowest / np.maximum(highest, 1))), 4)


def write_line(number: int, photo: str, timings: Mapping[str, float]) -> str:
    """A run as a line of latency.jsonl."""
    rounded = {part: round(value, 4) for part, value in timings.items()}
    line = {"pass": number, "photo": photo, "timings_ms": rounded}
    return json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n"


# What Python makes of text that is no JSON, too deep, or a number that no float holds.
_UNREADABLE = (ValueError, RecursionError, OverflowError)


def read_lines(path: Path, number: int) -> "Iterator[tuple[str, Timings]]":
    """The runs of a pass out of latency.jsonl: photo, and milliseconds of each part.

    Raises:
        RunnerError: (`input`) a line is damaged, or there are more than a runner writes.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        for index, line in enumerate(stream):
            try:
                value = json.loads(line)
                if value["pass"] != number:
                    continue
                timings = {str(k): float(v) for k, v in value["timings_ms"].items()}
                yield str(value["photo"]), timings
            except (LookupError, TypeError, AttributeError, *_UNREADABLE) as error:
                message = f"{path}, line {index + 1}: not a run: {error!r}"
                raise RunnerError("input", message, "run again: edgecompress bench") from error


def pause(plan: Plan) -> None:
    """Leave the board alone for a moment, so that what disturbed a pass may end."""
    time.sleep(min(_PAUSE_S, plan.seconds))
