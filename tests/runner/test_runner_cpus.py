"""Which CPUs a cluster is, from what real boards print; and a run that stays on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecompress.compile.bundle import build_bundle, clusters
from edgecompress.runner import cpus
from edgecompress.runner.cpus import Cluster, choose, cpu_parts, highest_clocks
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.manifest import manifest_from_bytes
from edgecompress.targets import Board, load_board

RK3588 = clusters(load_board("rk3588"))
RK3399 = clusters(load_board("rk3399"))
PI4, PI5 = clusters(load_board("rpi4b")), clusters(load_board("rpi5"))


def cpuinfo(*parts: str, implementer: str = "0x41", tail: str = "") -> str:
    """As arm64 Linux prints it; a part of "" is a core without the line."""
    text = ""
    for number, part in enumerate(parts):
        text += f"processor\t: {number}\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd crc32 cpuid\n"
        text += f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        text += f"CPU part\t: {part}\nCPU revision\t: 3\n\n" if part else "\n"
    return text + tail


# Of the boards themselves: little cores come first on both Rockchips.
OF_RK3588 = cpuinfo(*["0xd05"] * 4, *["0xd0b"] * 4)
OF_RK3399 = cpuinfo(*["0xd03"] * 4, *["0xd08"] * 2)
PI_TAIL = "Hardware\t: BCM2835\nRevision\t: c03112\nModel\t\t: Raspberry Pi 4 Model B Rev 1.2\n"
OF_PI4 = cpuinfo(*["0xd08"] * 4, tail=PI_TAIL)
OF_PI5 = cpuinfo(*["0xd0b"] * 4, tail="Revision\t: c04170\n")
X86 = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: avx2\n\nprocessor\t: 1\nflags\t: avx2\n"
)


@pytest.mark.parametrize(
    ("described", "text", "cluster", "expected"),
    [
        (RK3588, OF_RK3588, "fast", ((4, 5, 6, 7), "part", "cortex-a76")),
        (RK3588, OF_RK3588, "efficient", ((0, 1, 2, 3), "part", "cortex-a55")),
        (RK3588, OF_RK3588, "all", (tuple(range(8)), "all", "")),
        (RK3399, OF_RK3399, "fast", ((4, 5), "part", "cortex-a72")),
        (RK3399, OF_RK3399, "efficient", ((0, 1, 2, 3), "part", "cortex-a53")),
        (PI4, OF_PI4, "efficient", ((0, 1, 2, 3), "all", "cortex-a72")),
        (PI5, OF_PI5, "fast", ((0, 1, 2, 3), "all", "cortex-a76")),
    ],
)
def test_clusters_of_real_boards(
    described: tuple[Cluster, ...], text: str, cluster: str, expected: tuple[Any, ...]
) -> None:
    available = range(text.count("processor\t:"))
    found = choose(described, cluster, list(available), cpu_parts(text), {})
    assert (found.cpus, found.found_by, found.core) == expected
    assert (found.cluster, found.available) == (cluster, len(available))


def test_only_cpus_that_the_process_may_use() -> None:
    found = choose(RK3588, "fast", [0, 5, 6], cpu_parts(OF_RK3588), {})
    assert (found.cpus, found.available) == ((5, 6), 3)
    # None of the wished ones may be used: the others, and nothing is claimed of them.
    found = choose(RK3588, "fast", [0, 1], cpu_parts(OF_RK3588), {})
    assert (found.cpus, found.found_by, found.core) == ((0, 1), "all", "")


def test_parts_are_read_as_they_stand() -> None:
    assert cpu_parts(OF_PI4) == dict.fromkeys(range(4), "0xd08")
    assert cpu_parts(X86) == {}
    assert cpu_parts(cpuinfo("0xd08", "", "0xD03")) == {0: "0xd08", 2: "0xd03"}
    assert cpu_parts(cpuinfo("0xd08", implementer="0x51")) == {}, "another maker's numbers"
    # A 32-bit kernel of old: one block for all cores, under no number.
    assert cpu_parts("Processor\t: ARMv7\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n") == {}


def test_without_parts_the_clock_decides(tmp_path: Path) -> None:
    for cpu, clock in enumerate([1800000] * 4 + [2400000] * 2 + [2304000] * 2):
        folder = tmp_path / f"cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{clock}\n")
    everything = list(range(8))
    clocks = highest_clocks(tmp_path, everything)
    for cluster, expected in (("fast", (4, 5, 6, 7)), ("efficient", (0, 1, 2, 3))):
        found = choose(RK3588, cluster, everything, {}, clocks)
        assert (found.cpus, found.found_by) == (expected, "clock")
    # Where clocks are equal, or of some CPUs unknown, nothing tells the clusters apart.
    for unclear in (dict.fromkeys(everything, 1800000), {cpu: clocks[cpu] for cpu in range(7)}, {}):
        assert choose(RK3588, "fast", everything, {}, unclear).cpus == tuple(everything)
    # Another number of CPUs than is described: the border could lie anywhere.
    assert choose(RK3588, "fast", everything[:6], {}, clocks).found_by == "all"


def test_two_clusters_of_one_core_differ_by_clock() -> None:
    twins = (Cluster("cortex-a53", "0xd03", 2), Cluster("cortex-a53", "0xd03", 2))
    parts = cpu_parts(cpuinfo(*["0xd03"] * 4))
    found = choose(twins, "efficient", [0, 1, 2, 3], parts, {0: 2000, 1: 2000, 2: 1200, 3: 1200})
    assert (found.cpus, found.found_by) == ((2, 3), "clock")


# The runner's own process, in which /proc/cpuinfo is that of a board with two clusters. What it
# and its threads may run on stands at the end of what it prints.
RUN = """
import sys
from pathlib import Path
from edgecompress.runner import cpus
from edgecompress.runner.__main__ import main
cpus.CPUINFO = Path(sys.argv[1])
code = main(sys.argv[2:])
for status in sorted(Path("/proc/self/task").glob("*/status")):
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    print(lines["Cpus_allowed_list"].strip())
sys.exit(code)
"""


def two_clusters(tiny: Any, path: Path, cluster: Any) -> Path:
    """The little cascade in a bundle that says this machine has a Cortex-A76 and a Cortex-A55."""
    from dataclasses import replace

    host = load_board("host")
    like = load_board("rk3588").clusters
    board: Board = replace(host, clusters=tuple(replace(one, cores=1) for one in like))
    build_bundle(tiny.folder, tiny.compiled, board, path, cluster)
    return path


@pytest.mark.skipif(os.sched_getaffinity(0) < {0, 1}, reason="needs the CPUs 0 and 1")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], (1, {"0"})),  # what the bundle is made for: the Cortex-A55, which is CPU 0
        (["--cluster", "fast"], (1, {"1"})),
        (["--cluster", "fast", "--threads", "2"], (2, {"1"})),
        # The pool binds its second thread to a CPU; the main one is free.
        (["--cluster", "all"], (2, {"0-1", "1"})),
    ],
)
def test_a_run_stays_on_its_cluster(
    tiny: Any,
    photo_files: tuple[Path, ...],
    tmp_path: Path,
    asked: list[str],
    expected: tuple[int, set[str]],
) -> None:
    bundle = two_clusters(tiny, tmp_path / "two.tar", "efficient")
    fake = tmp_path / "cpuinfo"
    fake.write_text(cpuinfo("0xd05", "0xd0b"))
    command = [sys.executable, "-c", RUN, str(fake), str(bundle), "--unpack", str(tmp_path / "b")]
    command += ["--out", str(tmp_path / "out"), "--photos", str(photo_files[0]), *asked]
    command += ["--latency-photos", "0"]
    preset = ["taskset", "-c", "0,1"]
    done = subprocess.run(
        [*preset, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = done.stdout.splitlines()
    events = [json.loads(line) for line in said if line.startswith("{")]
    assert {line for line in said if not line.startswith("{")} == expected[1]
    measured = json.loads((tmp_path / "out/measurements.json").read_text())
    assert measured["options"]["threads"] == expected[0]
    assert measured["identity"]["cores"] == measured["cpus"]["available"] == 2
    assert measured["cpus"]["cpus"] == events[1]["cpus"]
    assert measured["cpus"]["cluster"] == (asked[1] if asked else "efficient")


def test_a_bundle_remembers_its_cluster(tiny: Any, tmp_path: Path) -> None:
    from edgecompress.bench.report import read_manifest

    manifest = read_manifest(two_clusters(tiny, tmp_path / "two.tar", "all"))
    assert manifest.target.cluster == "all"
    assert manifest.target.clusters == (
        Cluster("cortex-a76", "0xd0b", 1),
        Cluster("cortex-a55", "0xd05", 1),
    )
    assert manifest_from_bytes(manifest.to_bytes()) == manifest
    # One that was made before there were clusters.
    old = json.loads(manifest.to_bytes())
    del old["target"]["clusters"], old["target"]["cluster"]
    target = manifest_from_bytes(json.dumps(old).encode()).target
    assert (target.clusters, target.cluster) == ((), "fast")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cluster", "big"),
        ("cluster", 1),
        ("clusters", {}),
        ("clusters", [1]),
        ("clusters", [{"core": "a", "part": "0xd08; rm", "cores": 1}]),
        ("clusters", [{"core": "a", "part": "", "cores": 0}]),
        ("clusters", [{"core": "a", "part": "", "cores": True}]),
        ("clusters", [{"core": 1, "part": "", "cores": 1}]),
        ("clusters", [{"core": "a", "part": "", "cores": 1}] * 9),
    ],
)
def test_a_manifest_with_odd_clusters(tiny: Any, tmp_path: Path, key: str, value: Any) -> None:
    from edgecompress.bench.report import read_manifest

    manifest = json.loads(read_manifest(tiny.bundle).to_bytes())
    manifest["target"][key] = value
    with pytest.raises(RunnerError, match="cluster") as refused:
        manifest_from_bytes(json.dumps(manifest).encode())
    assert refused.value.kind == "bundle"


def test_the_file_runs_alone_on_a_board() -> None:
    """Tuning sends it as a command."""
    told = json.dumps([{"core": "a", "part": "", "cores": 1}])
    source = Path(cpus.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-c", source, told, "fast"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["cpus"] == sorted(os.sched_getaffinity(0))
