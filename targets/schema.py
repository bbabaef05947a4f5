"""Strict reading of TOML files: unknown keys are refused, and errors name file and key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgecompress.errors import InputError

M = TypeVar("M", bound="Strict")


class Strict(BaseModel):
    """A schema that takes no key it does not know and converts no type silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def read_toml(path: Path, schema: type[M], what: str, hint: str = "") -> M:
    """Read and validate a TOML file.

    Args:
        what: what the file is ("board file"), for the message.
        hint: what to do when it is refused; by default to mend the key that is named.

    Raises:
        InputError: the file is missing, is no TOML, or has a key or value that the schema refuses;
            the message names the file and the first wrong key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no such {what}: {path}", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {what} {path}: {error}", hint) from error
    return parse_toml(text, schema, f"{what} {path}", hint)


def parse_toml(text: str, schema: type[M], where: str, hint: str = "") -> M:
    """Validate the text of a TOML file; `where` begins the message. Raises as `read_toml`."""
    try:
        return schema.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{where}: {key}: {message}", hint or f"mend or remove '{key}' in that file"
        ) from error
    # Numbers of thousands of digits and deep nesting end in errors that are not TOML's own.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not TOML: {error}", hint) from error
