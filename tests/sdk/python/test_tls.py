"""ably-python against the daemon's own TLS: requests and a realtime connection, with nothing in between."""

import asyncio
import os
import ssl
import unittest
import uuid

# Python trusts the daemon's authority, and nobody else: set before httpx is imported.
os.environ["SSL_CERT_FILE"] = os.environ["RINGCAST_CA"]

from ably import AblyRealtime, AblyRest  # noqa: E402

ADDRESS = os.environ["RINGCAST_TLS_ADDRESS"]
HOST, PORT = ADDRESS.split(":")
KEY = "app.key:hush"


class Tls(unittest.IsolatedAsyncioTestCase):
    async def test_messages_go_to_and_fro(self):
        for binary in (False, True):
            # It dials the endpoint without a port of its own, so the port is part of the endpoint.
            client = AblyRealtime(key=KEY, endpoint=ADDRESS, use_binary_protocol=binary)
            channel = client.channels.get(f"python-{uuid.uuid4()}")
            heard = asyncio.Queue()
            await channel.subscribe(heard.put_nowait)
            large = "x" * 40_000
            await channel.publish("realtime", large)
            async with AblyRest(key=KEY, endpoint=HOST, tls_port=int(PORT), use_binary_protocol=binary) as rest:
                await rest.channels.get(channel.name).publish("rest", {"a": 1})
                messages = [await asyncio.wait_for(heard.get(), 20) for _ in range(2)]
                self.assertEqual([(each.name, each.data) for each in messages], [("realtime", large), ("rest", {"a": 1})])
                page = await rest.channels.get(channel.name).history()
                self.assertEqual(len(page.items), 2)
            await client.close()

    async def test_a_daemon_that_is_not_trusted_is_not_told_the_key(self):
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with self.assertRaises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(HOST, int(PORT), ssl=stranger)


if __name__ == "__main__":
    unittest.main()
