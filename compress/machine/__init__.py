"""Processors and processes: devices, one training in several processes, trials side by side."""
