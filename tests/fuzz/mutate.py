"""Damaged copies of good files: bytes, JSON values, TOML values, headers of archives."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

# What parsers have stumbled over, somewhere.
TOKENS = [
    b"", b"\0", b"\n", b"\r\n", b"\t", b" ", b"\x1b[2J", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3",
    b"../../evil", b"/etc/passwd", b"~", b"-rf", b"$(id)", b"{}", b"[]", b"null", b"NaN", b"-1",
    b"Infinity", b"1e999", b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b'"', b"'", b"\\",
    b"0x10", b"true", b"\xe2\x80\xae", b"%s%n", b"<script>", b"=", b":", b"#", b",", b"-0", b"1_0",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -0.0, 0.5, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", " ", "\0", "\n", "\x1b[2J", "x" * 5000, "1",
    "../../x", "/", "\u202e", "\ud800", "9" * 5000, "nan", [], {}, [[]], [{}], {"": None},
    [None] * 50,
    {"a": {"b": {"c": 1}}}, ["x"] * 3, [0.0] * 4, [1, 2], "2026-13-40", "SHA256:", "=",
]  # fmt: skip


def mutate(random: Random, seed: bytes, form: str) -> bytes:
    """One damaged copy; mostly of its own form, so that it gets past the first check."""
    forms: dict[str, Callable[[Random, bytes], bytes]] = {
        "json": _json, "lines": _json_lines, "toml": _toml, "tar": _tar,
    }  # fmt: skip
    times = random.choice((1, 1, 1, 2, 3, 8))
    content = seed
    for _ in range(times):
        shaped = forms.get(form) if random.random() < 0.8 else None
        content = (shaped or _bytes)(random, content)
    return content


def _bytes(random: Random, content: bytes) -> bytes:
    at = random.randrange(len(content) + 1)
    to = min(len(content), at + random.choice((0, 1, 2, 8, 64, 512)))
    token = random.choice(TOKENS)
    return random.choice(
        (
            lambda: content[:at],
            lambda: content[:at] + content[to:],
            lambda: content[:at] + token + content[to:],
            lambda: content[:at] + bytes([random.randrange(256)]) + content[at + 1 :],
            lambda: content[:to] + content[at:],
            lambda: content[:at] + random.randbytes(to - at) + content[to:],
        )
    )()


def _places(value: Any, holder: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) of a JSON value."""
    if holder is not None:
        yield holder, key
    if isinstance(value, dict):
        for name in list(value):
            yield from _places(value[name], value, name)
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _places(value[index], value, index)


def _json(random: Random, content: bytes) -> bytes:
    try:
        value = json.loads(content)
        places = list(_places(value))
    except (ValueError, RecursionError):
        return _bytes(random, content)
    if not places:
        return json.dumps(random.choice(VALUES)).encode()
    holder, key = random.choice(places)
    way = random.randrange(10)
    if way < 6:
        holder[key] = copy.deepcopy(random.choice(VALUES))
    elif way == 6:
        del holder[key]
    elif way == 7:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place]) if _has(other, place) else None
    elif way == 8 and isinstance(holder, dict):
        holder[random.choice(("", "x", "\n", "__class__", "value", str(key) * 2))] = holder[key]
    elif isinstance(holder, list):
        holder.extend([holder[key]] * random.choice((1, 3, 300)))
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return content


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _json_lines(random: Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = (_json if random.random() < 0.9 else _bytes)(random, lines[at])
    if random.random() < 0.1:
        random.shuffle(lines)
    return b"\n".join(lines)


def _toml(random: Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    assigned = [index for index, line in enumerate(lines) if b"=" in line]
    if not assigned:
        return _bytes(random, content)
    at = random.choice(assigned)
    key = lines[at].partition(b"=")[0]
    way = random.randrange(4)
    if way == 0:
        lines.insert(random.randrange(len(lines)), lines.pop(at))
    elif way == 1:
        lines[at] = key + b"= " + random.choice(TOKENS)
    elif way == 2:
        lines[at] = key.strip() + random.choice((b"x", b".x", b"")) + b" = 1"
    else:
        value = json.dumps(random.choice(VALUES)).encode().replace(b"NaN", b"nan")
        lines[at] = key + b"= " + value.replace(b"Infinity", b"inf").replace(b"null", b"[]")
    return b"\n".join(lines)


_FIELDS = (
    (0, 100),
    (100, 108),
    (108, 116),
    (124, 136),
    (156, 157),
    (157, 257),
    (257, 265),
    (345, 500),
)
_NAMES = (
    b"manifest.json", b"manifest.sig", b"../evil", b"/evil", b"a/./b", b"networks/net.so",
    b"runner", b"x" * 100, b"a\nb", b"a\\b", b"\xff", b"", b"RUNNER/main.py",
)  # fmt: skip


def _tar(random: Random, content: bytes) -> bytes:
    """A header's field replaced and its checksum made right again, or blocks moved about."""
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    headers = [index for index, block in enumerate(blocks) if block[257:262] == b"ustar"]
    if not headers or random.random() < 0.3:
        at = random.randrange(len(blocks) or 1)
        random.choice(
            (
                lambda: blocks.insert(at, blocks[at] if blocks else b""),
                lambda: blocks.insert(at, bytes(512)),
                lambda: blocks and blocks.pop(at),
                lambda: blocks and blocks.append(blocks.pop(at)),
                lambda: blocks.extend([random.choice(blocks or [b""])] * 50),
            )
        )()
        return b"".join(blocks)
    at = random.choice(headers)
    header = bytearray(blocks[at].ljust(512, b"\0"))
    begin, end = random.choice(_FIELDS)
    value = random.choice(
        (
            random.choice(_NAMES),
            random.choice(TOKENS),
            b"%011o\0" % random.choice((0, 1, 511, 512, 1 << 20, (1 << 33) - 1)),
            random.choice((b"1", b"2", b"3", b"5", b"6", b"L", b"K", b"x", b"g", b"S", b"\0")),
            random.randbytes(end - begin),
        )
    )
    header[begin:end] = value[: end - begin].ljust(end - begin, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    blocks[at] = bytes(header)
    return b"".join(blocks)
