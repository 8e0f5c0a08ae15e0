"""Bytes that are not what they say: frames, bodies, requests, texts, origins."""
import json
import zlib

from daemon import BASIC, CONNECTED, MEBIBYTE, MESSAGE, Daemon, WebSocket, scenario
from websocket import frame


@scenario("each is answered by its close code; no panic, and the next client is served", small={})
def frames_that_are_none(binary):
    wide = b"\x82\xff" + (1 << 32).to_bytes(8, "big") + bytes(4)
    negative = b"\x82\xff" + b"\xff" * 8 + bytes(4)
    longer = b"\x81\xfe" + (2).to_bytes(2, "big") + bytes(4) + b"{}"
    cases = {
        "unmasked": (frame(1, b"{}", masked=False), {1002}),
        "unmasked, long": (frame(2, bytes(70_000), masked=False), {1002}),
        "reserved bits": (frame(1, b"", flags=0xF0), {1002}),
        "compressed without having agreed": (frame(1, b"x", flags=0xC0), {1002}),
        "unknown opcode": (frame(3, b""), {1002}),
        "unknown control opcode": (frame(11, b""), {1002}),
        "a ping in fragments": (frame(9, b"", flags=0), {1002}),
        "a long ping": (frame(9, b"x" * 126), {1002}),
        "a continuation of nothing": (frame(0, b"x"), {1002}),
        "a message within a message": (frame(1, b"x", flags=0) + frame(1, b"x"), {1002}),
        "bad UTF-8": (frame(1, b"\xc3\x28"), {1007}),
        "bad UTF-8 over two fragments": (frame(1, b"\xc3", flags=0) + frame(0, b"\x28"), {1007}),
        "UTF-8 that does not end": (frame(1, b"\xe2\x82"), {1007}),
        "a surrogate": (frame(1, b"\xed\xa0\x80"), {1007}),
        "beyond Unicode": (frame(1, b"\xf4\x90\x80\x80"), {1007}),
        "too large": (wide, {1009}),
        "one byte too large": (b"\x82\xff" + (512 * 1024 + 1).to_bytes(8, "big") + bytes(4), {1009}),
        "too large in fragments": (frame(2, bytes(400_000), flags=0) + frame(0, bytes(200_000)), {1009}),
        "a negative length": (negative, {1002, 1009}),
        "a length in more bytes than it needs": (longer, {1002}),
        "a wrong close code": (frame(8, b"\x03\xed"), {1002}),
        "half a close code": (frame(8, b"\x03"), {1002}),
        "a reason that is no UTF-8": (frame(8, b"\x03\xe8\xc3\x28"), {1007}),
    }
    wrong = []
    with Daemon(binary) as daemon:
        for name, (bytes_, codes) in cases.items():
            client = WebSocket(daemon)
            client.until(CONNECTED)
            client.socket.sendall(bytes_)
            while client.receive() is not None:
                pass
            if client.close_code not in codes:
                wrong.append(f"{name}: {client.close_code}")
        is_served = WebSocket(daemon).until(CONNECTED) is not None
        return not wrong and is_served, f"{len(cases)} frames, wrong: {wrong or 'none'}"


