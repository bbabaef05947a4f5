"""What a job file asks of compression: its `[pretrained]` or `[compress]` table."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from edgecompress.errors import UsageError

from .budget import LARGEST_SHARE, Budget, parse_budget
from .choices import CAM_THRESHOLD, BoxLoss, CamKind, Precision
from .data.augment import Augment
from .networks.foreign import is_foreign
from .networks.network import NetworkSpec
from .recipe import GROWING, Recipe

FEWEST_TRIALS = 4
"""Of a search: the proposal and one neighbour, each for a few epochs and then for more."""


class Table(BaseModel):
    """A table of a job file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PretrainedConfig(Table):
    """A cascade of trained networks as they are.

    Attributes:
        cascade: one that comes with this package (`imagenette`), or a cascade folder; it needs
            nothing else. Or
        members: `family.tag` names, cheapest first (`pretrained.pretrained_names`).
        criterion: confidence: `margin` or `max_softmax`.
        thresholds: one for each member but the last; a single number stands for all.
        accumulate: add a later member's logits, times alpha, to the running ones.
        alpha: used where `accumulate` is true.

    The defaults are what does best with Lite0 and Lite2 on 500 ILSVRC validation photos: adding the
    logits names 77.4 % rightly, replacing them 76.0 % (docs/method.md).
    """

    cascade: str | None = None
    members: tuple[str, ...] = ()
    criterion: Literal["margin", "max_softmax"] = "max_softmax"
    thresholds: tuple[float, ...] = (0.4,)
    accumulate: bool = True
    alpha: float = Field(default=1.0, gt=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _one_threshold_for_all(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("thresholds"), int | float):
            members = value.get("members") or ()
            return {**value, "thresholds": (value["thresholds"],) * max(len(members) - 1, 0)}
        return value

    @model_validator(mode="after")
    def _a_threshold_each(self) -> Self:
        if (self.cascade is None) == (not self.members):
            raise ValueError("give either a cascade or members")
        if self.cascade is not None:
            if extra := sorted(self.model_fields_set - {"cascade"}):
                raise ValueError(f"a cascade has its own {extra[0]}: leave that out")
        elif len(self.thresholds) != len(self.members) - 1:
            raise ValueError("thresholds: one for each member but the last")
        if len(set(self.members)) != len(self.members):
            raise ValueError("members: must differ")
        return self


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Alpha = Annotated[float, Field(gt=0, le=100)]
CropSide = Annotated[float, Field(ge=0.01, le=1)]
MemberShare = Annotated[float, Field(gt=0, le=LARGEST_SHARE)]
Side = Annotated[int, Field(ge=16, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Epochs = Annotated[int, Field(ge=1)]
Workers = Literal["auto", "ray"] | Annotated[int, Field(ge=1, le=1024)]


def _budget(written: Any) -> float | str:
    try:
        return parse_budget(written).to_json()
    except UsageError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None


Budgeted = Annotated[float | str, BeforeValidator(_budget)]
"""A share of the base as a number, `"1.2GMACs"` or `"40ms"` (`budget.parse_budget`)."""


def _usual_width(read: dict[str, Any]) -> float:
    return 1.0 if is_foreign(str(read.get("family", ""))) else 0.5


class BaseTable(Table):
    """`[compress.base]`: the network that is shrunk.

    Attributes:
        width: by default 0.5, and 1 for a module of the user's own, which is taken as it is.
        multiple: what channels are a multiple of, in the base and in all that is shrunk from it.
        inner: multiplier of the channels within blocks, on top of `width`.
        weights: trained weights to begin with (`weights.load_weights`): a file, or
            `torchvision:TAG`, `timm:NAME`, or a `[pretrained]` name.
    """

    family: str = "resnet18"
    width: Positive = Field(default_factory=_usual_width)
    depth: Positive = 1.0
    resolution: Side = 128
    multiple: Literal[8, 16] = 8
    inner: Positive = 1.0
    weights: str | None = None

    @model_validator(mode="after")
    def _a_module_has_its_own_weights(self) -> Self:
        if self.weights is not None and is_foreign(self.family):
            raise ValueError("weights: a module of your own comes with its own: load them in it")
        return self

    def spec(self, classes: int) -> NetworkSpec:
        """The network for so many classes."""
        return NetworkSpec(
            family=self.family,
            width=self.width,
            depth=self.depth,
            resolution=self.resolution,
            classes=classes,
            multiple=self.multiple,
            inner=self.inner,
        )


class TrainTable(Table):
    """`[compress.train]`: how the base is trained; the others take what they do not say from it.

    Attributes:
        epochs: of the base; 0 takes its weights, or a module of the user's own, as they are.
        rate: largest learning rate.
        scale: smallest area of a random crop, as a share of the photo.
        progressive: share of the input side in the first epoch (`recipe.Recipe`).
        ema: decay of the weights' moving average (`recipe.Recipe`).
        mixup, jitter, erase: other colours, blank parts, and mixtures of photos
            (`augment.Augment`); 0 is none.
        predicted: share of predicted crops where a member is fine-tuned on them; half of the rest
            are shifted ones, half whole photos.
        clip: largest norm of a step's gradients; 0 is none.
        precision: of the multiplications (`recipe.Recipe`).
        others: as in `recipe.Recipe`.
    """

    epochs: Annotated[int, Field(ge=0)] = 60
    batch: Annotated[int, Field(ge=2)] = 64
    rate: Positive = 0.003
    optimizer: Literal["sgd", "adamw"] = "adamw"
    decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Annotated[float, Field(ge=0)] = 1.0
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    scale: Share = 0.35
    progressive: Share = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    predicted: Annotated[float, Field(ge=0, le=1)] = Augment.predicted
    clip: Annotated[float, Field(ge=0)] = 0.0
    precision: Precision = "auto"

    def changes(self) -> dict[str, float]:
        """What is done to views beside cutting them, without what is not done."""
        told = {"mixup": self.mixup, "jitter": self.jitter, "erase": self.erase}
        return {name: value for name, value in told.items() if value}

    def recipe(self, epochs: int, *, seed: int, rate: float = 1.0, distil: float = 0.0) -> Recipe:
        """A recipe of so many epochs; `rate` multiplies the learning rate. One too short to get
        used to other sides sees the whole one."""
        return Recipe(
            epochs=epochs,
            batch=self.batch,
            rate=self.rate * rate,
            optimizer=self.optimizer,
            decay=self.decay,
            warmup=self.warmup,
            smoothing=self.smoothing,
            distil=distil,
            progressive=self.progressive if epochs >= GROWING else 1.0,
            ema=self.ema,
            clip=self.clip,
            precision=self.precision,
            seed=seed,
        )


def _sizes(written: Any) -> Any:
    return () if written == "auto" else written


class PredictorTable(Table):
    """`[compress.predictor]`: the foreground predictor and the boxes it learns.

    Attributes:
        resolution, width: of the predictor; `auto`: the largest one within `macs`.
        macs: share of the base's MACs that an `auto` predictor may take.
        cam: `grad` (Grad-CAM), or `plain` (CAM; heads of an average and one linear layer only).
        cam_resolution: side at which the base draws activation maps; larger than the base's own,
            since the map of a 96-pixel photo has 3 x 3 positions.
        smooth: boxes are drawn round the mean of six maps: of the photo and the mirrored one, at
            `cam_resolution`, at the base's resolution and between them. Otherwise round one.
        guided: while it learns, the predictor also draws the maps and names the class.
        threshold: share of the way from a map's smallest to its largest value from which on it is
            foreground; the paper's is 0.5.
        rate, decay: of AdamW, whatever trains the base.
        loss: an overlap (`iou`, `giou`, `ciou`), alone or, after `l1+`, with the edges' absolute
            error; or `mse`, the paper's.
        sizes: crop sides as shares of the short side, the last one 1; `auto`: chosen for the boxes
            that the predictor draws on the held-out photos, and empty until then.
    """

    resolution: Side | Literal["auto"] = "auto"
    width: Positive | Literal["auto"] = "auto"
    macs: Share = 0.03
    cam: CamKind = "grad"
    cam_resolution: Side = 256
    smooth: bool = True
    guided: bool = True
    threshold: Annotated[float, Field(gt=0, lt=1)] = CAM_THRESHOLD
    epochs: Epochs = 30
    rate: Positive = 0.003
    decay: Annotated[float, Field(ge=0)] = 0.05
    loss: BoxLoss = "l1+giou"
    sizes: Annotated[tuple[CropSide, ...], BeforeValidator(_sizes)] = (0.25, 0.5, 0.75, 1.0)

    @model_validator(mode="after")
    def _ascending_to_one(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)) or self.sizes[-1:] not in ((), (1.0,)):
            raise ValueError("sizes: must ascend and end with 1")
        return self


class ShrinkTable(Table):
    """`[compress.shrink]`: the trials that measure what depth, width and resolution contribute,
    and the search that follows (docs/shrinking.md).

    Attributes:
        epochs: of each trial, and of a search's first, shortest ones.
        shares: of the base's MACs that trials keep, a trial each. One leaves open whether further
            cuts are dearer than the first (`law.Law`); several measure it.
        rate: multiplies the base's learning rate.
        cost: what a dimension's contribution is held against: `macs`; `ms`, measured on the job's
            board; `cycles`, milliseconds estimated under emulation.
        search: the most trainings that a member's local search takes, 4 or more; 0 keeps what the
            law says.
        workers: how many trials run side by side: a number of processes; `auto`, by cores and GPUs;
            `ray`, over the machines of a Ray cluster.
    """

    epochs: Epochs = 4
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.5, 0.25), min_length=1
    )
    rate: Positive = 0.5
    cost: Literal["macs", "ms", "cycles"] = "macs"
    search: Annotated[int, Field(ge=0, le=1000)] = 6
    workers: Workers = "auto"

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.shares)) != len(self.shares):
            raise ValueError("shares: must differ")
        if 0 < self.search < FEWEST_TRIALS:
            raise ValueError(f"search: 0, or at least {FEWEST_TRIALS}")
        return self


