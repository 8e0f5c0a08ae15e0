"""Thousands of clients, in processes of their own, each from addresses of its own.

A `Crowd` runs one coroutine in each of some processes; parent and coroutine talk over a pipe. Every connection is a
`Line`: it hands protocol messages to its owner's `heard`, and the end to its `lost`.
"""
import asyncio
import json
import multiprocessing

from daemon import KEY, raise_file_limit
from websocket import Frames, frame, text_frame, upgrade


class Line(asyncio.Protocol):
    def __init__(self, owner, query="", key=KEY):
        self.owner, self.request, self.frames = owner, upgrade(key, query), Frames()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        for opcode, payload in self.frames.feed(data):
            if opcode == 1:
                self.owner.heard(self, json.loads(payload))
            elif opcode == 9:
                self.transport.write(frame(10, payload))

    def connection_lost(self, error):
        self.owner.lost(self)

    def send(self, *messages):
        self.transport.write(b"".join(text_frame(json.dumps(message).encode()) for message in messages))


class Pipe:
    """The parent's end of a process: `ask` sends a word and waits for the answer."""

    def __init__(self, end, process):
        self.end, self.process = end, process

    def answer(self, seconds=120):
        if not self.end.poll(seconds):
            raise TimeoutError("a process of the crowd does not answer")
        answer = self.end.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Crowd:
    """`processes` of `role(ask, connect, number, *arguments)`: `await ask(answer)` gives the answer to the word before
    and returns the next one; `connect(line)` opens it."""

    def __init__(self, daemon, processes, role, *arguments):
        context = multiprocessing.get_context("fork")
        self.pipes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            work = (theirs, daemon.address, number, role, arguments)
            process = context.Process(target=run, args=work, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(Pipe(ours, process))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pipe in self.pipes:
            pipe.process.kill()
            pipe.process.join()

    def tell(self, word):
        for pipe in self.pipes:
            pipe.end.send(word)

    def answers(self, seconds=120):
        return [pipe.answer(seconds) for pipe in self.pipes]

    def ask(self, word, seconds=120):
        self.tell(word)
        return self.answers(seconds)


def run(end, address, number, role, arguments):
    raise_file_limit()

    async def work():
        loop = asyncio.get_running_loop()
        words = asyncio.Queue()

        def on_word():
            try:
                words.put_nowait(end.recv())
            except EOFError:
                loop.remove_reader(end.fileno())

        loop.add_reader(end.fileno(), on_word)

        async def ask(answer=None):
            if answer is not None:
                end.send(answer)
            return await words.get()

        async def connect(line):
            await loop.create_connection(lambda: line, *address, local_addr=(f"127.0.{1 + number}.1", 0))
            return line

        await role(ask, connect, number, *arguments)

    try:
        asyncio.run(work())
    except Exception as error:
        end.send(error)
