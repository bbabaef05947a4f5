"""Times of single operators, from the runtime's instrument (it has no profiler of its own)."""

from __future__ import annotations

import time
from typing import Any

from .measure import summary

_BOOKKEEPING = "vm.builtin."


class Profile:
    """Collects operator times over several runs of several networks.

    An operator's time ends when its kernel returns; each carries the few microseconds that the
    instrument itself takes, so their sum is more than a run takes without it.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._position: dict[str, int] = {}
        self._times: dict[tuple[str, int, str], list[float]] = {}

    def observe(self, network: str, operator: str, before: bool) -> None:
        """An operator of a network is about to run, or has run."""
        now = time.perf_counter()
        if operator.startswith(_BOOKKEEPING):
            if operator == "vm.builtin.check_tensor_info":  # every call of a network begins so
                self._position[network] = 0
            return
        if before:
            self._began = time.perf_counter()
            return
        position = self._position.get(network, 0)
        self._position[network] = position + 1
        key = (network, position, operator)
        self._times.setdefault(key, []).append((now - self._began) * 1e3)

    def result(self) -> "dict[str, list[dict[str, Any]]]":
        """For each network its operators in order: `name`, and the summary of its times in ms."""
        networks: dict[str, list[dict[str, Any]]] = {}
        for network, position, operator in sorted(self._times):
            times = self._times[network, position, operator]
            networks.setdefault(network, []).append({"name": operator, **summary(times)})
        return networks
