"""Downloads against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgecompress.compress.data.download import download, fetch_imagenette, unpack
from edgecompress.compress.data.photos import find_photos
from edgecompress.errors import InputError


class _Server(ThreadingHTTPServer):
    content = b""
    cut: int | None = None  # break off after so many bytes of a response
    ranges = True
    requests: list[str | None]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if self.path != "/imagenette2-160.tgz":
            self.send_error(404)
            return
        content, status = self.server.content, 200
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            content, status = content[start:], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)


def _url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/imagenette2-160.tgz"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _archive(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for member in members:
            data = bytes(range(256)) * 40
            member.size = len(data) if member.isfile() else 0
            tar.addfile(member, io.BytesIO(data) if member.isfile() else None)
    return stream.getvalue()


def _good_archive() -> bytes:
    names = [
        f"imagenette2-160/{split}/{wordnet}/{i}.JPEG"
        for split in ("train", "val")
        for wordnet in ("n01440764", "n03888257")
        for i in range(3)
    ]
    return _archive(*(tarfile.TarInfo(name) for name in names))


def test_fetched_once_and_found(server: _Server) -> None:
    server.content = _good_archive()
    folder = fetch_imagenette(_url(server), _md5(server.content))
    assert fetch_imagenette(_url(server), _md5(server.content)) == folder
    assert len(server.requests) == 1
    photos = find_photos("imagenette/train")
    assert photos.labels == ("tench", "parachute")
    assert len(photos) == 6
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == ["imagenette2-160", "imagenette2-160.lock"]


def test_a_download_that_broke_off_goes_on(server: _Server, tmp_path: Path) -> None:
    server.content = bytes(range(256)) * 1000
    server.cut = 100_000
    target = tmp_path / "file"
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            download(_url(server), target, _md5(server.content))
        assert "again" in caught.value.hint
    server.cut = None
    download(_url(server), target, _md5(server.content))
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]
    assert target.read_bytes() == server.content
    download(_url(server), target, _md5(server.content))
    assert len(server.requests) == 3


def test_a_server_without_ranges_starts_over(server: _Server, tmp_path: Path) -> None:
    server.content = b"0123456789" * 100
    server.ranges = False
    target = tmp_path / "file"
    target.write_bytes(b"01234")
    download(_url(server), target, _md5(server.content))
    assert target.read_bytes() == server.content


def test_another_file_is_refused_and_not_kept(server: _Server, tmp_path: Path) -> None:
    server.content = b"something else"
    target = tmp_path / "file"
    with pytest.raises(InputError, match="MD5"):
        download(_url(server), target, _md5(b"the real one"))
    assert not target.exists()


def test_too_long_a_part_is_fetched_again(server: _Server, tmp_path: Path) -> None:
    server.content = b"short"
    target = tmp_path / "file"
    target.write_bytes(b"longer than the file is")
    with pytest.raises(InputError):
        download(_url(server), target, _md5(server.content))
    download(_url(server), target, _md5(server.content))
    assert target.read_bytes() == b"short"


def test_no_server_and_no_file_are_input_errors(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="404"):
        download(_url(server).replace("imagenette", "other"), tmp_path / "file", "")
    with pytest.raises(InputError, match="no address"):
        download("imagenette.tgz", tmp_path / "file", "")
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="cannot fetch"):
        download(_url(server), tmp_path / "file", "")


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../escape.txt"),
        tarfile.TarInfo("imagenette2-160/../../escape.txt"),
        tarfile.TarInfo("/tmp/escape.txt"),
        tarfile.TarInfo("other/escape.txt"),
        _link("imagenette2-160/link", "/etc/passwd", tarfile.SYMTYPE),
        _link("imagenette2-160/hard", "imagenette2-160/a.jpg", tarfile.LNKTYPE),
        _link("imagenette2-160/fifo", "", tarfile.FIFOTYPE),
    ],
    ids=lambda member: member.name,
)
def test_unsafe_members_are_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    archive = tmp_path / "bad.tgz"
    archive.write_bytes(_archive(tarfile.TarInfo("imagenette2-160/a.jpg"), member))
    with pytest.raises(InputError):
        unpack(archive, tmp_path / "in" / "folder")
    assert [path.name for path in (tmp_path / "in").iterdir()] == []
    assert not (tmp_path / "escape.txt").exists()


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cut.tgz"
    archive.write_bytes(_good_archive()[:-300])
    with pytest.raises(InputError, match="cannot unpack"):
        unpack(archive, tmp_path / "in" / "folder")
    assert list((tmp_path / "in").iterdir()) == []
