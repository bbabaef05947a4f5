"""The report's rows of single photos, from which reports are compared and thresholds moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..runner.cascade import Outcome
from .accuracy import Answer
from .schema import PhotoFacts, TradeOff

ID_DIGITS = 16
_TIME_DIGITS = 4
_CONFIDENCE_DIGITS = 6


def photo_facts(
    answers: Sequence[Answer],
    reference: Sequence[Answer] | None,
    curve: TradeOff | None,
    stages: int,
    *,
    runs: Mapping[str, Sequence[dict[str, float]]],
) -> list[PhotoFacts]:
    """A row for each photo that the board answered.

    Args:
        answers: the board's.
        reference: PyTorch's of the same photos, in the same order.
        curve: whose predictions the threshold curve is of; None where there is no curve.
        stages: how many members the cascade has.
        runs: the times of each photo whose latency was measured.
    """
    others = answers if curve is None or curve.source == "board" else reference or []
    rows = []
    for index, answer in enumerate(answers):
        if answer.record is None or answer.outcome is None:
            continue
        other = others[index].outcome if index < len(others) else None
        whole = other if other is not None and len(other.confidences) == stages else None
        rows.append(
            PhotoFacts(
                photo=answer.photo[:ID_DIGITS],
                target=answer.target,
                answer=answer.outcome.top5[0][0],
                rank=_rank(answer.outcome, answer.target),
                stage=answer.outcome.stage,
                ms=_times(runs.get(answer.photo, ())),
                confidences=[_share(one) for one in whole.confidences] if whole else [],
                right=[one == answer.target for one in whole.stage_top1] if whole else [],
            )
        )
    return rows


def _rank(outcome: Outcome, target: int) -> int:
    classes = [index for index, _ in outcome.top5]
    return classes.index(target) + 1 if target in classes else 0


def _times(runs: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    parts: dict[str, list[float]] = {}
    for run in runs:
        for part, value in run.items():
            parts.setdefault(part, []).append(round(value, _TIME_DIGITS))
    return parts


def _share(confidence: float) -> float:
    return min(1.0, max(0.0, round(confidence, _CONFIDENCE_DIGITS)))
