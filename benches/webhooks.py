#!/usr/bin/env python3
"""What rules do to everybody else, and how much they deliver.

    benches/webhooks.py isolation target/release/ringcast     p99 of subscribers, by what the endpoint does
    benches/webhooks.py throughput target/release/ringcast    events a second, batched and one by one

`isolation` has `ringcast bench` deliver at a fixed rate to the subscribers of a channel whose messages go to
an endpoint that hangs, answers slowly, answers with 1 MB or is well, and to one without a rule, in turn. The
order alternates; ratios are to the run without a rule of the same round, as median, least and most.

`throughput` publishes to many channels at a fixed rate and counts what a local endpoint gets. Order and
completeness are checked for every channel. CPU is that of the thread that delivers.

Standard library only. Daemons and endpoints are on free ports of 127.0.0.1 and stopped by this script.
"""
import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import resource
import statistics
import subprocess
import tempfile
import time

from websocket import Frames, text_frame, upgrade

KEY = "bench.key:secret"
MEGABYTE = b"x" * 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")

# ---- the endpoint -------------------------------------------------------------------------------


class Endpoint(asyncio.Protocol):
    """Takes POSTs; what it does with them is its kind."""

    def __init__(self, seen, kind):
        self.seen, self.kind, self.buffer = seen, kind, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head, re.I)[1]) if found else 0
            if not found or len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            self.request(body)

    def request(self, body):
        self.seen.take(body)
        if self.kind == "hangs":
            return
        delay = {"slow": 1.0, "paced": 0.02}.get(self.kind)
        if delay:
            asyncio.get_running_loop().call_later(delay, self.answer)
        else:
            self.answer()

    def answer(self):
        body = {"1 MB": MEGABYTE, "accepts": b'{"action":"accept"}'}.get(self.kind, b"")
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


class Seen:
    """What has arrived, by channel: a publisher counts its messages on each from 0."""

    def __init__(self, counts):
        self.counts, self.next, self.repeated = counts, {}, 0

    def take(self, body):
        self.counts["requests"] += 1
        parsed = json.loads(body)
        items = parsed.get("items")
        events = [(parsed["channel"], parsed)] if items is None else [(i["data"]["channelId"], i["data"]) for i in items]
        for channel, event in events:
            for message in event["messages"]:
                text = message["data"]
                if not text.isdigit():
                    continue  # of ringcast bench
                number, expected = int(text), self.next.get(channel, 0)
                if number > expected:
                    self.counts["gaps"] += 1
                self.counts["repeated"] += number < expected
                self.next[channel] = max(expected, number + 1)
        self.counts["events"] += len(events)
        self.counts["last"] = time.monotonic()


def run_endpoint(kind, port, counts):
    async def serve():
        local = {name: 0 for name in ("requests", "events", "gaps", "repeated", "last")}
        seen = Seen(local)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Endpoint(seen, kind), "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        while True:
            await asyncio.sleep(0.02)
            for name, value in local.items():
                counts[name].value = value

    asyncio.run(serve())


@contextlib.contextmanager
def endpoint(kind):
    """Starts an endpoint; yields its port and a function that reads its counts."""
    port = multiprocessing.Value("i", 0)
    counts = {name: multiprocessing.Value("d", 0) for name in ("requests", "events", "gaps", "repeated", "last")}
    process = multiprocessing.Process(target=run_endpoint, args=(kind, port, counts), daemon=True)
    process.start()
    while port.value == 0:
        time.sleep(0.01)
    try:
        yield port.value, lambda: {name: value.value for name, value in counts.items()}
    finally:
        process.kill()
        process.join()


# ---- the daemon ---------------------------------------------------------------------------------


