"""Runs compiled kernels, each once between two marks. Run by the virtual board's Python, counted:
standard library and the TVM runtime only.

    kernel_server.py RUNTIME

RUNTIME is a folder with the runtime's files. Each line in is a JSON list of a library's path and
its arguments, each [shape, dtype]; the line out for it is {"failure": ...}, empty where it ran. A
kernel that crashes ends the process.
"""

import array
import ctypes
import gc
import importlib
import json
import math
import os
import sys

MARK = 0x7EC0
LABEL = 1
# Away from zero, where multiplications may take another path: threes.
VALUES = {
    "float32": ("f", 3),
    "float16": ("H", 0x4200),
    "int8": ("b", 3),
    "uint8": ("B", 3),
    "int16": ("h", 3),
    "uint16": ("H", 3),
    "int32": ("i", 3),
    "uint32": ("I", 3),
}


class Server:
    """The runtime, and the arguments of the last kernel: candidates of one follow each other."""

    def __init__(self, runtime):
        sys.path.insert(0, runtime)
        self.ffi = importlib.import_module("tvm_ffi")
        ctypes.CDLL(f"{runtime}/libtvm_runtime.so", ctypes.RTLD_GLOBAL)
        self.allocate = self.ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self.copy = self.ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self.libc = ctypes.CDLL(None)
        self.arguments, self.tensors = None, []

    def run(self, library, arguments):
        """Run the function `main` of a library: once to warm up, once between marks."""
        if arguments != self.arguments:
            self.arguments, self.tensors = None, []  # free them before their successors are made
            self.tensors = [self.tensor(*argument) for argument in arguments]
            self.arguments = arguments
        kernel = self.ffi.load_module(library)["main"]
        kernel(*self.tensors)
        self.libc.syscall(MARK, 0)
        kernel(*self.tensors)
        self.libc.syscall(MARK, LABEL)

    def tensor(self, shape, dtype):
        """A tensor full of threes."""
        code, value = VALUES[dtype]
        values = array.array(code, [value]) * math.prod(shape)
        device = self.ffi.device("cpu", 0)
        tensor = self.allocate(self.ffi.Shape(shape), self.ffi.dtype(dtype), device, None)
        address, _ = values.buffer_info()
        self.copy(tensor, ctypes.c_void_p(address), len(values) * values.itemsize)
        return tensor


def main():
    """See the module."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    server = Server(sys.argv[1])
    gc.disable()  # or it would run between marks
    for line in sys.stdin:
        failure = ""
        try:
            server.run(*json.loads(line))
        except Exception as error:  # of TVM's own classes, too
            failure = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        gc.collect()
        answers.write(json.dumps({"failure": failure}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
