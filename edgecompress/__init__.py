"""Compress a PyTorch image classifier and run it, measured, on an ARM board."""

__version__ = "0.1.0"
