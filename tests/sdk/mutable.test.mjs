// Messages that change: updates, deletes, appends, versions, annotations, with ably-js.
import assert from 'node:assert/strict';
import vcdiff from '@ably/vcdiff-decoder';
import {
  allPages, channelName, formats, keys, realtime, rest, subscribe, test,
} from './client.mjs';

const mutable = () => channelName('mutable:test');
const modes = ['publish', 'subscribe', 'annotation_publish', 'annotation_subscribe'];

for (const format of formats) {
  for (const over of ['realtime', 'REST']) {
    const open = (t, name, options) =>
      over === 'REST'
        ? rest({ ...format, ...options }).channels.get(name)
        : realtime(t, { ...format, ...options }).channels.get(name);

    test(`an update changes what it names and keeps the rest (${over}, ${format.name})`, async (t) => {
      const name = mutable();
      const inbox = await subscribe(realtime(t, format).channels.get(name));
      const channel = open(t, name);
      const extras = { headers: { a: 1 } };
      const { serials: [serial] } = await channel.publish({ name: 'event', data: { value: 1 }, extras, clientId: 'author' });
      const [created] = await inbox.take(1);
      const operation = { clientId: 'editor', description: 'a better word', metadata: { reason: 'spelling' } };
      const { versionSerial } = await channel.updateMessage({ serial, data: { value: 2 } }, operation);
      const [updated] = await inbox.take(1);
      for (const message of [updated, await rest(format).channels.get(name).getMessage(serial)]) {
        assert.equal(message.action, 'message.update');
        assert.equal(message.serial, serial);
        assert.equal(message.name, 'event');
        assert.deepEqual(message.data, { value: 2 });
        assert.deepEqual(message.extras, extras);
        assert.equal(message.clientId, 'author');
        assert.equal(message.id, created.id);
        assert.equal(message.connectionId, created.connectionId);
        assert.equal(message.timestamp, created.timestamp);
        assert.equal(message.version.serial, versionSerial);
        assert.equal(message.version.clientId, 'editor');
        assert.equal(message.version.description, 'a better word');
        assert.deepEqual(message.version.metadata, { reason: 'spelling' });
        assert.ok(message.version.timestamp > message.timestamp);
      }
      assert.ok(versionSerial > serial);
    });

    test(`a message is deleted, and its versions stay (${over}, ${format.name})`, async (t) => {
      const name = mutable();
      const inbox = await subscribe(realtime(t, format).channels.get(name));
      const channel = open(t, name);
      const { serials: [serial] } = await channel.publish('event', 'secret');
      await channel.updateMessage({ serial, data: 'more secret' });
      const { versionSerial } = await channel.deleteMessage({ serial, data: {} });
      const [, , deleted] = await inbox.take(3);
      assert.equal(deleted.action, 'message.delete');
      assert.deepEqual(deleted.data, {});
      assert.equal(deleted.name, 'event');
      const reader = rest(format).channels.get(name);
      const { items, lengths } = await allPages(reader.getMessageVersions(serial, { limit: 2 }));
      assert.deepEqual(lengths, [2, 1]);
      assert.deepEqual(items.map(({ action }) => action), ['message.create', 'message.update', 'message.delete']);
      assert.deepEqual(items.map(({ data }) => data), ['secret', 'more secret', {}]);
      assert.equal(items[2].version.serial, versionSerial);
      const history = await reader.history();
      assert.deepEqual(history.items.map(({ action, serial }) => [action, serial]), [['message.delete', serial]]);
    });

    test(`appends arrive as increments and add up (${over}, ${format.name})`, async (t) => {
      const name = mutable();
      const subscriber = realtime(t, format).channels.get(name);
      const inbox = await subscribe(subscriber);
      const whole = await subscribe(realtime(t, format).channels.get(name, { params: { appendMode: 'full' } }));
      const channel = open(t, name);
      const { serials: [serial] } = await channel.publish('event', 'Hello');
      await channel.publish('other', 'in between');
      await channel.appendMessage({ serial, data: ', ' });
      const operation = { clientId: 'writer', description: 'the end', metadata: { n: '2' } };
      const { versionSerial } = await channel.appendMessage({ serial, data: 'World' }, operation);
      const messages = await inbox.take(4);
      assert.deepEqual(messages.map(({ action, data }) => [action, data]), [
        ['message.create', 'Hello'],
        ['message.create', 'in between'],
        ['message.append', ', '],
        ['message.append', 'World'],
      ]);
      const last = messages[3];
      assert.equal(last.serial, serial);
      assert.equal(last.name, 'event');
      assert.equal(last.timestamp, messages[0].timestamp);
      assert.equal(last.version.serial, versionSerial);
      assert.equal(last.version.clientId, 'writer');
      assert.deepEqual(last.version.metadata, { n: '2' });
      const wholes = await whole.take(4);
      assert.deepEqual(wholes.slice(2).map(({ action, data }) => [action, data]), [
        ['message.update', 'Hello, '],
        ['message.update', 'Hello, World'],
      ]);
      const reader = rest(format).channels.get(name);
      const history = await reader.history({ direction: 'forwards' });
      assert.deepEqual(history.items.map(({ action, data }) => [action, data]), [
        ['message.update', 'Hello, World'],
        ['message.create', 'in between'],
      ]);
      const versions = await reader.getMessageVersions(serial);
      assert.deepEqual(versions.items.map(({ data }) => data), ['Hello', 'Hello, World']);

      await subscriber.detach();
      await subscriber.setOptions({ params: { rewind: '10' } });
      const rewound = [];
      const replayed = new Promise((resolve) => {
        subscriber.subscribe((message) => rewound.push(message) === 2 && resolve());
      });
      await replayed;
      assert.deepEqual(rewound.map(({ action, data }) => [action, data]), [
        ['message.update', 'Hello, World'],
        ['message.create', 'in between'],
      ]);
      assert.equal(rewound[0].version.serial, versionSerial);
      assert.equal(rewound[0].version.clientId, 'writer');
    });

    test(`annotations reach subscribers, and summaries everybody (${over}, ${format.name})`, async (t) => {
      const name = mutable();
      const watcher = realtime(t, format).channels.get(name, { modes });
      const annotations = [];
      await watcher.annotations.subscribe((annotation) => annotations.push(annotation));
      const inbox = await subscribe(watcher);
      const plain = await subscribe(realtime(t, format).channels.get(name));
      const channel = open(t, name, { clientId: 'alice' });
      const { serials: [serial] } = await channel.publish('event', 'x');
      await inbox.take(1);
      const type = 'reaction:distinct.v1';
      await channel.annotations.publish(serial, { type, name: '👍', data: { note: 'nice' } });
      const [summary] = await inbox.take(1);
      assert.equal(summary.action, 'message.summary');
      assert.equal(summary.serial, serial);
      assert.deepEqual(summary.annotations.summary[type]['👍'], { total: 1, clientIds: ['alice'], clipped: false });
      const [annotation] = annotations;
      assert.equal(annotation.action, 'annotation.create');
      assert.equal(annotation.messageSerial, serial);
      assert.equal(annotation.type, type);
      assert.equal(annotation.name, '👍');
      assert.equal(annotation.clientId, 'alice');
      assert.deepEqual(annotation.data, { note: 'nice' });
      assert.ok(annotation.serial > serial);

      // Within the second that follows a summary, changes are told together.
      for (const name of ['a', 'b', 'c']) await channel.annotations.publish(serial, { type, name });
      await channel.annotations.delete(serial, { type, name: '👍' });
      const [rolledUp] = await inbox.take(1);
      assert.deepEqual(Object.keys(rolledUp.annotations.summary[type]), ['a', 'b', 'c']);
      assert.deepEqual((await plain.take(3)).map(({ action }) => action), ['message.create', 'message.summary', 'message.summary']);
      assert.deepEqual(annotations.map(({ action }) => action).slice(-2), ['annotation.create', 'annotation.delete']);

      const message = await rest(format).channels.get(name).getMessage(serial);
      assert.deepEqual(Object.keys(message.annotations.summary[type]), ['a', 'b', 'c']);
      const { items: [shown] } = await rest(format).channels.get(name).history();
      assert.deepEqual(shown.annotations.summary, message.annotations.summary);
      const { items, lengths } = await allPages(channel.annotations.get(serial, { limit: 2 }));
      assert.deepEqual(items.map(({ name }) => name), ['👍', 'a', 'b', 'c', '👍']);
      assert.deepEqual(lengths, [2, 2, 1]);
    });
  }

  test(`every aggregation adds up (${format.name})`, async () => {
    const name = mutable();
    const as = (clientId) => rest({ ...format, ...(clientId && { clientId }) }).channels.get(name);
    const { serials: [serial] } = await as('a').publish('event', 'x');
    const say = (clientId, type, rest) => as(clientId).annotations.publish(serial, { type, ...rest });
    await say('a', 'metric:total.v1');
    await say('a', 'metric:total.v1');
    await say('a', 'receipt:flag.v1');
    await say('b', 'receipt:flag.v1');
    await say('a', 'vote:unique.v1', { name: 'yes' });
    await say('a', 'vote:unique.v1', { name: 'no' });
    await say('a', 'rating:multiple.v1', { name: 'stars', count: 4 });
    await say('b', 'rating:multiple.v1', { name: 'stars' });
    await say(undefined, 'rating:multiple.v1', { name: 'stars', count: 2 });
    await say('a', 'com.example.raw', { name: 'n' });
    const message = await as('a').getMessage(serial);
    assert.deepEqual(message.annotations.summary, {
      'metric:total.v1': { total: 2 },
      'receipt:flag.v1': { total: 2, clientIds: ['a', 'b'], clipped: false },
      'vote:unique.v1': { no: { total: 1, clientIds: ['a'], clipped: false } },
      'rating:multiple.v1': {
        stars: { total: 7, clientIds: { a: 4, b: 1 }, totalUnidentified: 2, totalClientIds: 2, clipped: false },
      },
    });
    const path = `/channels/${encodeURIComponent(name)}/messages/${encodeURIComponent(serial)}/client-summary`;
    const own = await rest(format).request('GET', path, 2, { forClientId: 'b' });
    assert.deepEqual(own.items[0]['receipt:flag.v1'].clientIds, ['b']);
    assert.equal(own.items[0]['vote:unique.v1'], undefined);
    await assert.rejects(say(undefined, 'receipt:flag.v1'), { code: 40161 });
    await assert.rejects(say('a', 'vote:unique.v1'), { code: 40003 });
  });

  test(`what cannot be changed is refused with its code (${format.name})`, async (t) => {
    const name = mutable();
    for (const open of [() => rest(format), () => realtime(t, format)]) {
      const channel = open().channels.get(name);
      const { serials: [serial] } = await channel.publish('event', { json: true });
      await assert.rejects(channel.appendMessage({ serial, data: 'x' }), { code: 40013 });
      const unknown = serial.replace(/^\d{5}/, '00000');
      await assert.rejects(channel.updateMessage({ serial: unknown, data: 'x' }), { code: 40400, statusCode: 404 });
      await assert.rejects(channel.updateMessage({ serial: 'nonsense', data: 'x' }), { code: 40400 });
      await assert.rejects(channel.annotations.publish(unknown, { type: 'a:total.v1' }), { code: 40400 });
      await assert.rejects(rest(format).channels.get(name).getMessage(unknown), { code: 40400 });
      await assert.rejects(rest(format).channels.get(name).getMessageVersions(unknown), { code: 40400 });
      const ephemeral = await channel.publish({ name: 'e', extras: { ephemeral: true } });
      await assert.rejects(channel.updateMessage({ serial: ephemeral.serials[0], data: 'x' }), { code: 40400 });
      const plain = open().channels.get(channelName());
      const published = await plain.publish('event', 'x');
      await assert.rejects(plain.updateMessage({ serial: published.serials[0], data: 'y' }), { code: 93002, statusCode: 400 });
      await assert.rejects(plain.annotations.publish(published.serials[0], { type: 'a:total.v1' }), { code: 93002 });
    }
  });

  test(`with -own only the author may change a message (${format.name})`, async (t) => {
    const name = mutable();
    const as = (clientId) =>
      realtime(t, { ...format, key: keys.own, ...(clientId && { clientId }) }).channels.get(name);
    const author = as('author');
    const { serials: [serial] } = await author.publish('event', 'x');
    await author.updateMessage({ serial, data: 'y' });
    await assert.rejects(as('other').updateMessage({ serial, data: 'z' }), { code: 40160, statusCode: 401 });
    await assert.rejects(as().deleteMessage({ serial }), { code: 40166, statusCode: 401 });
    const reader = rest({ ...format, key: keys.writer }).channels.get(name);
    await assert.rejects(reader.updateMessage({ serial, data: 'z' }), { code: 40160 });
    assert.equal((await rest(format).channels.get(name).getMessage(serial)).data, 'y');
  });

  test(`who joins between appends gets the message as a whole once (${format.name})`, async (t) => {
    const name = mutable();
    const author = realtime(t, format).channels.get(name);
    const early = await subscribe(author);
    const { serials: [serial] } = await author.publish('event', 'a');
    await author.appendMessage({ serial, data: 'b' });
    await early.take(2);
    const late = await subscribe(realtime(t, format).channels.get(name));
    await author.appendMessage({ serial, data: 'c' });
    await author.appendMessage({ serial, data: 'd' });
    const seen = (await late.take(2)).map(({ action, data }) => [action, data]);
    assert.deepEqual(seen, [['message.update', 'abc'], ['message.append', 'd']]);
    // Whoever was there before can add up whatever came.
    let text = 'ab';
    for (const { action, data } of await early.take(2)) text = action === 'message.append' ? text + data : data;
    assert.equal(text, 'abcd');
  });

  test(`deltas start from whole messages, whatever changed in between (${format.name})`, async (t) => {
    const name = mutable();
    const author = realtime(t, { ...format, clientId: 'author' }).channels.get(name);
    const client = realtime(t, { ...format, plugins: { vcdiff } });
    const inbox = await subscribe(client.channels.get(name, { params: { delta: 'vcdiff' } }));
    const text = 'a text that is long enough for its delta to be smaller '.repeat(8);
    const { serials: [serial] } = await author.publish('event', text);
    await author.appendMessage({ serial, data: '1' });
    await author.appendMessage({ serial, data: '2' });
    await author.publish('event', `${text}!`);
    await author.updateMessage({ serial, data: `${text}?` });
    await author.annotations.publish(serial, { type: 'count:total.v1' });
    await author.publish('event', `${text}.`);
    await author.publish('event', `${text}..`);
    const seen = (await inbox.take(8)).map(({ action, data }) => [action, data?.slice(text.length)]);
    assert.deepEqual(seen, [
      ['message.create', ''],
      ['message.update', '1'],
      ['message.update', '12'],
      ['message.create', '!'],
      ['message.update', '?'],
      ['message.summary', undefined],
      ['message.create', '.'],
      ['message.create', '..'],
    ]);
  });

  test(`a repeated id is published once, an ephemeral message not kept (${format.name})`, async (t) => {
    const name = mutable();
    const inbox = await subscribe(realtime(t, format).channels.get(name));
    const publisher = rest(format).channels.get(name);
    const results = [];
    for (let i = 0; i < 3; i++) results.push(await publisher.publish({ id: 'chosen', data: String(i) }));
    assert.deepEqual(results[1].serials, results[0].serials);
    const array = [{ id: 'base:0', data: 'x' }, { id: 'base:1', data: 'y' }];
    const first = await publisher.publish(array);
    assert.deepEqual((await publisher.publish(array)).serials, first.serials);
    await assert.rejects(publisher.publish([{ id: 'base:1' }, { id: 'base:0' }]), { code: 40031 });
    await publisher.publish({ name: 'gone', data: 'z' }, { ephemeral: true });
    const annotation = { id: 'annotation:0', type: 'count:total.v1' };
    for (let i = 0; i < 3; i++) await publisher.annotations.publish(results[0].serials[0], annotation);
    const seen = (await inbox.take(5)).map(({ data, action }) => data ?? action);
    assert.deepEqual(seen, ['0', 'x', 'y', 'z', 'message.summary']);
    const history = await publisher.history({ direction: 'forwards' });
    assert.deepEqual(history.items.map(({ data }) => data), ['0', 'x', 'y']);
    assert.deepEqual(history.items[0].annotations.summary, { 'count:total.v1': { total: 1 } });
    await assert.rejects(publisher.publish('n', 'd', { _forceNack: true }), { code: 40099 });
  });
}
