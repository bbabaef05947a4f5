"""The latency protocol: what is chosen, how long it runs, what disturbs it and what is said."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgecompress.runner.errors import RunnerError
from edgecompress.runner.protocol import (
    MOST_RUNS,
    Cooling,
    Pass,
    Plan,
    best,
    choose,
    cool_down,
    disturbances,
    doubts,
    one_pass,
    read_lines,
    write_line,
)

from .conftest import Pi

QUICK = Plan(photos=3, runs=6, seconds=0.0, most_seconds=20.0, cool_seconds=5.0)


def made(runs: int = 60, seconds: float = 12.0, ms: float = 10.0, **facts: Any) -> Pass:
    """A pass over three photos."""
    timed = tuple((f"photo{i % 3}", {"total": ms}) for i in range(runs))
    return Pass(0.0, seconds, timed, **facts)


@pytest.mark.parametrize(
    ("one", "governors", "kinds"),
    [
        (made(), ["performance"] * 4, []),
        (made(), None, []),
        (made(), ["userspace"], []),
        (made(throttled=("under-voltage now",)), None, ["throttled"]),
        (made(clock_drop=0.05), None, []),
        (made(clock_drop=0.06), None, ["clock"]),
        (made(others=0.1), None, []),
        (made(others=0.35), None, ["load"]),
        (made(), ["performance", "ondemand"], ["governor"]),
        (made(), ["powersave"] * 4, ["governor"]),
        (made(runs=29), None, ["few"]),
        (made(seconds=3.2), None, ["short"]),
        (made(runs=MOST_RUNS, seconds=3.2), None, []),
        (
            made(10, 1.0, throttled=("throttled now",), clock_drop=0.3, others=0.9),
            ["schedutil"],
            ["throttled", "clock", "load", "governor", "few", "short"],
        ),
    ],
)
def test_the_verdict(one: Pass, governors: list[str] | None, kinds: list[str]) -> None:
    found = doubts(one, Plan(runs=30), governors)
    assert [doubt.kind for doubt in found] == kinds
    assert all(doubt.text for doubt in found)


def test_reasons_are_in_plain_words() -> None:
    one = made(10, 3.2, throttled=("throttled now",), others=0.354)
    told = [doubt.text for doubt in doubts(one, Plan(runs=30), ["ondemand"])]
    assert told == [
        "the board was throttled (throttled now)",
        "other programs had 35 % of the cores used",
        "the governor is 'ondemand', not 'performance'",
        "only 10 runs, not 30",
        "it ended after 3.2 s, before the least of 10 s",
    ]


def test_runs_of_one_photo_that_lie_apart_are_doubted_and_photos_that_differ_are_not() -> None:
    different = tuple((f"p{i % 5}", {"total": 10.0 * (1 + i % 5)}) for i in range(60))
    assert doubts(Pass(0, 12, different), Plan(runs=30), None) == []
    noisy = tuple(("p", {"total": 10.0 if i % 5 else 20.0}) for i in range(60))
    (doubt,) = doubts(Pass(0, 12, noisy), Plan(runs=30), None)
    assert doubt.kind == "spread"
    assert "2.00 times" in doubt.text


def test_the_first_good_pass_counts_else_the_least_bad() -> None:
    hot, busy, busier = made(throttled=("x now",)), made(others=0.2), made(others=0.6)
    assert best([busy, made(), made()]) == 1
    assert best([hot, busier, busy]) == 2
    assert best([hot]) == 0


def test_members_answer_the_same_share_of_the_chosen_photos() -> None:
    answered = [(f"{i}", 0 if i % 4 else 1) for i in range(1000)]
    chosen = choose(answered, 20)
    stages = [dict(answered)[photo] for photo in chosen]
    assert (len(chosen), stages.count(1)) == (20, 5)
    places = [int(photo) for photo in chosen]
    assert places == sorted(places)
    assert max(b - a for a, b in pairwise(places)) <= 150, "spread over all"
    assert chosen == choose(answered, 20)


def test_a_member_that_answers_one_photo_of_many_is_among_them() -> None:
    answered = [(f"{i}", 0) for i in range(500)] + [("rare", 2)]
    assert "rare" in choose(answered, 5)
    assert choose(answered[:3], 20) == ["0", "1", "2"]
    assert choose(answered, 0) == choose([], 20) == []


def run(pi: Pi, plan: Plan = QUICK, ms: float = 5.0, governors: Any = ("performance",)) -> Pass:
    """A pass on that board, of photos that take so long."""

    def time_photo(_: str) -> dict[str, float]:
        time.sleep(ms / 1e3)
        return {"total": ms}

    with pi.sampler() as sampler:
        return one_pass(
            ["a", "b", "c"], time_photo, plan, sampler,
            governors=list(governors), tell=lambda *_: None,
        )  # fmt: skip


def test_both_minimums_and_whole_rounds(pi: Pi) -> None:
    one = run(pi, Plan(runs=4, seconds=0.0))
    assert [photo for photo, _ in one.runs] == ["a", "b", "c"] * 2
    one = run(pi, Plan(runs=4, seconds=0.2))
    assert one.seconds >= 0.2
    assert len(one.runs) % 3 == 0
    assert len(one.runs) > 6


def test_a_pass_ends_when_its_time_is_over(pi: Pi) -> None:
    plan = Plan(runs=1000, seconds=100, most_seconds=0.2)
    one = run(pi, plan)
    assert 0.2 <= one.seconds < 50
    assert [doubt.kind for doubt in doubts(one, plan, None)][-2:] == ["few", "short"]


def test_a_pass_is_as_long_as_its_times_are_apart(pi: Pi) -> None:
    one = run(pi, Plan(runs=2, seconds=0.0))
    assert replace(one, began_s=0.008, ended_s=0.208).seconds == 0.2  # 0.208 - 0.008 is less


def meanwhile(work: Any, after_s: float = 0.05) -> threading.Timer:
    timer = threading.Timer(after_s, work)
    timer.start()
    return timer


LONG = Plan(runs=60, seconds=0.0)


def test_throttling_in_the_middle_of_a_pass(pi: Pi) -> None:
    timer = meanwhile(lambda: pi.flags(0x20002))
    one = run(pi, LONG)
    timer.join()
    assert set(one.throttled) == {"frequency capped now", "frequency capping has occurred"}
    assert [doubt.kind for doubt in disturbances(one)] == ["throttled"]


def test_what_occurred_long_ago_does_not_count(pi: Pi) -> None:
    pi.flags(0xF0000)
    assert run(pi).throttled == ()


def test_a_flag_that_came_and_went_between_two_samples_has_occurred(pi: Pi) -> None:
    def slow_sampler_would_miss_it(_: str) -> dict[str, float]:
        pi.flags(0x40004)
        pi.flags(0x40000)
        return {"total": 1.0}

    with pi.sampler(interval_s=60) as sampler:
        one = one_pass(
            ["a"], slow_sampler_would_miss_it, Plan(runs=1, seconds=0), sampler,
            governors=None, tell=lambda *_: None,
        )  # fmt: skip
    assert one.throttled == ("throttling has occurred",)


def test_a_clock_that_sags_under_a_fixed_governor(pi: Pi) -> None:
    timer = meanwhile(lambda: pi.clock(1800))
    one = run(pi, LONG)
    timer.join()
    assert one.clock_drop == pytest.approx(0.25)
    assert [doubt.kind for doubt in disturbances(one)] == ["clock"]


@pytest.mark.parametrize("governor", ["ondemand", "powersave"])
def test_a_clock_that_its_governor_moves_is_not_a_sag(pi: Pi, governor: str) -> None:
    """Under `powersave`, intel_pstate and amd-pstate do."""
    timer = meanwhile(lambda: pi.clock(600, governor))
    one = run(pi, LONG, governors=(governor,))
    timer.join()
    assert one.clock_drop is None
    assert disturbances(one) == []


def test_other_programs_on_the_cores(pi: Pi) -> None:
    pi.work(idle=0, own=0, other=0)
    timer = meanwhile(lambda: pi.work(idle=100, own=400, other=200))
    one = run(pi, LONG)
    timer.join()
    assert one.others == pytest.approx(200 / 1000)
    assert [doubt.kind for doubt in disturbances(one)] == ["load"]


def cooled(pi: Pi, plan: Plan) -> tuple[Cooling, list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    with pi.sampler() as sampler:
        return cool_down(plan, sampler, said.append), said


def test_it_waits_until_the_board_is_cool(pi: Pi) -> None:
    pi.heat(82.0)
    timer = meanwhile(lambda: pi.heat(60.0), 0.5)
    told, said = cooled(pi, Plan(cool_below_c=65, cool_seconds=30))
    timer.join()
    assert (told.from_c, told.to_c, told.reached) == (82.0, 60.0, True)
    assert 0.5 <= told.ended_s - told.began_s < 10
    assert said[0] == {"event": "cooling", "temperature_c": 82.0, "below_c": 65, "waited_s": 0.0}


def test_it_does_not_wait_for_ever(pi: Pi) -> None:
    pi.heat(82.0)
    told, _ = cooled(pi, Plan(cool_below_c=65, cool_seconds=0.3))
    assert (told.to_c, told.reached) == (82.0, False)
    assert told.ended_s - told.began_s >= 0.3


def test_it_does_not_wait_where_it_is_cool_or_cannot_be_read(pi: Pi) -> None:
    told, said = cooled(pi, Plan(cool_below_c=65, cool_seconds=30))
    assert (told.reached, said) == (True, [])
    (pi.sys / "class/thermal/thermal_zone0/temp").unlink()
    told, said = cooled(pi, Plan(cool_below_c=65, cool_seconds=30))
    assert (told.from_c, told.reached, said) == (None, None, [])


def test_runs_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "latency.jsonl"
    lines = [write_line(1, "a", {"total": 9.0}), write_line(2, "a", {"total": 1.25, "net": 1.0})]
    path.write_text("".join(lines))
    assert list(read_lines(path, 2)) == [("a", {"total": 1.25, "net": 1.0})]
    assert list(read_lines(path, 3)) == []


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "1", '{"pass": 1}', '{"pass": 1, "photo": "a", "timings_ms": {"x": []}}'],
)
def test_a_damaged_run_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "latency.jsonl"
    path.write_text(write_line(1, "a", {"total": 9.0}) + line + "\n")
    with pytest.raises(RunnerError, match="line 2") as refused:
        list(read_lines(path, 1))
    assert refused.value.kind == "input"
