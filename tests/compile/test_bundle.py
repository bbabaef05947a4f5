"""What the bundle builder writes, and what the runner refuses to open."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compile.bundle import build_bundle
from edgecompress.errors import BoardError, CompileError, InputError
from edgecompress.runner import bundle as bundle_module
from edgecompress.runner.archive import members
from edgecompress.runner.bundle import open_bundle
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.machine import Machine, cpu_features, this_machine
from edgecompress.runner.manifest import manifest_from_bytes
from edgecompress.targets import load_board
from edgecompress.targets.runtime import runtime_files

Files = dict[str, bytes]


def _read(bundle: Path) -> Files:
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
        return {m.name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]


def _write(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            _add(archive, name, content)
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def _edited(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def _refusal(path: Path, tmp_path: Path, machine: Machine | None = None) -> RunnerError:
    unpacked = tmp_path / "unpacked"
    with pytest.raises(RunnerError) as caught:
        open_bundle(path, unpacked, machine)
    left = list(unpacked.iterdir()) if unpacked.exists() else []
    assert left == [], "a refused bundle leaves nothing behind"
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.fixture(scope="module")
def files(tiny: Any) -> Files:
    return _read(tiny.bundle)


def test_same_inputs_give_the_same_bytes(tiny: Any, tmp_path: Path) -> None:
    info = build_bundle(tiny.folder, tiny.compiled, load_board("host"), tmp_path / "again.tar")
    assert info.path.read_bytes() == tiny.bundle.read_bytes()
    assert info.sha256 == hashlib.sha256(tiny.bundle.read_bytes()).hexdigest()
    assert info.runtime_bytes < 10_000_000
    assert set(info.parts) == {"manifest", "networks", "runner", "runtime"}


def test_the_manifest_states_what_a_board_needs(files: Files) -> None:
    manifest = json.loads(files["manifest.json"])
    assert next(iter(files)) == "manifest.json"
    assert set(manifest["files"]) == set(files) - {"manifest.json"}
    assert manifest["versions"]["tvm"] == "0.27.0.post1"
    assert manifest["versions"]["tvm_ffi"] == "0.1.14.post1"
    assert manifest["target"]["board"] == "host"
    assert manifest["cascade"]["stages"][0]["macs"] == 3072
    assert len(manifest["cascade"]["labels"]) == 10
    assert "seconds" not in manifest["networks"]["small"]
    assert manifest["origin"]["weights"] == "random"


def test_no_compiler_and_no_headers_in_the_runtime(files: Files) -> None:
    runtime = [name for name in files if name.startswith("runtime/")]
    assert "runtime/libtvm_runtime.so" in runtime
    assert any(name.endswith("LICENSE") for name in runtime)
    assert not [name for name in runtime if "compiler" in name or name.endswith((".h", ".pxi"))]


def test_runtime_of_a_raspberry_pi() -> None:
    board = load_board("rpi4b")
    content = runtime_files(board)
    assert sum(map(len, content.values())) < 10_000_000
    machine = content["libtvm_runtime.so"][18:20]
    assert machine == (183).to_bytes(2, "little")  # ELF's EM_AARCH64
    with pytest.raises(BoardError, match=r"Python 3\.8"):
        runtime_files(dataclasses.replace(board, python="3.8"))
    with pytest.raises(BoardError, match="armv7l"):
        runtime_files(dataclasses.replace(board, arch="armv7l"))


def test_missing_parts_are_named(tiny: Any, tmp_path: Path) -> None:
    board = load_board("host")
    some = {name: one for name, one in tiny.compiled.items() if name != "big"}
    with pytest.raises(CompileError, match="'big'"):
        build_bundle(tiny.folder, some, board, tmp_path / "x.tar")
    with pytest.raises(InputError, match="no such cascade"):
        build_bundle(tmp_path, tiny.compiled, board, tmp_path / "x.tar")
    (tmp_path / "cascade.json").write_text("{}")
    with pytest.raises(CompileError, match="format"):
        build_bundle(tmp_path, tiny.compiled, board, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_unpacking_is_checked_and_done_once(tiny: Any, files: Files, tmp_path: Path) -> None:
    first = open_bundle(tiny.bundle, tmp_path)
    assert first.folder == tmp_path / hashlib.sha256(files["manifest.json"]).hexdigest()
    library = first.folder / "networks/small.so"
    assert library.read_bytes() == files["networks/small.so"]
    made = library.stat().st_mtime_ns
    assert open_bundle(tiny.bundle, tmp_path).folder == first.folder
    assert library.stat().st_mtime_ns == made
    library.write_bytes(b"altered")
    with pytest.raises(RunnerError, match=r"networks/small\.so"):
        open_bundle(first.folder, tmp_path)
    open_bundle(tiny.bundle, tmp_path)  # unpacked anew
    assert library.read_bytes() == files["networks/small.so"]
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_two_runners_may_unpack_one_bundle(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is done first: its folder is checked and taken."""
    copy = bundle_module._copy

    def slow(*arguments: Any) -> None:
        monkeypatch.undo()
        open_bundle(tiny.bundle, tmp_path)
        copy(*arguments)

    monkeypatch.setattr(bundle_module, "_copy", slow)
    opened = open_bundle(tiny.bundle, tmp_path)
    assert list(tmp_path.iterdir()) == [opened.folder]


