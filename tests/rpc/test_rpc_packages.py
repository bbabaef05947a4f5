"""numpy and Pillow on a board that has no internet and no root: a real SSH server, real wheels."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecompress.errors import BoardError
from edgecompress.rpc import packages
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.ssh import SshSession
from edgecompress.targets import load_board


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

    session.write(f"keys/{'0' * 16}", b"of a server that was killed as it began")
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


def test_somebody_elses_packages_are_not_replaced(tmp_path: Path) -> None:
    with LocalSession(load_board("host"), tmp_path) as session:
        session.write("packages/mine.txt", b"mine")
        with pytest.raises(BoardError, match="somebody else's") as refused:
            packages.setup(session, "3.11.2")
        assert "--workdir" in refused.value.hint
        assert (tmp_path / "packages/mine.txt").exists()


OURS = (
    f"bundles/{'a' * 64}/manifest.json",
    f"bundles/.{'a' * 16}.tar.sha256",
    "bundles/.unpacking.abcd_123/x",
    f"keys/{'0' * 16}",
    "packages/packages.json",
    "packages/numpy/x",
    f"photos/{'b' * 64}",
    f"photos.incoming/{'b' * 64}",
    "photos.incoming.tar",
    ".photos.incoming.tar.sha256",
    f"rpc-server-{'c' * 16}/tvm/x",
    f".rpc-server-{'c' * 16}.tar.gz.01234567.part",
    f"runner/runner-{'d' * 16}.pyz",
    f"runner/.runner-{'d' * 16}.pyz.sha256",
    f"runs/{'e' * 24}/x/y",
    f"runs/{'e' * 24}-latency/photos/{'b' * 64}",
    "service/ready.py",
    "service/ready.json",
)
THEIRS = (
    "bundles/wheat",
    "keys/mine",
    "packages.new/mine",
    "packages.tar.gz",
    "photos/2024/beach.jpg",
    f"photos/{'b' * 63}",
    "rpc-server-mine/x",
    "runner/shoes.txt",
    "runs/marathon.csv",
    "service/bill.pdf",
)


def test_what_others_keep_in_the_same_folder_stays(tmp_path: Path) -> None:
    """A working folder that is a home has `photos` and `keys` of its own."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ("b" * 64)).touch()
    with LocalSession(load_board("host"), home) as session:
        for name in OURS:
            session.write(name, b"x")
        packages.remove(session)
        assert not list(home.iterdir())
        for name in (*OURS, *THEIRS):
            session.write(name, b"x")
        packages.remove(session)
        left = {str(one.relative_to(home)) for one in home.rglob("*") if one.is_file()}
        assert left == set(THEIRS)
        # A link in the place of a folder of ours.
        shutil.rmtree(home / "photos")
        (home / "photos").symlink_to(elsewhere)
        packages.remove(session)
        assert (elsewhere / ("b" * 64)).exists()
        many = [home / "runs" / f"{number:024x}" for number in range(9000)]
        for one in many:
            one.touch()
        packages.remove(session)
        assert not any(one.exists() for one in many)
