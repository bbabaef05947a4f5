"""Channels taken out of a trained network: rankings, and budgets in MACs.

Torch-Pruning takes seconds to import, so nothing is imported here.
"""
