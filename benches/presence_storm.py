#!/usr/bin/env python3
"""What does it cost when N clients attach to one channel and enter, all at once or one after the other?

Each client is a WebSocket of its own that attaches, enters as soon as it is attached, and reads until it
knows all N members, from SYNC and PRESENCE together. All at once is a million events for a thousand
clients; one after the other, half of what a client learns comes as SYNC. Told are the daemon's CPU seconds, the frames and
bytes that it sent, and the time until the last client knew everybody. Units are in the output.

  benches/presence_storm.py target/release/ringcast --clients 1000 --shards 2

Standard library only. The daemon is started on a free port of 127.0.0.1 and stopped by this script.
"""
import argparse
import asyncio
import json
import os
import re
import subprocess
import tempfile
import time

from websocket import Frames, text_frame, upgrade

KEY = "app.key:secret"
CHANNEL = "room"
MEMBER = re.compile(rb'"clientId":"(m\d+)"')
ACTION = re.compile(rb'^\{"action":(\d+)')


class Client(asyncio.Protocol):
    def __init__(self, name, run):
        self.name, self.run = name, run
        self.frames = Frames()
        self.known = set()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(upgrade(KEY))

    def data_received(self, data):
        self.run.bytes += len(data)
        for _, payload in self.frames.feed(data):
            self.message(payload)

    def message(self, payload):
        match = ACTION.match(payload)
        action = int(match[1]) if match else None
        self.run.frames[action] = self.run.frames.get(action, 0) + 1
        if action == 4:
            self.run.connected(self)
        elif action == 11:
            member = {"action": 2, "clientId": self.name, "data": "x" * 32}
            self.send({"action": 14, "channel": CHANNEL, "msgSerial": 0, "presence": [member]})
        elif action == 1:
            self.run.entered()
        elif action == 2 or action == 9:
            raise SystemExit(f"refused: {payload.decode()}")
        elif action in (14, 16):
            self.known.update(MEMBER.findall(payload))
            if len(self.known) == self.run.count:
                self.run.complete(self)

    def send(self, message):
        self.transport.write(text_frame(json.dumps(message).encode()))


class Run:
    def __init__(self, count, in_turn):
        self.count, self.in_turn = count, in_turn
        self.bytes = 0
        self.frames = {}
        self.waiting = []
        self.finished = set()
        self.all_connected = asyncio.Event()
        self.all_complete = asyncio.Event()

    def begin(self):
        self.next = iter(self.waiting)
        for _ in range(1 if self.in_turn else self.count):
            self.attach_next()

    def attach_next(self):
        client = next(self.next, None)
        if client is not None:
            client.send({"action": 10, "channel": CHANNEL})

    def entered(self):
        if self.in_turn:
            self.attach_next()

    def connected(self, client):
        self.waiting.append(client)
        if len(self.waiting) == self.count:
            self.all_connected.set()

    def complete(self, client):
        self.finished.add(client.name)
        if len(self.finished) == self.count:
            self.all_complete.set()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def storm(address, pid, count, in_turn):
    run = Run(count, in_turn)
    loop = asyncio.get_running_loop()
    for index in range(count):
        await loop.create_connection(lambda: Client(f"m{index}", run), *address)
    await run.all_connected.wait()
    run.frames, run.bytes = {}, 0
    cpu, begin = cpu_seconds(pid), time.monotonic()
    run.begin()
    await asyncio.wait_for(run.all_complete.wait(), 300)
    seconds = time.monotonic() - begin
    await asyncio.sleep(0.5)
    names = {11: "attached", 1: "ack", 14: "presence", 16: "sync"}
    return {
        "clients": count,
        "daemon_cpu_seconds": round(cpu_seconds(pid) - cpu, 2),
        "seconds_until_all_know_all": round(seconds, 2),
        "frames": {name: run.frames.get(action, 0) for action, name in names.items()},
        "megabytes": round(run.bytes / 1e6, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--in-turn", action="store_true", help="each attaches when the one before has entered")
    parser.add_argument("--shards", type=int, default=2)
    args = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(f'[[keys]]\nkey = "{KEY}"\n[[apps]]\nid = "app"\npresence_members_max = {args.clients}\n')
        config.flush()
        command = [args.binary, "serve", "--config", config.name]
        command += ["--listen", "127.0.0.1:0", "--shards", str(args.shards)]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = ""
            while not line.startswith("listening on "):
                line = daemon.stdout.readline()
            host, port = line.split()[2].split(":")
            print(json.dumps(asyncio.run(storm((host, int(port)), daemon.pid, args.clients, args.in_turn))))
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
