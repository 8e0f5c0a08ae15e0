// ably-js over HTTP.
import assert from 'node:assert/strict';
import {
  allPages, channelName, comparable, formats, keys, kinds, realtime, rest, subscribe, test,
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
