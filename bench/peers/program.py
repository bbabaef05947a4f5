"""One engine behind a pipe. Run as a script, by this machine's Python or, counted, by the virtual
board's: standard library, numpy and the engine only.

    program.py ENGINE FOLDER THREADS serve     each line of stdin is a number of runs; their times
    program.py ENGINE FOLDER THREADS count     one run between two marks
    program.py edgecompress FOLDER THREADS time-kernels | count-kernels

FOLDER holds the model in the engine's own format, `input.npy` (float32 `[1, 3, r, r]`) and
`image.npy` (uint8 `[1, r, r, 3]`). The first line out is the output, as a JSON list.
"""

import ctypes
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

MARK = 0x7EC0


def compiled(folder, threads, name="edgecompress"):
    """The compiled network NAME.so, with the files of the TVM runtime that a bundle carries.

    Returns:
        `tvm_ffi`, the loaded machine, and its input.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    sys.path.insert(0, str(folder / "runtime"))
    tvm_ffi = importlib.import_module("tvm_ffi")
    ctypes.CDLL(str(folder / "runtime/libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    machine = tvm_ffi.load_module(str(folder / f"{name}.so"))["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    image = np.load(folder / "image.npy")
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    copy = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
    tensor = allocate(
        tvm_ffi.Shape(image.shape), tvm_ffi.dtype("uint8"), tvm_ffi.device("cpu", 0), None
    )
    copy(tensor, ctypes.c_void_p(image.ctypes.data), image.nbytes)
    return tvm_ffi, machine, tensor


def ours(name):
    """Our own compiled network, in one of its precisions."""

    def engine(folder, threads):
        _, machine, tensor = compiled(folder, threads, name)
        return lambda: np.from_dlpack(machine["main"](tensor))

    return engine


def each_kernel(folder, threads, before, after):
    """A run of our network with a call before and after each kernel; `after` gets its name."""
    tvm_ffi, machine, tensor = compiled(folder, threads)

    def observe(_function, kernel, is_before, *_):
        if not kernel.startswith("vm.builtin."):
            before() if is_before else after(kernel)
        return 0

    machine["main"](tensor)
    machine["set_instrument"](tvm_ffi.convert(observe))
    return lambda: machine["main"](tensor)


def time_kernels(folder, threads):
    """Name and median seconds of each kernel, in order, over a second of runs."""
    began, times = [0.0], []

    def before():
        began[0] = time.perf_counter()

    def after(kernel):
        times[-1].append((kernel, time.perf_counter() - began[0]))

    run = each_kernel(folder, threads, before, after)
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < 1:
        times.append([])
        run()
    names = [kernel for kernel, _ in times[0]]
    medians = np.median([[seconds for _, seconds in one] for one in times], axis=0)
    return [list(pair) for pair in zip(names, medians.tolist(), strict=True)]


def count_kernels(folder, threads):
    """The kernels' names in order; the marks' labels count them from 1."""
    libc, names = ctypes.CDLL(None), []

    def after(kernel):
        names.append(kernel)
        libc.syscall(MARK, len(names))

    each_kernel(folder, threads, lambda: libc.syscall(MARK, 0), after)()
    return names


def onnxruntime(folder, threads):
    """ONNX Runtime, sequential, all graph optimisations."""
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: np.load(folder / "input.npy")}
    return lambda: session.run(None, feed)[0]


def ncnn_float16(folder, threads):
    """ncnn in half precision, as it runs by itself where the processor has it."""
    return ncnn(folder, threads, half=True)


def ncnn(folder, threads, half=False):
    """ncnn in float32: its half-precision storage is off, Winograd and the rest are on."""
    engine = importlib.import_module("ncnn")
    net = engine.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = False
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))
    # Made from an array, a Mat only points at its memory: the array has to live until the copy.
    array = np.load(folder / "input.npy")[0]
    given = engine.Mat(array).clone()

    def run():
        extractor = net.create_extractor()
        extractor.input("in0", given)
        # The array only looks into the Mat, whose memory goes when the extractor does.
        _, output = extractor.extract("out0")
        return np.array(output).copy()

    return run


def mnn(folder, threads):
    """MNN in float32 ("high" precision), on its CPU backend."""
    MNN = importlib.import_module("MNN")
    engine = MNN.Interpreter(str(folder / "model.mnn"))
    session = engine.createSession({"backend": "CPU", "precision": "high", "numThread": threads})
    given = engine.getSessionInput(session)
    array = np.load(folder / "input.npy")
    host = MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe)
    given.copyFrom(host)
    output = engine.getSessionOutput(session)
    shape = output.getShape()
    size = int(np.prod(shape))

    def run():
        given.copyFrom(host)
        engine.runSession(session)
        back = MNN.Tensor(
            shape,
            MNN.Halide_Type_Float,
            np.zeros(size, np.float32).reshape(shape),
            MNN.Tensor_DimensionType_Caffe,
        )
        output.copyToHostTensor(back)
        return np.array(back.getData())

    return run


def litert(folder, threads):
    """LiteRT with XNNPACK, its default."""
    interpreter = importlib.import_module("ai_edge_litert.interpreter")
    engine = interpreter.Interpreter(model_path=str(folder / "model.tflite"), num_threads=threads)
    engine.allocate_tensors()
    given, output = engine.get_input_details()[0], engine.get_output_details()[0]
    array = np.load(folder / "input.npy")
    if given["shape"][-1] == 3:
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def run():
        engine.set_tensor(given["index"], array)
        engine.invoke()
        return engine.get_tensor(output["index"])

    return run


ENGINES = {
    "edgecompress": ours("edgecompress"),
    "edgecompress-float16": ours("edgecompress-float16"),
    "edgecompress-int8": ours("edgecompress-int8"),
    "onnxruntime": onnxruntime,
    "ncnn": ncnn,
    "ncnn-float16": ncnn_float16,
    "mnn": mnn,
    "litert": litert,
}

KERNELS = {"time-kernels": time_kernels, "count-kernels": count_kernels}


def main():
    """See the module."""
    # What finds torch imports it: seconds, for nothing.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    engine, folder, threads, mode = sys.argv[1:]
    if mode in KERNELS:
        say(KERNELS[mode](Path(folder), int(threads)))
        return
    run = ENGINES[engine](Path(folder), int(threads))
    output = np.asarray(run(), np.float64).reshape(-1)
    say(output.tolist())
    if mode == "count":
        libc = ctypes.CDLL(None)
        libc.syscall(MARK, 0)
        run()
        libc.syscall(MARK, 1)
        return
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        say(times)


def say(value):
    """One JSON line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
