"""Errors may quote what anybody wrote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import InputError
from edgecompress.runner.errors import RunnerError


@given(text=st.text())
def test_a_message_is_one_line_that_moves_no_cursor(text: str) -> None:
    for error in (InputError(text, text), RunnerError("input", text, text)):
        for told in (str(error), error.message, error.hint):
            assert told.isprintable()
            told.encode()
    assert not text.isprintable() or InputError(text).message == text


def test_what_is_not_printable_is_shown() -> None:
    assert InputError("a\nb\x1b[2Jc\u202ed ä").message == r"a\nb\x1b[2Jc\u202ed ä"