class MembersTable(Table):
    """`[compress.members]`: the networks of the cascade.

    Attributes:
        budgets: of each: a share of the base (0.5, "0.5x"; 1 is the base itself, up to 1.5625
            the same at a larger resolution), "1.2GMACs", or "40ms" on the job's board. Those of one
            kind ascend.
        teacher: who teaches them: `base`; or `largest`, the largest member, where it costs more
            than the base (from which that one learns).
        epochs: of training with a teacher, on whole photos.
        tune_epochs: of the fine-tuning that follows, on predicted crops (and, where `crop` is
            `auto`, once more on whole photos to compare with).
        rate, tune_rate: multiply the base's learning rate.
        distil: weight of the teacher's answer in the loss.
    """

    budgets: tuple[Budgeted, ...] = (0.25, 0.5, 1.0)
    teacher: Literal["base", "largest"] = "base"
    epochs: Epochs = 40
    tune_epochs: Epochs = 10
    rate: Positive = 0.5
    tune_rate: Positive = 0.1
    distil: Annotated[float, Field(ge=0, le=1)] = 0.5

    @property
    def allowed(self) -> tuple[Budget, ...]:
        """The budgets, read."""
        return tuple(parse_budget(one) for one in self.budgets)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for kind in ("share", "MACs", "ms"):
            own = [one.value for one in self.allowed if one.kind == kind]
            if own != sorted(set(own)):
                raise ValueError("budgets: must ascend")
        if not self.budgets:
            raise ValueError("budgets: must ascend, and there must be one")
        return self


