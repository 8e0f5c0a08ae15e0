#!/usr/bin/env python3
"""Holds the daemon against the floor: the same load on both, in turn, and the ratio of what it costs.

    benches/run.py                            1,000 and 10,000 subscribers
    benches/run.py --subscribers 100000 --shards 6 --rounds 5

The floor is benches/floor.rs: a server without a protocol that sends one prebuilt frame, as long as the
daemon's, to every socket. Ratios are taken round by round, so that a machine whose speed drifts does not
matter; they are printed as median and, in brackets, least and most.
"""

import argparse
import contextlib
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BACKLOG = pathlib.Path("/proc/sys/net/core/netdev_max_backlog")
KEY = "bench.key:secret"


def build():
    """Builds both programs and returns their paths."""
    command = ["cargo", "build", "--release", "--bins", "--benches", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    built = {}
    for line in output.splitlines():
        message = json.loads(line)
        if not message.get("executable"):
            continue
        # `--benches` builds the daemon's unit tests as well, under the daemon's name.
        kind, is_test = message["target"]["kind"], message["profile"]["test"]
        if kind == ["bench"] or kind == ["bin"] and not is_test:
            built[message["target"]["name"]] = message["executable"]
    return built["ringcast"], built["floor"]


def free_ports(first):
    """Pairs of free ports from `first` up: the server's, and the floor's control port. A pair for each run, since
    the closed connections of a run linger on their port and answer to new ones that look like them."""
    for port in range(first, 32_000, 2):
        with socket.socket() as server, socket.socket() as control:
            try:
                server.bind(("127.0.0.1", port))
                control.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        yield port


@contextlib.contextmanager
def long_backlog():
    """On loopback a batch of sends to thousands of sockets overruns the default queue of 1,000 packets,
    and what is dropped comes back 200 ms later. Restored afterwards."""
    before = BACKLOG.read_text()
    try:
        BACKLOG.write_text("100000")
    except PermissionError:
        print("not root: netdev_max_backlog stays as it is, expect outliers", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        BACKLOG.write_text(before)


def measure(server, ringcast, port, shards, *, subscribers, messages, outstanding, floor):
    """Runs one load against one server and returns the report of `ringcast bench`."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        server = [*server, "--listen", f"127.0.0.1:{port}", "--shards", str(shards)]
        process = subprocess.Popen(server, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            if not line.startswith("listening on"):
                raise SystemExit(f"{server[0]} did not start: {line}")
            bench = [ringcast, "bench", "--server", f"127.0.0.1:{port}", "--key", KEY]
            bench += ["--pid", str(process.pid), "--subscribers", str(subscribers)]
            bench += ["--messages", str(messages), "--outstanding", str(outstanding)]
            bench += ["--json", report.name] + (["--floor"] if floor else [])
            subprocess.run(bench, check=True, stdout=subprocess.DEVNULL, timeout=600)
            return json.load(report)
        finally:
            process.kill()
            process.wait()


def spread(values, form="{:.2f}"):
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} ({form.format(least)}-{form.format(most)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--outstanding", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--shards", type=int, help="default: 1, and more above 18,000 subscribers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deliveries", type=int, default=1_000_000, help="of one run, about")
    parser.add_argument("--port", type=int, default=18_100, help="the first; every run takes the next two")
    parser.add_argument("--json", type=pathlib.Path, help="write every report to this file")
    args = parser.parse_args()
    ringcast, floor = build()
    ports = free_ports(args.port)
    reports = []
    header = ("subscribers", "outstanding", "shards", "us/delivery", "floor", "ratio CPU", "ratio busy core",
              "bytes/conn", "us/connect")
    print(" | ".join(header))
    print(" | ".join("---" for _ in header))
    with long_backlog():
        for subscribers in args.subscribers:
            shards = args.shards or -(-subscribers // 18_000)
            for outstanding in args.outstanding:
                # Coalesced deliveries cost less: more of them, so that both run for about as long.
                messages = max(20, args.deliveries // subscribers * (1 if outstanding == 1 else 4))
                load = {"subscribers": subscribers, "messages": messages, "outstanding": outstanding}
                rows = []
                for _ in range(args.rounds):
                    daemon = measure([ringcast, "serve", "--key", KEY], ringcast, next(ports), shards,
                                     floor=False, **load)
                    # The floor's frames are as long as the daemon's were.
                    frame_bytes = daemon["frame_bytes"]
                    bottom = measure([floor, "--frame-bytes", str(frame_bytes)]
                                     + (["--coalesce"] if outstanding > 1 else []),
                                     ringcast, next(ports), shards, floor=True, **load)
                    rows.append((daemon, bottom))
                    reports.append({"daemon": daemon, "floor": bottom, "shards": shards})
                of = lambda name, at: [row[at][name] for row in rows]
                ratio = lambda name: [daemon[name] / bottom[name] for daemon, bottom in rows]
                print(" | ".join((
                    f"{subscribers:,}", str(outstanding), str(shards),
                    spread(of("server_us_per_delivery", 0)), spread(of("server_us_per_delivery", 1)),
                    spread(ratio("server_us_per_delivery")), spread(ratio("busy_us_per_delivery")),
                    spread(of("resident_bytes_per_connection", 0), "{:.0f}"),
                    spread(of("server_us_per_connect", 0), "{:.0f}"),
                )), flush=True)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
