"""Compression beside what an expert would try instead: the same base, recipe, epochs and photos.

For each seed a base is trained; every method makes its network from it, all are fine-tuned alike
(the base teaches each of them, or a member above it the smaller members), and all are measured on
the validation photos. What has to be chosen (the members of a cascade, its thresholds, whether to
crop) is chosen on photos held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from edgecompress import events
from edgecompress.errors import UsageError

from ..cascading.cascade import Member, OperatingPoint, chances_at, frontier
from ..cascading.chooser import SPARE, Asked, Chooser
from ..cascading.switch import BEYOND
from ..config import CompressConfig, Epochs, MemberShare, Positive, Seed, Share, Table, Workers
from ..cropping.crop_sizes import NEVER_SMALLER, with_sizes
from ..cropping.foreground import draw_boxes, train_predictor
from ..data.photos import PhotoSet, photos_fingerprint
from ..likelihood import gained, likeliest_chances
from ..machine import ddp
from ..machine.trials import find_pool, map_trials
from ..networks.export import save_network
from ..networks.foreign import require_maps
from ..shrinking.law import Law
from ..shrinking.proposal import measure_shrinking
from ..training.classifiers import TaughtBy, train_base
from ..training.learn import Compression, classifying
from ..training.material import centred, gather, require_apart
from ..training.train import train
from ..training.workbook import Done, NotDoneError, Workbook, locked
from .baselines import OTHERS, RCC_STEP, Method, Start, start

FULL = "edgecompress"
"""The method of what is chosen among cascades and single members."""
PREDICTOR = "predictor"
MOST_STAGES = 3


class ComparisonTable(Table):
    """`[comparison]` of a job: what compression is compared with, and how often.

    Attributes:
        seeds: one base and all that follows from it, each.
        budgets: shares of the base's MACs that every method has to keep.
        members: shares of the base's MACs of the networks that cascades are made of, ascending;
            above 1 it is the base at a larger resolution.
        headline: the share at which the paper compares itself with the uncompressed network.
        epochs: of each fine-tuning.
        rate: multiplies the base's learning rate.
        distil: weight of the base's answer in the loss.
        rank_photos: training photos that HRank looks at.
        methods: of single networks; cascades follow from the members.
        workers: how many seeds run side by side: a number of processes; `auto`, by cores and GPUs;
            `ray`, over the machines of a Ray cluster.
    """

    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    budgets: tuple[Share, ...] = (0.25, 0.5, 0.75)
    members: tuple[MemberShare, ...] = (0.125, 0.25, 0.5, 1.0)
    headline: Share = 0.512
    epochs: Epochs = 5
    rate: Positive = 0.5
    distil: float = Field(default=0.5, ge=0, le=1)
    rank_photos: int = Field(default=256, ge=2)
    methods: tuple[Method, ...] = (*OTHERS, "member", "member-crop")
    workers: Workers = "auto"

    @property
    def leader(self) -> float | None:
        """The share of the member that may teach the others: the largest, if above the base."""
        return max((share for share in self.members if share > 1), default=None)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.members) != sorted(set(self.members)):
            raise ValueError("members: must ascend")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: must differ")
        for field, shares in (("budgets", self.budgets), ("members", self.members)):
            if len({_name(field, share) for share in shares}) != len(shares):
                raise ValueError(f"{field}: must differ by a thousandth of the base's MACs")
        return self


@dataclass(frozen=True)
class Row:
    """One method within one budget, with one seed.

    Attributes:
        method: a key of `baselines.TITLES`.
        budget: share of the base's MACs that was allowed; 1 for the base itself.
        macs: a photo, on average, on the validation photos; a predictor's included.
        top1: on the validation photos.
        held_out: top-1 on the photos held out; `chance`: the mean probability that it gives to
            their classes, by which the best of several is chosen.
        n: validation photos.
        networks: names of the networks in it, in order; each has its logits in `NAME.npz`.
        point: of a cascade, its thresholds and what else was chosen.
    """

    method: str
    budget: float
    seed: int
    macs: float
    top1: float
    held_out: float
    n: int
    networks: tuple[str, ...]
    point: dict[str, Any] | None = None
    chance: float = 0.0

    @property
    def cropped(self) -> bool:
        """Whether its networks look through the predictor's crops."""
        return self.networks[0].startswith("member-crop")


