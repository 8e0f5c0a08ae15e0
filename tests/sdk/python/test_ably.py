"""ably-python over HTTP and a WebSocket."""

import asyncio
import os
import ssl
import subprocess
import tempfile
import time
import unittest
import uuid

ADDRESS = os.environ.get("RINGCAST_ADDRESS", "127.0.0.1:8080")
HOST, PORT = ADDRESS.split(":")
KEY = "app.all:everything"

# ably-python sends keys over TLS only, so its REST client is met by a proxy that ends TLS. The
# proxy's certificate is made for this run, and the variable makes Python trust it: set before httpx
# is imported.
CERTIFICATES = tempfile.TemporaryDirectory()
CERTIFICATE = os.path.join(CERTIFICATES.name, "certificate.pem")
PRIVATE_KEY = os.path.join(CERTIFICATES.name, "key.pem")
subprocess.run(
    ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
     "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
     "-keyout", PRIVATE_KEY, "-out", CERTIFICATE],
    check=True, capture_output=True,
)  # fmt: skip
os.environ["SSL_CERT_FILE"] = CERTIFICATE

from ably import AblyException, AblyRealtime, AblyRest  # noqa: E402
from ably.types.message import Message  # noqa: E402
from ably.types.presence import PresenceAction  # noqa: E402

KINDS = {
    "string": "hello",
    "unicode": "žluťoučký 🐎 \u2028",
    "object": {"a": 1, "nested": {"list": [1, None, True]}},
    "array": [1, "two", None],
    "bytes": bytearray([0, 1, 127, 128, 254, 255]),
}


async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def channel_name():
    return f"python-{uuid.uuid4()}"


class OverTls(unittest.IsolatedAsyncioTestCase):
    """REST clients that may send their key, since a proxy ends TLS before the daemon."""

    async def asyncSetUp(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, PRIVATE_KEY)
        self.proxy = await asyncio.start_server(self.forward, "127.0.0.1", 0, ssl=context)
        self.tls_port = self.proxy.sockets[0].getsockname()[1]
        self.clients, self.forwarding = [], set()

    async def asyncTearDown(self):
        for client in self.clients:
            await client.close()
        self.proxy.close()
        await asyncio.gather(*self.forwarding)

    async def forward(self, reader, writer):
        self.forwarding.add(asyncio.current_task())
        daemon_reader, daemon_writer = await asyncio.open_connection(HOST, int(PORT))
        await asyncio.gather(pipe(reader, daemon_writer), pipe(daemon_reader, writer))

    def client(self, **options):
        options = {"key": KEY, "endpoint": "127.0.0.1", "tls_port": self.tls_port, **options}
        return self.closed_at_the_end(AblyRest(**options))

    def closed_at_the_end(self, client):
        self.clients.append(client)
        return client

    def holder(self, token, **options):
        """A REST client that has a token and no key, and so needs no TLS."""
        options = {"token_details": token, "endpoint": HOST, "port": int(PORT), "tls": False, **options}
        return self.closed_at_the_end(AblyRest(**options))

    def realtime(self, **options):
        return self.closed_at_the_end(AblyRealtime(**{"endpoint": ADDRESS, "tls": False, **options}))


class Rest(OverTls):
    async def test_time(self):
        self.assertLess(abs(await self.client().time() - time.time() * 1000), 10_000)

    async def test_history_holds_data_of_every_kind_for_both_formats(self):
        for binary in (False, True):
            name = channel_name()
            channel = self.client(use_binary_protocol=binary).channels.get(name)
            for kind, data in KINDS.items():
                await channel.publish(kind, data)
            for other in (False, True):
                reader = self.client(use_binary_protocol=other).channels.get(name)
                page = await reader.history(direction="forwards")
                self.assertEqual({message.name: message.data for message in page.items}, KINDS)

    async def test_an_array_is_published_at_once_and_comes_back_in_pages(self):
        channel = self.client().channels.get(channel_name())
        await channel.publish([Message(name="n", data=str(i)) for i in range(5)])
        page = await channel.history(limit=2, direction="forwards")
        seen = [message.data for message in page.items]
        while page.has_next():
            page = await page.next()
            seen += [message.data for message in page.items]
        self.assertEqual(seen, ["0", "1", "2", "3", "4"])

    async def test_a_wrong_secret_is_refused(self):
        with self.assertRaises(AblyException) as raised:
            await self.client(key="app.all:wrong").channels.get("x").publish("n", "x")
        self.assertEqual((raised.exception.code, raised.exception.status_code), (40101, 401))

    async def test_what_the_key_does_not_allow_is_refused(self):
        with self.assertRaises(AblyException) as raised:
            await self.client(key="app.news:reader").channels.get("x").publish("n", "x")
        self.assertEqual(raised.exception.code, 40160)


