"""A client that says what it likes: frames and bytes, right or wrong."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import anyio

from ajit.kv.framing import FrameBuffer, framed
from ajit.kv.messages import VERSION, Hello, Open, Slabs, Welcome, decode_answer, encode
from ajit.kv.sockets import ENDED, connect_unix


class Raw:
    """A connection to a service."""

    def __init__(self, stream):
        self.stream = stream
        self.received = 0
        self._buffer, self._answers = FrameBuffer(), []

    async def say(self, *messages):
        """Send messages in one go."""
        await self.stream.send(b"".join(framed(encode(message)) for message in messages))

    async def hear(self):
        """The next answer that is not about slabs; their descriptors are dropped by the kernel."""
        while True:
            while not self._answers:
                data = await self.stream.receive(65536)
                self.received += len(data)
                self._answers += map(decode_answer, self._buffer.feed(data))
            answer = self._answers.pop(0)
            if not isinstance(answer, Slabs):
                return answer

    async def hears_the_end(self) -> bool:
        """Whether the service ends the connection; what it says before is dropped."""
        with anyio.move_on_after(30), suppress(*ENDED):
            while True:
                await self.hear()
        try:
            await self.stream.send(b"x")
            await self.stream.receive(1)
        except ENDED:
            return True
        return False

    async def opens(self, space, number=0):
        """Give a namespace a number."""
        await self.say(Open(10**6, number, space.digest, space.chunk_bytes))
        await self.hear()


@asynccontextmanager
async def raw_client(path, *, greets=True, retired=()):
    """Connect, and say hello."""
    raw = Raw(await connect_unix(path))
    try:
        if greets:
            await raw.say(Hello(VERSION, list(retired)))
            welcome = await raw.hear()
            assert isinstance(welcome, Welcome)
            raw.token = welcome.token
        yield raw
    finally:
        raw.stream.close()