def compare(
    config: CompressConfig,
    table: ComparisonTable,
    photos: tuple[PhotoSet, PhotoSet],
    work: Path,
    *,
    so_far: bool = False,
    others: Sequence[Row] = (),
) -> list[Row]:
    """All rows of all seeds; every training is kept in `work` and not done twice.

    Args:
        photos: to learn from, and to report on.
        work: one folder a seed is made in it.
        so_far: train nothing: the rows of what is there.
        others: rows of more seeds, which were trained elsewhere.

    Raises:
        InputError: the photos cannot be used.
        UsageError: a budget cannot be met, training diverged, the folder is in use, or a seed was
            trained both here and elsewhere.
        EdgeCompressError: a seed's process was lost twice.
    """
    learn, report_on = photos
    require_apart(learn, report_on)
    asked = [_Asked(config, table, photos, work, seed, so_far) for seed in table.seeds]
    rows = list(chain(*map_trials(_rows_of, asked, find_pool(table.workers), "seeds")))
    twice = sorted({row.seed for row in rows} & {row.seed for row in others})
    if twice:
        raise UsageError(
            f"seed {twice[0]} was trained here and elsewhere",
            "name the seeds of here (--seed), or leave out --add",
        )
    counts = sorted({row.n for row in (*rows, *others)})
    if len(counts) > 1:
        raise UsageError(
            f"what was trained elsewhere reports on other photos: {counts[0]:,} and {counts[1]:,}",
            "add comparisons of the same photos",
        )
    if not rows and not others:
        raise UsageError(f"nothing has been trained in {work} yet", "leave out --so-far")
    return [*rows, *others]


@dataclass(frozen=True)
class _Asked:
    """One seed of a comparison; see `compare`."""

    config: CompressConfig
    table: ComparisonTable
    photos: tuple[PhotoSet, PhotoSet]
    work: Path
    seed: int
    so_far: bool


def _rows_of(asked: _Asked) -> list[Row]:
    """One seed's rows. Runs in any process."""
    with opened(asked.config, asked.photos, asked.work, asked.seed, asked.so_far) as one:
        try:
            return _one_seed(one, asked.table)
        except NotDoneError as missing:
            events.note(f"seed {asked.seed}: {missing} has not been trained yet")
            return []


@contextmanager
def opened(
    config: CompressConfig,
    photos: tuple[PhotoSet, PhotoSet],
    work: Path,
    seed: int,
    so_far: bool = False,
) -> Iterator[Compression]:
    """What a comparison has of one seed, in a folder of its own below `work`, which is locked.

    Args:
        so_far: what has not been trained yet stays so (`workbook.NotDoneError`).

    Raises:
        UsageError: another comparison is working there.
    """
    learn, report_on = photos
    folder = work / f"seed{seed}"
    settings = config.model_copy(update={"seed": seed})
    with ddp.joined(), locked(folder, "comparison"):
        material = gather(settings, learn, report_on, folder)
        yield Compression(settings, material, Workbook(folder, reading=so_far))


def _one_seed(one: Compression, table: ComparisonTable) -> list[Row]:
    cropped = "member-crop" in table.methods and one.settings.crop != "never"
    if cropped:
        spec = one.settings.base
        require_maps(spec.family, len(one.material.fit.labels), spec.resolution)
    base = train_base(one)
    held, val = _targets(one)
    done = {"base": _judge_base(one, base)}
    law = predictor = None
    with suppress(NotDoneError):
        law = measure_shrinking(one, base).result["law"]
    if cropped:
        with suppress(NotDoneError):
            predictor = train_predictor(one, draw_boxes(one, base))
            one, _ = with_sizes(one, predictor)
            if one.settings.predictor.sizes == NEVER_SMALLER:
                predictor = None  # what it would cost more than it shows less
    for method, budget in in_order(table):
        if method == "member-crop" and predictor is None:
            continue
        lawful = method.startswith("member") and budget < 1
        if lawful and law is None:
            continue
        name = _name(method, budget)
        try:
            done[name] = _fine_tune(
                one, name, method, budget, table, law=law if lawful else None, base=base,
                predictor=predictor if method == "member-crop" else None,
                teacher=_teacher(one, table, method, budget, done),
            )  # fmt: skip
        except NotDoneError:
            continue
        except _NoStartError as error:
            events.warn(f"seed {one.settings.seed}: {name} is left out: {error}")
    answers = {name: Answers.read(one.book.path(f"{name}.npz")) for name in done}
    maker = _Rows(one, table, done, answers, held, val)
    return maker.all()


def _teacher(
    one: Compression,
    table: ComparisonTable,
    method: Method,
    budget: float,
    done: Mapping[str, Done],
) -> TaughtBy:
    """Who teaches a network: the base, but smaller members the largest one, if above the base."""
    leader = table.leader if one.settings.members.teacher == "largest" else None
    if leader is None or budget == leader or not method.startswith("member"):
        return TaughtBy()
    name = _name(method, leader)
    return TaughtBy(name, done[name].fingerprint) if name in done else TaughtBy()


class _NoStartError(Exception):
    """A method has no network within a budget; the text says why."""


