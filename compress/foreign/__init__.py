"""Any `nn.Module` of the user's as a family: `family = "module:package.models:make"`."""

from .anatomy import Capabilities, capabilities
from .network import Foreign, foreign_family, require_maps

__all__ = ["Capabilities", "Foreign", "capabilities", "foreign_family", "require_maps"]
