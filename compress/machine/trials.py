"""Trials side by side: one `map_trials` over processes of this machine, or a Ray cluster.

A local worker is a spawned process at one end of a pipe. Over it come its progress events, which
are told here as if they had happened here, and its results. One that dies takes no other with it:
it is started anew and its trial tried once more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import takewhile
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from edgecompress import events
from edgecompress.errors import EdgeCompressError, UsageError

from ..choices import DEVICE

T = TypeVar("T")
R = TypeVar("R")

THREADS_EACH = 4
"""A training gains little from more CPU threads than these: further cores take further trials."""


@dataclass(frozen=True)
class Pool:
    """Where trials run.

    Attributes:
        workers: how many at a time; 1 is this process itself.
        threads: CPU threads of each, where `workers` is above 1.
        gpus: CUDA devices, one worker has one of them; empty: none.
        ray: on a Ray cluster, which decides by itself how many run at a time.
    """

    workers: int = 1
    threads: int = 1
    gpus: tuple[str, ...] = ()
    ray: bool = False


def find_pool(wanted: Literal["auto", "ray"] | int) -> Pool:
    """The pool that a job asks for, on this machine.

    `auto` takes one process a GPU, or one for every four cores. Threads are divided among them.
    """
    cores = len(os.sched_getaffinity(0))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return Pool()  # torchrun has divided the machine already
    gpus = _gpus()
    if wanted == "ray":
        return Pool(threads=min(THREADS_EACH, cores), gpus=gpus, ray=True)
    workers = (len(gpus) or max(1, cores // THREADS_EACH)) if wanted == "auto" else wanted
    return Pool(workers, max(1, cores // workers), gpus)


def _gpus() -> tuple[str, ...]:
    """The CUDA devices to compute on, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        seen = [str(number) for number in range(torch.cuda.device_count())]
    else:  # CUDA takes no notice of what follows a name that is none, such as -1
        names = [one.strip() for one in named.split(",")]
        seen = list(takewhile(lambda one: one and not one.startswith("-"), names))
    kind, _, number = os.environ.get(DEVICE, "").partition(":")
    if kind == "cpu":
        return ()
    return tuple(seen[int(number) :][:1] if number.isdigit() else seen)


def map_trials(
    function: Callable[[T], R], items: Sequence[T], pool: Pool, label: str = "trials"
) -> list[R]:
    """`[function(item) for item in items]`, where the pool says.

    Args:
        function: of a module, so that another process finds it; item and result can be pickled.
        label: of the progress shown, one step an item.

    Raises:
        EdgeCompressError: what the function raised, in the first item that failed; or a worker was
            lost twice with the same item.
    """
    if not items:
        return []
    with events.task(label, len(items)) as shown:
        started = time.monotonic()

        def told(done: int) -> None:
            left = (time.monotonic() - started) / done * (len(items) - done)
            shown.update(done, f"{_clock(left)} left" if done < len(items) else "")

        if pool.ray:
            return _on_ray(function, items, pool, told)
        if pool.workers <= 1 or len(items) == 1:
            results = []
            for item in items:
                results.append(function(item))
                told(len(results))
            return results
        return _side_by_side(function, items, pool, told)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _side_by_side(
    function: Callable[[T], R], items: Sequence[T], pool: Pool, told: Callable[[int], None]
) -> list[R]:
    count = min(pool.workers, len(items))
    gpus = [pool.gpus[n % len(pool.gpus)] if pool.gpus else None for n in range(count)]
    workers = [_Worker(pool.threads, gpu) for gpu in gpus]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def one(item: T) -> R:
        worker = idle.get()
        try:
            return worker.ask(function, item)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(one, item) for item in items]
        try:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                told(len(items) - len(waiting))
            return [future.result() for future in futures]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.end()


class _LostError(Exception):
    """A worker's process ended by itself; the text says how."""


