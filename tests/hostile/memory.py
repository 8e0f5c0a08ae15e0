"""What is held, what is given back, and what happens where there is no more."""
import itertools
import json
import os
import pathlib
import re
import resource
import tempfile
import time

from daemon import (
    ACK, ATTACH, ATTACHED, CONNECTED, DETACH, DETACHED, ERROR, KEY, MEBIBYTE, MESSAGE, NACK, PRESENCE, Daemon, WebSocket,
    scenario,
)


def settle(daemon, seconds):
    """The least memory within so many seconds: what was freed is given back little by little."""
    least, end = daemon.memory(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.5)
        least = min(least, daemon.memory())
    return least


@scenario(
    "after 1,000,000 channels at most 8 MiB more than after the first 100,000, and 40 MiB more than at the start; none is "
    "left",
    small={"waves": 4, "wave": 800, "rest": 8, "is_measured": False})
def short_lived_channels(binary, waves=10, wave=100_000, rest=20, is_measured=True):
    """Attach, publish, detach, 200 at a time on each of four connections; history is a second."""
    window = 200
    with Daemon(binary, "--set", "history.retention=1s", "--set", "connection.state_ttl=1s",
                "--set", "admin.listen=127.0.0.1:0") as daemon:
        clients = [WebSocket(daemon) for _ in range(4)]
        for client in clients:
            client.until(CONNECTED)
            client.serial = 0
        resident = [daemon.memory()]
        daemon.forget_peak()
        for number in range(waves):
            for start in range(number * wave, (number + 1) * wave, window * len(clients)):
                parts = [range(start + at * window, start + (at + 1) * window) for at in range(len(clients))]
                for action, answers in ((ATTACH, (ATTACHED, )), (MESSAGE, (ACK, NACK)), (DETACH, (DETACHED, ))):
                    for client, part in zip(clients, parts):
                        messages = [{"action": action, "channel": f"short-{channel}"} for channel in part]
                        if action == MESSAGE:
                            for message in messages:
                                message |= {"msgSerial": client.serial, "messages": [{"data": "x"}]}
                                client.serial += 1
                        client.send_all(messages)
                    for client, part in zip(clients, parts):
                        missing = len(part)
                        while missing:
                            message = client.until(*answers, ERROR)
                            assert message and message["action"] not in (NACK, ERROR), message
                            missing -= message.get("count", 1)
            # Retention, and the time for which somebody may come back to them.
            if number in (0, waves - 1):
                resident.append(settle(daemon, rest))
        status, body = daemon.request("GET /channels?limit=1")
        left = json.loads(body) if status == 200 else body
        start, first, last, peak = (bytes_ / MEBIBYTE for bytes_ in (*resident, daemon.peak()))
        figures = f"{waves * wave} channels: {start:.0f} MiB, after the first wave {first:.0f}, at the end {last:.0f}, "
        figures += f"peak {peak:.0f}, {len(left)} left"
        is_bounded = last <= min(first + 8, start + 40)
        return left == [] and (is_bounded or not is_measured), figures


class Cage:
    """A memory limit of its own for a daemon: a cgroup where one can be made, else RLIMIT_DATA."""

    def __init__(self, limit_bytes):
        self.limit_bytes, self.path = limit_bytes, None
        for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "memory":
                self.make(pathlib.Path("/sys/fs/cgroup/memory" + path), "memory.limit_in_bytes")
            elif controllers == "" and self.path is None:
                self.make(pathlib.Path("/sys/fs/cgroup" + path), "memory.max")

    def make(self, parent, limit):
        path = parent / f"ringcast-hostile-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            return
        try:
            (path / limit).write_text(str(self.limit_bytes))
            self.path = path
        except OSError:
            path.rmdir()

    def enter(self):
        if self.path:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (self.limit_bytes, self.limit_bytes))

    def kind(self):
        return f"{'cgroup' if self.path else 'RLIMIT_DATA, no cgroup can be made here,'} of {self.limit_bytes >> 20} MiB"

    def peak(self, daemon):
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if self.path and (self.path / name).exists():
                return int((self.path / name).read_text())
        return daemon.peak()

    def killed(self):
        """Processes that the kernel has killed for want of memory."""
        for name in ("memory.oom_control", "memory.events"):
            if self.path and (self.path / name).exists():
                return int(re.search(r"^oom_kill (\d+)", (self.path / name).read_text(), re.M)[1])
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.path:
            # Its process has been waited for; the kernel may take a moment to see that it is empty.
            for _ in range(50):
                try:
                    return self.path.rmdir()
                except OSError:
                    time.sleep(0.1)