def test_what_a_kill_left_half_unpacked_is_removed_a_day_later(tiny: Any, tmp_path: Path) -> None:
    left, others = tmp_path / ".unpacking.old", tmp_path / ".unpacking.new"
    for folder, hours in ((left, 25), (others, 1)):
        folder.mkdir()
        (folder / "manifest.json").touch()
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
    opened = open_bundle(tiny.bundle, tmp_path)
    assert set(tmp_path.iterdir()) == {opened.folder, others}


@pytest.mark.parametrize("extra", ["runtime/evil.py", "runtime/tvm_ffi/__pycache__/x.pyc"])
def test_a_folder_with_more_files_is_refused(tiny: Any, tmp_path: Path, extra: str) -> None:
    folder = open_bundle(tiny.bundle, tmp_path).folder
    (folder / "runner/__pycache__").mkdir()  # Python's own, from starting the runner there
    (folder / "runner/__pycache__/x.pyc").write_bytes(b"")
    open_bundle(folder, tmp_path)
    (folder / extra).parent.mkdir(exist_ok=True)
    (folder / extra).write_bytes(b"import os")
    with pytest.raises(RunnerError, match="does not name"):
        open_bundle(folder, tmp_path)


def test_a_folder_with_a_link_is_refused(tiny: Any, tmp_path: Path) -> None:
    folder = open_bundle(tiny.bundle, tmp_path).folder
    library = folder / "networks/small.so"
    library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(RunnerError, match="not a plain file"):
        open_bundle(folder, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.00005, 0.01, 0.3, 0.7, 0.99])
def test_truncated(tiny: Any, tmp_path: Path, share: float) -> None:
    whole = tiny.bundle.read_bytes()
    path = tmp_path / "short.tar"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert _refusal(path, tmp_path).kind == "bundle"


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.tar", tmp_path).kind == "bundle"
    (tmp_path / "text.tar").write_text("hello")
    assert _refusal(tmp_path / "text.tar", tmp_path).kind == "bundle"
    (tmp_path / "folder").mkdir()
    assert _refusal(tmp_path / "folder", tmp_path).kind == "bundle"


def test_compressed_archives_are_refused(tiny: Any, tmp_path: Path) -> None:
    import gzip

    (tmp_path / "b.tar").write_bytes(gzip.compress(tiny.bundle.read_bytes()[:100_000]))
    assert _refusal(tmp_path / "b.tar", tmp_path).kind == "bundle"


