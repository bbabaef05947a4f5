"""What arm64 code costs where there is no board: executed instructions and estimated cycles.

Never time: under emulation time says nothing about a board (docs/kernels.md).
"""

from .count import Counts, counted, instructions, why_not
from .cycles import CORES, Cost, cost, shown_cores

__all__ = ["CORES", "Cost", "Counts", "cost", "counted", "instructions", "shown_cores", "why_not"]
