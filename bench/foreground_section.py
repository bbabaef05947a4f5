"""What the report says of the foreground predictor: its overlap, and what that is held against.

It comes out of compression.json; a record that is damaged, or of another version, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from . import text
from .records import Share, sound

Count = Annotated[int, Field(ge=0, lt=10**15)]


class Boxes(BaseModel):
    """Boxes drawn by activation maps (`compress.cropping.foreground.draw_boxes`)."""

    mean_area: Share
    whole_photo_iou: Share
    constant_iou: Share
    mirrored_iou: Share


class Predictor(BaseModel):
    """The trained predictor (`compress.cropping.foreground.train_predictor`)."""

    macs: Count
    params: Count
    held_out: Share
    photos: Count
    share_of_base: Annotated[float, Field(ge=0, lt=1000)]


class Sizes(BaseModel):
    """Crop sizes chosen from boxes (`compress.cropping.crop_sizes.choose_sizes`)."""

    sizes: Annotated[list[Share], Field(max_length=8)]
    wasted: Share
    fixed_wasted: Share


class _Steps(BaseModel):
    boxes: Boxes
    predictor: Predictor
    sizes: Sizes | None = None


class _Record(BaseModel):
    steps: _Steps


def foreground_sentences(compression: Mapping[str, Any] | None) -> Iterator[str]:
    """A few sentences; none where a compression.json says nothing sound."""
    record = sound(_Record, compression)
    if record is None:
        return
    found = record.steps
    boxes, predictor = found.boxes, found.predictor
    yield (
        f"The foreground predictor takes {text.macs(predictor.macs)} MACs, "
        f"{text.percent(predictor.share_of_base)} of the base's, and has {predictor.params:,}"
        f" weights. Its boxes overlap those of the base's activation maps by a mean IoU of"
        f" {predictor.held_out:.3f} on {predictor.photos:,} photos held out."
    )
    best = max(boxes.constant_iou, boxes.whole_photo_iou)
    judged = "more than" if predictor.held_out > best else "NOT more than"
    yield (
        f"That is {judged} without looking: the best constant box has {boxes.constant_iou:.3f}, the"
        f" whole photo {boxes.whole_photo_iou:.3f}. The boxes themselves are no firm ground: those"
        f" of the photos and of their mirrored views agree by {boxes.mirrored_iou:.3f}; they cover"
        f" {text.percent(boxes.mean_area)} of a photo."
    )
    if found.sizes is not None:
        named = ", ".join(f"{size:g}" for size in found.sizes.sizes)
        yield (
            f"Crops have sides of {named} of the short side, chosen on the photos held out: they"
            f" show {text.percent(found.sizes.wasted)} of its square in vain, quarters"
            f" {text.percent(found.sizes.fixed_wasted)}."
        )