class Tokens(OverTls):
    async def test_a_token_does_what_its_capability_allows_and_no_more(self):
        for binary in (False, True):
            name = channel_name()
            key_holder = self.client(use_binary_protocol=binary)
            await key_holder.channels.get(name).publish("n", "before")
            token = await key_holder.auth.request_token({"capability": {name: ["history"]}})
            reader = self.holder(token, use_binary_protocol=binary).channels.get(name)
            self.assertEqual([message.data for message in (await reader.history()).items], ["before"])
            with self.assertRaises(AblyException) as raised:
                await reader.publish("n", "after")
            self.assertEqual((raised.exception.code, raised.exception.status_code), (40160, 401))

    async def test_a_token_cannot_hold_what_its_key_does_not(self):
        reader = self.client(key="app.news:reader")
        token = await reader.auth.request_token({"capability": {"*": ["publish", "subscribe"]}})
        self.assertEqual(token.capability.to_dict(), {"news:*": ["subscribe"]})

    async def test_a_signed_token_request_is_worth_one_token(self):
        request = await self.client().auth.create_token_request({"client_id": "alice"})

        async def callback(_):
            return request

        buyer = self.client(key=None, auth_callback=callback)
        token = await buyer.auth.request_token()
        self.assertEqual(token.client_id, "alice")
        with self.assertRaises(AblyException) as raised:
            await buyer.auth.request_token()
        self.assertEqual(raised.exception.status_code, 401)

    async def test_a_connection_is_who_its_token_says(self):
        token = await self.client().auth.request_token({"client_id": "alice"})
        for binary in (False, True):
            name = channel_name()
            alice = self.realtime(token_details=token, use_binary_protocol=binary)
            inbox = asyncio.Queue()
            await alice.channels.get(name).subscribe(inbox.put_nowait)
            self.assertEqual(alice.auth.client_id, "alice")
            await alice.channels.get(name).publish("n", "x")
            self.assertEqual((await asyncio.wait_for(inbox.get(), 10)).client_id, "alice")

    async def test_a_connection_outlives_its_first_token(self):
        key_holder, issued = self.client(), []

        async def callback(_):
            ttl = 60 * 60 * 1000 if issued else 3000
            issued.append(await key_holder.auth.request_token({"ttl": ttl}))
            return issued[-1]

        client = self.realtime(auth_callback=callback)
        channel, inbox = client.channels.get(channel_name()), asyncio.Queue()
        await channel.subscribe(inbox.put_nowait)
        for _ in range(100):
            if len(issued) == 2:
                break
            await asyncio.sleep(0.1)
        self.assertEqual(len(issued), 2)
        await asyncio.wait_for(channel.publish("n", "still here"), 10)
        self.assertEqual((await asyncio.wait_for(inbox.get(), 10)).data, "still here")


class Presence(OverTls):
    async def test_members_enter_update_and_leave_for_both_formats(self):
        for binary in (False, True):
            name, events = channel_name(), asyncio.Queue()
            watcher = self.realtime(key=KEY, use_binary_protocol=not binary)
            await watcher.channels.get(name).presence.subscribe(events.put_nowait)
            alice = self.realtime(key=KEY, client_id="alice", use_binary_protocol=binary)
            presence = alice.channels.get(name).presence
            await presence.enter({"at": "home"})
            await presence.update("at work")
            # The ACK may come before the event, which is what the client's own list is made of.
            for _ in range(100):
                members = [member.data for member in await presence.get()]
                if members == ["at work"]:
                    break
                await asyncio.sleep(0.1)
            self.assertEqual(members, ["at work"])
            await presence.leave()
            seen = [await asyncio.wait_for(events.get(), 10) for _ in range(3)]
            self.assertEqual(
                [(event.action, event.client_id, event.data) for event in seen],
                [
                    (PresenceAction.ENTER, "alice", {"at": "home"}),
                    (PresenceAction.UPDATE, "alice", "at work"),
                    (PresenceAction.LEAVE, "alice", "at work"),
                ],
            )

    async def test_who_comes_later_and_who_asks_over_rest_see_all_members(self):
        name, ids = channel_name(), {f"member-{i}" for i in range(120)}
        crowd = self.realtime(key=KEY, client_id="*")
        presence = crowd.channels.get(name).presence
        for client_id in sorted(ids):
            await presence.enter_client(client_id, client_id)
        late = self.realtime(key=KEY).channels.get(name)
        members = await late.presence.get()
        self.assertEqual({member.client_id for member in members}, ids)

        over_rest = self.client().channels.get(name).presence
        page = await over_rest.get(limit=50)
        listed = [member.client_id for member in page.items]
        while page.has_next():
            page = await page.next()
            listed += [member.client_id for member in page.items]
        self.assertEqual((len(listed), set(listed)), (120, ids))
        entered = await over_rest.history(limit=1)
        self.assertEqual(entered.items[0].client_id, max(ids))

    async def test_who_closes_the_connection_has_left(self):
        name, events = channel_name(), asyncio.Queue()
        watcher = self.realtime(key=KEY)
        await watcher.channels.get(name).presence.subscribe("leave", events.put_nowait)
        alice = self.realtime(key=KEY, client_id="alice")
        await alice.channels.get(name).presence.enter()
        await alice.close()
        self.assertEqual((await asyncio.wait_for(events.get(), 10)).client_id, "alice")
        self.assertEqual(await watcher.channels.get(name).presence.get(), [])


class Realtime(unittest.IsolatedAsyncioTestCase):
    def client(self, **options):
        # It dials the endpoint without a port of its own, so the port is part of the endpoint.
        return AblyRealtime(**{"key": KEY, "endpoint": ADDRESS, "tls": False, **options})

    async def test_messages_arrive_in_order_for_both_formats(self):
        for binary in (False, True):
            name = channel_name()
            subscriber = self.client(use_binary_protocol=binary)
            publisher = self.client(use_binary_protocol=not binary)
            inbox = asyncio.Queue()
            await subscriber.channels.get(name).subscribe(inbox.put_nowait)
            for kind, data in KINDS.items():
                await publisher.channels.get(name).publish(kind, data)
            for kind, data in KINDS.items():
                message = await asyncio.wait_for(inbox.get(), 10)
                self.assertEqual((message.name, message.data), (kind, data))
            await subscriber.close()
            await publisher.close()

    async def test_ping_is_answered(self):
        client = self.client()
        await client.connection.once_async("connected")
        self.assertLess(await client.connection.ping(), 5000)
        await client.close()

    async def test_a_wrong_secret_fails_the_connection(self):
        client = self.client(key="app.all:wrong")
        change = await client.connection.once_async("failed")
        self.assertEqual(change.reason.code, 40101)


if __name__ == "__main__":
    unittest.main()
