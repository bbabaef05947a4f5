"""Compound shrinking: trials, the law that follows from them, and the local search."""
