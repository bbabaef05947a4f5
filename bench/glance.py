"""The three questions that a reader has first, each with its answer in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from . import text
from .schema import Doubt, Report

Mark = Literal["good", "doubtful", ""]


@dataclass(frozen=True)
class Glance:
    """A question, its answer, and what else belongs to it.

    Attributes:
        mark: whether the answer is that numbers are good, or doubtful; "" where it is neither.
    """

    question: str
    answer: str
    details: tuple[str, ...]
    mark: Mark = ""


def glances(report: Report) -> list[Glance]:
    """Who answers, what takes the time, and whether that can be believed."""
    return [_who(report), _what(report), _trust(report)]


def doubt_line(report: Report) -> str:
    """Why the times are doubtful, the worst reason alone; "" where they are not."""
    told = report.measurement
    return told.doubts[0].text if told and told.doubts else ""


def verdict(report: Report) -> str:
    """In a line: good, or doubtful and all the reasons."""
    told = report.measurement
    if told is None:
        return "not judged: " + report.not_measured.get("measurement", "made by an older release")
    if not told.doubts:
        return "good"
    return "doubtful: " + "; ".join(one.text for one in told.doubts)


def _who(report: Report) -> Glance:
    n = report.accuracy.n
    ranked = sorted(report.stages, key=lambda stage: -stage.hits)
    if n == 0:
        return Glance("Which member answers most photos?", "None: no photo was answered.", ())
    first, rest = ranked[0], ranked[1:]
    answer = f"{text.short_name(first.network)} answers {first.hits} of {n} photos"
    others = [f"{text.short_name(one.network)} {one.hits}" for one in rest]
    details = [f"The others: {', '.join(others)}."] if others else []
    return Glance("Which member answers most photos?", answer + ".", tuple(details))


def _what(report: Report) -> Glance:
    question = "What limits the latency?"
    if report.emulated or not report.latency_ms.get("total"):
        shares = _shares_of_macs(report)
        basis = "by computation, not by time"
        detail = (
            "Times of an emulated CPU cannot tell what limits a real one."
            if report.emulated
            else "No time was measured."
        )
    else:
        shares = _shares_of_time(report)
        basis = "of the time of a photo"
        detail = ""
    if not shares:
        return Glance(question, "Not known: nothing was measured.", ())
    (name, share), *rest = shares
    answer = f"{_part(name)}: {text.percent(share, 0)} {basis}."
    others = [f"{_part(other)} {text.percent(one, 0)}" for other, one in rest if one >= 0.005]
    details = [f"The rest: {', '.join(others)}."] if others else []
    return Glance(
        question, answer[0].upper() + answer[1:], (*details, *([detail] if detail else []))
    )


_WORDS = {"decode": "decoding the photo", "predict": "the crop predictor", "crop": "cropping"}


def _part(name: str) -> str:
    return _WORDS.get(name, text.short_name(name))


def _shares_of_time(report: Report) -> list[tuple[str, float]]:
    """Each part's share of the time of all runs, the largest first."""
    spent = {name: one.mean * one.n for name, one in report.latency_ms.items()}
    total = spent.pop("total", 0.0)
    return _ranked({name: one / total for name, one in spent.items()} if total > 0 else {})


def _shares_of_macs(report: Report) -> list[tuple[str, float]]:
    """Each network's share of the computation of all photos, the largest first."""
    reached = report.accuracy.n
    spent = {"predict": report.predictor.macs * reached} if report.predictor else {}
    for stage in report.stages:
        spent[stage.network] = stage.macs * reached
        reached -= stage.hits
    total = sum(spent.values())
    return _ranked({name: one / total for name, one in spent.items()} if total else {})


def _ranked(shares: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: -item[1])


def _trust(report: Report) -> Glance:
    question = "Can the numbers be trusted?"
    told = report.measurement
    accuracy = tuple(_accuracy(report))
    if told is None:
        why = report.not_measured.get("measurement", "the report was made by an older release")
        return Glance(question, f"The times were not judged: {why}.", accuracy)
    if not told.doubts:
        ran = f"{told.own.runs} runs in {told.own.ended_s - told.own.began_s:.1f} s"
        return Glance(question, f"Times: yes. {ran}, and nothing disturbed them.", accuracy, "good")
    answer = f"Times: no. {_capital(told.doubts[0].text)}."
    more = [f"Also: {'; '.join(one.text for one in told.doubts[1:])}."] if told.doubts[1:] else []
    return Glance(question, answer, (*more, *_to_do(told.doubts), *accuracy), "doubtful")


def _to_do(doubts: list[Doubt]) -> Iterator[str]:
    advice = list(dict.fromkeys(one.advice for one in doubts if one.advice))
    if advice:
        yield f"To do: {advice[0]}" + (" (more below)." if advice[1:] else ".")


def _accuracy(report: Report) -> Iterator[str]:
    if report.accuracy.top1_interval is not None:
        yield (
            f"Accuracy: real answers to {report.accuracy.n} photos; on others like them expect"
            f" {text.interval(report.accuracy)}."
        )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
