"""Compiled networks, called through the few files of the TVM runtime that a bundle carries."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .bundle import Bundle
from .errors import RunnerError
from .manifest import library

_POOLED_ALLOCATOR = 2  # of the runtime's allocators the one that reuses memory
_CPU = 1  # DLPack's kDLCPU
_ONE_CPU_EACH = -2  # the thread pool's kSpecifyOneCorePerThread
_GO_ON = 0  # an instrument's answer: run the call as it is


class Engine:
    """The networks of a bundle: `engine(name, tensor)` runs one.

    Inputs and outputs are copied to and from tensors that the runtime allocates: these are aligned
    as the compiled vector code expects, numpy's own arrays need not be; and this way it works with
    numpy versions that know no DLPack (before 1.22).
    """

    def __init__(self, bundle: Bundle, threads: int, cpus: Sequence[int]) -> None:
        """Load the runtime and all networks.

        Args:
            bundle: checked; nothing of it has run before.
            threads: CPU threads of the compiled code.
            cpus: that they run on.

        Raises:
            RunnerError: (`runtime`) the runtime cannot be loaded; (`model`) a network cannot.
        """
        start = time.perf_counter()
        self._ffi = _load_runtime(bundle.folder / "runtime", threads)
        get = self._ffi.get_global_func
        # By itself the pool takes the CPUs of the highest clock, and no more threads than these.
        get("runtime.config_threadpool")(_ONE_CPU_EACH, threads, [str(cpu) for cpu in cpus])
        self._allocate = get("runtime.TVMTensorAllocWithScope")
        self._copy_in = get("runtime.TVMTensorCopyFromBytes")
        self._copy_out = get("runtime.TVMTensorCopyToBytes")
        self._machines: dict[str, Any] = {}
        self._inputs: dict[tuple[int, ...], Any] = {}
        for name in bundle.manifest.cascade.networks:
            self._machines[name] = self._load(bundle.folder / library(name), name)
        self.load_ms = (time.perf_counter() - start) * 1e3

    def _load(self, path: Path, name: str) -> Any:
        try:
            machine = self._ffi.load_module(str(path))["vm_load_executable"]()
            machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
            machine["main"]
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise RunnerError(
                "model",
                f"cannot load network '{name}': {_first_line(error)}",
                "build the bundle again: edgecompress compile",
            ) from error
        return machine

    def __call__(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Run a network on one photo.

        Args:
            tensor: uint8 `[1, r, r, 3]`, contiguous.

        Returns:
            float32 `[1, k]`.

        Raises:
            RunnerError: (`model`) the network takes or gives something else.
        """
        try:
            output = self._machines[name]["main"](self._input(tensor))
            shape = tuple(int(side) for side in output.shape)
            if str(output.dtype) != "float32":
                raise TypeError(f"it gives {output.dtype}, not float32")
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise RunnerError(
                "model",
                f"network '{name}' failed: {_first_line(error)}",
                "build the bundle again: edgecompress compile",
            ) from error
        result = np.empty(shape, np.float32)
        self._copy_out(output, ctypes.c_void_p(result.ctypes.data), result.nbytes)
        return result

    def _input(self, tensor: np.ndarray) -> Any:
        tensor = np.ascontiguousarray(tensor, np.uint8)
        if tensor.shape not in self._inputs:
            self._inputs[tensor.shape] = self._allocate(
                self._ffi.Shape(tensor.shape),
                self._ffi.dtype("uint8"),
                self._ffi.device("cpu", 0),
                None,
            )
        target = self._inputs[tensor.shape]
        self._copy_in(target, ctypes.c_void_p(tensor.ctypes.data), tensor.nbytes)
        return target

    def instrument(self, observe: Callable[[str, str, bool], None]) -> Optional[str]:
        """Call `observe(network, operator, before)` round every operator from now on.

        Returns:
            None, or why this runtime cannot do it.
        """
        for name, machine in self._machines.items():

            def callback(
                _function: Any, operator: str, before: bool, *_: Any, network: str = name
            ) -> int:
                observe(network, operator, before)
                return _GO_ON

            try:
                machine["set_instrument"](self._ffi.convert(callback))
            except (AttributeError, RuntimeError, TypeError) as error:
                return f"the runtime takes no instrument: {_first_line(error)}"
        return None


def _load_runtime(folder: Path, threads: int) -> Any:
    # Read once, when the thread pool starts. It binds each thread to a CPU unless told otherwise.
    os.environ["TVM_NUM_THREADS"] = str(threads)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        import tvm_ffi

        ctypes.CDLL(str(folder / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError, RuntimeError) as error:
        raise RunnerError(
            "runtime",
            f"cannot load the TVM runtime: {_first_line(error)}",
            "check the board: edgecompress doctor --board NAME",
        ) from error
    return tvm_ffi


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
