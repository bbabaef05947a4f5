"""Cascades: thresholds, how one is chosen and judged, and the folder that it becomes."""
