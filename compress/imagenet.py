"""ImageNet-1K's class names, out of the pinned `timm` wheel (Apache-2.0), which keeps them well."""

from __future__ import annotations

from collections import Counter
from functools import cache

from edgecompress import wheels

TIMM = wheels.Wheel(
    "timm==1.0.31", "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"
)

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
def class_names() -> tuple[str, ...]:
    """The names of the 1000 classes, sorted by WordNet id as PyTorch's are.

    The first lemma of each; all of its lemmas where two classes share the first ("crane").

    Raises:
        InputError: the wheel cannot be fetched, or is not the pinned one.
    """
    ids = wheels.read(TIMM, "timm/data/_info/imagenet_synsets.txt").decode().split()
    table = wheels.read(TIMM, "timm/data/_info/imagenet_synset_to_lemma.txt").decode()
    lemmas = dict(line.split("\t", 1) for line in table.splitlines() if "\t" in line)
    first = [lemmas[wordnet].split(",")[0].strip() for wordnet in ids]
    shared = Counter(first)
    return tuple(
        name if shared[name] == 1 else f"{lemmas[wordnet]} ({wordnet})"
        for name, wordnet in zip(first, ids, strict=True)
    )
