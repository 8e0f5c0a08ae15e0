"""WebSocket clients for the scripts here and in tests/hostile: the upgrade and frames, without I/O.

Standard library only. The mask of every frame is zero, which is as good as any on loopback.
"""


def upgrade(key, query="", headers=""):
    """The request that opens a transport, with an API key or what `query` says; that begins with `&`, `headers` end with
    CRLF."""
    if key:
        query = f"&key={key}{query}"
    return (
        f"GET /?v=6&format=json{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    ).encode()


def frame(opcode, payload, masked=True, flags=0x80):
    """One frame; `flags` are FIN and the reserved bits."""
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        length = bytes([mask_bit | len(payload)])
    elif len(payload) < 65536:
        length = bytes([mask_bit | 126]) + len(payload).to_bytes(2, "big")
    else:
        length = bytes([mask_bit | 127]) + len(payload).to_bytes(8, "big")
    return bytes([flags | opcode]) + length + (bytes(4) if masked else b"") + payload


def text_frame(payload):
    return frame(1, payload)


class Frames:
    """What a daemon sends on one transport, taken apart: the answer to the upgrade, then frames."""

    def __init__(self):
        self.buffer = b""
        self.head = None
        """The head of the answer, when all of it has come."""

    def status(self):
        """The status of the answer; 0: it has not come."""
        return int(self.head[9:12]) if self.head else 0

    def feed(self, data):
        """The frames that `data` completes, each as opcode and payload."""
        buffer = self.buffer + data
        if self.head is None:
            head, found, rest = buffer.partition(b"\r\n\r\n")
            if not found:
                self.buffer = buffer
                return []
            self.head, buffer = head, rest
        frames, at, end = [], 0, len(buffer)
        while end - at >= 2:
            length, start = buffer[at + 1] & 0x7F, at + 2
            if length >= 126:
                width = 2 if length == 126 else 8
                if end - start < width:
                    break
                length = int.from_bytes(buffer[start : start + width], "big")
                start += width
            if end - start < length:
                break
            frames.append((buffer[at] & 0x0F, buffer[start : start + length]))
            at = start + length
        self.buffer = buffer[at:]
        return frames
