"""How a network is trained, as data: the recipe, and what follows from it for each epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .choices import Precision

WHOLE_SIDE = 0.3
"""The share of the epochs, the last ones, that see the whole side whatever came before."""
GROWING = 4
"""Epochs of the shortest training whose side grows: fewer leave no time for other sides."""

_ROUNDING = 1e-9

_NEWER: dict[str, Any] = {"ema": 0.0, "clip": 0.0, "precision": "auto"}
"""Fields that came later, with the values at which they do nothing."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the photos.
        batch: photos a step, of all processes together.
        rate: largest learning rate: after a linear warm-up it falls to 0 along a cosine.
        optimizer: `sgd` (momentum 0.9, Nesterov) or `adamw`.
        decay: weight decay, on matrices and kernels only.
        warmup: epochs of warm-up; may be a fraction.
        smoothing: label smoothing.
        distil: weight of the teacher's answer in the loss; 0 is no teacher.
        distil_temperature: softens both answers (Hinton et al. 2015).
        progressive: share of the input side that the first epoch sees; it grows epoch by epoch
            to the whole side, which at least the last 30 % of the epochs have (progressive
            resizing, Howard 2018; Tan and Le 2021). 1 is the whole side from the beginning.
        ema: decay of the moving average of weights and BatchNorm statistics that is measured and
            kept in place of the last ones; 0 is none.
        clip: largest norm of a step's gradients; larger ones are scaled down to it; 0 is none.
        precision: of multiplications: `auto` takes bfloat16 on a GPU or CPU that has it,
            else float32.
        seed: of everything that is random.
    """

    epochs: int
    batch: int = 64
    rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    decay: float = 5e-4
    warmup: float = 1.0
    smoothing: float = 0.1
    distil: float = 0.0
    distil_temperature: float = 2.0
    progressive: float = 1.0
    ema: float = 0.0
    clip: float = 0.0
    precision: Precision = "auto"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """All fields; newer ones only where they do something, so that what was trained before they
        came is known again."""
        fields = asdict(self)
        return {k: v for k, v in fields.items() if k not in _NEWER or v != _NEWER[k]}


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a fractional epoch: linear warm-up, then half a cosine to 0."""
    warmup = min(recipe.warmup, recipe.epochs / 2)
    if epoch < warmup:
        return recipe.rate * (epoch + 0.01) / (warmup + 0.01)
    share = (epoch - warmup) / max(recipe.epochs - warmup, 1e-9)
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def side_share(recipe: Recipe, epoch: int) -> float:
    """The share of the input side that an epoch sees."""
    growing = recipe.epochs - math.ceil(WHOLE_SIDE * recipe.epochs - _ROUNDING)
    grown = min(epoch / growing, 1.0) if growing else 1.0
    return recipe.progressive + (1 - recipe.progressive) * grown
