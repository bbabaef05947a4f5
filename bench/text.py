"""Numbers as people read them."""

from __future__ import annotations

from .schema import RunFacts, Scores

NOTHING = "not measured"
NONE = "\N{EN DASH}"


def percent(share: float | None, digits: int = 1) -> str:
    """`0.8125` as "81.2 %"."""
    return NOTHING if share is None else f"{share * 100:.{digits}f} %"


def macs(count: float | None) -> str:
    """`557134806` as "557 M"; from a thousand millions on "1.23 G"."""
    if count is None:
        return NOTHING
    if count >= 1e9:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.3g} M" if count < 1e8 else f"{count / 1e6:.0f} M"


def megabytes(count: float) -> str:
    """Bytes as "8.7 MB" (millions of bytes)."""
    return f"{count / 1e6:.1f} MB"


def milliseconds(value: float | None) -> str:
    """Three figures: "0.0123 ms", "38.5 ms", "512 ms", from ten seconds on "16.4 s"."""
    if value is None:
        return NOTHING
    if value >= 1e4:
        return f"{value / 1e3:.3g} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def interval(scores: Scores) -> str:
    """The 95 % interval of top-1: "76.4 to 99.1 %"."""
    if scores.top1_interval is None:
        return NOTHING
    low, high = scores.top1_interval
    return f"{low * 100:.1f} to {high * 100:.1f} %"


def cpus(run: RunFacts) -> str:
    """The CPUs of a run: "CPU 4" or "CPUs 4-7 (cortex-a76)"; a gap begins a new range."""
    numbers = sorted(set(run.cpus))
    starts = [cpu for cpu in numbers if cpu - 1 not in numbers]
    ends = [cpu for cpu in numbers if cpu + 1 not in numbers]
    ranges = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    word = "CPU" if len(run.cpus) == 1 else "CPUs"
    return f"{word} {', '.join(ranges)}" + f" ({run.core})" * bool(run.core)


def shares(run: RunFacts) -> str:
    """Which boards answered how many photos: "pi-a 5,120, pi-b 4,880"; "" where it was one."""
    told = run.boards or []
    return ", ".join(f"{one.name} {one.photos:,}" for one in told) if len(told) > 1 else ""


def repeats(run: RunFacts) -> str:
    """What is said of photos that are listed more than once; "" where none is."""
    if not run.repeated:
        return ""
    return f"{run.repeated:,} photos are listed again, and counted again"


def shape(depth: float, width: float, resolution: int, inner: float = 1.0) -> str:
    """A network's dimensions; the inner width only where it is one of its own."""
    within = f", inner width {inner:.3g}" if inner != 1 else ""
    return f"depth {depth:.3g}, width {width:.3g}{within}, {resolution} px"


def short_name(network: str) -> str:
    """A network's name without its underscores."""
    return network.replace("_", " ")


_UNITS = {"points": "points", "ms": "ms", "M": "M", "MiB": "MiB", "MB": "MB"}


def value(number: float | None, unit: str) -> str:
    """A number of a comparison in its unit: "81.2 %", "12.7 ms"; a dash where there is none."""
    if number is None:
        return NONE
    if unit == "points":
        return f"{number:.1f} %"
    return f"{_three(number)} {_UNITS[unit]}"


def signed(number: float | None, unit: str) -> str:
    """A change: "-0.4 points", "+1.25 ms"; a dash where there is none."""
    if number is None:
        return NONE
    if unit == "points":
        return f"{_zero(number, 2):+.2f} points"
    return f"{'+' if number > 0 else ''}{_three(number)} {_UNITS[unit]}"


def signed_percent(share: float | None) -> str:
    """A relative change: "+12.3 %"; a dash where there is none."""
    return NONE if share is None else f"{_zero(share * 100, 1):+.1f} %"


def _zero(number: float, digits: int) -> float:
    """What rounds to zero has no sign."""
    return 0.0 if round(number, digits) == 0 else number


def _three(number: float) -> str:
    """Three figures, and no exponent before it is needed."""
    if number == 0:
        return "0"
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