BUDGET = """
[[keys]]
key = "{key}"
[[apps]]
id = "app"
presence_members_max = 10000
[limits]
channels_max = 20000
outbound_lag_bytes_max = "512KiB"
[history]
shard_bytes_max = "16MiB"
[socket]
connections_max = 400
"""


@scenario(
    "what is beyond the budget is refused by its code, the daemon lives, no process is killed for memory, and the next "
    "client is served",
    small={"limit_mebibytes": 400, "channels": 45_000, "histories": 40, "readers": 20})
def memory_under_a_limit(binary, limit_mebibytes=192, channels=300_000, histories=400, readers=300):
    """Channels without end, histories, members and readers that do not read, all in one daemon with a small budget."""
    refusals = {}

    def acknowledge(client, count):
        while count:
            message = client.receive()
            assert message is not None, "the publisher was cut off"
            if message["action"] in (ACK, NACK):
                count -= message["count"]
                if message["action"] == NACK:
                    code = message["error"]["code"]
                    refusals[code] = refusals.get(code, 0) + message["count"]

    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config, Cage(limit_mebibytes * MEBIBYTE) as cage:
        config.write(BUDGET.format(key=KEY))
        config.flush()
        with Daemon(binary, "--config", config.name, before=cage.enter) as daemon:
            client = WebSocket(daemon)
            client.until(CONNECTED)
            stalled = []
            for _ in range(readers):
                reader = WebSocket(daemon, receive_buffer=4096)
                reader.attach("history-0")
                stalled.append(reader)

            serials = itertools.count()

            def publish(frames):
                sent = [frame | {"msgSerial": next(serials)} for frame in frames]
                client.send_all(sent)
                acknowledge(client, len(sent))

            def fill_histories(rounds):
                for _ in range(rounds):
                    publish({"action": MESSAGE, "channel": f"history-{number}", "messages": [{"data": "x" * 30_000}]}
                            for number in range(min(histories, 200)))

            # A channel of which nothing is kept takes no place, so there has to be room in memory for what is.
            fill_histories(1)
            for start in range(0, channels, 500):
                publish({"action": MESSAGE, "channel": f"many-{number}", "messages": [{"data": "x" * 64}]}
                        for number in range(start, start + 500))
            fill_histories(19)
            client.attach("history-0")
            for start in range(0, 10_500, 500):
                publish({"action": PRESENCE, "channel": "history-0",
                         "presence": [{"action": 2, "clientId": f"m{number}", "data": "x" * 200}]}
                        for number in range(start, start + 500))
            peak = cage.peak(daemon)
            for reader in stalled:
                reader.socket.close()
            status, _ = daemon.publish("history-1", "x")
            is_alive = daemon.is_alive()
            killed = cage.killed()
        figures = f"{cage.kind()} peak {peak / MEBIBYTE:.0f} MiB, refused {refusals}, then {status}, {killed} killed"
        return is_alive and killed == 0 and status == 201 and {90021, 91006} <= set(refusals), figures


@scenario(
    "with a full table nobody more is accepted and the daemon idles (2 s of it take at most 0.1 s of CPU); those who "
    "waited are served as soon as others leave",
    small={})
def table_of_sockets_is_full(binary):
    with Daemon(binary, "--set", "socket.connections_max=64", shards=1) as daemon:
        inside = [WebSocket(daemon) for _ in range(64)]
        for client in inside:
            client.until(CONNECTED)
        outside = [daemon.connect() for _ in range(100)]
        for client in outside:
            client.sendall(b"GET /time HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        cpu = daemon.cpu()
        time.sleep(2)
        cpu = daemon.cpu() - cpu
        early = 0
        for client in outside:
            client.settimeout(0.001)
            try:
                early += len(client.recv(1)) > 0
            except (TimeoutError, BlockingIOError):
                pass
        for client in inside[:32]:
            client.socket.close()
        served = 0
        for client in outside:
            client.settimeout(20)
            try:
                served += client.recv(64).startswith(b"HTTP/1.1 200")
            except OSError:
                pass
        inside[63].attach("room")
        daemon.publish("room", "x")
        is_well = inside[63].until(MESSAGE) is not None
        figures = f"100 at the door of 64 places: {early} came in, {cpu:.2f} s of CPU in 2 s, then {served} served"
        return early == 0 and cpu <= 0.1 and served == 100 and is_well, figures