@contextlib.contextmanager
def daemon(ringcast, rule, shards):
    """Starts a daemon with this rule; yields its pid and address."""
    with tempfile.TemporaryDirectory() as directory:
        config = pathlib.Path(directory, "ringcast.toml")
        text = f'[[keys]]\nkey = "{KEY}"\n'
        if rule:
            text += '[[rules]]\nid = "hook"\napp = "bench"\nchannel = ""\nallow_private = true\n' + rule
        config.write_text(text)
        command = [ringcast, "serve", "--config", str(config), "--listen", "127.0.0.1:0", "--shards", str(shards)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            address = re.match(r"listening on (\S+)", line)
            if not address:
                raise SystemExit(f"the daemon did not start: {line}")
            yield process.pid, address[1]
        finally:
            process.kill()
            process.wait()


def thread_seconds(pid, name):
    """CPU seconds of the threads called `name`."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if task.joinpath("comm").read_text().strip() == name:
            fields = task.joinpath("stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_megabytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def spread(values, form="{:.2f}"):
    return f"{form} ({form}-{form})".format(statistics.median(values), min(values), max(values))


# ---- isolation ----------------------------------------------------------------------------------

KINDS = ["none", "well", "hangs", "slow", "1 MB"]


def p99(args, kind):
    """The 99th percentile of delivery, in ms, with an endpoint of that kind."""
    with contextlib.ExitStack() as stack:
        rule = None
        if kind != "none":
            port, _ = stack.enter_context(endpoint(kind))
            rule = f'url = "http://127.0.0.1:{port}/"\nmode = "{args.mode}"\ntimeout = "2s"\n'
            rule += 'batch_interval = "100ms"\n' if args.mode == "batch" else ""
        pid, address = stack.enter_context(daemon(args.ringcast, rule, args.shards))
        report = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".json"))
        command = [args.ringcast, "bench", "--server", address, "--key", KEY, "--pid", str(pid)]
        command += ["--subscribers", str(args.subscribers), "--rate", str(args.rate)]
        command += ["--messages", str(args.rate * args.seconds), "--json", report.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
        return json.load(report)["latency_us_p99"] / 1000


def isolation(args):
    rounds = []
    for number in range(args.rounds):
        kinds = KINDS if number % 2 == 0 else KINDS[::-1]
        rounds.append({kind: p99(args, kind) for kind in kinds})
        print(f"round {number + 1}: " + ", ".join(f"{kind} {rounds[-1][kind]:.2f} ms" for kind in KINDS), flush=True)
    print("\nendpoint | p99, ms | ratio to none\n--- | --- | ---")
    for kind in KINDS:
        ratios = [one[kind] / one["none"] for one in rounds]
        print(f"{kind} | {spread([one[kind] for one in rounds])} | {spread(ratios)}")


# ---- throughput ---------------------------------------------------------------------------------


async def publish(address, channels, rate, seconds):
    """Publishes in turn to `channels` channels; returns how many were sent, accepted and refused, and when."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(upgrade(KEY))
    counts = {"sent": 0, "accepted": 0, "refused": 0}

    async def read():
        frames = Frames()
        while data := await reader.read(65536):
            for _, payload in frames.feed(data):
                if payload.startswith((b'{"action":1,', b'{"action":2,')):
                    told = json.loads(payload)
                    counts["accepted" if told["action"] == 1 else "refused"] += told["count"]

    task = asyncio.create_task(read())
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * rate)
        # The daemon lets 1,024 publishes wait for their ACK; beyond that nothing is read.
        due = min(due, counts["accepted"] + counts["refused"] + 1000)
        out = []
        for serial in range(counts["sent"], due):
            channel, number = serial % channels, serial // channels
            out.append(text_frame(b'{"action":15,"msgSerial":%d,"channel":"c%d","messages":[{"data":"%d"}]}'
                                  % (serial, channel, number)))
        counts["sent"] = max(counts["sent"], due)
        writer.write(b"".join(out))
        await writer.drain()
        await asyncio.sleep(0.005)
    while counts["accepted"] + counts["refused"] < counts["sent"]:
        await asyncio.sleep(0.01)
    task.cancel()
    writer.close()
    return counts, began


def run_publisher(address, channels, rate, seconds, queue):
    queue.put(asyncio.run(publish(address, channels, rate, seconds)))


def through(args, name, kind, rate, rule):
    with endpoint(kind) as (port, read):
        rule = f'url = "http://127.0.0.1:{port}/"\n' + rule
        with daemon(args.ringcast, rule, args.shards) as (pid, address):
            before_mb = resident_megabytes(pid)
            queue = multiprocessing.Queue()
            work = (address, args.channels, rate, args.seconds, queue)
            publisher = multiprocessing.Process(target=run_publisher, args=work)
            publisher.start()
            most_mb = before_mb
            while queue.empty():
                most_mb = max(most_mb, resident_megabytes(pid))
                time.sleep(0.05)
            counts, began = queue.get()
            publisher.join()
            deadline = time.monotonic() + args.patience
            while read()["events"] < counts["accepted"] and time.monotonic() < deadline:
                time.sleep(0.05)
            got = read()
            cpu = thread_seconds(pid, "hooks")
            seconds = got["last"] - began
            # Numbers that were refused leave gaps that mean nothing.
            gaps = "" if counts["refused"] else int(got["gaps"])
            lost = int(counts["accepted"] - got["events"] + got["repeated"])
            print(" | ".join((
                name, f"{counts['accepted'] / args.seconds:,.0f}", f"{counts['refused']:,}", f"{got['events'] / seconds:,.0f}",
                f"{got['requests'] / seconds:,.0f}", f"{1e6 * cpu / max(1, got['events']):.0f}",
                f"{most_mb - before_mb:.0f}", f"{lost}", f"{gaps}", f"{int(got['repeated'])}",
            )), flush=True)


def throughput(args):
    print("rule | published/s | refused | delivered/s | requests/s | us CPU/event | MB more | missing | gaps | repeated")
    print(" | ".join(["---"] * 10))
    for _ in range(args.rounds):
        through(args, "batch", "well", args.rate, 'mode = "batch"\n')
        through(args, "single", "well", args.rate, 'mode = "single"\n')
        ask = 'invocation = "before-publish"\n'
        through(args, "before publish, one question a channel", "accepts", args.rate, ask)
        # 25 at a time, 20 ms each: 1,250 a second at the very most.
        refuse = 'mode = "single"\nwhen_full = "refuse"\nwaiting_bytes_max = "1MiB"\n'
        through(args, "single, endpoint takes 20 ms, 1 MiB may wait, then refuse", "paced", args.rate, refuse)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for run, rounds in ((isolation, 5), (throughput, 3)):
        command = commands.add_parser(run.__name__)
        command.set_defaults(run=run)
        command.add_argument("ringcast", help="the daemon's program")
        command.add_argument("--rounds", type=int, default=rounds)
        command.add_argument("--shards", type=int, default=1)
        command.add_argument("--seconds", type=int, default=10, help="of one run")
        if run is isolation:
            command.add_argument("--subscribers", type=int, default=200)
            command.add_argument("--rate", type=int, default=200, help="messages a second")
            command.add_argument("--mode", choices=("single", "batch"), default="single")
        else:
            command.add_argument("--channels", type=int, default=100)
            command.add_argument("--rate", type=int, default=6000, help="publishes a second")
            command.add_argument("--patience", type=float, default=30, help="seconds to wait for the rest")
    args = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    args.run(args)


if __name__ == "__main__":
    main()
