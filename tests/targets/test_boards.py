from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgecompress.errors import BoardError, InputError
from edgecompress.targets import Cluster, board_names, load_board, require_supported
from edgecompress.targets.board import BOARDS
from edgecompress.targets.host import host_board

ARM = [name for name in board_names() if name != "host"]


@pytest.fixture
def own_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path))
    folder = tmp_path / "boards"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", board_names())
def test_every_board_compiles_a_kernel(name: str) -> None:
    import tvm
    from tvm import te

    a = te.placeholder((16, 16), name="a")
    b = te.compute((16, 16), lambda i, j: a[i, j] * 2.0 + 1.0, name="b")
    target = tvm.target.Target(load_board(name).tvm_target())
    module = tvm.compile(tvm.IRModule({"main": te.create_prim_func([a, b])}), target=target)
    assert module is not None


def test_the_fifteen_minute_tour_of_boards() -> None:
    names = set(board_names())
    assert {
        "host",
        "virtual-pi4",
        "virtual-pi5",
        "rpi3b-plus",
        "rpi-zero2w",
        "rpi4b",
        "rpi5",
    } <= names
    assert {"rk3399", "rk3588", "imx8m-mini", "jetson-nano"} <= names


def test_targets_say_what_the_core_has() -> None:
    assert load_board("rpi5").tvm_target() == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a76",
        "mattr": ["+neon", "+dotprod", "+fullfp16"],
        "num-cores": 4,
    }
    assert "+dotprod" not in load_board("rpi4b").mattr


def test_the_fast_cluster_of_two() -> None:
    board = load_board("rk3399")
    assert [cluster.core for cluster in board.clusters] == ["cortex-a72", "cortex-a53"]
    assert board.fast.core == "cortex-a72"
    assert board.cores == 6
    assert board.tvm_target()["num-cores"] == 2


def test_peak_of_a_pi4_core() -> None:
    # 1.8 GHz, one 128-bit multiply-add a cycle: 4 lanes, 2 operations.
    assert load_board("rpi4b").fast.peak_gflops == pytest.approx(14.4)


@pytest.mark.parametrize("name", ["rpi2b", "rpi-zero-w", "rpi3b-32bit", "rpi4b-32bit"])
def test_32_bit_boards_are_known_and_refused_with_the_reason(name: str) -> None:
    board = load_board(name)
    assert not board.supported
    with pytest.raises(BoardError, match="no 32-bit wheel") as refused:
        require_supported(board)
    assert refused.value.exit_code == 4
    assert refused.value.hint


def test_an_unknown_board_offers_the_near_names() -> None:
    with pytest.raises(BoardError, match="unknown board 'rpi4'") as refused:
        load_board("rpi4")
    assert "rpi4b" in refused.value.hint


def test_host_describes_this_machine() -> None:
    board = host_board("This machine")
    flags = Path("/proc/cpuinfo").read_text()
    assert board.kind == "host"
    assert board.cores >= 1
    assert all(feature in flags for feature in board.features)
    assert board.fast.l1d_kib >= 8
    assert isinstance(board.fast, Cluster)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('soc = "BCM2711"', 'soc = "BCM2711"\nsoK = 1', "soK"),
        ("memory_mib = 1024", 'memory_mib = "1024"', "memory_mib"),
        ("memory_mib = 1024", "memory_mib = -5", "memory_mib"),
        ('arch = "aarch64"', 'arch = "riscv64"', "arch"),
        ('mattr = ["+neon"]', 'mattr = ["neon; rm"]', "mattr.0"),
        ("vector_bits = 128", "vector_bits = 100", "clusters.0.vector_bits"),
        ('triple = "aarch64-linux-gnu"\n', "", "triple"),
        ('kind = "ssh"', 'kind = "ssh"\nsupported = false', "reason"),
        ('kind = "ssh"', 'kind = "virtual"', "emulation"),
        ("/sys/class/thermal/thermal_zone0/temp", "/etc/shadow", "telemetry.temperature"),
    ],
)
def test_a_wrong_key_is_refused_by_file_and_key(
    own_boards: Path, old: str, new: str, key: str
) -> None:
    text = (BOARDS / "rpi4b.toml").read_text()
    assert old in text
    (own_boards / "mine.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError) as refused:
        load_board("mine")
    assert "mine.toml" in refused.value.message
    assert key in refused.value.message


def test_no_toml_at_all(own_boards: Path) -> None:
    (own_boards / "mine.toml").write_bytes(b"\xff = 1")
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_board("mine")
    (own_boards / "other.toml").write_text("title = ")
    with pytest.raises(InputError, match=r"other\.toml.* is not TOML"):
        load_board("other")


def test_a_board_of_ones_own(own_boards: Path) -> None:
    shutil.copy(BOARDS / "rpi4b.toml", own_boards / "my-soc.toml")
    assert "my-soc" in board_names()
    assert load_board("my-soc").mcpu == "cortex-a72"


def test_a_virtual_board_is_its_model() -> None:
    for virtual, real in (("virtual-pi4", "rpi4b"), ("virtual-pi5", "rpi5")):
        here, there = load_board(virtual), load_board(real)
        assert here.emulation is not None and here.emulation.cpu == here.fast.core
        assert here.tvm_target() == there.tvm_target()
        assert (here.clusters, here.features) == (there.clusters, there.features)


def test_a_board_seen_as_one_of_its_clusters() -> None:
    board = load_board("rk3399")
    assert board.on("fast") == board
    little = board.on("efficient")
    assert (little.fast.core, little.fast.cores, little.mcpu) == ("cortex-a53", 4, "cortex-a53")
    assert little.tvm_target()["num-cores"] == 4
    everything = board.on("all")
    assert (everything.fast.core, everything.fast.cores) == ("cortex-a72", 6)
    assert everything.tvm_target() == {**board.tvm_target(), "num-cores": 6}
    keys = {tuple(sorted(map(str, b.tvm_target().items()))) for b in (board, little, everything)}
    assert len(keys) == 3, "tuning records of one must not serve another"


@pytest.mark.parametrize("cluster", ["fast", "efficient", "all"])
def test_one_cluster_is_the_same_each_time(cluster: Any) -> None:
    assert load_board("rpi4b").on(cluster) == load_board("rpi4b")


def test_parts_of_all_described_cores_are_known() -> None:
    boards = [board for board in map(load_board, ARM) if board.supported]
    cores = [cluster for board in boards for cluster in board.clusters]
    parts = {cluster.part for cluster in cores if cluster.core != "generic"}
    assert parts and all(re.fullmatch("0xd[0-9a-f]{2}", part) for part in parts)
