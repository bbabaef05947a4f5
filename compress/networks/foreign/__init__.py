"""Any `nn.Module` of the user's as a family: `family = "module:package.models:make"`."""

from .anatomy import Capabilities, capabilities
from .network import Foreign, foreign_family, require_maps
from .source import is_foreign

__all__ = [
    "Capabilities",
    "Foreign",
    "capabilities",
    "foreign_family",
    "is_foreign",
    "require_maps",
]
