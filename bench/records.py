"""Parts of a compression.json, read as untrusted: a report leaves out what is unsound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

MANY = 1e15
"""No number of a sound record is this large."""

Share = Annotated[float, Field(ge=0, le=1)]

T = TypeVar("T", bound=BaseModel)


def sound(kind: type[T], value: Any) -> T | None:
    """A part of the record; None where it is missing, damaged, or of another version."""
    if not isinstance(value, Mapping):
        return None
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None
