#!/usr/bin/env python3
"""How long does a start with a message log of some size take, and how much memory?

Fills a log, ends the daemon in order and starts it again, some times: without what the kernel has cached of the
files where that may be dropped (as root), and with it. Told are the seconds from the start to "listening", and
the resident memory then.

  benches/log_start.py target/release/ringcast --mib 4096 --state-dir /var/tmp

With `--keep DIR` the log is made in DIR, or found there, and stays. Standard library only. The daemon is started on
a free port of 127.0.0.1 and stopped by this script.
"""
import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from websocket import Frames, text_frame, upgrade

KEY = "app.key:secret"
ACK = re.compile(rb'"msgSerial":(\d+)')
COUNT = re.compile(rb'"count":(\d+)')
WINDOW = 256


class Publisher(asyncio.Protocol):
    """Publishes to one channel after the other until enough was sent."""

    def __init__(self, run, index):
        self.run, self.index = run, index
        self.frames = Frames()
        self.sent = self.acked = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(upgrade(KEY))

    def data_received(self, data):
        for _, payload in self.frames.feed(data):
            if payload.startswith(b'{"action":4,'):
                self.fill()
            elif payload.startswith(b'{"action":1,'):
                self.acked += int(COUNT.search(payload)[1])
                self.fill()
            elif payload.startswith((b'{"action":2,', b'{"action":9,')):
                raise SystemExit(f"refused: {payload.decode()}")

    def fill(self):
        run, frames = self.run, []
        while run.left > 0 and self.sent < self.acked + WINDOW:
            channel = (self.sent * 8 + self.index) * 7919 % run.channels
            message = b'{"action":15,"msgSerial":%d,"channel":"kept:%d","messages":[{"data":"%s"}]}'
            frames.append(text_frame(message % (self.sent, channel, run.data)))
            self.sent += 1
            run.left -= 1
        if frames:
            self.transport.write(b"".join(frames))
        elif self.sent == self.acked:
            run.publishers.discard(self)
            if not run.publishers:
                run.is_done.set()


class Run:
    def __init__(self, args):
        self.channels, self.data = args.channels, b"x" * args.size
        self.left = args.mib * (1 << 20) // (args.size + 110)
        self.publishers = set()
        self.is_done = asyncio.Event()


async def fill(address, args):
    run = Run(args)
    loop = asyncio.get_running_loop()
    for index in range(8):
        publisher = Publisher(run, index)
        run.publishers.add(publisher)
        await loop.create_connection(lambda: publisher, *address)
    await run.is_done.wait()


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        found = re.search(r"VmHWM:\s+(\d+) kB\nVmRSS:\s+(\d+) kB", status.read())
    return [round(int(kib) / 1024, 1) for kib in found.groups()]


def start(args, config):
    begin = time.perf_counter()
    command = [args.binary, "serve", "--config", config, "--listen", "127.0.0.1:0", "--shards", str(args.shards)]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in daemon.stdout:
        if line.startswith("listening on "):
            host, port = line.split()[2].rsplit(":", 1)
            return daemon, (host, int(port)), time.perf_counter() - begin
    raise SystemExit("the daemon has ended")


def stop(daemon, how=signal.SIGTERM):
    daemon.send_signal(how)
    daemon.wait()


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3\n")
        return True
    except OSError:
        return False


def measure(args, place):
    config = os.path.join(place, "ringcast.toml")
    with open(config, "w") as file:
        file.write(
            f'[server]\nstate_dir = "{place}/state"\ndrain_window = "0s"\n[[keys]]\nkey = "{KEY}"\n'
            '[log]\nshard_bytes_max = "64GiB"\nretention = "720h"\n'
            '[[apps]]\nid = "app"\n[[apps.namespaces]]\nid = "kept"\npersist = true\nack = "memory"\n'
        )
    log = os.path.join(place, "state", "log")
    if not os.path.exists(log):
        daemon, address, _ = start(args, config)
        begin = time.perf_counter()
        asyncio.run(fill(address, args))
        time.sleep(2)
        print(json.dumps({"filled_in_seconds": round(time.perf_counter() - begin, 1), "resident_mib": resident_mib(daemon.pid)[1]}))
        stop(daemon)
    sizes = [os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(log) for name in names]
    print(json.dumps({"log_mib": round(sum(sizes) / (1 << 20)), "files": len(sizes)}))
    for round_ in range(args.rounds):
        for is_cold in (True, False):
            if is_cold and not drop_caches():
                continue
            daemon, _, seconds = start(args, config)
            peak, resident = resident_mib(daemon.pid)
            stop(daemon)
            row = {"cached": not is_cold, "seconds": round(seconds, 2), "peak_mib": peak, "resident_mib": resident}
            print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--mib", type=int, default=512, help="about how much is filled in")
    parser.add_argument("--channels", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1000, help="bytes of data of a message")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--state-dir", help="where the log lies; default: a temporary directory")
    parser.add_argument("--keep", help="a directory for the log that stays")
    args = parser.parse_args()
    if args.keep:
        os.makedirs(args.keep, exist_ok=True)
        return measure(args, args.keep)
    with tempfile.TemporaryDirectory(dir=args.state_dir) as place:
        measure(args, place)


if __name__ == "__main__":
    main()
