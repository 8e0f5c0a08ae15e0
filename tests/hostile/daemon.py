"""A daemon of its own for each scenario, and clients that do as they are told. Standard library only."""
import base64
import collections
import hashlib
import hmac
import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benches"))
from websocket import Frames, text_frame, upgrade

KEY = "app.key:secret"
BASIC = "Authorization: Basic " + base64.b64encode(KEY.encode()).decode()
MEBIBYTE = 1 << 20

# Actions of protocol messages.
ACK, NACK, CONNECTED, DISCONNECTED, ERROR, ATTACH, ATTACHED, DETACH, DETACHED = 1, 2, 4, 6, 9, 10, 11, 12, 13
PRESENCE, MESSAGE, SYNC = 14, 15, 16
RESUMED = 4
"""A flag of ATTACHED."""

SCENARIOS = []


def scenario(criterion, small=None):
    """`small`: arguments with which it takes a moment and nothing in it depends on how fast the machine is; without
    them it is none of those that `--small` runs."""

    def note(function):
        SCENARIOS.append((function.__name__.replace("_", "-"), criterion, function, small))
        return function

    return note


def raise_file_limit():
    """Lets this process open as many files as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def token(seconds, expires=None):
    """A JWT of the key that ends at `expires`, or in so many seconds."""
    encode = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=")
    now = time.time()
    expires = expires or now + seconds
    head = encode(json.dumps({"alg": "HS256", "typ": "JWT", "kid": KEY.partition(":")[0]}).encode())
    body = encode(json.dumps({"iat": int(now), "exp": expires, "x-ably-capability": '{"*":["*"]}'}).encode())
    text = head + b"." + body
    signature = encode(hmac.digest(KEY.partition(":")[2].encode(), text, hashlib.sha256))
    return (text + b"." + signature).decode()


class Daemon:
    def __init__(self, binary, *flags, shards=2, before=None):
        """`before` is called in the new process before it becomes the daemon."""
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", "127.0.0.1:0", "--shards", str(shards), "--key", KEY, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=before)
        for line in self.process.stdout:
            if found := re.match(r"listening on (\S+):(\d+)", line):
                self.address = (found[1], int(found[2]))
                return
        raise RuntimeError("the daemon does not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def is_alive(self):
        return self.process.poll() is None

    def memory(self):
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    def forget_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as clear_refs:
            clear_refs.write("5")

    def peak(self):
        """The most resident bytes since `forget_peak`."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) * 1024

    def cpu(self):
        """Seconds of CPU so far."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connect(self, receive_buffer=None):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect(self.address)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def exchange(self, data, seconds=3.0):
        """Sends `data`; returns what comes until the daemon closes or is silent."""
        with self.connect() as client:
            client.settimeout(seconds)
            received = b""
            try:
                client.sendall(data)
                while piece := client.recv(65536):
                    received += piece
            except TimeoutError:
                pass
            except OSError:
                pass
            return received

    def request(self, line, body=b"", headers="", kind="application/json"):
        """Status and body of the answer; 0: there was none."""
        body = body.encode() if isinstance(body, str) else body
        head = f"{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{BASIC}\r\n{headers}"
        if body:
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        answer = self.exchange((head + "\r\n").encode() + body, 20)
        return int(answer[9:12] or 0), answer.partition(b"\r\n\r\n")[2]

    def publish(self, channel, data):
        return self.request(f"POST /channels/{channel}/messages", json.dumps({"data": data}))


class WebSocket:
    """A client; it reads when it is told to."""

    def __init__(self, daemon, query="", receive_buffer=None, headers=""):
        self.socket = daemon.connect(receive_buffer)
        self.frames, self.waiting = Frames(), collections.deque()
        self.close_code = None
        self.socket.sendall(upgrade(KEY, query, headers))
        while self.frames.head is None and (piece := self.socket.recv(65536)):
            self.waiting.extend(self.frames.feed(piece))
        self.status = self.frames.status()

    def send(self, message):
        self.send_all([message])

    def send_all(self, messages):
        self.socket.sendall(b"".join(text_frame(json.dumps(message).encode()) for message in messages))

    def receive(self):
        """The next protocol message; None: the daemon has closed."""
        while True:
            while self.waiting:
                opcode, payload = self.waiting.popleft()
                if opcode == 1:
                    return json.loads(payload)
                if opcode == 8:
                    self.close_code = int.from_bytes(payload[:2], "big")
                    return None
            try:
                piece = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not piece:
                return None
            self.waiting.extend(self.frames.feed(piece))

    def until(self, *actions):
        while (message := self.receive()) is not None:
            if message["action"] in actions:
                return message
        return None

    def attach(self, channel):
        self.send({"action": ATTACH, "channel": channel})
        return self.until(ATTACHED)


def latencies(daemon, listener, count, data="x"):
    """Milliseconds from a publish over HTTP until the listener has it, each."""
    measured = []
    for _ in range(count):
        begun = time.monotonic()
        daemon.publish("room", data)
        assert listener.until(MESSAGE) is not None, "the listener was cut off"
        measured.append((time.monotonic() - begun) * 1000)
    return sorted(measured)
