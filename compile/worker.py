"""A process that runs functions for us and can be killed: the only deadline that always holds.

TVM's RPC client and LLVM's code generator block in native code, where neither a signal handler
nor a thread of the same process gets a turn. So each runs in a worker, and a worker that does not
answer in time is killed.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerLostError(Exception):
    """The worker did not answer in time and was killed, or died on its own. Says which and why."""


class Worker:
    """One process, started by the first call and started anew after each loss.

    It ends when this process ends, however that happens.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)

    def call(
        self, function: Callable[P, T], deadline_s: float, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(*args, **kwargs)` in the worker.

        The function must be importable by its name; arguments and result travel pickled.

        Raises:
            WorkerLostError: no answer within `deadline_s` seconds, or the process died.
            Exception: what the function raised.
        """
        pipe = self._start()
        try:
            pipe.send_bytes(pickle.dumps((function, args, kwargs)))
            if not pipe.poll(deadline_s):
                raise WorkerLostError(f"no answer within {deadline_s:.0f} s")
            done, value = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            raise WorkerLostError(self._cause_of_death()) from None
        except WorkerLostError:
            self.kill()
            raise
        if not done:
            raise value
        return value

    def kill(self) -> None:
        """End the process at once. The next call starts another."""
        if self._process is None or self._pipe is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        # Last, so that a call in another thread sees the process's end and not a closed pipe.
        self._pipe.close()

    def _start(self) -> Connection:
        if self._process is not None and self._pipe is not None:
            return self._pipe
        ours, theirs = (end.detach() for end in socket.socketpair())
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(theirs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(theirs,),
        )
        os.close(theirs)
        self._pipe = Connection(ours)
        return self._pipe

    def _cause_of_death(self) -> str:
        process = self._process
        self.kill()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        code = process.returncode if process is not None else None
        return f"the worker process died ({said[-1] if said else f'exit code {code}'})"


def _serve(descriptor: int) -> None:
    """The worker's side: answer calls until the other side is gone."""
    # TVM imports torch where it is installed: 2 of its 2.5 s, and nothing here needs it.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    pipe = Connection(descriptor)
    requests: list[bytes] = []
    arrived = threading.Condition()

    def listen() -> None:
        # In a thread of its own, so that the end of the parent is seen during a long call.
        while True:
            try:
                request = pipe.recv_bytes()
            except (EOFError, OSError):
                os._exit(0)
            with arrived:
                requests.append(request)
                arrived.notify()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        with arrived:
            arrived.wait_for(lambda: requests)
            request = requests.pop()
        try:
            function, args, kwargs = pickle.loads(request)
            answer: tuple[bool, Any] = (True, function(*args, **kwargs))
        except Exception as error:
            answer = (False, error)
        pipe.send_bytes(_pickled(answer))


def _pickled(answer: tuple[bool, Any]) -> bytes:
    try:
        content = pickle.dumps(answer)
        pickle.loads(content)  # exceptions may pickle and yet not come back
    except Exception:
        return pickle.dumps((False, RuntimeError(str(answer[1]))))
    return content


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