@scenario("each gets its error code and status; nothing of it is published, and the next request is answered", small={})
def texts_that_are_none(binary):
    """Bad UTF-8 and what is too large, over every other way in."""
    bad, large = b'{"name":"\xc3\x28","data":"x"}', json.dumps({"data": "x" * 70_000})
    text = "text/plain"
    form = "application/x-www-form-urlencoded"
    post = "POST /channels/room/messages"
    msgpack = "application/x-msgpack"
    cases = {
        "a body of JSON that is no UTF-8": ((post, bad), (400, 40001)),
        "a surrogate in a body": ((post, b'{"data":"\xed\xa0\x80"}'), (400, 40001)),
        "a name in MessagePack that is no UTF-8": ((post, b"\x82\xa4name\xa2\xc3\x28\xa4data\xa1x", "", msgpack), (400, 40001)),
        "a form that is no UTF-8": ((post, b"data=\xc3\x28", "", form), (400, 40001)),
        "a message that is too large": ((post, large), (413, 40009)),
        "a body that is too large": ((post, "", "Content-Type: application/json\r\nContent-Length: 600000\r\n"), (413, 40009)),
        "chunks that are too large": (
            (post, "", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n92000\r\n"), (413, 40009)),
        "a channel that is no UTF-8": (("GET /channels/%c3%28/messages", ), (400, 40000)),
        "half an escape in a path": (("GET /channels/%c/messages", ), (400, 40000)),
        "events of a channel that is no UTF-8": (("GET /sse?channels=%c3%28", ), (400, 40000)),
        "a clientId that is no UTF-8": (("GET /channels/room/messages", "", "X-Ably-ClientId: wyg=\r\n"), (400, 40012)),
    }
    wrong = []
    with Daemon(binary) as daemon:
        for name, (request, expected) in cases.items():
            status, body = daemon.request(*request)
            try:
                code = json.loads(body)["error"]["code"]
            except (ValueError, KeyError):
                code = body[:60]
            if (status, code) != expected:
                wrong.append(f"{name}: {status} {code}")
        status, body = daemon.request("GET /channels/room/messages")
        is_clean = (status, json.loads(body)) == (200, [])
        return not wrong and is_clean, f"{len(cases)} requests, wrong: {wrong or 'none'}"


@scenario("each is closed with 1009; the daemon's peak below +16 MiB; others are answered", small={"rounds": 2, "is_measured": False})
def compressed_bombs(binary, rounds=25, is_measured=True):
    """A deflated byte is a thousand at most, so those that come to hundreds of MiB take as many KiB of a frame, which
    must be below frame_bytes_max itself."""

    def deflate(mebibytes):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        deflated = b"".join(deflater.compress(bytes(MEBIBYTE)) for _ in range(mebibytes))
        return deflated + deflater.flush(zlib.Z_SYNC_FLUSH)[:-4]

    small, large = deflate(4), deflate(490)
    half = len(large) // 2
    bombs = {
        "small": frame(1, small, flags=0xC0),
        "large": frame(2, large, flags=0xC0),
        "in fragments": frame(2, large[:half], flags=0x40) + frame(0, large[half:]),
        "in a hundred": frame(1, small[:40], flags=0x40) + b"".join(
            frame(0, small[at:at + 40], flags=0x80 if at + 40 >= len(small) else 0) for at in range(40, len(small), 40)),
    }
    header = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    wrong = []
    with Daemon(binary, "--set", "websocket.deflate=true") as daemon:
        watcher = WebSocket(daemon)
        watcher.attach("room")
        WebSocket(daemon, headers=header).until(CONNECTED)
        base = daemon.memory()
        daemon.forget_peak()
        for _ in range(rounds):
            clients = [(name, WebSocket(daemon, headers=header)) for name in bombs]
            for name, client in clients:
                client.until(CONNECTED)
                client.socket.sendall(bombs[name])
            for name, client in clients:
                while client.receive() is not None:
                    pass
                if client.close_code != 1009:
                    wrong.append(f"{name}: {client.close_code}")
        grown = (daemon.peak() - base) / MEBIBYTE
        daemon.publish("room", "x")
        is_served = watcher.until(MESSAGE) is not None
        figures = f"{rounds * len(bombs)} bombs of {len(small) // 1024} to {len(large) // 1024} KiB, which come to 4 to 490 MiB, "
        figures += f"wrong: {wrong or 'none'}, +{grown:.1f} MiB"
        return not wrong and is_served and (grown < 16 or not is_measured), figures


SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


@scenario(
    "no byte of a body is ever answered as a request: one answer, of 400, 413 or 501", small={})
def smuggling(binary):
    post = f"POST /channels/room/messages HTTP/1.1\r\nHost: h\r\n{BASIC}\r\n"
    chunked = f"0\r\n\r\n{SMUGGLED}"
    length = len(chunked)
    corpus = {
        "CL.TE": f"Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}",
        "TE.CL": f"Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n{chunked}",
        "two lengths": f"Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
        "a list of lengths": f"Content-Length: 0, {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
        "a signed length": f"Content-Length: +0\r\n\r\n{SMUGGLED}",
        "a hexadecimal length": f"Content-Length: 0x0\r\n\r\n{SMUGGLED}",
        "a long length": f"Content-Length: 18446744073709551616\r\n\r\n{SMUGGLED}",
        "a space before the colon": f"Content-Length : 0\r\n\r\n{SMUGGLED}",
        "a folded header": f"X: y\r\n Content-Length: 0\r\n\r\n{SMUGGLED}",
        "TE with a tab": f"Transfer-Encoding:\tchunked\r\nContent-Length: {length}\r\n\r\n{chunked}",
        "TE.TE": f"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{chunked}",
        "an unknown TE": f"Transfer-Encoding: xchunked\r\n\r\n{chunked}",
        "TE identity": f"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{SMUGGLED}",
        "a bare LF": f"Content-Length: 0\n\n{SMUGGLED}",
        "a bare CR": f"X: a\rContent-Length: 0\r\n\r\n{SMUGGLED}",
        "a NUL": f"X: a\0b\r\nContent-Length: 0\r\n\r\n{SMUGGLED}",
        "a negative chunk": f"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{SMUGGLED}",
        "a huge chunk": f"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk without CRLF": f"Transfer-Encoding: chunked\r\n\r\n1\r\nxx0\r\n\r\n{SMUGGLED}",
        "a chunk extension with LF": f"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "CL.TE, chunked after a list": f"Content-Length: {length}\r\nTransfer-Encoding: identity, chunked\r\n\r\n{chunked}",
        "CL.TE, other case": f"content-length: {length}\r\ntransfer-encoding: CHUNKED\r\n\r\n{chunked}",
        "TE.CL, a length of the first chunk's line": f"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            f"{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n0\r\n\r\n",
        "TE.TE, two of them": f"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}",
        "TE.TE, one is broken": f"Transfer-Encoding: xchunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}",
        "TE.TE, cow": f"Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n{chunked}",
        "TE with a quote": f'Transfer-Encoding: "chunked"\r\n\r\n{chunked}',
        "TE with a parameter": f"Transfer-Encoding: chunked;q=1\r\n\r\n{chunked}",
        "TE with a list": f"Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}",
        "TE, a space before the colon": f"Transfer-Encoding : chunked\r\n\r\n{chunked}",
        "TE, a vertical tab": f"Transfer-Encoding:\x0bchunked\r\n\r\n{chunked}",
        "TE, a form feed behind it": f"Transfer-Encoding: chunked\x0c\r\n\r\n{chunked}",
        "TE, a NUL behind it": f"Transfer-Encoding: chunked\0\r\n\r\n{chunked}",
        "TE, folded": f"Transfer-Encoding:\r\n chunked\r\n\r\n{chunked}",
        "TE behind a folded header": f"X: y\r\n\tTransfer-Encoding: chunked\r\n\r\n{chunked}",
        "TE behind a bare LF": f"X: y\nTransfer-Encoding: chunked\r\n\r\n{chunked}",
        "TE behind a bare CR": f"X: y\rTransfer-Encoding: chunked\r\n\r\n{chunked}",
        "a header without a name": f": chunked\r\nContent-Length: 0\r\n\r\n{SMUGGLED}",
        "a header without a colon": f"Transfer-Encoding chunked\r\nContent-Length: 0\r\n\r\n{SMUGGLED}",
        "a space before the first header": post.replace("Host", " Host") + f"Content-Length: 0\r\n\r\n{SMUGGLED}",
        "two equal lengths": f"Content-Length: {len(SMUGGLED)}\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
        "a length with an underscore": f"Content-Length: 1_0\r\n\r\n{SMUGGLED}",
        "a length with a fraction": f"Content-Length: 0.0\r\n\r\n{SMUGGLED}",
        "a negative length": f"Content-Length: -1\r\n\r\n{SMUGGLED}",
        "an empty length": f"Content-Length:\r\n\r\n{SMUGGLED}",
        "a length with a NUL": f"Content-Length: 0\0\r\n\r\n{SMUGGLED}",
        "bare LFs between chunks": f"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n{SMUGGLED}",
        "a bare CR in a chunk's line": f"Transfer-Encoding: chunked\r\n\r\n1\rx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk extension with a CR": f"Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk extension that ends in LF": f"Transfer-Encoding: chunked\r\n\r\n1;a=b\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk with 0x": f"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk with a space before its size": f"Transfer-Encoding: chunked\r\n\r\n 1\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk with a plus": f"Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk with an underscore": f"Transfer-Encoding: chunked\r\n\r\n1_0\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk without a size": f"Transfer-Encoding: chunked\r\n\r\n\r\nx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk of seventeen digits": f"Transfer-Encoding: chunked\r\n\r\n00000000000000001\r\nxx\r\n0\r\n\r\n{SMUGGLED}",
        "a chunk that is longer than its size": f"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n{SMUGGLED}",
        "a trailer with a bare LF": f"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\n\r\n{SMUGGLED}",
        "chunks in HTTP/1.0": f"{post.replace('HTTP/1.1', 'HTTP/1.0')}Transfer-Encoding: chunked\r\n\r\n{chunked}",
        "two hosts": f"Host: other\r\nContent-Length: 0\r\n\r\n{SMUGGLED}",
    }
    # What is behind these is a request of its own: that it is answered shows that the others would be heard of.
    honest = {
        "a length": f"Content-Length: 2\r\n\r\n{{}}{SMUGGLED}",
        "chunks with an extension and a trailer": f"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{{}}\r\n0\r\nA: b\r\n\r\n{SMUGGLED}",
    }
    wrong = []
    with Daemon(binary) as daemon:
        for name, rest in corpus.items():
            request = rest if rest.startswith("POST") else post + rest
            answer = daemon.exchange(request.encode("latin-1"), 0.7)
            answers = answer.count(b"HTTP/1.1 ")
            if answers != 1 or not answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 501")):
                wrong.append(f"{name}: {answers} answers, {answer[:40]!r}")
        for name, rest in honest.items():
            answers = daemon.exchange((post + rest).encode(), 0.7).count(b"HTTP/1.1 ")
            if answers != 2:
                wrong.append(f"{name}: {answers} answers in place of 2")
        return not wrong and daemon.is_alive(), f"{len(corpus)} requests, wrong: {wrong or 'none'}"


@scenario("a page of another site gets 403, for the upgrade and for requests; no header is an application", small={})
def cross_site_hijack(binary):
    wrong = []
    with Daemon(binary, "--set", 'server.origins=["https://example.com"]') as daemon:
        for origin, is_allowed in [
            ("https://example.com", True), ("https://evil.org", False), ("null", False),
            ("https://example.com.evil.org", False), ("http://example.com", False),
            ("https://example.com:8443", False), ("https://EXAMPLE.com", True),
        ]:
            header = f"Origin: {origin}\r\n"
            upgraded = WebSocket(daemon, headers=header).status == 101
            status, _ = daemon.request("GET /channels/room/messages", headers=header)
            if upgraded != is_allowed or (status == 200) != is_allowed:
                wrong.append(f"{origin}: {upgraded} {status}")
        return not wrong, f"7 origins, wrong: {wrong or 'none'}"
