"""Trains a small network without BatchNorm as one of several processes: FIT VAL CHECKPOINT OUT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from edgecompress.compress.data.augment import Augment
from edgecompress.compress.data.loader import load_cache, runner_inputs
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.machine import ddp
from edgecompress.compress.recipe import Recipe
from edgecompress.compress.training.material import IMAGENET_PIXELS, centred
from edgecompress.compress.training.tasks import ClassifyTask, Held
from edgecompress.compress.training.teacher import Teacher
from edgecompress.compress.training.train import Training, train
from edgecompress.errors import EdgeCompressError

SIDE = 24
# 48 photos in batches of 13: the parts of two processes differ by one. In float32 everywhere:
# halves of a batch round otherwise than the whole, in bfloat16 far more so.
RECIPE = Recipe(
    epochs=3, batch=13, rate=0.01, optimizer="adamw", distil=0.3, ema=0.9, clip=1.0, seed=3,
    precision="float32",
)  # fmt: skip


def make(dropout: float = 0.0) -> nn.Module:
    """A network whose result does not depend on which photos are in a batch with which."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16, 2),
    )


def task(fit: Path, val: Path, mixup: float = 0.0) -> ClassifyTask:
    """The shapes, with a teacher."""
    held = image_folder(val)
    cache = load_cache(held, 32)
    return ClassifyTask(
        cache=load_cache(image_folder(fit), 32),
        resolution=SIDE,
        preprocess=IMAGENET_PIXELS,
        augment=Augment((0.6, 1.0), mixup=mixup),
        held=Held(runner_inputs(held, cache.positions, centred, SIDE), cache.targets),
        teacher=Teacher(make().eval(), SIDE),
    )


def work(fit: Path, val: Path, checkpoint: Path, mode: str) -> tuple[nn.Module, Training]:
    """Train as `mode` says: `plain`; or `random`, with dropout, mixup and a save each step."""
    torch.set_num_threads(1)
    random = mode == "random"
    network = make(dropout=0.3 if random else 0.0)
    learnt = task(fit, val, mixup=0.3 if random else 0.0)
    every = 0.0 if random else 600.0
    return network, train(network, learnt, RECIPE, checkpoint, "shapes", save_every=every)


if __name__ == "__main__":
    fit, val, checkpoint, out = (Path(name) for name in sys.argv[1:5])
    try:
        with ddp.joined() as own:
            network, outcome = work(fit, val, checkpoint, sys.argv[5])
    except EdgeCompressError as error:
        sys.stderr.write(f"error: {error.message}; {error.hint}\n")
        sys.exit(error.exit_code)
    torch.save(
        {"network": network.state_dict(), "losses": outcome.losses, "measures": outcome.measures},
        out / f"{own.rank}-{os.environ.get('WORLD_SIZE')}.pt",
    )
