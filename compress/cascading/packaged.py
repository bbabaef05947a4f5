"""A cascade of networks whose weights packages ship, this one among them."""

from __future__ import annotations

from pathlib import Path

import torch

from edgecompress.errors import UsageError

from ...runner.photo import centre_box, decode, sample
from ...runner.spec import Cascade, Stage
from ..config import PretrainedConfig
from ..data.imagenet import class_names
from ..data.photos import foolbox_photos
from ..data.pixels import normalise
from ..networks.export import write_cascade
from ..networks.pretrained import find_weights, load_pretrained
from .shipped import shipped_cascade


def pretrained_cascade(config: PretrainedConfig, out: Path, name: str = "pretrained") -> Path:
    """Write a cascade folder of trained networks; returns it.

    Raises:
        UsageError: a member or cascade is unknown, or members do not go together.
        InputError: a package with weights cannot be fetched.
        CompileError: an export fails or differs.
    """
    if config.cascade is not None:
        return shipped_cascade(config.cascade, out)
    weights = [find_weights(member) for member in config.members]
    if len({(one.preprocess, one.classes) for one in weights}) > 1:
        raise UsageError(
            "the members of one cascade need the same preprocessing and classes",
            "choose members of one family and tag",
        )
    images = [decode(path) for path in foolbox_photos().paths[:2]]
    networks = {}
    photos = {}
    stages = []
    for index, (member, one) in enumerate(zip(config.members, weights, strict=True)):
        spec, network = load_pretrained(member)
        network_name = member.split(".")[0]
        networks[network_name] = (spec, network)
        crops = [
            torch.from_numpy(sample(image, centre_box(*image.size, one.crop), spec.resolution))
            for image in images
        ]
        photos[network_name] = normalise(torch.cat(crops), one.preprocess)
        last = index == len(weights) - 1
        stages.append(
            Stage(
                network=network_name,
                resolution=spec.resolution,
                crop=one.crop,
                threshold=None if last else config.thresholds[index],
                temperature=1.0,
                macs=spec.macs,
                params=spec.params,
            )
        )
    cascade = Cascade(
        name=name,
        labels=class_names(),
        preprocess=weights[0].preprocess,
        predictor=None,
        stages=tuple(stages),
        criterion=config.criterion,
        accumulate=config.accumulate,
        alpha=config.alpha,
        origin={
            "method": "trained networks as their packages ship them, no crop predictor",
            **{
                network: f"{one.wheel.requirement} ({one.licence})"
                for network, one in zip(networks, weights, strict=True)
            },
        },
    )
    compression = {"kind": "pretrained", "config": config.model_dump(mode="json")}
    return write_cascade(out, cascade, networks, compression, photos)