class CascadeTable(Table):
    """`[compress.cascade]`: how the operating point is chosen on the held-out photos.

    Attributes:
        criterion: `margin` as in the paper, or `max_softmax`; `auto` tries both.
        macs: the likeliest cascade (`cascade.likeliest_within`) that takes at most this share of
            the base's MACs, with a standard error of the mean to spare.
        ms: the same of so many milliseconds a photo.
        top1: the cheapest cascade of at least this accuracy. Of none of them, the cheapest within
            `slack` of the most accurate one.
        alphas: weights of later members' logits that are tried; `learned` is the likeliest one.
        subsets: whether a cascade may leave members out.
        costs_ms: milliseconds of a member, one for each of the members' budgets, in their order;
            left out, they are measured on the job's board where `ms`, a member's budget or
            `[compress.shrink] cost` asks for milliseconds. Where they are known the cheapest
            cascade is by them, unless `macs` is given.
        predictor_ms: of the foreground predictor; measured with `costs_ms`.
    """

    criterion: Literal["margin", "max_softmax", "auto"] = "margin"
    macs: Positive | None = None
    ms: Positive | None = None
    top1: Share | None = None
    slack: Annotated[float, Field(ge=0, lt=1)] = 0.005
    alphas: tuple[Alpha | Literal["learned"], ...] = (0.5, 1.0, 1.6, 2.5, "learned")
    subsets: bool = True
    costs_ms: tuple[Positive, ...] = ()
    predictor_ms: Annotated[float, Field(ge=0)] = 0.0

    @property
    def one_criterion(self) -> Literal["margin", "max_softmax"]:
        """Of a cascade that has nothing to decide: one member alone."""
        return "margin" if self.criterion == "auto" else self.criterion

    @model_validator(mode="after")
    def _one_wish(self) -> Self:
        if sum(one is not None for one in (self.macs, self.ms, self.top1)) > 1:
            raise ValueError("give macs, ms or top1, only one of them")
        return self


