// ably-js over HTTP.
import assert from 'node:assert/strict';
import {
  address, allPages, channelName, comparable, formats, keys, kinds, realtime, rest, subscribe, test,
} from './client.mjs';

for (const format of formats) {
  test(`time is the server's (${format.name})`, async () => {
    assert.ok(Math.abs((await rest(format).time()) - Date.now()) < 10_000);
  });

  test(`a publish reaches subscribers of both formats (${format.name})`, async (t) => {
    const name = channelName();
    const inboxes = await Promise.all(formats.map((other) => subscribe(realtime(t, other).channels.get(name))));
    const channel = rest({ ...format, clientId: 'alice' }).channels.get(name);
    for (const [kind, data] of Object.entries(kinds)) await channel.publish(kind, data);
    for (const inbox of inboxes) {
      for (const message of await inbox.take(Object.keys(kinds).length)) {
        assert.deepStrictEqual(comparable(message.data), kinds[message.name], message.name);
        assert.equal(message.clientId, 'alice');
        assert.equal(message.connectionId ?? null, null);
      }
    }
  });

  test(`history holds data of every kind, for both formats (${format.name})`, async () => {
    const name = channelName();
    const channel = rest(format).channels.get(name);
    for (const [kind, data] of Object.entries(kinds)) await channel.publish(kind, data);
    for (const other of formats) {
      const { items } = await rest(other).channels.get(name).history({ direction: 'forwards' });
      assert.deepEqual(items.map(({ name }) => name), Object.keys(kinds));
      for (const message of items) {
        assert.deepStrictEqual(comparable(message.data), kinds[message.name], message.name);
        assert.ok(message.id && message.serial && message.timestamp, message.name);
        assert.equal(message.action, 'message.create');
      }
    }
  });

  test(`history comes in pages, in both directions (${format.name})`, async () => {
    const channel = rest(format).channels.get(channelName());
    for (const data of ['1', '2', '3', '4', '5']) await channel.publish('n', data);
    const backwards = await allPages(channel.history({ limit: 2 }));
    assert.deepEqual(backwards.items.map(({ data }) => data), ['5', '4', '3', '2', '1']);
    assert.ok(backwards.lengths.every((length) => length <= 2));
    const forwards = await allPages(channel.history({ limit: 2, direction: 'forwards' }));
    assert.deepEqual(forwards.items.map(({ data }) => data), ['1', '2', '3', '4', '5']);

    const page = await channel.history({ limit: 2 });
    assert.ok(page.hasNext() && !page.isLast());
    const first = await (await page.next()).first();
    assert.deepEqual(first.items.map(({ data }) => data), ['5', '4']);
    const timestamps = forwards.items.map(({ timestamp }) => timestamp);
    const { items } = await channel.history({ start: timestamps[0], end: timestamps[4] });
    assert.equal(items.length, 5);
    assert.equal((await channel.history({ end: timestamps[0] - 1 })).items.length, 0);
  });

  test(`an array is one publish (${format.name})`, async () => {
    const channel = rest(format).channels.get(channelName());
    const { serials } = await channel.publish([{ name: 'a', data: 'x' }, { name: 'b', data: { y: 1 } }]);
    const { items } = await channel.history({ direction: 'forwards' });
    assert.deepEqual(items.map(({ name }) => name), ['a', 'b']);
    assert.deepEqual(items.map(({ serial }) => serial), serials);
  });

  test(`a publish repeated with the same id is published once (${format.name})`, async () => {
    const channel = rest(format).channels.get(channelName());
    const first = await channel.publish({ id: 'once/+:0', data: 'first' });
    const second = await channel.publish({ id: 'once/+:0', data: 'second' });
    assert.deepEqual(second.serials, first.serials);
    const { items } = await channel.history();
    assert.deepEqual(items.map(({ id, data }) => [id, data]), [['once/+:0', 'first']]);
  });
}

test('an empty channel has an empty history', async () => {
  const page = await rest().channels.get(channelName()).history();
  assert.deepEqual(page.items, []);
  assert.ok(!page.hasNext());
});

test('extras come back as they went', async () => {
  // In JSON: the SDK's MessagePack leaves out what is null.
  const channel = rest({ useBinaryProtocol: false }).channels.get(channelName());
  const extras = { headers: { a: 'b', n: 1.5, t: true, z: null }, custom: { deep: [1, { x: 'y' }] } };
  await channel.publish({ name: 'n', data: 'd', extras });
  assert.deepEqual((await channel.history()).items[0].extras, extras);
});

test('a key can do what its capability says, and nothing else', async () => {
  const news = rest({ key: keys.news }).channels.get(channelName('news:'));
  await assert.rejects(news.publish('n', 'x'), { code: 40160, statusCode: 401 });
  await assert.rejects(news.history(), { code: 40160, statusCode: 401 });
  const writer = rest({ key: keys.writer }).channels.get(channelName());
  await writer.publish('n', 'x');
  await assert.rejects(writer.history(), { code: 40160, statusCode: 401 });
});

for (const [what, key, code] of [
  ['a wrong secret', 'app.all:wrong', 40101],
  ['an unknown key', 'app.none:s', 40400],
]) {
  test(`${what} is refused`, async () => {
    const channel = rest({ key }).channels.get(channelName());
    await assert.rejects(channel.publish('n', 'x'), { code, statusCode: 401 });
  });
}