class _Worker:
    """One process that trials run in, one after the other; started with the first of them."""

    def __init__(self, threads: int, gpu: str | None) -> None:
        self._threads = threads
        self._gpu = gpu
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Any = None
        self._ended = False
        self._lock = threading.Lock()  # between who starts a process and who ends it for good

    def ask(self, function: Callable[[Any], R], item: Any) -> R:
        """The function of the item, computed there.

        Raises:
            EdgeCompressError: the process was lost twice.
        """
        for again in (True, False):
            try:
                return self._try(function, item)
            except _LostError as lost:
                self._stop()
                if self._ended or not again:
                    raise EdgeCompressError(
                        f"a trial's process ended twice: {lost}",
                        "give it more memory, or fewer `workers`",
                    ) from None
                events.warn(f"a trial's process ended ({lost}): the trial is tried again")
        raise AssertionError

    def end(self) -> None:
        """End the process for good, also while another thread waits for it."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()
        self._stop()

    def _try(self, function: Callable[[Any], R], item: Any) -> R:
        try:
            connection = self._started()
            connection.send((function, item))
            while True:
                kind, value = connection.recv()
                if kind == "event":
                    events.emit(value)
                elif kind == "done":
                    return value
                else:
                    raise value
        except (EOFError, ConnectionError):
            raise _LostError(self._how_it_ended()) from None

    def _started(self) -> Any:
        with self._lock:
            if self._ended:
                raise EOFError
            if self._connection is None:
                self._connection, theirs = self._context.Pipe()
                arguments = (theirs, self._threads, self._gpu)
                self._process = self._context.Process(target=_serve, args=arguments, daemon=True)
                self._process.start()
                theirs.close()  # or its end would never be seen
            return self._connection

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "it was stopped"
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            short = ": was there too little memory?" * (-code == signal.SIGKILL)
            return f"killed by {signal.Signals(-code).name}{short}"
        return f"exit status {code}"

    def _stop(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.join()
            if self._connection is not None:
                self._connection.close()
            self._process = self._connection = None


def _serve(connection: Any, threads: int, gpu: str | None) -> None:
    """What a worker does until nobody asks any more. Runs in a process of its own."""
    # Ctrl-C reaches the whole group: who asked ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sending = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with sending:
            connection.send((kind, value))

    with contextlib.suppress(EOFError, ConnectionError):
        prepare(threads, gpu)
        with events.listening(lambda event: send("event", event)):
            while True:
                function, item = connection.recv()
                send(*_answer(function, item))


def _end_with_parent() -> None:
    """A parent that was killed leaves nobody to ask, and a trial may take hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(function: Callable[[Any], Any], item: Any) -> tuple[str, Any]:
    try:
        return "done", function(item)
    except ConnectionError:
        raise  # nobody is there to be told
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return "failed", error


def prepare(threads: int, gpu: str | None) -> None:
    """Make this process a worker: its threads, and the only CUDA device that it sees."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        os.environ.pop(DEVICE, None)  # the number that it may name is another now
    # PyTorch reads them when it is imported, which the first trial does.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _on_ray(
    function: Callable[[T], R], items: Sequence[T], pool: Pool, told: Callable[[int], None]
) -> list[R]:
    """Over a Ray cluster: the one that RAY_ADDRESS names, or one of this machine alone."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            'workers = "ray" needs the package ray', "pip install 'edgecompress[ray]'"
        ) from None
    with _cluster(ray):
        resources = ray.cluster_resources()
        cpus = min(pool.threads, int(resources.get("CPU", 1)))
        task = ray.remote(_ray_task).options(
            num_cpus=cpus,
            num_gpus=1 if resources.get("GPU") else 0,
            max_retries=1,
            retry_exceptions=False,
        )
        references = [task.remote(function, item, cpus) for item in items]
        waiting = list(references)
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
                told(len(items) - len(waiting))
            return ray.get(references)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EdgeCompressError(
                f"Ray lost a trial: {first}", "ray status shows the cluster's machines"
            ) from error
        finally:
            for one in waiting:
                ray.cancel(one, force=True)


@contextlib.contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """A connection to the cluster; one that was there already stays."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no error type of its own for this
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"no Ray cluster at {address or 'this machine'}: {first}",
            "ray start --head starts one; RAY_ADDRESS says where it is",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray_task(function: Callable[[T], R], item: T, threads: int) -> R:
    prepare(threads, None)
    return function(item)
