"""From photos to a cascade folder, step by step; each step is kept and skipped when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgecompress import events
from edgecompress.files import sha256_json

from .budget import member_names
from .cascading.assemble import Variant, finish, is_written
from .config import CompressConfig
from .cropping.crop_sizes import NEVER_SMALLER, with_sizes
from .cropping.foreground import draw_boxes, train_predictor
from .data.photos import PhotoSet, photos_fingerprint
from .machine import ddp
from .networks.foreign import require_maps
from .networks.network import NetworkSpec
from .shrinking.proposal import MACS, Price, measure_shrinking, propose_members
from .shrinking.searching import search_members
from .shrinking.shrink import Cost
from .shrinking.times import require_times, with_times
from .training.classifiers import TaughtBy, train_base, train_member
from .training.learn import Compression, train_classifier
from .training.material import gather, require_apart
from .training.workbook import Done, Workbook, locked


def compress_photos(  # noqa: PLR0917 - photos, folders, and how long it may take
    config: CompressConfig,
    train: PhotoSet,
    val: PhotoSet,
    work: Path,
    out: Path,
    quick: bool = False,
    *,
    cost: Cost | None = None,
    cost_name: str = MACS,
) -> Path:
    """Train, shrink, calibrate and export a cascade; returns its folder.

    Args:
        train: photos to learn from; part of them is held out of all training.
        val: photos that only the final numbers are of.
        work: checkpoints and results of steps; a second call goes on from there.
        out: the cascade folder.
        quick: with the quick settings laid over the others.
        cost: what a network costs, for shrinking (milliseconds on a board); MACs without it.
        cost_name: names the cost in the report; of milliseconds it begins with `ms`.

    Raises:
        InputError: the photos cannot be used.
        UsageError: the settings cannot be met, training diverged, or the folder is in use.
        EdgeCompressError: another of torchrun's processes ended.
        CompileError: an export fails or differs.
    """
    settings = config.resolved(quick)
    require_apart(train, val)
    with ddp.joined(), locked(work, "job"):
        material = gather(settings, train, val, work)
        one = Compression(settings, material, Workbook(work))
        return _run(one, out, Price(None if cost is None else ddp.Told(cost), cost_name))


def _run(one: Compression, out: Path, price: Price) -> Path:
    settings = one.settings
    for budget in settings.members.allowed:
        price.of(budget)  # what cannot be held is refused before anything is trained
    require_times(one, price)
    crops = settings.crop != "never"
    if crops:
        table = settings.base
        require_maps(table.family, len(one.material.fit.labels), table.resolution)
    base = train_base(one)
    done = {"base": base}
    if crops:
        done["boxes"] = draw_boxes(one, base)
        done["predictor"] = train_predictor(one, done["boxes"])
        one, sizes = with_sizes(one, done["predictor"])
        if sizes is not None:
            done["sizes"] = sizes
        one, crops = _where_crops_are_smaller(one)
        settings = one.settings
    done["shrink"] = measure_shrinking(one, base, price)
    done["proposals"] = propose_members(one, done["shrink"], price)
    found = done["proposals"]
    if settings.shrink.search:
        found = done["search"] = search_members(one, base, found, price)
    specs = [NetworkSpec.from_json(spec) for spec in found.result["specs"]]
    allowed = member_names(settings.members.allowed)
    members = cheapest_first(dict(zip(allowed, specs, strict=True)))
    first = leader(one, members, base)

    def begin(name: str, teacher: TaughtBy) -> Done:
        return train_member(one, name, members[name], base, teacher)

    done |= in_turn(list(members), first, begin)
    kinds = {"auto": ("whole", "crop"), "always": ("crop",), "never": ("whole",)}[settings.crop]
    variants = [tune_variant(one, kind, list(members), done, first) for kind in kinds]
    one, times = with_times(one, price, members, one.load("predictor")[0] if crops else None)
    settings = one.settings
    if times is not None:
        done["times"] = times
    fingerprint = sha256_json(
        [
            settings.model_dump(mode="json", exclude={"shrink": {"workers"}}),
            photos_fingerprint(one.material.val),
            one.material.val.labels,
            [variant.fingerprint for variant in variants],
        ]
    )

    def write() -> None:
        if not is_written(out, fingerprint):
            finish(
                variants,
                settings,
                one.material,
                base=one.load("base"),
                done={name: step.result for name, step in done.items()},
                out=out,
                fingerprint=fingerprint,
            )

    ddp.decided(write)
    return out


def _where_crops_are_smaller(one: Compression) -> tuple[Compression, bool]:
    """With `crop = "auto"` no member is trained for crops that are never smaller than the photo."""
    settings = one.settings
    if settings.crop != "auto" or settings.predictor.sizes != NEVER_SMALLER:
        return one, True
    events.note("cropping is left out: no crop would be smaller than the photo")
    return replace(one, settings=settings.model_copy(update={"crop": "never"})), False


def cheapest_first(members: Mapping[str, NetworkSpec]) -> dict[str, NetworkSpec]:
    """Members in the order of a cascade, each network once."""
    found: dict[str, NetworkSpec] = {}
    for name, spec in sorted(members.items(), key=lambda item: item[1].macs):
        if spec in found.values():
            events.warn(f"{name} is the same network as another budget's: left out")
        else:
            found[name] = spec
    return found


def leader(one: Compression, members: Mapping[str, NetworkSpec], base: Done) -> str | None:
    """The member that teaches the others; None: the base does."""
    name, spec = list(members.items())[-1]
    above = spec.macs > base.result["macs"]
    return name if above and one.settings.members.teacher == "largest" else None


def in_turn(
    names: Sequence[str],
    first: str | None,
    work: Callable[[str, TaughtBy], Done],
    suffix: str = "",
) -> dict[str, Done]:
    """Trainings of all members, in the order of their names.

    Args:
        first: the one that teaches the others (`leader`), which is trained before them.
        work: trains one of them.
        suffix: what its step's name has after the member's.
    """
    done: dict[str, Done] = {}
    for name in sorted(names, key=lambda name: name != first):
        teacher = TaughtBy()
        if first is not None and name != first:
            teacher = TaughtBy(f"{first}{suffix}", done[first].fingerprint)
        done[name] = work(name, teacher)
    return {name: done[name] for name in names}


def tune_variant(
    one: Compression, kind: str, names: Sequence[str], done: Mapping[str, Done], first: str | None
) -> Variant:
    """Fine-tune all members, on predicted crops or (for a fair comparison) on whole photos.

    Args:
        names: cheapest first.
        first: the one that teaches the others (`leader`).
    """
    settings, table = one.settings, one.settings.members
    recipe = settings.train.recipe(
        table.tune_epochs, seed=settings.seed + 1, rate=table.tune_rate, distil=table.distil
    )
    predictor = "predictor" if kind == "crop" else None

    def tune(name: str, teacher: TaughtBy) -> Done:
        spec = NetworkSpec.from_json(done[name].result["spec"])
        inputs = {
            "member": done[name].fingerprint,
            "base": done["base"].fingerprint,
            "recipe": recipe.to_json(),
            "kind": kind,
            **teacher.inputs,
        }
        if predictor is not None:
            inputs["predictor"] = done[predictor].fingerprint
            inputs["sizes"] = settings.predictor.sizes
            inputs |= one.crop_inputs()
        return train_classifier(
            one,
            f"{name}-{kind}",
            spec,
            recipe=recipe,
            inputs=inputs,
            start=lambda _: one.load(name)[1],
            teacher=teacher.name,
            crop=predictor,
        )

    tuned = in_turn(names, first, tune, f"-{kind}")
    return Variant(
        kind=kind,
        predictor=None if predictor is None else one.load(predictor),
        members={name: one.load(f"{name}-{kind}") for name in names},
        training={name: step.result for name, step in tuned.items()},
        fingerprint=sha256_json([step.fingerprint for step in tuned.values()]),
    )