def in_order(table: ComparisonTable) -> list[tuple[Method, float]]:
    """What is fine-tuned, what says most first: the members, before the others that one which may
    teach them, then the others' networks of the budget nearest to the headline, and so on."""
    order: list[tuple[Method, float]] = []
    budgets = sorted(table.budgets, key=lambda budget: abs(budget - table.headline))
    first = table.leader
    for method in table.methods:
        if method.startswith("member"):
            order.extend((method, s) for s in sorted(table.members, key=lambda s: s != first))
    for budget in budgets:
        order.extend((m, budget) for m in table.methods if not m.startswith("member"))
    return order


def _targets(one: Compression) -> tuple[np.ndarray, np.ndarray]:
    return one.material.held_cache.targets.numpy(), one.material.val_cache.targets.numpy()


def _judge_base(one: Compression, base: Done) -> Done:
    def work(_: str) -> dict[str, Any]:
        spec, network = one.load("base")
        begun = Start(network, spec, spec.macs, spec.params)
        _answer(one, "base", begun, crop=None, step="base-answers")
        return {"macs": spec.macs, "params": spec.params, "predictor_macs": 0}

    inputs = {"base": base.fingerprint, "val": photos_fingerprint(one.material.val)}
    return one.book.step("base-answers", inputs, work, ("base.npz",), alone=True)


def _fine_tune(
    one: Compression,
    name: str,
    method: Method,
    budget: float,
    table: ComparisonTable,
    *,
    law: Any,
    base: Done,
    predictor: Done | None,
    teacher: TaughtBy,
) -> Done:
    """One network, made, fine-tuned and asked about all photos."""
    settings, material = one.settings, one.material
    recipe = settings.train.recipe(
        table.epochs, seed=settings.seed + 1, rate=table.rate, distil=table.distil
    )
    crop = None if predictor is None else PREDICTOR

    def work(fingerprint: str) -> dict[str, Any]:
        events.note(f"seed {settings.seed}: {name}")
        known = None if law is None else Law.from_json(law)
        try:
            begun = start(one, method, budget, law=known, rank_photos=table.rank_photos)
        except UsageError as error:
            raise _NoStartError(error.message) from None
        asked = teacher.name if table.distil else None
        task = classifying(one, begun.spec.resolution, teacher=asked, crop=crop)
        checkpoint = one.book.path(f"{name}.checkpoint")
        outcome = train(
            begun.network, task, recipe, checkpoint, f"training {name}", identity=fingerprint
        )
        if ddp.ranks().first:
            if begun.whole:
                with one.book.writing(f"{name}.pt") as temporary:
                    save_network(temporary, begun.spec, begun.network)
            _answer(one, name, begun, crop=crop)
        return {
            "spec": begun.spec.to_json(),
            "macs": begun.macs,
            "params": begun.params,
            "predictor_macs": 0 if predictor is None else predictor.result["macs"],
            "measures": [round(measure, 5) for measure in outcome.measures],
            "seconds": round(outcome.seconds, 1),
        }

    inputs = {
        "base": base.fingerprint,
        "method": method,
        "budget": budget,
        "recipe": recipe.to_json(),
        "law": law,
        "rank_photos": table.rank_photos if method == "hrank" else None,
        "predictor": predictor.fingerprint if predictor is not None else None,
        "sizes": settings.predictor.sizes if predictor is not None else None,
        "val": photos_fingerprint(material.val),
        **(one.crop_inputs() if predictor is not None else {}),
        **({"step": RCC_STEP} if method == "resolution" else {}),
        **teacher.inputs,
    }
    return one.book.step(name, inputs, work, (f"{name}.npz",), (f"{name}.checkpoint",))


def _answer(one: Compression, name: str, begun: Start, crop: str | None, step: str = "") -> None:
    """Keep a network's logits for the photos held out and those to report on; of the step that is
    called like it, unless another one is named."""
    material = one.material
    logits = {}
    for kind, photos, cache in (
        ("held", material.held, material.held_cache),
        ("val", material.val, material.val_cache),
    ):
        look = centred
        if crop is not None:
            sizes = one.settings.predictor.sizes
            look = material.predicted(photos, cache, one.load(crop), sizes)
        logits[kind] = material.logits(photos, cache, look, (begun.spec, begun.network))
    with one.book.writing(f"{name}.npz", step) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **logits)


@dataclass(frozen=True)
class Answers:
    """A network's logits `[n, classes]`: for the photos held out, and for those reported on."""

    held: np.ndarray
    val: np.ndarray

    @staticmethod
    def read(path: Path) -> Answers:
        """Of a step's file."""
        with np.load(path) as kept:
            return Answers(kept["held"], kept["val"])


