#!/usr/bin/env python3
"""What does each ACK level cost: a channel that is not kept, `memory`, `written`, `fsynced`?

Some connections publish to one channel each and keep a number of publishes without their ACK. Told are, by
level and by that number, publishes a second, the daemon's CPU microseconds a publish, the time from a publish
to its ACK (median and 99th percentile, milliseconds), and how many publishes shared a write and a
synchronisation. Levels take turns, so that what else the machine does hits all of them; values are medians of
the rounds. The rate is that of this script where it is the slower one: look at the CPU then.

  benches/ack_levels.py target/release/ringcast --rounds 3 --state-dir /var/tmp

The log lies below `--state-dir`: its disk is what is measured. Standard library only. The daemon is started
on a free port of 127.0.0.1 and stopped by this script.
"""
import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request

from websocket import Frames, text_frame, upgrade

KEY = "app.key:secret"
LEVELS = ["off", "memory", "written", "fsynced"]
ACK = re.compile(rb'"msgSerial":(\d+)')
COUNT = re.compile(rb'"count":(\d+)')


class Publisher(asyncio.Protocol):
    def __init__(self, channel, run):
        self.channel, self.run = channel, run
        self.frames = Frames()
        self.sent = self.acked = 0
        self.times = {}

    def connection_made(self, transport):
        self.transport = transport
        transport.write(upgrade(KEY))

    def data_received(self, data):
        for _, payload in self.frames.feed(data):
            self.message(payload)

    def message(self, payload):
        if payload.startswith(b'{"action":4,'):
            self.run.connected()
        elif payload.startswith(b'{"action":1,'):
            first, count = int(ACK.search(payload)[1]), int(COUNT.search(payload)[1])
            now = time.perf_counter()
            for serial in range(first, first + count):
                self.run.latencies.append(now - self.times.pop(serial))
            self.acked += count
            self.fill()
        elif payload.startswith((b'{"action":2,', b'{"action":9,')):
            raise SystemExit(f"refused: {payload.decode()}")

    def fill(self):
        frames = []
        now = time.perf_counter()
        while self.run.is_running and self.sent < self.acked + self.run.window:
            message = b'{"action":15,"msgSerial":%d,"channel":"%s","messages":[{"data":"%s"}]}'
            frames.append(text_frame(message % (self.sent, self.channel, self.run.data)))
            self.times[self.sent] = now
            self.sent += 1
        if frames:
            self.transport.write(b"".join(frames))


class Run:
    def __init__(self, window, size):
        self.window, self.data = window, b"x" * size
        self.latencies = []
        self.missing = 0
        self.is_running = True
        self.ready = asyncio.Event()

    def connected(self):
        self.missing -= 1
        if self.missing == 0:
            self.ready.set()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def counters(admin):
    with urllib.request.urlopen(f"http://{admin}/metrics") as response:
        text = response.read().decode()
    total = {}
    for name, value in re.findall(r"^ringcast_log_(\w+)_total\{[^}]*\} (\S+)", text, re.M):
        total[name] = total.get(name, 0) + float(value)
    return total


async def measure(address, admin, pid, level, window, args):
    run = Run(window, args.size)
    run.missing = args.connections
    loop = asyncio.get_running_loop()
    publishers = []
    for index in range(args.connections):
        channel = f"{level}:{index}".encode()
        _, publisher = await loop.create_connection(lambda: Publisher(channel, run), *address)
        publishers.append(publisher)
    await run.ready.wait()
    # Reports of the shards are a second old.
    await asyncio.sleep(1.2)
    before, cpu, begin = counters(admin), cpu_seconds(pid), time.perf_counter()
    for publisher in publishers:
        publisher.fill()
    await asyncio.sleep(args.seconds)
    run.is_running = False
    while any(publisher.times for publisher in publishers):
        await asyncio.sleep(0.01)
    seconds, cpu = time.perf_counter() - begin, cpu_seconds(pid) - cpu
    await asyncio.sleep(1.2)
    after = counters(admin)
    for publisher in publishers:
        publisher.transport.close()
    count = len(run.latencies)
    latencies = sorted(run.latencies)
    per = lambda name: count / max(after.get(name, 0) - before.get(name, 0), 1)
    return {
        "publishes_per_second": count / seconds,
        "cpu_us_per_publish": cpu / count * 1e6,
        "ack_ms_p50": latencies[count // 2] * 1e3,
        "ack_ms_p99": latencies[count * 99 // 100] * 1e3,
        "publishes_per_write": per("writes") if level != "off" else 0,
        "publishes_per_sync": per("syncs") if level == "fsynced" else 0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 8, 64], help="publishes without ACK, of one connection")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=128, help="bytes of data")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--state-dir", help="where the log lies; default: a temporary directory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.state_dir) as place:
        config = f'[server]\nstate_dir = "{place}"\n[admin]\nlisten = "127.0.0.1:0"\n[[keys]]\nkey = "{KEY}"\n'
        config += '[[apps]]\nid = "app"\n'
        for level in LEVELS[1:]:
            config += f'[[apps.namespaces]]\nid = "{level}"\npersist = true\nack = "{level}"\n'
        path = os.path.join(place, "ringcast.toml")
        with open(path, "w") as file:
            file.write(config)
        command = [args.binary, "serve", "--config", path, "--listen", "127.0.0.1:0", "--shards", str(args.shards)]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = admin = None
            while not (address and admin):
                line = daemon.stdout.readline()
                if not line:
                    raise SystemExit("the daemon has ended")
                if line.startswith("listening on "):
                    host, port = line.split()[2].rsplit(":", 1)
                    address = (host, int(port))
                found = re.search(r"http://([^/\s]+)", line)
                if found and not line.startswith("listening"):
                    admin = found[1]
            results = {}
            for _ in range(args.rounds):
                for window in args.windows:
                    for level in LEVELS:
                        result = asyncio.run(measure(address, admin, daemon.pid, level, window, args))
                        results.setdefault((window, level), []).append(result)
            for (window, level), rounds in results.items():
                row = {"window": window, "level": level}
                for name in rounds[0]:
                    row[name] = round(statistics.median(result[name] for result in rounds), 2)
                print(json.dumps(row))
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
