"""`python -m edgecompress.cli`, as torchrun wants it."""

from .main import main

main()
