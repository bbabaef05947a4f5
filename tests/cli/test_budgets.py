"""`--budget`: what networks may cost, or how long to tune."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.cli.job import Job, compress_config, load_job
from edgecompress.cli.jobs import TuningCost, _overridden
from edgecompress.errors import UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"


def _asked(job: Job, *budgets: str) -> Job:
    return _overridden(job, None, list(budgets), None, TuningCost.JOB)


def test_budgets_of_networks_and_of_time_are_told_apart() -> None:
    job = load_job(EXAMPLES / "imagenette.toml")
    asked = _asked(job, "40ms", "0.5x", "10m", "0.25x")
    assert asked.tune.seconds == 600
    for quick in (False, True):
        members = compress_config(asked).resolved(quick).members
        assert members.budgets == ("40ms", 0.25, 0.5)
        # All else of the table is as it was.
        before = compress_config(job).resolved(quick).members
        assert members.model_copy(update={"budgets": before.budgets}) == before
    assert _asked(job).compress == job.compress


def test_what_cannot_be_is_refused() -> None:
    job, ready = (load_job(EXAMPLES / f"{name}.toml") for name in ("imagenette", "demo"))
    for wrong, budgets, said in [
        (ready, ("0.5x",), "compresses nothing"),
        (job, ("10m", "2h"), "two times to tune for"),
        (job, ("0ms",), "above 0"),
        (job, ("2x",), "at most 1"),
        (job, ("soon",), "soon"),
        # A share of the base, or seconds to tune for?
        (job, ("0.5",), "of what"),
        (job, ("0.25x", "90"), "of what"),
    ]:
        with pytest.raises(UsageError, match=said):
            _asked(wrong, *budgets)
