"""The part that runs on the board: bundle reading, preprocessing, cascade, measurement.

Standard library, numpy, pillow and tvm_ffi only; Python 3.9 and newer; imports nothing else of the
project, and is copied to the board as it is.
"""
