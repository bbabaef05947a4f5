"""A link between this machine and a board that can be cut, slowed and delayed: a TCP relay.

`python link.py PORT` forwards a free port of 127.0.0.1, which it prints, to PORT. It obeys lines on
its standard input, each of which replaces the one before it:

    pass              as a good network does
    cut               nothing goes through, and nobody is told: a cable that was pulled
    delay SECONDS     each byte arrives so much later
    rate BYTES        so many bytes a second, in each direction
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque

CHUNK = 16384


class Link:
    """What the cable does now."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay = 0.0
        self.rate = 0.0

    def obey(self, line: str) -> None:
        """Follow one line of the standard input."""
        word, _, value = line.strip().partition(" ")
        self.delay = float(value) if word == "delay" else 0.0
        self.rate = float(value) if word == "rate" else 0.0
        if word == "cut":
            self.open.clear()
        else:
            self.open.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction of one connection."""
        waiting: deque[tuple[float, bytes]] = deque()
        arrived = asyncio.Event()
        clock = asyncio.get_running_loop().time

        async def receive() -> None:
            with contextlib.suppress(OSError):  # a reset is an end as well
                while data := await reader.read(CHUNK):
                    waiting.append((clock(), data))
                    arrived.set()
                    while len(waiting) > 64:  # what a network holds in its buffers
                        await asyncio.sleep(0.01)
            waiting.append((clock(), b""))
            arrived.set()

        receiving = asyncio.create_task(receive())
        try:
            while True:
                while not waiting:
                    arrived.clear()
                    await arrived.wait()
                sent, data = waiting.popleft()
                await asyncio.sleep(max(0.0, sent + self.delay - clock()))
                await self.open.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
        except OSError:
            return
        finally:
            receiving.cancel()
            with contextlib.suppress(OSError):
                writer.close()


async def main(port: int) -> None:
    """Relay until the standard input ends."""
    link = Link()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await link.open.wait()
        try:
            there, board = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(link.pump(reader, board), link.pump(there, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        link.obey(line.decode())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
