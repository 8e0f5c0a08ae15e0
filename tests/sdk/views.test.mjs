// Attachments that see a channel in their own way: deltas, filters, params.
import assert from 'node:assert/strict';
import vcdiff from '@ably/vcdiff-decoder';
import { channelName, formats, keys, reached, realtime, rest, subscribe, test } from './client.mjs';

const versions = [
  { foo: 'bar', count: 1, status: 'active' },
  { foo: 'bar', count: 2, status: 'active' },
  { foo: 'bar', count: 2, status: 'inactive' },
  { foo: 'bar', count: 3, status: 'inactive' },
  { foo: 'bar', count: 3, status: 'active' },
];

/** The SDK's decoder, with a count of the deltas that it was given. */
function counting(decode = vcdiff.decode) {
  const decoder = {
    calls: 0,
    decode(delta, base) {
      decoder.calls += 1;
      return decode(delta, base);
    },
  };
  return decoder;
}

const withDeltas = { params: { delta: 'vcdiff' } };

for (const format of formats) {
  test(`all messages but the first are deltas (${format.name})`, async (t) => {
    const name = channelName();
    const decoder = counting();
    const channel = realtime(t, { ...format, plugins: { vcdiff: decoder } }).channels.get(name, withDeltas);
    const inbox = await subscribe(channel);
    assert.equal(channel.params.delta, 'vcdiff');
    const plain = await subscribe(realtime(t, format).channels.get(name));
    for (const [index, data] of versions.entries()) await channel.publish(String(index), data);
    const messages = await inbox.take(versions.length);
    assert.deepEqual(messages.map(({ data }) => data), versions);
    assert.equal(decoder.calls, versions.length - 1);
    assert.deepEqual((await plain.take(versions.length)).map(({ data }) => data), versions);
  });

  test(`deltas of strings and bytes give strings and bytes back (${format.name})`, async (t) => {
    const name = channelName();
    const decoder = counting();
    const channel = realtime(t, { ...format, plugins: { vcdiff: decoder } }).channels.get(name, withDeltas);
    const inbox = await subscribe(channel);
    const filler = 'as long as it takes for a delta to be worth it, žluťoučký 🐎';
    const payloads = [filler, `${filler}!`, Buffer.from(`${filler}!?`), Buffer.from(`${filler}?`), filler];
    for (const data of payloads) await channel.publish({ data, extras: { headers: { kept: true } } });
    for (const [index, message] of (await inbox.take(payloads.length)).entries()) {
      const data = ArrayBuffer.isView(payloads[index]) ? Buffer.from(message.data) : message.data;
      assert.deepEqual(data, payloads[index]);
      assert.equal(message.extras.headers.kept, true);
    }
    assert.equal(decoder.calls, payloads.length - 1);
  });

  test(`payloads that have nothing in common are sent whole (${format.name})`, async (t) => {
    const decoder = counting();
    const client = realtime(t, { ...format, plugins: { vcdiff: decoder } });
    const channel = client.channels.get(channelName(), withDeltas);
    const inbox = await subscribe(channel);
    const payloads = Array.from({ length: 5 }, () => Buffer.from(crypto.getRandomValues(new Uint8Array(1024))));
    for (const data of payloads) await channel.publish('bytes', data);
    const messages = await inbox.take(payloads.length);
    assert.deepEqual(messages.map(({ data }) => Buffer.from(data)), payloads);
    assert.equal(decoder.calls, 0);
  });

  test(`a client that lost its base recovers, first in full and then by deltas (${format.name})`, async (t) => {
    const decoder = counting();
    const client = realtime(t, { ...format, plugins: { vcdiff: decoder } });
    const channel = client.channels.get(channelName(), withDeltas);
    const reasons = [];
    const received = [];
    await channel.attach();
    channel.on('attaching', ({ reason }) => reasons.push(reason?.code));
    const all = new Promise((resolve) => {
      channel.subscribe((message) => {
        received.push(message.data);
        if (received.length === 2) channel._lastPayload.messageId = null;
        if (received.length === versions.length) resolve();
      });
    });
    for (const [index, data] of versions.entries()) await channel.publish(String(index), data);
    await all;
    assert.deepEqual(received, versions);
    assert.deepEqual(reasons, [40018]);
    assert.equal(decoder.calls, versions.length - 2);
  });
}

test('a decoder that always fails still gets every message', async (t) => {
  const broken = counting(() => {
    throw new Error('broken');
  });
  const channel = realtime(t, { plugins: { vcdiff: broken } }).channels.get(channelName(), withDeltas);
  const inbox = await subscribe(channel);
  for (const [index, data] of versions.entries()) await channel.publish(String(index), data);
  const messages = await inbox.take(versions.length);
  assert.deepEqual(messages.map(({ data }) => data), versions);
});

test('without a decoder the channel fails and says what is missing', async (t) => {
  const channel = realtime(t).channels.get(channelName(), withDeltas);
  await channel.attach();
  for (const [index, data] of versions.entries()) channel.publish(String(index), data).catch(() => {});
  await reached(channel, 'failed');
  assert.equal(channel.errorReason.code, 40019);
});