def test_one_flipped_bit_anywhere_is_found(files: Files, tmp_path: Path) -> None:
    for name in ("networks/big.so", "runner/photo.py", "runtime/typing_extensions.py"):
        content = bytearray(files[name])
        content[len(content) // 2] ^= 1
        path = _write(tmp_path / "b.tar", {**files, name: bytes(content)})
        assert name in _refusal(path, tmp_path).message


def test_other_files_than_the_manifest_names(files: Files, tmp_path: Path) -> None:
    path = _write(tmp_path / "more.tar", {**files, "runtime/extra.py": b""})
    assert "runtime/extra.py" in _refusal(path, tmp_path).message
    fewer = {name: content for name, content in files.items() if name != "runner/photo.py"}
    assert "missing" in _refusal(_write(tmp_path / "less.tar", fewer), tmp_path).message
    late = {name: files[name] for name in [*list(files)[1:], "manifest.json"]}
    assert "begin" in _refusal(_write(tmp_path / "late.tar", late), tmp_path).message


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("../evil", {}),
        ("/etc/evil", {}),
        ("runtime/../../evil", {}),
        ("runtime//evil", {}),
        ("runtime/.hidden", {}),
        ("runtime\\evil", {}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "manifest.json"}),
        ("folder", {"type": tarfile.DIRTYPE}),
        ("device", {"type": tarfile.CHRTYPE}),
        ("pipe", {"type": tarfile.FIFOTYPE}),
    ],
)
def test_hostile_members(files: Files, tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "manifest.json", files["manifest.json"])
        _add(archive, name, **fields)
    assert _refusal(path, tmp_path).kind == "bundle"
    assert not (tmp_path / "evil").exists()


def test_a_member_twice(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("manifest.json", "networks/small.so", "networks/small.so"):
            _add(archive, name, files[name])
    assert "twice" in _refusal(path, tmp_path).message


def _bomb(manifest: dict[str, Any]) -> None:
    manifest["files"]["networks/small.so"]["size"] = 1 << 40


def _climb(manifest: dict[str, Any]) -> None:
    manifest["files"]["../evil"] = manifest["files"]["networks/small.so"]


def _both(manifest: dict[str, Any]) -> None:
    manifest["files"]["networks"] = manifest["files"]["networks/small.so"]


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for step in path[:-1]:
            manifest = manifest[step]
        manifest[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_bomb, "bundle"),
        (_climb, "bundle"),
        (_both, "bundle"),
        (_set("kind", value="other"), "bundle"),
        (_set("format", value=2), "bundle"),
        (_set("files", value=[]), "bundle"),
        (_set("files", "networks/small.so", "sha256", value="0"), "bundle"),
        (_set("target", "features", value="avx2"), "bundle"),
        (_set("cascade", "stages", value=[]), "bundle"),
        (_set("target", "arch", value="aarch64x"), "architecture"),
        (_set("target", "features", value=["warpdrive"]), "features"),
        (_set("target", "python", value="3.7"), "runtime"),
        (_set("target", "glibc", value="9.99"), "runtime"),
        (_set("versions", "tvm", value="0.1"), "runtime"),
        (_set("versions", "tvm_ffi", value="0.1.15"), "runtime"),
    ],
)
def test_manifests_that_do_not_fit(
    files: Files, tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: str
) -> None:
    path = _write(tmp_path / "b.tar", _edited(files, change))
    assert _refusal(path, tmp_path).kind == kind


def test_a_machine_that_lacks_something(tiny: Any, tmp_path: Path) -> None:
    here = this_machine()
    board = load_board("host")
    assert open_bundle(tiny.bundle, tmp_path / "here", here)
    elsewhere = dataclasses.replace(here, arch="aarch64" if here.arch == "x86_64" else "x86_64")
    refusal = _refusal(tiny.bundle, tmp_path, elsewhere)
    assert refusal.kind == "architecture"
    assert board.arch in refusal.message
    assert elsewhere.arch in refusal.message
    if board.features:
        bare = dataclasses.replace(here, features=frozenset())
        refusal = _refusal(tiny.bundle, tmp_path, bare)
        assert refusal.kind == "features"
        assert board.features[0] in refusal.message


