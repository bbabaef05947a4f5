"""Telemetry from trees like /sys and /proc, and from a program on PATH that a board would have."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecompress.runner import telemetry
from edgecompress.runner.telemetry import (
    Sampler,
    Usage,
    others,
    power,
    read_usage,
    state,
    throttled,
)

from .conftest import Pi


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


RAILS = (
    "   3V7_WL_SW_A current(0)=0.5A\\n  DDR_VDD2_A current(1)=1.0A\\n"
    "   3V7_WL_SW_V volt(8)=4.0V\\n  DDR_VDD2_V volt(9)=1.1V\\n   EXT5V_V volt(24)=5.1V\\n"
)


def test_the_state_of_a_raspberry_pi(pi: Pi) -> None:
    pi.flags(0x50005)
    pi.clock(1500, "ondemand")
    told = state(pi.sys)
    assert told["temperature_c"] == 48.3
    assert told["frequency_mhz"] == [1500] * 4
    assert told["governor"] == ["ondemand"] * 4
    assert told["throttled"] == [
        "under-voltage now",
        "throttled now",
        "under-voltage has occurred",
        "throttling has occurred",
    ]
    assert told["reasons"] == {}


def test_what_cannot_be_read_is_null_with_a_reason(tmp_path: Path) -> None:
    told = state(tmp_path)
    assert {key for key, value in told.items() if value is None} == set(told["reasons"])
    with Sampler([0], sys_root=tmp_path, proc_root=tmp_path) as sampler:
        pass
    series = sampler.to_json()
    assert {"temperature_c", "mhz", "watts", "load", "others"} <= set(series["reasons"])
    assert json.loads(json.dumps(series))["samples"][0]["temperature_c"] is None


@pytest.mark.parametrize(
    ("says", "status"), [("throttled=0x0", 1), ("", 0), ("throttled=", 0), ("throttled=0xzz", 0)]
)
def test_a_program_that_fails_is_a_reason(pi: Pi, says: str, status: int) -> None:
    pi.program(says, status=status)
    flags, why = throttled(pi.sys)
    assert flags is None
    assert why.startswith("vcgencmd get_throttled failed")


def test_the_firmware_driver_comes_before_the_program(pi: Pi) -> None:
    pi.flags(0)
    driver = pi.sys / "devices/platform/soc/soc:firmware/get_throttled"
    driver.parent.mkdir(parents=True)
    driver.write_text("40004\n")
    assert throttled(pi.sys) == (["throttled now", "throttling has occurred"], "")


def test_elsewhere_the_kernel_tells_of_its_cooling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    device = tmp_path / "class/thermal/cooling_device0"
    device.mkdir(parents=True)
    (device / "type").write_text("thermal-cpufreq-0\n")
    (device / "cur_state").write_text("0\n")
    assert throttled(tmp_path) == ([], "")
    (device / "cur_state").write_text("2\n")
    assert throttled(tmp_path) == (["frequency capped now"], "")
    (device / "type").write_text("pwm-fan\n")
    assert throttled(tmp_path)[0] is None


def test_power_is_the_sum_over_the_rails(pi: Pi) -> None:
    pi.program("throttled=0x0", RAILS)
    command = str(pi.bin / "vcgencmd")
    assert power(command) == pytest.approx(0.5 * 4.0 + 1.0 * 1.1)
    with pi.sampler() as sampler:
        pass
    assert sampler.samples[0].watts == pytest.approx(3.1)
    pi.program("throttled=0x0", "error: not registered")
    assert power(command) is None


def test_others_are_what_is_not_ours(pi: Pi) -> None:
    pi.work(idle=1000, own=400, other=0)
    before = read_usage(range(4), pi.proc)
    pi.work(idle=1050, own=500, other=100)
    after = read_usage(range(4), pi.proc)
    assert before == Usage(4400, 400, 400)
    assert others(before, after) == pytest.approx(100 / 400)
    assert others(before, before) is None, "no time has passed"
    assert read_usage([0, 9], pi.proc) is None, "there is no CPU 9"


def test_this_machine_tells_who_uses_it() -> None:
    own = read_usage(sorted(os.sched_getaffinity(0)))
    assert own is not None
    assert own.passed > own.busy > own.own >= 0


def test_samples_follow_the_board(pi: Pi) -> None:
    with pi.sampler() as sampler:
        pi.heat(80.0)
        until(lambda: sampler.samples[-1].temperature_c == 80.0)
        pi.clock(1000)
        until(lambda: sampler.samples[-1].mhz == (1000,) * 4)
        pi.flags(0x4)
        until(lambda: sampler.samples[-1].throttled == ("throttled now",))
    times = [one.t for one in sampler.samples]
    assert times == sorted(times)
    count = len(sampler.samples)
    time.sleep(0.1)
    assert len(sampler.samples) == count, "none comes once the block has ended"
    assert 0 < sampler.to_json()["sample_ms"] < 100


def test_the_number_of_samples_is_bounded(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MOST_SAMPLES", 10)
    sampler = pi.sampler(interval_s=1.0)
    for index in range(100):
        sampler.sample()
        assert len(sampler.samples) <= 10, index
    assert sampler.samples[0].t <= sampler.samples[-1].t
    assert sampler.to_json()["interval_s"] >= 8
    sampler.quicken()
    assert sampler.to_json()["interval_s"] == 1.0
