"""Where a foreign network comes from: a callable that the user's job names.

The user's code runs: it is imported only where a job of theirs names it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgecompress.errors import UsageError

PREFIX = "module:"
FOLDERS = "EDGECOMPRESS_MODULES"
"""Environment variable: folders that modules are looked for in, before Python's own. It reaches the
processes that a job starts."""

_FORM = 'write family = "module:package.models:make", where make(classes) gives an nn.Module'


def is_foreign(family: str) -> bool:
    """Whether a family's name names the user's own code."""
    return family.startswith(PREFIX)


def look_in(folder: Path) -> None:
    """Let modules be found in a folder (a job file's), here and in processes started from here."""
    told = os.environ.get(FOLDERS, "").split(os.pathsep)
    wanted = str(folder.resolve())
    if wanted not in told:
        os.environ[FOLDERS] = os.pathsep.join([wanted, *filter(None, told)])


def find_maker(family: str) -> Callable[[int], nn.Module]:
    """The callable that `module:package.models:make` names.

    Raises:
        UsageError: the name is not of that form, or cannot be imported.
    """
    module, _, name = family.removeprefix(PREFIX).partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise UsageError(f"'{family}' names no callable in a module", _FORM)
    _let_import(module)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        hint = f"put {module.split('.')[0]}.py beside the job file, or into {FOLDERS}"
        raise UsageError(f"{family}: {error}", hint) from None
    except Exception as error:  # importing runs the user's code
        raise UsageError(f"{family}: {_told(error)}", _FORM) from error
    if not callable(found):
        raise UsageError(f"{family} is {type(found).__name__}, not a callable", _FORM)
    return cast("Callable[[int], nn.Module]", found)


def made(family: str, classes: int) -> nn.Module:
    """A fresh network of the user's.

    Raises:
        UsageError: it cannot be made, or is no `nn.Module`.
    """
    make = find_maker(family)
    try:
        module = make(classes)
    except Exception as error:  # the user's code
        raise UsageError(f"{family}({classes}): {_told(error)}", _FORM) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{family}({classes}) gives {type(module).__name__}", _FORM)
    return module


def short_name(family: str) -> str:
    """A family's name as part of a cascade's: a callable's own, plain and of at most 48 letters.

    Modules lie at any depth, and Python's names may have any letters; a cascade's may not.
    """
    if not is_foreign(family):
        return family
    plain = re.sub(r"[^A-Za-z0-9._-]", "", family.rpartition(":")[2]).lstrip("._-")
    return plain[:48] or "own"


def _let_import(module: str) -> None:
    top = module.partition(".")[0]
    for folder in reversed(os.environ.get(FOLDERS, "").split(os.pathsep)):
        here = Path(folder) / top
        there = here.is_dir() or here.with_suffix(".py").exists()
        if folder and folder not in sys.path and there:
            sys.path.insert(0, folder)
            importlib.invalidate_caches()


def _told(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}".rstrip(": ")
