"""ImageNet-1K's class names, out of the pinned `timm` wheel (Apache-2.0), which keeps them well."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from edgecompress import wheels

TIMM = wheels.Wheel(
    "timm==1.0.31", "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"
)

CLASSES = 1000
_WORDNET = re.compile(r"n\d{8}")

# The ten classes of Imagenette (github.com/fastai/imagenette), by WordNet id.
IMAGENETTE_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@cache
def _published() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet ids in PyTorch's order, and all lemmas of each."""
    ids = wheels.read(TIMM, "timm/data/_info/imagenet_synsets.txt").decode().split()
    table = wheels.read(TIMM, "timm/data/_info/imagenet_synset_to_lemma.txt").decode()
    lemmas = dict(line.split("\t", 1) for line in table.splitlines() if "\t" in line)
    return tuple(ids), tuple(lemmas[wordnet] for wordnet in ids)


@cache
def class_names() -> tuple[str, ...]:
    """The names of the 1000 classes, sorted by WordNet id as PyTorch's are.

    The first lemma of each; all of its lemmas where two classes share the first ("crane").

    Raises:
        InputError: the wheel cannot be fetched, or is not the pinned one.
    """
    ids, lemmas = _published()
    first = [names.split(",")[0].strip() for names in lemmas]
    shared = Counter(first)
    return tuple(
        name if shared[name] == 1 else f"{names} ({wordnet})"
        for name, names, wordnet in zip(first, lemmas, ids, strict=True)
    )


def places_of(labels: Sequence[str]) -> tuple[int | None, ...]:
    """Which of the 1000 classes each label is, by its name or its WordNet id; None: none of them.

    Raises:
        InputError: as `class_names`.
    """
    places = {wordnet: place for place, wordnet in enumerate(_published()[0])}
    places |= {plain_name(name): place for place, name in enumerate(class_names())}
    # As they are written first: "Cardigan" is a dog, "cardigan" is not.
    places |= {name: place for place, name in enumerate(class_names())}
    known = (
        [places[key] for key in (label, *class_keys(label)) if key in places] for label in labels
    )
    return tuple(found[0] if found else None for found in known)


def class_keys(label: str) -> tuple[str, ...]:
    """What a label may be known by: its name, and WordNet ids in it. Capitals, underscores and
    further spaces do not matter."""
    return plain_name(label), *_WORDNET.findall(label)


def plain_name(label: str) -> str:
    """A name as names are compared."""
    return " ".join(label.replace("_", " ").casefold().split())
