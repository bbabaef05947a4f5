"""Runs a compiled network and writes what each kernel wrote. Run by a virtual board's Python.

    kernels_program.py FOLDER

FOLDER holds `ours.so`, the runtime's files and `image.npy`; `written.npz` comes out, an array for
each kernel in order, named by its number and itself.
"""

import ctypes
import importlib
import os
import sys
from pathlib import Path

import numpy as np


def main():
    """See the module."""
    folder = Path(sys.argv[1])
    os.environ["TVM_NUM_THREADS"] = "1"
    sys.path.insert(0, str(folder / "runtime"))
    tvm_ffi = importlib.import_module("tvm_ffi")
    ctypes.CDLL(str(folder / "runtime/libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    machine = tvm_ffi.load_module(str(folder / "ours.so"))["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    image = np.load(folder / "image.npy")
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    copy = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
    cpu, dtype = tvm_ffi.device("cpu", 0), tvm_ffi.dtype("uint8")
    tensor = allocate(tvm_ffi.Shape(image.shape), dtype, cpu, None)
    copy(tensor, ctypes.c_void_p(image.ctypes.data), image.nbytes)
    written = {}

    def observe(_function, kernel, before, _result, *arguments):
        if not before and not kernel.startswith("vm.builtin."):
            written[f"{len(written):03} {kernel}"] = np.from_dlpack(arguments[-1]).copy()
        return 0

    machine["set_instrument"](tvm_ffi.convert(observe))
    machine["main"](tensor)
    np.savez(folder / "written.npz", **written)


if __name__ == "__main__":
    main()
