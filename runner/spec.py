"""The cascade's description: what compression writes, a bundle carries and the runner obeys.

Everything is read from JSON as untrusted input: types, ranges and names are checked here, once.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .errors import RunnerError

FORMAT = 1
MAX_RESOLUTION = 2048
RESERVED = frozenset({"decode", "predict", "crop", "total"})
"""Parts of the timings, beside the networks' names."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """From uint8 RGB to the network's input: `(x - mean) / std`, channel by channel.

    mean and std are in the 0..255 scale of the pixels.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """The foreground predictor: the whole photo squashed to resolution² in, a box out.

    Attributes:
        network: the network's name; its file is `<network>.onnx` or `<network>.so`.
        resolution: input side, pixels.
        sizes: the crop sides that are allowed, as shares of the photo's short side, ascending.
        macs: multiply-accumulates of one run.
        params: number of weights.
    """

    network: str
    resolution: int
    sizes: tuple[float, ...]
    macs: int
    params: int


@dataclasses.dataclass(frozen=True)
class Stage:
    """One member of the cascade.

    Attributes:
        network: the network's name, as in `Predictor`.
        resolution: input side, pixels.
        crop: side of the centre crop as a share of the photo's short side; used where the cascade
            has no predictor.
        threshold: confidence from which this member's answer stands; None for the last one.
        temperature: what the running logits are divided by before the softmax (calibration).
        macs: multiply-accumulates of one run.
        params: number of weights.
    """

    network: str
    resolution: int
    crop: float
    threshold: float | None
    temperature: float
    macs: int
    params: int


@dataclasses.dataclass(frozen=True)
class Cascade:
    """A whole classifier: optional predictor, then members of growing cost.

    Attributes:
        criterion: `margin` (difference of the two largest softmax probabilities) or `max_softmax`.
        accumulate: whether a later member's logits are added to the running ones.
        alpha: what a later member's logits are multiplied by before they are added.
        origin: where each part came from (command, weights, data), for the report; free text.
    """

    name: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    predictor: Predictor | None
    stages: tuple[Stage, ...]
    criterion: str
    accumulate: bool
    alpha: float
    origin: dict[str, str]

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of all networks, the predictor's first."""
        first = (self.predictor.network,) if self.predictor else ()
        return first + tuple(stage.network for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


def cascade_from_json(value: Any) -> Cascade:
    """Read and check a cascade.

    Raises:
        RunnerError: (`bundle`) naming the field that is wrong.
    """
    top = _object(value, "cascade")
    if top.get("format") != FORMAT:
        raise _wrong("format", f"is {top.get('format')!r}, this version reads {FORMAT}")
    labels = tuple(_text(item, "labels") for item in _list(top, "labels"))
    stages = tuple(_stage(item, i) for i, item in enumerate(_list(top, "stages")))
    if not stages:
        raise _wrong("stages", "is empty")
    if any(stage.threshold is None for stage in stages[:-1]) or stages[-1].threshold is not None:
        raise _wrong("stages", "need a threshold each, and none on the last")
    predictor = top.get("predictor")
    cascade = Cascade(
        name=_name(top.get("name"), "name"),
        labels=labels,
        preprocess=_preprocess(_object(top.get("preprocess"), "preprocess")),
        predictor=None if predictor is None else _predictor(_object(predictor, "predictor")),
        stages=stages,
        criterion=_choice(top.get("criterion"), "criterion", ("margin", "max_softmax")),
        accumulate=_flag(top.get("accumulate"), "accumulate"),
        alpha=_number(top.get("alpha"), "alpha", 0.0, 100.0),
        origin={
            _text(key, "origin"): _text(text, "origin")
            for key, text in _object(top.get("origin", {}), "origin").items()
        },
    )
    if len(set(cascade.networks)) != len(cascade.networks):
        raise _wrong("stages", "name one network twice")
    taken = RESERVED.intersection(cascade.networks)
    if taken:
        raise _wrong("stages", f"call a network '{min(taken)}', which is a part of the timings")
    return cascade


def _stage(value: Any, index: int) -> Stage:
    where = f"stages[{index}]"
    item = _object(value, where)
    threshold = item.get("threshold")
    return Stage(
        network=_name(item.get("network"), f"{where}.network"),
        resolution=_resolution(item, where),
        crop=_number(item.get("crop"), f"{where}.crop", 0.05, 1.0),
        threshold=None
        if threshold is None
        else _number(threshold, f"{where}.threshold", 0.0, 1.01),
        temperature=_number(item.get("temperature"), f"{where}.temperature", 1e-3, 1e3),
        macs=_count(item.get("macs"), f"{where}.macs"),
        params=_count(item.get("params"), f"{where}.params"),
    )


def _predictor(item: dict[str, Any]) -> Predictor:
    sizes = tuple(_number(size, "predictor.sizes", 0.01, 1.0) for size in _list(item, "sizes"))
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[-1] != 1.0:
        raise _wrong("predictor.sizes", "must ascend and end with 1")
    return Predictor(
        network=_name(item.get("network"), "predictor.network"),
        resolution=_resolution(item, "predictor"),
        sizes=sizes,
        macs=_count(item.get("macs"), "predictor.macs"),
        params=_count(item.get("params"), "predictor.params"),
    )


def _preprocess(item: dict[str, Any]) -> Preprocess:
    return Preprocess(
        mean=_triple(item, "mean", -1e4, 1e4),
        std=_triple(item, "std", 1e-4, 1e4),
    )


def _triple(item: dict[str, Any], key: str, low: float, high: float) -> tuple[float, float, float]:
    values = [_number(one, f"preprocess.{key}", low, high) for one in _list(item, key)]
    if len(values) != 3:
        raise _wrong(f"preprocess.{key}", "needs three numbers")
    return (values[0], values[1], values[2])


def _resolution(item: dict[str, Any], where: str) -> int:
    value = _count(item.get("resolution"), f"{where}.resolution")
    if not 8 <= value <= MAX_RESOLUTION:
        raise _wrong(f"{where}.resolution", f"is {value}, not in 8..{MAX_RESOLUTION}")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "is not an object")
    return value


def _list(item: dict[str, Any], key: str) -> list[Any]:
    value = item.get(key)
    if not isinstance(value, (list, tuple)):
        raise _wrong(key, "is not a list")
    return list(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 10_000:
        raise _wrong(where, "is not a short text")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise _wrong(where, "is not a plain name (letters, digits, '.', '_', '-')")
    return value


def _choice(value: Any, where: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _wrong(where, f"is {value!r}, not one of {', '.join(known)}")
    return str(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "is not true or false")
    return value


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise _wrong(where, "is not a count")
    return value


def _number(value: Any, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(where, "is not a number")
    # False for NaN; and no float is made of an integer that may be too large for one.
    if not low <= value <= high:
        raise _wrong(where, f"is not in {low}..{high}")
    return float(value)


def _wrong(where: str, what: str) -> RunnerError:
    return RunnerError(
        "bundle", f"the cascade's '{where}' {what}", "build the bundle again: edgecompress compile"
    )
