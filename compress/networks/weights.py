"""Trained weights from elsewhere to begin with: files, torchvision's, timm's, and packaged ones.

Names are brought to ours, and all has to fit but the last layer: of published weights it keeps the
rows of those classes that the photos have too, by name; else it is left fresh where the classes are
others (docs/families.md).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress import events
from edgecompress.errors import InputError, UsageError
from edgecompress.files import sha256_file

from ...runner.spec import Preprocess
from ..data.imagenet import CLASSES, places_of
from .families import Network
from .network import NetworkSpec
from .pretrained import PRETRAINED, find_weights, read_state
from .weight_names import OTHER_NETWORK, State, renamed

TORCHVISION, TIMM = "torchvision:", "timm:"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_SHOWN = 3
_COUNTER = "num_batches_tracked"


def load_weights(
    network: Network,
    spec: NetworkSpec,
    source: str,
    *,
    labels: Sequence[str] = (),
    preprocess: Preprocess | None = None,
) -> tuple[str, ...]:
    """Put trained weights into `network`.

    Args:
        network: what `spec` builds; changed in place, and only if all is well.
        source: `torchvision:TAG` (`torchvision:IMAGENET1K_V1`), `timm:NAME`
            (`timm:regnety_004.tv2_in1k`), a name of `pretrained.PRETRAINED`, or the path of a state
            dict (`.safetensors`, else `torch.save`'s) with torchvision's or timm's names, or ours.
        labels: names of the classes. Of weights published for ImageNet-1K the last layer keeps the
            rows of those that it knows by name or WordNet id.
        preprocess: what photos go through before the network. Where the weights are known to
            expect another one, the first layers are changed to give with this what they gave with
            that, but for the photo's outermost pixels, beyond which zeros mean another grey.

    Returns:
        names of the tensors that were left fresh, all or in part: the last layer's where its
        classes are others.

    Raises:
        UsageError: there are no such weights for the family, or the package that has them is
            missing or broken.
        InputError: the file is missing or damaged, or its tensors do not fit.
    """
    state = renamed(_read(source, spec), network)
    places = places_of(labels) if labels and _of_imagenet(source) else ()
    # A thousand classes may be other ones, or ImageNet's in another order.
    others = bool(places) and places != tuple(range(CLASSES))
    fresh = _fill(network, state, source, others)
    if fresh and places:
        fresh = _keep_rows(network, state, fresh, places)
    if preprocess is not None and source in PRETRAINED:
        _expect(network, find_weights(source).preprocess, preprocess)
    return fresh


def _of_imagenet(source: str) -> bool:
    return source in PRETRAINED or source.startswith((TORCHVISION, TIMM))


def _keep_rows(
    network: Network, state: State, head: tuple[str, ...], places: Sequence[int | None]
) -> tuple[str, ...]:
    """Give the last layer the rows of the classes that it was trained for, at these `places`; names
    of its tensors, unless it knows all of them."""
    rows = {name: state[name] for name in head if name in state}
    if not rows or any(len(value) != CLASSES for value in rows.values()):
        return head
    known = [own for own, place in enumerate(places) if place is not None]
    taken = [place for place in places if place is not None]
    target = network.state_dict()
    with torch.no_grad():
        for name, value in rows.items():
            target[name][known] = value[taken]
    if not known:
        return head
    events.note(f"the weights know {len(known)} of the {len(places)} classes by name")
    return () if len(known) == len(places) and len(rows) == len(head) else head


def _expect(network: Network, given: Preprocess, wanted: Preprocess) -> None:
    """Let weights that were trained with `given` expect `wanted`: the first convolution is scaled,
    and what it is shifted by goes into the mean of the normalisation that follows."""
    if given == wanted:
        return
    layers = [part for part in network.modules() if not any(part.children())]
    conv, norm = layers[:2]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and conv.bias is None
    assert norm.running_mean is not None
    mean, std = (torch.tensor(part) for part in (wanted.mean, wanted.std))
    before, spread = (torch.tensor(part) for part in (given.mean, given.std))
    # (x - before) / spread, of x = y std + mean.
    with torch.no_grad():
        shift = torch.einsum("ochw,c->o", conv.weight, (mean - before) / spread)
        norm.running_mean -= shift
        conv.weight *= (std / spread)[None, :, None, None]


def weights_identity(source: str) -> str:
    """What tells weights apart: a file's or wheel's SHA-256; else name and package version.

    Raises:
        InputError: the file is missing.
    """
    for prefix in (TORCHVISION, TIMM):
        if source.startswith(prefix):
            package = prefix.rstrip(":")
            try:
                return f"{source} ({package} {version(package)})"
            except PackageNotFoundError:
                return source
    if source in PRETRAINED:
        return f"{source} ({find_weights(source).wheel.sha256})"
    return sha256_file(_existing(source))


def _read(source: str, spec: NetworkSpec) -> State:
    if source.startswith(TORCHVISION):
        return _from_torchvision(spec.family, source.removeprefix(TORCHVISION))
    if source.startswith(TIMM):
        return _from_timm(source.removeprefix(TIMM))
    if source in PRETRAINED:
        family = find_weights(source).family
        if family != spec.family:
            raise UsageError(
                f"the weights {source} are of {family}, not of {spec.family}",
                f'set family = "{family}" in [compress.base]',
            )
        return read_state(source)
    return read_file(_existing(source))


def _existing(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"no such weights: {source}",
            "give a file, torchvision:TAG, timm:NAME, or one of " + ", ".join(PRETRAINED),
        )
    return path


def read_file(path: Path) -> State:
    """The state dict in a file; nothing in it is executed.

    Raises:
        InputError: it is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than weights",
            "save the state dict alone: torch.save(model.state_dict(), FILE)",
        ) from error
    except Exception as error:  # a damaged archive raises nearly anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot read the weights {path}: {first}") from error
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} holds no state dict")
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise InputError(f"{path} holds no state dict: {strange[0]} is no tensor")
    # As nn.DataParallel saves it.
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # a package built for another torch fails with anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        cause = f"{name} is not installed" if missing else f"{name} cannot be imported: {first}"
        raise UsageError(cause, f"pip install 'edgecompress[{name}]'") from error


