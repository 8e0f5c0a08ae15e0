#!/usr/bin/env python3
"""Holds the daemon against itself: watched in every way there is, and left alone.

    benches/watched.py                        10,000 subscribers, 20 rounds in turn
    benches/watched.py --subscribers 1000 --rounds 40

Watched: /metrics is asked for every second, the page's numbers likewise, and `ringcast tail` shows each
message. Its cost is in the daemon's process, and so in the ratio, which is taken round by round and printed
as median, in brackets the middle half of the rounds, and least and most.
"""

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import tempfile
import threading
import urllib.request

import run


@contextlib.contextmanager
def watchers(ringcast, admin, socket):
    """Watches the daemon, once it is there, until the end; fails if nothing was seen."""
    over, seen = threading.Event(), []

    def poll():
        while not over.wait(1):
            for path in ("/metrics", "/status"):
                try:
                    with urllib.request.urlopen(f"http://{admin}{path}", timeout=5) as answer:
                        seen.append(len(answer.read()))
                except OSError:
                    pass  # it starts, or ends

    def tail():
        # It ends with its daemon; the next one has the same socket.
        while not over.is_set():
            command = [ringcast, "tail", "--socket", socket]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not over.wait(0.2):
                pass
            process.kill()
            process.wait()

    threads = [threading.Thread(target=watch) for watch in (poll, tail)]
    [thread.start() for thread in threads]
    try:
        yield
    finally:
        over.set()
        [thread.join() for thread in threads]
    if not seen:
        raise SystemExit("nobody has watched: the run was too short, or the admin server was not there")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--deliveries", type=int, default=1_000_000, help="of one run, about")
    parser.add_argument("--ringcast", type=pathlib.Path, help="built already")
    args = parser.parse_args()
    ringcast = str(args.ringcast.resolve()) if args.ringcast else run.build()[0]
    ports = run.free_ports(21_000)
    load = {"subscribers": args.subscribers, "outstanding": 1}
    load["messages"] = max(20, args.deliveries // args.subscribers)
    shards = -(-args.subscribers // 18_000)
    rounds = []
    with tempfile.TemporaryDirectory() as place, run.long_backlog():
        socket = f"{place}/control.sock"

        def once(is_watched):
            port = next(ports)
            admin = f"127.0.0.1:{port + 1}"
            config = pathlib.Path(place, "ringcast.toml")
            listen = admin if is_watched else "off"
            config.write_text(f'[admin]\nlisten = "{listen}"\nsocket = "{socket}"\n')
            server = [ringcast, "serve", "--config", str(config), "--key", run.KEY]
            watched = watchers(ringcast, admin, socket) if is_watched else contextlib.nullcontext()
            with watched:
                report = run.measure(server, ringcast, port, shards, floor=False, **load)
            return report["server_us_per_delivery"]

        for number in range(args.rounds):
            first = number % 2 == 0
            costs = {is_watched: once(is_watched) for is_watched in (first, not first)}
            rounds.append((costs[True], costs[False]))
            print(f"round {number + 1}: {costs[True]:.3f} us watched, {costs[False]:.3f} us alone", flush=True)
    ratios = sorted(watched / alone for watched, alone in rounds)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"CPU a delivery, watched to alone: {middle:.3f} ({low:.3f}-{high:.3f}; "
          f"{ratios[0]:.2f}-{ratios[-1]:.2f}), {args.subscribers:,} subscribers, {args.rounds} rounds")


if __name__ == "__main__":
    main()