def test_cpu_features_are_those_of_all_cores(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("Features\t: fp asimd crc32\n\nFeatures\t: fp asimd\n")
    assert cpu_features(cpuinfo) == {"fp", "asimd"}
    cpuinfo.write_text("processor: 0\n")
    assert cpu_features(cpuinfo) is None
    assert cpu_features(tmp_path / "none") is None


def _raw(name: bytes, content: bytes = b"", **fields: bytes) -> bytes:
    """A member as its bytes: header with a right checksum, content, padding."""
    places = {"name": 0, "size": 124, "kind": 156, "link": 157, "magic": 257, "prefix": 345}
    header = bytearray(512)
    wanted = {"size": b"%011o\0" % len(content), "kind": b"0", "magic": b"ustar\x0000", **fields}
    for key, value in {"name": name, **wanted}.items():
        header[places[key] : places[key] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


END = bytes(1024)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (_raw(b"x" * 99, kind=b"L"), "not a plain file"),  # GNU's long name
        (_raw(b"x", b"20 path=../../evil\n", kind=b"x"), "not a plain file"),  # pax
        (_raw(b"x", b"20 path=../../evil\n", kind=b"g"), "not a plain file"),
        (_raw(b"x", b"22 GNU.sparse.major=1\n", kind=b"x"), "not a plain file"),
        (_raw(b"x", kind=b"S"), "not a plain file"),  # sparse
        (_raw(b"x", kind=b"1", link=b"manifest.json"), "not a plain file"),
        (_raw(b"x", link=b"/etc/passwd"), "not a plain file"),
        (_raw(b"x", kind=b"7"), "not a plain file"),
        (_raw(b"x", magic=b"ustar  \0"), "not a plain tar"),
        (_raw(b"x", size=b"\x80" + b"\xff" * 11), "a number that is none"),  # base 256
        (_raw(b"x", size=b"-0000000001\0"), "a number that is none"),
        (_raw(b"x", size=b"77777777777\0"), "does not name: 'x'"),  # 8 GiB
        (_raw(b"networks/big.so", size=b"77777777777\0"), "8589934591 bytes"),
        (_raw(b"runner/photo.py\0/../../evil"), "hides something behind a name"),
        (_raw(b"passwd", prefix=b"/etc"), "unsafe path"),
        (_raw(b"evil", prefix=b".."), "unsafe path"),
        (_raw(b"a\nb"), "unsafe path"),
        (_raw(b"a\x1b[2Jb"), "unsafe path"),
        (_raw(b"a\x7f"), "unsafe path"),
        (_raw("ä".encode()), "unsafe path"),
        (_raw(b""), "unsafe path"),
        (_raw(b"runner/photo.py/"), "unsafe path"),
        (b"\1" + _raw(b"x")[1:], "damaged header"),
    ],
)
def test_headers_that_no_builder_writes(
    files: Files, tmp_path: Path, member: bytes, said: str
) -> None:
    path = tmp_path / "evil.tar"
    path.write_bytes(_raw(b"manifest.json", files["manifest.json"]) + member + END)
    refusal = _refusal(path, tmp_path)
    assert said in refusal.message
    assert not any(ord(sign) < 32 for sign in refusal.message)


def test_what_lies_between_and_behind_members(files: Files, tmp_path: Path) -> None:
    """No byte of an archive is without a name, a hash or a zero."""
    whole = b"".join(_raw(name.encode(), content) for name, content in files.items())
    path = tmp_path / "b.tar"
    path.write_bytes(whole + END)
    assert open_bundle(path, tmp_path / "good")
    last = list(files)[-1]
    assert len(files[last]) % 512
    for content, said in (
        (whole[:-1] + b"x" + END, f"hides something behind {last}"),
        (whole + END + b"x" * 512, "behind its end"),
        (whole + END + bytes(2 << 20), "behind its end"),
        (whole + END[:512] + _raw(b"runner/extra.py") + END, "behind its end"),
        (whole + END[:512], "cut off"),
        (whole, "cut off"),
    ):
        path.write_bytes(content)
        assert said in _refusal(path, tmp_path).message


