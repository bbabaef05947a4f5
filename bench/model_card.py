"""A shipped cascade's model card: what it is, how it was made, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import text
from .template import environment


def markdown(facts: Mapping[str, Any]) -> str:
    """README.md of a light cascade folder (`compress.comparing.shipping.ship` gives the facts)."""
    largest = max(facts["comparison"]["members"], default=0)
    led = facts["config"]["members"].get("teacher") == "largest" and largest > 1
    card = environment().get_template("model_card.md.j2")
    return card.render(facts=facts, networks=_rows(facts), led=led)


def _shape(spec: Mapping[str, Any]) -> str:
    inner = spec.get("inner", 1.0)
    sizes = text.shape(spec["depth"], spec["width"], spec["resolution"], inner)
    return f"{spec['family']}, {sizes}"


def _rows(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    base = facts["base"]["macs"]
    rates = iter(facts["cascade"]["hit_rates"])
    return [
        {
            "name": name,
            "shape": _shape(one["spec"]),
            "macs": f"{one['macs'] / 1e6:.1f} M ({text.percent(one['macs'] / base)})",
            "params": f"{one['params'] / 1e6:.2f} M",
            "answers": "-" if name == "predictor" else text.percent(next(rates)),
        }
        for name, one in facts["networks"].items()
    ]
