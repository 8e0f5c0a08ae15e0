// Many connections, spread over the daemon's shards by the kernel: every message once and in channel order.
import assert from 'node:assert/strict';
import { channelName, formats, realtime, subscribe, test } from './client.mjs';

const PUBLISHERS = 20;
const CHANNELS = 50;
const ROUNDS = 5;
const SUBSCRIBERS = 6;

test(`${PUBLISHERS} publishers on ${CHANNELS} channels`, async (t) => {
  const names = Array.from({ length: CHANNELS }, () => channelName());
  const format = (i) => formats[i % formats.length];
  const subscribers = await Promise.all(
    Array.from({ length: SUBSCRIBERS }, async (_, i) => {
      const client = realtime(t, format(i));
      return Promise.all(names.map((name) => subscribe(client.channels.get(name))));
    }),
  );

  // All at once: nothing waits for an ACK, so publishes of all publishers meet in each channel.
  const serials = new Map(); // what each ACK has promised
  const publisher = async (i) => {
    const client = realtime(t, format(i));
    const publishes = [];
    for (let round = 0; round < ROUNDS; round++) {
      for (const name of names) {
        const data = `${i}:${round}`;
        const done = client.channels.get(name).publish('n', data);
        publishes.push(done.then(({ serials: [serial] }) => serials.set(`${name} ${data}`, serial)));
      }
    }
    await Promise.all(publishes);
  };
  await Promise.all(Array.from({ length: PUBLISHERS }, (_, i) => publisher(i)));
  assert.equal(serials.size, PUBLISHERS * CHANNELS * ROUNDS);

  for (const [c, name] of names.entries()) {
    const streams = await Promise.all(subscribers.map((inboxes) => inboxes[c].take(PUBLISHERS * ROUNDS)));
    const [first, ...others] = streams.map((stream) => stream.map(({ serial, data }) => `${serial} ${data}`));
    for (const other of others) assert.deepEqual(other, first, 'all see one order');

    const next = new Map();
    let last = '';
    for (const { serial, data } of streams[0]) {
      assert.ok(last < serial, 'serials increase');
      last = serial;
      assert.equal(serial, serials.get(`${name} ${data}`), 'the ACK named this serial');
      const [from, round] = data.split(':').map(Number);
      assert.equal(round, next.get(from) ?? 0, 'each publisher in its order, once');
      next.set(from, round + 1);
    }
    assert.equal(next.size, PUBLISHERS);
    for (const inboxes of subscribers) assert.equal(inboxes[c].messages.length, 0, 'and nothing else');
  }
});

test('a late subscriber sees a suffix, without a gap', async (t) => {
  const name = channelName();
  const publisher = realtime(t).channels.get(name);
  let publishing = true;
  const published = (async () => {
    let count = 0;
    while (publishing) await publisher.publish('n', String(count++));
    return count;
  })();
  const inboxes = [];
  for (let i = 0; i < 20; i++) {
    inboxes.push(await subscribe(realtime(t, formats[i % 2]).channels.get(name)));
  }
  publishing = false;
  const count = await published;
  await publisher.publish('n', String(count));
  for (const inbox of inboxes) {
    const [first] = await inbox.take(1);
    const rest = await inbox.take(count - Number(first.data));
    const seen = [first, ...rest].map(({ data }) => Number(data));
    assert.deepEqual(seen, Array.from(seen, (_, i) => seen[0] + i));
    assert.equal(seen.at(-1), count);
  }
});
