"""A few photos of a run for the report page, small, with the crop that the cascade saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..runner.errors import RunnerError
from ..runner.photo import decode
from .accuracy import Answer, hits

SIDE = 176
BUDGET_BYTES = 150_000
EXAMPLES = 12


@dataclass(frozen=True)
class Example:
    """A thumbnail with its crop, in the thumbnail's pixels.

    Attributes:
        stage: index of the stage that answered.
        uri: the JPEG as a data URI.
        width: pixels.
        height: pixels.
        crop: x, y, width, height of what the network saw.
        box: the same of the predicted foreground; None without a predictor.
        said: the class that was answered.
        truth: the class that is right.
        probability: of `said`.
    """

    stage: int
    uri: str
    width: int
    height: int
    crop: tuple[float, float, float, float]
    box: tuple[float, float, float, float] | None
    said: str
    truth: str
    probability: float

    @property
    def right(self) -> bool:
        """Whether the answer is the photo's class."""
        return self.said == self.truth


def choose(answers: Sequence[Answer], stages: int, labels: Sequence[str]) -> list[Example]:
    """Up to `EXAMPLES` photos, the same number for each stage, one wrong answer among them.

    Together below `BUDGET_BYTES`. The same answers give the same examples.
    """
    each = max(2, EXAMPLES // max(1, stages))
    chosen = []
    for own in hits(answers, stages):
        right = [answer for answer in own if _right(answer)]
        wrong = [answer for answer in own if not _right(answer)]
        some = _spread(wrong, 1)
        chosen += _spread(right, each - len(some)) + some
    limit = BUDGET_BYTES // max(1, len(chosen))
    drawn = (_example(answer, labels, limit) for answer in chosen)
    return [example for example in drawn if example is not None]


def _right(answer: Answer) -> bool:
    return answer.outcome is not None and answer.outcome.top5[0][0] == answer.target


def _spread(answers: list[Answer], count: int) -> list[Answer]:
    count = min(count, len(answers))
    return [answers[i * len(answers) // count] for i in range(count)]


def _example(answer: Answer, labels: Sequence[str], limit: int) -> Example | None:
    outcome = answer.outcome
    if outcome is None:
        return None
    try:
        image = decode(answer.path)
    except RunnerError:
        return None  # it was readable on the board, and has been changed here since
    scale = SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    left, top, right, bottom = (edge * scale for edge in outcome.box)
    box = None
    if outcome.predicted is not None:
        x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in outcome.predicted)
        if x1 > x0 and y1 > y0:
            width, height = small.size
            box = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
    index, probability = outcome.top5[0]
    return Example(
        stage=outcome.stage,
        uri=_data_uri(small, limit),
        width=small.width,
        height=small.height,
        crop=(left, top, right - left, bottom - top),
        box=box,
        said=labels[index],
        truth=labels[answer.target],
        probability=probability,
    )


def _data_uri(image: Image.Image, limit: int) -> str:
    """A JPEG of at most `limit` bytes as a data URI, as good as fits."""
    content = b""
    for quality in (80, 65, 50, 35, 20):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        content = buffer.getvalue()
        if len(content) * 4 / 3 <= limit:
            break
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
