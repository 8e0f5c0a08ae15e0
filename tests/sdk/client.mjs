// What the tests share: clients that are closed when their test ends, and names that no other test uses.
import { randomUUID } from 'node:crypto';
import * as node from 'node:test';
import Ably from 'ably';

/** A test with a time limit of its own, so that one that hangs does not take the file with it. */
export function test(name, run) {
  node.test(name, { timeout: 60_000 }, run);
}

/** host:port of the daemon, which was started with ringcast.toml. */
export const address = process.env.RINGCAST_ADDRESS ?? '127.0.0.1:8080';
const [endpoint, port] = address.split(':');

export const keys = {
  all: 'app.all:everything',
  news: 'app.news:reader', // may subscribe to news:*
  writer: 'app.writer:writer', // may publish
  own: 'app.own:owner', // may publish, subscribe and change its own messages
  other: 'other.all:elsewhere', // another application
};

/** The two wire formats, by the option that chooses them. */
export const formats = [
  { name: 'JSON', useBinaryProtocol: false },
  { name: 'MessagePack', useBinaryProtocol: true },
];

const options = (overrides) => ({
  key: keys.all,
  endpoint,
  port: Number(port),
  tls: false,
  logLevel: 0, // most of these tests provoke errors
  ...overrides,
});

export function rest(overrides = {}) {
  return new Ably.Rest(options(overrides));
}

export function realtime(t, overrides = {}) {
  const client = new Ably.Realtime(options(overrides));
  t.after(() => client.close());
  return client;
}

export function channelName(prefix = 'test') {
  return `${prefix}-${randomUUID()}`;
}

/** Resolves when the emitter's state is `state`. */
export async function reached(emitter, state) {
  if (emitter.state !== state) await new Promise((resolve) => emitter.once(state, resolve));
}

/** Gives up the client's transport without a word, as a network does. */
export function lose(client) {
  client.connection.connectionManager.activeProtocol.getTransport().wsConnection.terminate();
}

/** Attaches and collects; `await inbox.take(n)` gives the next `n` messages, in the order of arrival. */
export async function subscribe(channel) {
  const messages = [];
  let wake = () => {};
  await channel.subscribe((message) => {
    messages.push(message);
    wake();
  });
  return {
    messages,
    async take(count) {
      while (messages.length < count) await new Promise((resolve) => (wake = resolve));
      return messages.splice(0, count);
    },
  };
}

/** Every message of all pages, and the length of each page. */
export async function allPages(query) {
  const items = [];
  const lengths = [];
  for (let page = await query; page; page = await page.next()) {
    items.push(...page.items);
    lengths.push(page.items.length);
  }
  return { items, lengths };
}

/** One message of every kind of data, the kind as its name. */
export const kinds = {
  string: 'hello',
  unicode: 'žluťoučký 🐎 \u0000 \u2028 "quoted" \\ \u{10FFFF}',
  'empty string': '',
  object: { a: 1, nested: { list: [1, 2.5, null, true], text: '\n' }, large: 2 ** 53 - 1 },
  'empty object': {},
  array: [1, 'two', null, { three: 3 }],
  'empty array': [],
  bytes: Buffer.from([0, 1, 127, 128, 254, 255]),
  'empty bytes': Buffer.alloc(0),
  null: null,
};

/** Data as deepStrictEqual can compare it: absent and null are one, bytes are a Buffer. */
export function comparable(data) {
  if (data === undefined) return null;
  return ArrayBuffer.isView(data) || data instanceof ArrayBuffer ? Buffer.from(data) : data;
}
