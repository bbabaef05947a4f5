"""Shrinkable network families: depth, width and resolution are arguments of each."""

from . import efficientnet, mobilenet, predictor, regnet, resnet
from .registry import Family, Network, family_names, find_family

__all__ = [
    "Family",
    "Network",
    "efficientnet",
    "family_names",
    "find_family",
    "mobilenet",
    "predictor",
    "regnet",
    "resnet",
]
