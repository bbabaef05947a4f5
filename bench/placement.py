"""Which CPUs of a board belong to a cluster, found out on the board itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from edgecompress.errors import BoardError

from ..compile.bundle import clusters
from ..rpc.session import Session
from ..runner import cpus
from ..runner.cpus import Placement
from ..targets import ClusterName
from .deploy import PYTHON

_ASK_S = 60.0


def placement(session: Session, cluster: ClusterName) -> Placement:
    """The CPUs of a cluster of a session's board.

    Raises:
        BoardError: the board has no Python 3, or its answer makes no sense.
    """
    described = json.dumps([asdict(one) for one in clusters(session.board)])
    # The runner's own file: both choose alike, and nothing has to be on the board yet.
    argv = [PYTHON, "-c", Path(cpus.__file__).read_text(), described, cluster]
    done = session.run(argv, timeout=_ASK_S, cwd=session.workdir)
    done.check(f"'{session.name}' does not tell its CPUs")
    try:
        told = json.loads(done.stdout)
        numbers = tuple(sorted(int(cpu) for cpu in told["cpus"]))
        found = Placement(
            cluster, numbers, str(told["core"]), str(told["found_by"]), int(told["available"])
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise BoardError(f"'{session.name}' gave an answer that makes no sense: {error}") from error
    if not found.cpus:
        raise BoardError(f"'{session.name}' says that it has no CPUs")
    return found
