// permessage-deflate: those who have agreed to it share one compressed frame, the others notice nothing.
import assert from 'node:assert/strict';
import WebSocket from 'ws';
import { address, channelName, keys, rest, test } from './client.mjs';

/** A realtime connection; `socket.next(action)` gives the next message of that kind. */
async function open(t, perMessageDeflate) {
  const url = `ws://${address}/?v=6&format=json&key=${keys.all}`;
  const socket = new WebSocket(url, { perMessageDeflate });
  t.after(() => socket.terminate());
  const messages = [];
  let wake = () => {};
  socket.on('message', (data) => {
    messages.push(JSON.parse(data));
    wake();
  });
  socket.next = async (action) => {
    for (;;) {
      while (!messages.length) await new Promise((resolve) => (wake = resolve));
      const message = messages.shift();
      if (message.action === action) return message;
    }
  };
  await socket.next(4);
  return socket;
}

async function attached(t, channel, perMessageDeflate) {
  const socket = await open(t, perMessageDeflate);
  socket.send(JSON.stringify({ action: 10, channel }));
  await socket.next(11);
  return socket;
}

test('what repeats itself takes fewer bytes, and says the same', async (t) => {
  const channel = channelName();
  const plain = await attached(t, channel, false);
  const deflated = await attached(t, channel, true);
  assert.equal(plain.extensions, '');
  assert.match(deflated.extensions, /permessage-deflate/);
  const before = [plain, deflated].map((socket) => socket._socket.bytesRead);
  const data = 'so it goes, '.repeat(1000);
  for (const size of [data.length, 5, data.length]) {
    await rest().channels.get(channel).publish('text', data.slice(0, size));
    for (const socket of [plain, deflated]) {
      const { messages } = await socket.next(15);
      assert.ok(messages[0].data === data.slice(0, size));
    }
  }
  const [plainBytes, deflatedBytes] =
    [plain, deflated].map((socket, i) => socket._socket.bytesRead - before[i]);
  assert.ok(plainBytes > 2 * data.length, `${plainBytes}`);
  assert.ok(deflatedBytes < plainBytes / 10, `${deflatedBytes} of ${plainBytes}`);
});

test('a client with a small window shares what is compressed for that', async (t) => {
  const channel = channelName();
  const wide = await attached(t, channel, true);
  const narrow = await attached(t, channel, { serverMaxWindowBits: 10 });
  // The smallest will do for whoever asks for less than the largest, and it is what zlib here inflates with.
  assert.match(narrow.extensions, /permessage-deflate/);
  const inflater = narrow._extensions['permessage-deflate'];
  assert.equal(inflater.params.server_max_window_bits, 9);
  const before = [wide, narrow].map((socket) => socket._socket.bytesRead);
  // What repeats itself, from further back than the small window and from within it.
  const far = Array.from({ length: 2000 }, (_, i) => `${(i * 7919) % 1000}`).join(' ');
  const near = 'so it goes, '.repeat(300);
  for (const data of [far + far, near]) {
    await rest().channels.get(channel).publish('text', data);
    for (const socket of [wide, narrow]) {
      const { messages } = await socket.next(15);
      assert.ok(messages[0].data === data);
    }
  }
  const [wideBytes, narrowBytes] =
    [wide, narrow].map((socket, i) => socket._socket.bytesRead - before[i]);
  assert.ok(wideBytes < narrowBytes, `${wideBytes}, ${narrowBytes}`);
  const bytes = 2 * far.length + near.length;
  assert.ok(narrowBytes < bytes, `${narrowBytes} of ${bytes}`);
});

test('a client may compress what it publishes', async (t) => {
  const channel = channelName();
  const socket = await attached(t, channel, { threshold: 0 });
  const data = 'again '.repeat(2000);
  socket.send(JSON.stringify({ action: 15, channel, msgSerial: 0, messages: [{ data }] }));
  const { messages } = await socket.next(15);
  assert.ok(messages[0].data === data);
});

test('a message that comes to more than is allowed ends the transport', async (t) => {
  const socket = await open(t, { threshold: 0 });
  socket.send('0'.repeat(20 << 20));
  const code = await new Promise((resolve) => socket.once('close', resolve));
  assert.equal(code, 1009);
});