test('a client that comes later is sent its first message whole and the same deltas then', async (t) => {
  const name = channelName();
  const [first, second] = [counting(), counting()];
  const early = realtime(t, { plugins: { vcdiff: first } }).channels.get(name, withDeltas);
  const inbox = await subscribe(early);
  for (const data of versions.slice(0, 3)) await early.publish('v', data);
  await inbox.take(3);
  const late = await subscribe(realtime(t, { plugins: { vcdiff: second } }).channels.get(name, withDeltas));
  for (const data of versions.slice(3)) await early.publish('v', data);
  assert.deepEqual((await late.take(2)).map(({ data }) => data), versions.slice(3));
  await inbox.take(2);
  assert.deepEqual([first.calls, second.calls], [4, 1]);
});

for (const format of formats) {
  test(`a derived channel has the messages that pass (${format.name})`, async (t) => {
    const name = channelName();
    const client = realtime(t, format);
    const filter = 'name == `"filtered"` && headers.number == `26095`';
    const derived = client.channels.getDerived(name, { filter });
    const inbox = await subscribe(derived);
    const everything = await subscribe(client.channels.get(name));
    const headers = { name: 'John Bull', number: 26095, bool: false };
    await rest(format).channels.get(name).publish([
      { name: 'filtered', data: 'a', extras: { headers } },
      { name: 'other', data: 'b', extras: { headers } },
      { name: 'filtered', data: 'c', extras: { headers } },
      { name: 'filtered', data: 'd' },
      { name: 'filtered', data: 'e', extras: { headers: { ...headers, number: 12345 } } },
      { name: 'filtered', data: 'f', extras: { headers } },
    ]);
    assert.equal((await everything.take(6)).length, 6);
    const messages = await inbox.take(3);
    assert.deepEqual(messages.map(({ data }) => data), ['a', 'c', 'f']);
    assert.deepEqual(messages.map(({ extras }) => extras.headers), [headers, headers, headers]);
  });
}

test('a derived channel can be read, with a capability for it, and nothing else', async (t) => {
  const derived = realtime(t).channels.getDerived(channelName(), { filter: 'name == `"a"`' });
  await derived.attach();
  assert.deepEqual(derived.modes, ['subscribe']);
  await assert.rejects(derived.publish('a', 'b'), ({ code }) => code === 40010);
  const reader = realtime(t, { key: keys.news });
  await assert.rejects(
    reader.channels.getDerived('news:sport', { filter: 'name == `"a"`' }).attach(),
    ({ code }) => code === 40160,
  );
});

test('a filter that is wrong or too costly is refused with a reason', async (t) => {
  const client = realtime(t);
  for (const filter of ['name ==', 'headers.*', 'sort(headers.tags)', `name == '${'x'.repeat(1100)}'`]) {
    const derived = client.channels.getDerived(channelName(), { filter });
    await assert.rejects(derived.attach(), ({ code, message }) => code === 40000 && /filter/.test(message));
  }
});

test('params that have an effect are repeated, others are not', async (t) => {
  const channel = realtime(t).channels.get(channelName(), {
    params: { nonexistent: 'foo', rewind: '1', echo: 'false', modes: 'subscribe,publish', occupancy: 'nonsense' },
  });
  await channel.attach();
  assert.deepEqual(channel.params, { rewind: '1', echo: 'false', modes: 'publish,subscribe' });
});

test('an attachment may leave out what its own connection publishes', async (t) => {
  const name = channelName();
  const client = realtime(t);
  const channel = client.channels.get(name, { params: { echo: 'false' } });
  const inbox = await subscribe(channel);
  await channel.publish('own', 'x');
  await rest().channels.get(name).publish('foreign', 'y');
  assert.deepEqual((await inbox.take(1)).map(({ name }) => name), ['foreign']);
});

for (const format of formats) {
  test(`occupancy is told on attach and when it changes (${format.name})`, async (t) => {
    const name = channelName();
    const watcher = realtime(t, format).channels.get(name, {
      params: { occupancy: 'metrics' },
      modes: ['SUBSCRIBE'],
    });
    const told = [];
    let wake = () => {};
    await watcher.subscribe('[meta]occupancy', (message) => {
      told.push(message.data.metrics);
      wake();
    });
    const until = async (holds) => {
      while (!told.some(holds)) await new Promise((resolve) => (wake = resolve));
    };
    await until(({ connections, subscribers, publishers }) => connections === 1 && subscribers === 1 && publishers === 0);
    const other = realtime(t, { ...format, clientId: 'alice' }).channels.get(name);
    await other.presence.enter();
    await until(({ connections, publishers, presenceMembers }) => connections === 2 && publishers === 1 && presenceMembers === 1);
    await other.detach();
    await until(({ connections, publishers, presenceMembers }) => connections === 1 && publishers === 0 && presenceMembers === 0);
    assert.deepEqual(Object.keys(told[0]).sort(), [
      'connections', 'objectPublishers', 'objectSubscribers', 'presenceConnections', 'presenceMembers',
      'presenceSubscribers', 'publishers', 'subscribers',
    ]);
    const history = await watcher.history();
    assert.equal(history.items.length, 0);
  });
}

test('metachannels can be attached to and are read only', async (t) => {
  const client = realtime(t);
  for (const name of ['[meta]log', '[meta]channel.lifecycle', '[meta]connection.lifecycle']) {
    const channel = client.channels.get(name);
    await channel.attach();
    assert.deepEqual(channel.modes, ['subscribe']);
    await assert.rejects(channel.publish('a', 'b'), ({ code }) => code === 40010);
  }
  await assert.rejects(client.channels.get('[meta]nothing').attach(), ({ code }) => code === 40010);
  await assert.rejects(
    realtime(t, { key: keys.news }).channels.get('[meta]log').attach(),
    ({ code }) => code === 40160,
  );
});