def test_too_many_members(files: Files, tmp_path: Path) -> None:
    """More than are allowed are refused by their number in the manifest, and in the archive."""

    def crowd(manifest: dict[str, Any]) -> None:
        entry = manifest["files"]["networks/small.so"]
        manifest["files"].update({f"x/{index}": entry for index in range(2001)})

    assert _refusal(_write(tmp_path / "b.tar", _edited(files, crowd)), tmp_path).kind == "bundle"
    stream = io.BytesIO(b"".join(_raw(b"x%d" % index) for index in range(2010)) + END)
    with pytest.raises(RunnerError, match="more than 2000 files"):
        list(members(stream))


def _collide(manifest: dict[str, Any]) -> None:
    manifest["files"]["NETWORKS/small.so"] = manifest["files"]["networks/small.so"]


def _collide_with_a_folder(manifest: dict[str, Any]) -> None:
    manifest["files"]["Networks"] = manifest["files"]["networks/small.so"]


def _own_names(manifest: dict[str, Any]) -> None:
    manifest["files"]["Manifest.sig"] = manifest["files"]["networks/small.so"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_collide, "differ in case only"),
        (_collide_with_a_folder, "as file and folder"),
        (_own_names, "unsafe path"),
        (_set("files", "networks/small.so", "size", value=-1), "no size"),
        (_set("files", "networks/small.so", "size", value=True), "no size"),
        (_set("files", "networks/small.so", "size", value=1e300), "no size"),
        (_set("files", "networks/small.so", "size", value=10**19), "more than 2147483648"),
        (_set("files", "networks/small.so", "size", value=10**30), "too long"),
        (_set("origin", "x", value=float("nan")), "NaN is not a number"),
    ],
)
def test_manifests_with_tricks(
    files: Files, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    assert said in _refusal(_write(tmp_path / "b.tar", _edited(files, change)), tmp_path).message


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b'{"kind": "edgecompress-bundle", "kind": "other"}', "a key twice"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 1_000_000, "too long"),
        (b"\xff\xfe", "not JSON"),
        (b"null", "not that of an EdgeCompress bundle"),
        (b"", "not JSON"),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, manifest: bytes, said: str) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(_raw(b"manifest.json", manifest) + END)
    assert said in _refusal(path, tmp_path).message


def test_a_manifest_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    with path.open("wb") as stream:
        stream.write(_raw(b"manifest.json", size=b"%011o\0" % (64 << 20)))
        stream.truncate(65 << 20)
    assert "begin" in _refusal(path, tmp_path).message


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(tiny: Any, tmp_path: Path) -> None:
    folder = open_bundle(tiny.bundle, tmp_path).folder
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(RunnerError, match=r"has no manifest\.json"):
        open_bundle(folder, tmp_path)


def test_a_name_with_control_characters_in_a_folder(tiny: Any, tmp_path: Path) -> None:
    folder = open_bundle(tiny.bundle, tmp_path).folder
    (folder / "a\n\x1b[2J").write_bytes(b"")
    with pytest.raises(RunnerError, match="does not name") as refused:
        open_bundle(folder, tmp_path)
    assert "\n" not in refused.value.message
    assert "\x1b" not in refused.value.message


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=3000))
def test_any_bytes_are_no_bundle(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for prefix in (b"", _raw(b"manifest.json", content)):
        (folder / "b.tar").write_bytes(prefix + content)
        assert _refusal(folder / "b.tar", folder).kind == "bundle"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_json_in_a_manifest_is_a_manifest_or_an_error(files: Files, data: Any) -> None:
    """Any one value of a good manifest becomes anything."""
    value = json.loads(files["manifest.json"])
    here, path = value, []
    while isinstance(here, (dict, list)) and here and (not path or data.draw(st.booleans())):
        key = data.draw(
            st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here)))
        )
        path.append((here, key))
        here = here[key]
    parent, key = path[-1]
    parent[key] = data.draw(_JSON)
    try:
        manifest = manifest_from_bytes(json.dumps(value).encode())
    except RunnerError as error:
        assert "\n" not in error.message
    else:
        assert manifest_from_bytes(manifest.to_bytes()) == manifest
