"""Whom a board trusts: its file, read as untrusted (the verbs are in tests/cli/test_keys.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.trust import board_trust, require, trust
from edgecompress.errors import BoardError
from edgecompress.rpc import connect
from edgecompress.rpc.process import Completed
from edgecompress.runner.signature import MAX_TRUSTED, OWN


def test_no_more_is_read_than_a_file_of_keys_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / OWN
    path.parent.mkdir(parents=True)
    path.write_bytes(b"#" * (20 << 20))
    came: list[int] = []
    with connect("host") as session:
        run = session.run

        def counted(*arguments: Any, **options: Any) -> Completed:
            done = run(*arguments, **options)
            came.append(len(done.stdout))
            return done

        monkeypatch.setattr(session, "run", counted)
        monkeypatch.setattr(session, "download", None)  # of any length
        with pytest.raises(BoardError, match=f"larger than {MAX_TRUSTED} bytes"):
            board_trust(session)
        assert max(came) == MAX_TRUSTED + 1
        path.unlink()
        key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        trust(session, key, "lab")
        assert require(session) == board_trust(session)
        assert board_trust(session).keys == {key: "lab"}
