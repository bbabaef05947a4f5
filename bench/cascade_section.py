"""The report's sentences on how a cascade was chosen: what left-out photos say of the choice, and
whether cropping paid.

They come out of compression.json; a record that is damaged, or of another version, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from .records import MANY, Share, sound

Amount = Annotated[float, Field(ge=0, lt=MANY)]
Count = Annotated[int, Field(ge=1, lt=MANY)]


class Estimate(BaseModel):
    """A choice on photos that it did not see (`compress.cascading.crossfit.Estimate`)."""

    top1: Share
    standard_error: Share
    mean_macs: Amount
    photos: Count
    folds: Count


class Chosen(BaseModel):
    """What was chosen, on the photos that chose it (`compress.cascading.cascade`)."""

    top1: Share
    mean_macs: Amount
    criterion: Annotated[str, Field(max_length=40)]
    accumulate: bool
    alpha: Amount
    learned: bool


class Variant(BaseModel):
    """One way to look at photos."""

    chosen: Chosen
    cross_fitted: Estimate


class Switch(BaseModel):
    """Whether cropping paid (`compress.cascading.switch.Decision`)."""

    crop: bool
    why: Annotated[str, Field(max_length=400)]


def cascade_sentences(compression: Mapping[str, Any] | None) -> Iterator[str]:
    """How the cascade was chosen; none where the record does not say it soundly."""
    record = compression or {}
    switch = sound(Switch, record.get("switch"))
    if switch is not None:
        verdict = "was kept" if switch.crop else "was left out"
        yield f"Cropping {verdict}: on photos held out, with crops: {switch.why}."
    variants = record.get("variants")
    kept = variants.get(str(record.get("crop"))) if isinstance(variants, Mapping) else None
    variant = sound(Variant, kept)
    if variant is None:
        return
    chosen, told = variant.chosen, variant.cross_fitted
    way = "later logits replace earlier ones"
    if chosen.accumulate:
        learned = ", learned" if chosen.learned else ""
        way = f"later logits count {chosen.alpha:.3g} times{learned}"
    yield f"Chosen by {chosen.criterion.replace('_', '-')} confidence; {way}."
    yield (
        f"The {told.photos} photos that chose the thresholds give {100 * chosen.top1:.1f} % at "
        f"{chosen.mean_macs / 1e6:.4g} M MACs; chosen without the photos that are measured "
        f"({told.folds} parts): {100 * told.top1:.1f} % \N{PLUS-MINUS SIGN} "
        f"{100 * told.standard_error:.1f} at {told.mean_macs / 1e6:.4g} M."
    )