class CompressConfig(Table):
    """A cascade trained on the user's photos.

    Attributes:
        seed: of everything random.
        held_out: share of the training photos that no training sees: shrinking, cropping and
            thresholds are decided on them.
        crop: whether the cascade has a foreground predictor: `auto` where it pays on the held-out
            photos, or `always`, or `never`.
        photos: where decoded training photos are kept: in `memory`, or on `disk`, in the work
            folder, where there are more than memory holds (ImageNet).
        quick: any of these fields, for `--quick`: laid over them.
    """

    seed: Seed = 0
    held_out: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    crop: Literal["auto", "always", "never"] = "auto"
    photos: Literal["memory", "disk"] = "memory"
    base: BaseTable = BaseTable()
    train: TrainTable = TrainTable()
    predictor: PredictorTable = PredictorTable()
    shrink: ShrinkTable = ShrinkTable()
    members: MembersTable = MembersTable()
    cascade: CascadeTable = CascadeTable()
    quick: dict[str, Any] = {}

    @model_validator(mode="after")
    def _an_untrained_base_has_weights(self) -> Self:
        own = is_foreign(self.base.family)  # a module comes with its weights
        if not self.train.epochs and self.base.weights is None and not own:
            raise ValueError("train.epochs: 0 needs trained weights, in base.weights")
        return self

    @model_validator(mode="after")
    def _every_member_has_a_cost(self) -> Self:
        given, members = len(self.cascade.costs_ms), len(self.members.budgets)
        if given not in (0, members):
            raise ValueError(f"cascade.costs_ms: {given} for {members} members")
        return self

    @model_validator(mode="after")
    def _quick_is_valid(self) -> Self:
        if self.quick:
            self.resolved(quick=True)
        return self

    def resolved(self, quick: bool) -> CompressConfig:
        """The settings that hold, with or without the quick ones; `quick` is empty in it."""
        # What was left out stays so: a default may hang on a field that quick changes.
        own = self.model_dump(exclude={"quick"}, exclude_unset=True)
        return CompressConfig.model_validate(_overlaid(own, self.quick) if quick else own)


def _overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            merged[key] = _overlaid(inner, value)
        else:
            merged[key] = value
    return merged
