"""Clients that take long, do not read, come and go, or ask for too much."""
import os
import re
import socket
import time

from daemon import ATTACH, DETACH, MEBIBYTE, MESSAGE, Daemon, WebSocket, latencies, scenario


def beside(daemon, spoil, count=100, data="x"):
    """The median and 99th percentile of a listener before and while `spoil` goes on."""
    listener = WebSocket(daemon)
    listener.attach("room")
    before = latencies(daemon, listener, count, data)
    spoil()
    after = latencies(daemon, listener, count, data)
    return before, after


@scenario("all others get all; p99 at most 50 ms above that without; daemon below +64 MiB")
def slow_readers_that_stop(binary):
    with Daemon(binary) as daemon:
        base, stopped = daemon.memory(), []

        def spoil():
            for _ in range(200):
                client = WebSocket(daemon, receive_buffer=4096)
                client.attach("room")
                stopped.append(client)

        before, after = beside(daemon, spoil, 100, "x" * 8192)
        grown = (daemon.memory() - base) / MEBIBYTE
        worse = after[98] - before[98]
        return worse <= 50 and grown < 64, f"p99 {before[98]:.1f} to {after[98]:.1f} ms, +{grown:.1f} MiB, 200 readers"


@scenario("all others get all; the reader is cut off or served, nothing in between; below +16 MiB")
def a_reader_of_one_byte_a_second(binary):
    with Daemon(binary) as daemon:
        base = daemon.memory()
        slow = WebSocket(daemon, receive_buffer=2304)
        slow.attach("room")
        listener = WebSocket(daemon)
        listener.attach("room")
        missed = 0
        begun = time.monotonic()
        for number in range(300):
            daemon.publish("room", "x" * 16384)
            missed += listener.until(MESSAGE) is None
            if time.monotonic() - begun > number % 10:
                slow.socket.settimeout(0.01)
                try:
                    slow.socket.recv(1)
                except OSError:
                    pass
        grown = (daemon.memory() - base) / MEBIBYTE
        return missed == 0 and grown < 16, f"300 messages of 16 KiB, {missed} missed, +{grown:.1f} MiB"


@scenario("all 500 are closed by the daemon within head_timeout + 5 s; others are answered meanwhile in 100 ms")
def slowloris(binary):
    with Daemon(binary, "--set", "limits.head_timeout=2s") as daemon:
        clients = [daemon.connect() for _ in range(500)]
        begun, closed, slowest = time.monotonic(), set(), 0.0
        while len(closed) < len(clients) and time.monotonic() - begun < 10:
            for number, client in enumerate(clients):
                if number in closed:
                    continue
                try:
                    client.settimeout(0.0001)
                    client.sendall(b"G" if time.monotonic() - begun < 0.5 else b"X")
                    if client.recv(1024) == b"":
                        closed.add(number)
                except TimeoutError:
                    pass
                except OSError:
                    closed.add(number)
            asked = time.monotonic()
            assert daemon.request("GET /time")[0] == 200
            slowest = max(slowest, time.monotonic() - asked)
        took = time.monotonic() - begun
        return len(closed) == 500 and took < 7 and slowest < 0.1, f"{len(closed)} closed in {took:.1f} s, {slowest * 1000:.0f} ms"


@scenario("5,000 connects and resets: the daemon answers, and what they took is back (below +16 MiB)")
def connection_flood(binary):
    with Daemon(binary) as daemon:
        daemon.request("GET /time")
        base, begun = daemon.memory(), time.monotonic()
        for _ in range(5000):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.connect(daemon.address)
            client.close()
        took = time.monotonic() - begun
        status, _ = daemon.request("GET /time")
        grown = (daemon.memory() - base) / MEBIBYTE
        return status == 200 and grown < 16, f"{5000 / took:.0f} a second, then {status}, +{grown:.1f} MiB"


@scenario("TCP memory of 1,000 stalled readers below a quarter of the limit (tcp_mem)")
def kernel_memory_of_stalled_readers(binary):
    def pages():
        with open("/proc/net/sockstat") as sockstat:
            return int(re.search(r"^TCP:.* mem (\d+)", sockstat.read(), re.M)[1])

    with open("/proc/sys/net/ipv4/tcp_mem") as tcp_mem:
        limit = int(tcp_mem.read().split()[2])
    with Daemon(binary) as daemon:
        readers = []
        for _ in range(1000):
            reader = WebSocket(daemon, receive_buffer=4096)
            reader.attach("room")
            readers.append(reader)
        base = pages()
        highest = base
        for _ in range(60):
            daemon.publish("room", "x" * 16384)
            highest = max(highest, pages())
        share = (highest - base) / limit
        return share < 0.25 and daemon.is_alive(), f"{(highest - base) * 4096 / MEBIBYTE:.0f} MiB, {share * 100:.1f} % of the limit"


@scenario("500 replays of 1 MiB each asked for by one client that does not read: daemon below +64 MiB")
def replay_amplification(binary):
    with Daemon(binary) as daemon:
        first = WebSocket(daemon)
        since = first.attach("room")["channelSerial"]
        for _ in range(64):
            daemon.publish("room", "x" * 16384)
        base = daemon.memory()
        client = WebSocket(daemon, receive_buffer=4096)
        asked = 0
        try:
            client.socket.settimeout(1)
            for _ in range(500):
                client.send({"action": ATTACH, "channel": "room", "channelSerial": since, "params": {"delta": "vcdiff"}})
                client.send({"action": DETACH, "channel": "room"})
                asked += 1
        except OSError:
            pass
        time.sleep(0.5)
        grown = (daemon.memory() - base) / MEBIBYTE
        status, _ = daemon.request("GET /time")
        return grown < 64 and status == 200, f"{asked} asked for, +{grown:.1f} MiB"
