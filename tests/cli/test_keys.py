"""The keys' verbs, and a real board that wants signatures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.deploy import deploy
from edgecompress.bench.trust import board_trust, require, trust
from edgecompress.compile.signing import new_key, sign_bundle
from edgecompress.errors import BoardError, UsageError
from edgecompress.rpc import connect
from edgecompress.rpc.ssh import SshSession
from edgecompress.runner.signature import Trust, trust_text


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The board `host` trusts what stands in this home."""
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))


def edgecompress(*argv: str, code: int = 0) -> Any:
    command = [sys.executable, "-m", "edgecompress.cli.main", *argv, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_from_a_new_key_to_a_board_that_requires_it(tmp_path: Path) -> None:
    made = edgecompress("keys", "new", "lab")
    assert Path(made["path"]).stat().st_mode & 0o777 == 0o600
    secret = Path(made["path"]).read_text().splitlines()[1]
    shown = edgecompress("keys", "show", "lab")
    assert edgecompress("keys", "list")["keys"] == [shown]
    refused = edgecompress("keys", "require", "--board", "host", code=2)
    assert "trust nobody" in refused["error"]["message"]
    told = edgecompress("keys", "trust", "lab", "--board", "host")
    assert (told["required"], told["trusted"]) == (False, [shown["public"]])
    told = edgecompress("keys", "require", "--board", "host")
    assert told["required"]
    assert edgecompress("keys", "list", "--board", "host") == told
    refused = edgecompress("keys", "trust", "lab", "--off", "--board", "host", code=2)
    assert "it could run nothing" in refused["error"]["message"]
    (tmp_path / "colleague.pub").write_text(shown["public"].replace(" lab", " anna") + "\n")
    anna = edgecompress("keys", "trust", str(tmp_path / "colleague.pub"), "--board", "host")
    assert anna["trusted"] == [shown["public"].replace(" lab", " anna")]
    assert not edgecompress("keys", "require", "--off", "--board", "host")["required"]
    assert secret not in json.dumps([made, shown, told, anna, refused])


def test_a_damaged_file_on_the_board_trusts_nobody(tmp_path: Path) -> None:
    path = tmp_path / ".config/edgecompress/trusted-keys"
    path.parent.mkdir(parents=True)
    path.write_text("something else\n")
    with connect("host") as session, pytest.raises(BoardError, match="line 1 is no public key"):
        board_trust(session)


def test_the_host_as_a_board(tiny: Any, tmp_path: Path) -> None:
    """The runner is a process of its own, that reads the file by itself."""
    bundle = tmp_path / "b.tar"
    bundle.write_bytes(tiny.bundle.read_bytes())
    key = new_key("lab")
    with connect("host") as session:
        deploy(session, bundle)
        trust(session, key.key, "lab")
        require(session)
        with pytest.raises(BoardError, match="signed bundles only") as refused:
            deploy(session, bundle)
        assert "--sign" in refused.value.hint
        sign_bundle(bundle, "lab")
        deployed = deploy(session, bundle)
        assert deployed.sent
        assert not deploy(session, bundle).sent, "it lies there signed now"
        with pytest.raises(UsageError, match="does not trust the key 'b'"):
            trust(session, b"b" * 32, "b", off=True)


@pytest.mark.board
def test_a_board_that_requires_a_signature(
    virtual_board: SshSession, tiny: Any, tmp_path: Path
) -> None:
    """`tiny` is not for this board: a refusal for that shows that the signature has passed."""
    bundle = tmp_path / "b.tar"
    bundle.write_bytes(tiny.bundle.read_bytes())
    key = new_key("lab")
    try:
        assert trust(virtual_board, key.key, "lab") == Trust({key.key: "lab"})
        require(virtual_board)
        listed = virtual_board.run(
            ["cat", "/home/pi/.config/edgecompress/trusted-keys"], timeout=30
        )
        assert listed.stdout == trust_text(Trust({key.key: "lab"}, required=True))
        with pytest.raises(BoardError, match="signed bundles only"):
            deploy(virtual_board, bundle)
        new_key("stranger")
        sign_bundle(bundle, "stranger")
        with pytest.raises(BoardError, match="does not trust"):
            deploy(virtual_board, bundle)
        sign_bundle(bundle, "lab")
        with pytest.raises(BoardError, match=r"is for x86_64|x86_64"):
            deploy(virtual_board, bundle)
    finally:
        virtual_board.run(["rm", "-rf", "/home/pi/.config/edgecompress"], timeout=30)