test('what is not there is said to be not there', async () => {
  const response = await rest().request('get', '/no/such/thing', 6, {}, null, {});
  assert.equal(response.statusCode, 404);
  assert.equal(response.errorCode, 40400);
});

test('a message that is too large is refused', async () => {
  const channel = rest({ maxMessageSize: 1 << 20 }).channels.get(channelName());
  await assert.rejects(channel.publish('n', 'x'.repeat(66_000)), { code: 40009 });
});

for (const format of formats) {
  test(`a batch says for each channel how it fared (${format.name})`, async () => {
    const [good, other] = [channelName(), channelName()];
    const spec = { channels: [good, ':bad', other], messages: [{ name: 'n', data: { a: 1 } }, { data: 'two' }] };
    const result = await rest(format).batchPublish(spec);
    assert.deepEqual([result.successCount, result.failureCount], [2, 1]);
    assert.equal(result.results[0].channel, good);
    assert.ok(result.results[0].messageId);
    assert.equal(result.results[1].error.code, 40010);
    const [first, second] = await rest(format).batchPublish([spec, { channels: [good], messages: [{ data: 'three' }] }]);
    assert.deepEqual([first.successCount, second.successCount], [2, 1]);
    const { items } = await rest(format).channels.get(good).history({ direction: 'forwards' });
    assert.deepEqual(items.map(({ data }) => data), [{ a: 1 }, 'two', { a: 1 }, 'two', 'three']);
  });

  test(`statistics count what was done (${format.name})`, async () => {
    const client = rest(format);
    const inbound = async () => {
      const { items } = await client.stats({ unit: 'month', limit: 1 });
      return items[0]?.entries['messages.inbound.all.messages.count'] ?? 0;
    };
    const before = await inbound();
    await client.channels.get(channelName()).publish([{ data: 'a' }, { data: 'b' }, { data: 'c' }]);
    assert.ok((await inbound()) >= before + 3);
    const page = await client.stats({ unit: 'minute', direction: 'forwards', start: 0, end: 1 });
    assert.deepEqual([page.items, page.hasNext()], [[], false]);
  });

  test(`active channels are listed, page by page (${format.name})`, async () => {
    const client = rest(format);
    const prefix = channelName('listed');
    const names = ['1', '2', '3', '4', '5'].map((end) => `${prefix}:${end}`);
    for (const name of names) await client.channels.get(name).publish('n', 'x');
    const { items, lengths } = await allPages(client.request('get', '/channels', 6, { prefix, limit: 2 }, null, {}));
    assert.deepEqual([items, lengths], [names, [2, 2, 1]]);
  });

  test(`a publish for a connection is that connection's (${format.name})`, async (t) => {
    const client = realtime(t, { ...format, clientId: 'alice' });
    const name = channelName();
    const inbox = await subscribe(client.channels.get(name));
    const connectionKey = client.connection.key;
    await rest(format).channels.get(name).publish({ name: 'n', data: 'x', connectionKey });
    const [message] = await inbox.take(1);
    assert.equal(message.connectionId, client.connection.id);
    assert.equal(message.clientId, 'alice');
    assert.equal(message.connectionKey ?? null, null);
    for (const wrong of ['nonsense', `${connectionKey.slice(0, -4)}AAAA`]) {
      const publish = rest(format).channels.get(name).publish({ data: 'x', connectionKey: wrong });
      await assert.rejects(publish, { code: 40006, statusCode: 400 });
    }
  });
}

test('what is not served says so', async () => {
  const response = await rest().request('get', '/push/channels', 6, {}, null, {});
  assert.deepEqual([response.statusCode, response.errorCode], [404, 40400]);
  assert.match(response.errorMessage, /push/);
});

/** Reads a stream of events over fetch until `count` messages have come; gives their data and the last id. */
async function listen(target, count, headers = {}) {
  const authorization = `Basic ${Buffer.from(keys.all).toString('base64')}`;
  const stop = new AbortController();
  const response = await fetch(`http://${address}${target}`, {
    headers: { authorization, ...headers },
    signal: stop.signal,
  });
  assert.equal(response.headers.get('content-type'), 'text/event-stream');
  const data = [];
  let [text, id] = ['', undefined];
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const blocks = (text + chunk).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const fields = block.split('\n').map((line) => line.split(/: (.*)/s));
      id = fields.find(([name]) => name === 'id')?.[1] ?? id;
      if (fields.some(([name, value]) => name === 'event' && value === 'message')) {
        data.push(JSON.parse(fields.find(([name]) => name === 'data')[1]).data);
      }
    }
    if (data.length >= count && id !== undefined) break;
  }
  stop.abort();
  return { data, id };
}

test('events over HTTP go on behind the last id', async () => {
  const name = channelName();
  const channel = rest().channels.get(name);
  await channel.publish('n', 'first');
  const { data, id } = await listen(`/sse?channels=${name}&rewind=1&v=1.2`, 1);
  assert.deepEqual(data, ['first']);
  for (const text of ['second', 'third']) await channel.publish('n', text);
  const missed = await listen(`/sse?channels=${name}&rewind=1&v=1.2`, 2, { 'last-event-id': id });
  assert.deepEqual(missed.data, ['second', 'third']);
});