def _from_torchvision(family: str, tag: str) -> State:
    models = _package("torchvision").models
    try:
        choices = models.get_model_weights(family)
    except ValueError as error:
        raise UsageError(f"torchvision has no weights for {family}") from error
    if tag not in choices.__members__:
        raise UsageError(
            f"torchvision has no weights {tag} for {family}",
            f"it has {', '.join(choices.__members__)}",
        )
    return _fetched(lambda: choices[tag].get_state_dict(progress=False), TORCHVISION + tag)


def _from_timm(name: str) -> State:
    if name.startswith("efficientnet_lite"):
        # Other padding and another epsilon: the tensors would fit, the answers would not.
        raise UsageError(
            f"the weights {name} are of a network that pads otherwise",
            f"take {TIMM}tf_{name.partition('.')[0]}",
        )
    timm = _package("timm")
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name}", "timm.list_models(pretrained=True) has all")
    return _fetched(lambda: timm.create_model(name, pretrained=True).state_dict(), TIMM + name)


def _fetched(fetch: Callable[[], State], what: str) -> State:
    try:
        return fetch()
    except Exception as error:  # network, disk, hub: each has its own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot fetch the weights {what}: {first}",
            "download the file by other means and give its path",
        ) from error


@dataclass(frozen=True)
class _Misfit:
    """A tensor that does not fit, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def _fill(network: Network, state: State, source: str, others: bool) -> tuple[str, ...]:
    target = network.state_dict()
    head = _head(network, target, state, others)
    misfits = [
        _Misfit(name, "missing")
        for name in target
        if name not in state and name not in head and not name.endswith(_COUNTER)
    ]
    misfits += [_Misfit(name, "no place for it") for name in state if name not in target]
    misfits += [
        _Misfit(name, f"{_shape(state[name])} instead of {_shape(value)}")
        for name, value in target.items()
        if name in state and name not in head and state[name].shape != value.shape
    ]
    if misfits:
        listed = ", ".join(str(one) for one in misfits[:_SHOWN])
        more = f" and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        raise InputError(f"the weights {source} do not fit: {listed}{more}", OTHER_NETWORK)
    with torch.no_grad():
        for name, value in target.items():
            if name in state and name not in head:
                value.copy_(state[name])
    return head


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _head(network: nn.Module, target: State, state: State, others: bool) -> tuple[str, ...]:
    """Names of the last linear layer's tensors, if `state` lacks them or has other classes: by
    their number, or because `others` says so."""
    last = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)][-1]
    names = tuple(name for name in target if name.startswith(f"{last}."))
    given = state.get(f"{last}.weight")
    if given is None:
        return names
    wanted = target[f"{last}.weight"].shape
    fits = given.ndim == 2 and given.shape[1:] == wanted[1:]
    return names if fits and (others or given.shape != wanted) else ()
