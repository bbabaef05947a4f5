"""numpy and Pillow on a board that has no internet and no root: a real SSH server, real wheels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from edgecompress.errors import BoardError
from edgecompress.rpc import packages
from edgecompress.rpc.ssh import SshSession


@pytest.fixture
def session(virtual_board: SshSession) -> Iterator[SshSession]:
    """A session with a working folder of its own, so that nothing else on the board is touched."""
    entry = dataclasses.replace(virtual_board.entry, name="lab", workdir="setup test")
    with SshSession(entry) as opened:
        yield opened
        packages.remove(opened)


def imported_from(session: SshSession) -> str:
    done = session.run(
        ["python3", "-c", "import numpy; print(numpy.__file__)"],
        timeout=120,
        env=packages.environment(session),
    )
    return done.stdout.strip()


@pytest.mark.board
def test_a_board_gets_its_packages_once(session: SshSession) -> None:
    first = packages.setup(session, "3.11.2")
    assert first.sent
    assert set(first.packages) == {"numpy", "pillow"}
    assert imported_from(session).startswith(f"{session.workdir}/packages/numpy/")
    assert not packages.setup(session, "3.11.2").sent

    # Half of them lost, or other versions wanted: the whole folder is replaced.
    session.write("packages/packages.json", b"[]")
    session.remove("packages/PIL")
    assert packages.setup(session, "3.11.2").sent

    session.write("keys/left", b"of a server that was killed as it began")
    session.write("theirs.txt", b"mine")
    packages.remove(session)
    listed = session.run(["ls", "-A", session.workdir], timeout=60)
    assert listed.stdout == "theirs.txt\n"
    session.remove("theirs.txt")
    assert not imported_from(session).startswith(session.workdir)
    listed = session.run(["ls", "-A", session.workdir], timeout=60)
    assert listed.stdout == ""


@pytest.mark.board
def test_a_python_without_packages_is_refused(session: SshSession) -> None:
    with pytest.raises(BoardError, match=r"has Python 3\.7\.3; there are packages for 3\.9"):
        packages.setup(session, "3.7.3")
