"""One trial: a short training of one candidate, as data that another process can run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import UsageError
from edgecompress.files import sha256_json

from ..config import CompressConfig
from ..likelihood import likeliest_chances
from ..machine import ddp
from ..machine.trials import find_pool, map_trials
from ..networks.foreign.source import FOLDERS
from ..networks.network import NetworkSpec
from ..training.learn import Compression, inherited, train_classifier
from ..training.material import Material, centred
from ..training.tasks import run_batched
from ..training.train import Recipe
from ..training.workbook import Done, NotDoneError, Workbook


@dataclass(frozen=True)
class Trial:
    """What is trained.

    Attributes:
        name: of the step in the work folder.
        recipe: how it is trained.
        inputs: JSON-able; whatever decides the result.
        after: name of the trained network whose weights it begins with as they are; None: it
            inherits the base's.
        teacher: name of the trained network that teaches, or None.
    """

    name: str
    spec: NetworkSpec
    recipe: Recipe
    inputs: Any
    after: str | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class Setup:
    """What all trials of a compression share; it can be pickled.

    Attributes:
        material: the photos by their paths: what is decoded of them stays behind.
        folder: the work folder.
        modules: folders of the user's own modules (`foreign.source.FOLDERS`).
    """

    settings: CompressConfig
    material: Material
    folder: Path
    modules: str

    @property
    def key(self) -> str:
        """Tells setups apart."""
        shown = [str(self.folder), self.settings.model_dump(mode="json"), self.material.side]
        return sha256_json([*shown, len(self.material.fit), len(self.material.held)])


# A worker decodes its photos once: what it made of the last setup.
_kept: dict[str, Compression] = {}


def run_trials(one: Compression, trials: Sequence[Trial], label: str) -> list[Done]:
    """Train all of them, side by side where the settings say so; each is kept as a step.

    Raises:
        UsageError: a training diverged, or the pool cannot be had.
        EdgeCompressError: a trial was lost twice.
        NotDoneError: one has not been trained, and the work folder is only read.
    """
    setup = _setup(one)
    _kept.clear()
    _kept[setup.key] = one
    pool = find_pool(one.settings.shrink.workers)
    alone = pool.workers == 1 and not pool.ray
    missing = [trial for trial in trials if _record(one, trial) is None]
    if missing and one.book.reading:
        raise NotDoneError(missing[0].name)
    if missing and not alone and one.material.shards is not None:
        _ = one.material.fit_cache  # written once, before all workers map it
    try:
        map_trials(run_trial, [(setup, trial) for trial in missing], pool, label)
    finally:
        _kept.clear()
    return [_found(one, trial) for trial in trials]


def run_trial(item: tuple[Setup, Trial]) -> Done:
    """Train one, or take its result from last time. Runs in any process."""
    setup, trial = item
    one = _compression(setup)
    after = trial.after

    def start(spec: NetworkSpec) -> Any:
        return inherited(one, spec) if after is None else one.load(after)[1]

    return train_classifier(
        one,
        trial.name,
        trial.spec,
        recipe=trial.recipe,
        inputs=trial.inputs,
        start=start,
        teacher=trial.teacher,
    )


def held_chances(one: Compression, trials: Sequence[Trial]) -> np.ndarray:
    """The probability that each trained network gives to the class of each photo held out, at the
    network's likeliest temperature, `[trials, n]`.

    Without a temperature it would tell how sure short trainings leave a network as well: less so of
    one with fewer blocks.
    """

    def told() -> np.ndarray:
        held = cache(lambda side: one.material.held_inputs(side, centred))
        rows = []
        for spec, network in (one.load(trial.name) for trial in trials):
            seen = held(spec.resolution)
            logits = run_batched(network, seen.inputs, one.material.preprocess).numpy()
            rows.append(likeliest_chances(logits, seen.wanted.numpy()))
        return np.stack(rows)

    # Of several processes on different hardware, all have to go on with the same law.
    return ddp.decided(told)


def _setup(one: Compression) -> Setup:
    # A copy of the fields alone: decoded photos hang on the material as cached properties.
    return Setup(one.settings, replace(one.material), one.book.folder.resolve(), _modules())


def _modules() -> str:
    return os.environ.get(FOLDERS, "")


def _compression(setup: Setup) -> Compression:
    key = setup.key
    if key not in _kept:
        _kept.clear()
        os.environ[FOLDERS] = setup.modules  # on another machine of a cluster it is not set
        _kept[key] = Compression(setup.settings, setup.material, Workbook(setup.folder))
    return _kept[key]


def _record(one: Compression, trial: Trial) -> Done | None:
    return one.book.kept(trial.name, trial.inputs, (f"{trial.name}.pt",))


def _found(one: Compression, trial: Trial) -> Done:
    done = _record(one, trial)
    if done is None:
        raise UsageError(
            f"{trial.name} was trained elsewhere, and {one.book.folder} does not have it",
            "all machines of the cluster must see the job's folder and photos at the same paths",
        )
    return done
