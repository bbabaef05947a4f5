"""The report's section on other engines, out of peers.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .schema import PeerNetwork, Peers
from .sections import Missing

REFERENCE = "onnxruntime"
OURS = "edgecompress"


def peers_facts(document: dict[str, Any] | None, missing: Missing) -> Peers | None:
    """What peers.json says; None where no engines were compared."""
    if document is None:
        return None
    facts = Peers(**document)
    if any(network.macs is None for network in facts.networks):
        missing["peers.networks.macs"] = "the network was not compared"
    missing["peers.networks.rows"] = (
        "an engine without numbers says why in its row; time is measured on this machine only,"
        " instructions and cycles on virtual boards only; outputs that are not finite, or zeros"
        " alone, have no difference"
    )
    return facts


@dataclass(frozen=True)
class Bar:
    """One engine on one network, as the page draws it.

    Attributes:
        share: its time or cycles against ONNX Runtime's (ours, where that has none); less is
            better.
    """

    network: str
    title: str
    ours: bool
    share: float


def bars(peers: Peers) -> list[Bar]:
    """The engines that have numbers, network by network."""
    return [bar for network in peers.networks for bar in _bars(network, peers)]


def _bars(network: PeerNetwork, peers: Peers) -> list[Bar]:
    costs = {
        row.engine: row.ms if peers.measured == "time" else row.cycles.get(cycles_of(peers))
        for row in network.rows
    }
    base = costs.get(REFERENCE) or costs.get(OURS)
    if not base:
        return []
    found = []
    for row in network.rows:
        cost = costs[row.engine]
        if cost:
            share = row.ratio[0] if row.ratio else cost / base
            found.append(Bar(network.network, row.title, row.engine == OURS, share))
    return found


def cycles_of(peers: Peers) -> str:
    """The core whose cycles are shown: the board's own, or the first that there is a model of."""
    rows = [row for network in peers.networks for row in network.rows]
    if any(peers.core in row.cycles for row in rows):
        return peers.core
    return next((core for row in rows for core in row.cycles), peers.core)
