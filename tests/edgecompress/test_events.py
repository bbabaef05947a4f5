"""Progress events reach listeners, in order, also when the work fails."""

from __future__ import annotations

import pytest

from edgecompress import events
from edgecompress.errors import BoardError, unknown_name


def test_track_tells_begin_steps_and_end() -> None:
    seen: list[events.Event] = []
    with events.listening(seen.append):
        assert list(events.track([1, 2], "count")) == [1, 2]
    assert [(one.kind, one.done) for one in seen] == [
        ("begin", 0),
        ("advance", 1),
        ("advance", 2),
        ("end", 2),
    ]
    assert all(one.total == 2 for one in seen)


def test_a_task_ends_when_its_work_fails() -> None:
    seen: list[events.Event] = []
    with events.listening(seen.append), pytest.raises(KeyError), events.task("doomed"):
        raise KeyError
    assert [one.kind for one in seen] == ["begin", "end"]
    events.note("nobody listens any more")
    assert len(seen) == 2


def test_a_wrong_name_offers_the_near_ones() -> None:
    error = unknown_name(
        "board", "rpi4", ["rpi4b", "rpi5", "host"], BoardError, "edgecompress boards"
    )
    assert "rpi4b" in error.hint
    assert "edgecompress boards" in error.hint
    assert "host" in unknown_name("board", "zzz", ["host"], BoardError).hint
