"""What the bundle builder writes, and what the runner refuses to open."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecompress.compile.bundle import build_bundle
from edgecompress.errors import BoardError, CompileError, InputError
from edgecompress.runner.bundle import open_bundle
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.machine import Machine, cpu_features, this_machine
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
