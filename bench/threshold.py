"""What the page's threshold sliders compute with: all members' predictions, and their cost."""

from __future__ import annotations

import base64
import hashlib
from itertools import accumulate
from pathlib import Path
from typing import Any

from . import charts
from .schema import Report

SCRIPT = Path(__file__).parent / "templates" / "threshold.js"


def script() -> str:
    """The page's only script."""
    return SCRIPT.read_text()


def script_hash() -> str:
    """What the page's policy lets run: this script and no other."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def slider_data(report: Report) -> dict[str, Any] | None:
    """Numbers for `threshold.js`; None where not all members' predictions are known.

    `confidences` are of all photos, one after the other, of each member but the last; bit i of
    `right` says whether member i's answer to a photo is right. `macs` and `ms` are of a photo that
    each member answers; `ms` is null where it cannot be told. The rest places the mark.
    """
    whole = [photo for photo in report.photos or [] if photo.confidences]
    axes = charts.trade_off_axes(report)
    if not whole or axes is None or len(report.stages) < 2:
        return None
    first = report.predictor.macs if report.predictor else 0
    return {
        "confidences": [one for photo in whole for one in photo.confidences[:-1]],
        "right": [sum(right << i for i, right in enumerate(photo.right)) for photo in whole],
        "macs": list(accumulate((stage.macs for stage in report.stages), initial=first))[1:],
        "ms": mean_times(report),
        "x": [axes.x_low, axes.x_high],
        "y": [axes.y_low, axes.y_high],
        "across": [axes.left, axes.right],
        "up": [axes.bottom, axes.top],
    }


def mean_times(report: Report) -> list[float] | None:
    """Mean milliseconds of a photo that each member answers, put together from its parts' means.

    None where times are emulated, or a member was never timed.
    """
    if report.emulated or any(stage.network not in report.latency_ms for stage in report.stages):
        return None
    before = [
        report.latency_ms[part].mean
        for part in ("decode", "predict", "crop")
        if part in report.latency_ms
    ]
    members = (report.latency_ms[stage.network].mean for stage in report.stages)
    return list(accumulate(members, initial=sum(before)))[1:]
