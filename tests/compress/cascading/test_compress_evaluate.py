"""Cascades on the host: whose classes the photos have to have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecompress import events
from edgecompress.compress.cascading.evaluate import evaluate
from edgecompress.compress.data.photos import PhotoSet, image_folder
from edgecompress.compress.networks.export import write_cascade
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import InputError
from edgecompress.runner.spec import Cascade, Preprocess, Stage

LABELS = ("disc", "English square", "n02113186 Cardigan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade of one network."""
    spec = NetworkSpec("resnet18", 0.125, 0.5, 32, len(LABELS))
    stage = Stage("only", spec.resolution, 1.0, None, 1.0, spec.macs, spec.params)
    preprocess = Preprocess((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    cascade = Cascade("one", LABELS, preprocess, None, (stage,), "margin", False, 1.0, {})
    out = tmp_path_factory.mktemp("evaluated") / "cascade"
    return write_cascade(out, cascade, {"only": (spec, spec.build().eval())}, {})


@pytest.fixture
def photos(shapes: tuple[Path, Path]) -> PhotoSet:
    """Photos of its classes; of the last one there are none."""
    return replace(image_folder(shapes[1]), labels=LABELS)


@pytest.mark.parametrize(
    "labels",
    [
        ("Disc", "english_square", "n02113186"),
        ("disc", "something else", "cardigan"),
        ("disc", "English square", "disc"),  # one name is another class's, most are not
    ],
)
def test_other_names_for_the_same_classes(
    folder: Path, photos: PhotoSet, labels: tuple[str, ...]
) -> None:
    named = evaluate(folder, replace(photos, labels=labels))
    assert named.top1 == evaluate(folder, photos).top1


def test_the_same_classes_in_another_order_are_refused(folder: Path, photos: PhotoSet) -> None:
    other = replace(photos, labels=(LABELS[1], LABELS[0], "a cat"))
    with pytest.raises(InputError, match=r"class 0 is disc in .*, English square in .*"):
        evaluate(folder, other)


def test_names_that_say_nothing_are_told(folder: Path, photos: PhotoSet) -> None:
    seen: list[events.Event] = []
    with events.listening(seen.append):
        evaluate(folder, replace(photos, labels=("a", "b", "c")), limit=2)
    assert any("they are taken in their order, a for disc" in str(event) for event in seen)