@dataclass(frozen=True)
class _Rows:
    """Rows out of networks' answers: no training any more."""

    one: Compression
    table: ComparisonTable
    done: dict[str, Done]
    answers: dict[str, Answers]
    held: np.ndarray
    val: np.ndarray

    @property
    def base_macs(self) -> int:
        return self.done["base"].result["macs"]

    def all(self) -> list[Row]:
        rows = [self.single("base", 1.0, "base")]
        if "member-1000" in self.done:
            rows.append(self.single("base-longer", 1.0, "member-1000"))
        larger = [_name("member", share) for share in self.table.members if share > 1]
        if larger and larger[-1] in self.done:
            rows.append(self.single("base-larger", 1.0, larger[-1]))
        for budget in sorted({*self.table.budgets, self.table.headline}):
            rows += self.within(budget)
        return rows

    def within(self, budget: float) -> list[Row]:
        """What every method gives within a budget."""
        rows = []
        for method in OTHERS:
            name = _name(method, budget)
            if name in self.done:
                rows.append(self.single(method, budget, name))
        ways = []
        for kind, title in (("member", "cascade"), ("member-crop", "cascade-crop")):
            names = [_name(kind, share) for share in self.table.members]
            names = [name for name in names if name in self.done]
            fitting = [n for n in names if self.cost(n) <= budget * self.base_macs]
            candidates = []
            if fitting:
                candidates.append(_likeliest([self.single(kind, budget, n) for n in fitting]))
            cascade = self.cascade(title, budget, names)
            candidates += [cascade] if cascade else []
            rows += candidates
            ways += [_likeliest(candidates)] if candidates else []
        if ways:
            rows.append(replace(self.paying(ways), method=FULL))
        return rows

    def paying(self, ways: Sequence[Row]) -> Row:
        """Of the best without crops and the best with them the former, unless crops pay: by more
        than the noise of the photos held out, as in a job (`cascading.switch`)."""
        first, *others = ways
        for other in others:
            gain, error = gained(self.held_chances(other), self.held_chances(first))
            if gain > BEYOND * error:
                first = other
        return first

    def held_chances(self, row: Row) -> np.ndarray:
        """The probability that a row gives to the class of each photo held out, `[n]`."""
        held = self.asked(row.networks, "held")
        if row.point is None:
            return likeliest_chances(held.members[0].logits, held.targets)
        point = OperatingPoint(**{**row.point, "members": None})
        return chances_at(held.members, held.targets, point)

    def cost(self, name: str) -> int:
        result = self.done[name].result
        return result["macs"] + result["predictor_macs"]

    def single(self, method: str, budget: float, name: str) -> Row:
        answers = self.answers[name]
        return Row(
            method=method,
            budget=budget,
            seed=self.one.settings.seed,
            macs=float(self.cost(name)),
            top1=_top1(answers.val, self.val),
            held_out=_top1(answers.held, self.held),
            n=len(self.val),
            networks=(name,),
            chance=float(likeliest_chances(answers.held, self.held).mean()),
        )

    def cascade(self, method: str, budget: float, names: Sequence[str]) -> Row | None:
        """The cascade of two or three members that is best on the photos held out."""
        limit, table = budget * self.base_macs, self.one.settings.cascade
        sizes = tuple(range(2, min(MOST_STAGES, len(names)) + 1))
        if not sizes:
            return None
        choosing = Chooser(table.criterion, table.alphas, sizes, macs=limit, spare=SPARE)
        held = self.asked(names, "held")
        points = choosing.sweep(held)
        if frontier(points)[0].mean_macs > limit:
            return None
        point = choosing.choose(points, held)
        told = self.asked(names, "val").apply(point)
        return Row(
            method=method,
            budget=budget,
            seed=self.one.settings.seed,
            macs=told.mean_macs,
            top1=told.top1,
            held_out=point.top1,
            n=len(self.val),
            networks=tuple(names[place] for place in point.members or range(len(names))),
            point=asdict(told),
            chance=float(chances_at(held.members, held.targets, point).mean()),
        )

    def asked(self, names: Sequence[str], kind: Literal["held", "val"]) -> Asked:
        """What some networks, cheapest first, say of the photos held out or reported on."""
        members = tuple(
            Member(self.done[name].result["macs"], getattr(self.answers[name], kind))
            for name in names
        )
        return Asked(members, getattr(self, kind), self.done[names[0]].result["predictor_macs"])


def _name(method: str, share: float) -> str:
    """Of a method's network within a share of the base's MACs: its step and its files."""
    return f"{method}-{round(1000 * share):04d}"


def _top1(logits: np.ndarray, targets: np.ndarray) -> float:
    return float((logits.argmax(1) == targets).mean())


def _likeliest(rows: Sequence[Row]) -> Row:
    """The one that gives the held-out photos' classes the largest probability, or the cheaper."""
    return max(rows, key=lambda row: (row.chance, -row.macs))
