// ably-js over a WebSocket.
import assert from 'node:assert/strict';
import { createServer, connect } from 'node:net';
import {
  address, allPages, channelName, comparable, formats, keys, kinds, reached, realtime, rest, subscribe, test,
} from './client.mjs';

for (const from of formats) {
  for (const to of formats) {
    test(`data of every kind crosses from ${from.name} to ${to.name}`, async (t) => {
      const name = channelName();
      const inbox = await subscribe(realtime(t, to).channels.get(name));
      const publisher = realtime(t, from).channels.get(name);
      for (const [kind, data] of Object.entries(kinds)) await publisher.publish(kind, data);
      for (const message of await inbox.take(Object.keys(kinds).length)) {
        assert.deepStrictEqual(comparable(message.data), kinds[message.name], message.name);
        assert.ok(!message.encoding, `${message.name}: left over encoding ${message.encoding}`);
      }
    });
  }
}

for (const format of formats) {
  test(`a message carries all its fields (${format.name})`, async (t) => {
    const name = channelName();
    const subscriber = realtime(t, format);
    const inbox = await subscribe(subscriber.channels.get(name));
    const publisher = realtime(t, { ...format, clientId: 'alice' });
    const extras = { headers: { color: 'red', number: 7, flag: true }, ref: { type: 'reply', timeserial: 'x' } };
    const before = Date.now();
    const { serials } = await publisher.channels.get(name).publish({ name: 'greeting', data: 'hi', extras });
    const [message] = await inbox.take(1);
    assert.equal(message.name, 'greeting');
    assert.equal(message.data, 'hi');
    assert.equal(message.clientId, 'alice');
    assert.equal(message.connectionId, publisher.connection.id);
    assert.deepEqual(message.extras, extras);
    assert.equal(message.id, `${publisher.connection.id}:0:0`);
    assert.equal(message.action, 'message.create');
    assert.deepEqual(serials, [message.serial]);
    assert.equal(message.version.serial, message.serial);
    assert.ok(Math.abs(message.timestamp - before) < 10_000, `timestamp ${message.timestamp}`);
    assert.equal(message.version.timestamp, message.timestamp);
  });

  test(`several messages of one publish arrive together and in order (${format.name})`, async (t) => {
    const name = channelName();
    const inbox = await subscribe(realtime(t, format).channels.get(name));
    const publisher = realtime(t, format);
    const { serials } = await publisher.channels
      .get(name)
      .publish([{ name: 'a', data: 1 + '' }, { name: 'b', data: { b: 2 } }, { name: 'c' }]);
    const messages = await inbox.take(3);
    assert.deepEqual(messages.map(({ name }) => name), ['a', 'b', 'c']);
    assert.deepEqual(messages.map(({ serial }) => serial), serials);
    assert.deepEqual(messages.map(({ id }) => id), [0, 1, 2].map((i) => `${publisher.connection.id}:0:${i}`));
  });

  test(`a hundred publishes in flight are acknowledged in order (${format.name})`, async (t) => {
    const name = channelName();
    const inbox = await subscribe(realtime(t, format).channels.get(name));
    const publisher = realtime(t, format).channels.get(name);
    const acknowledged = [];
    const results = await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const result = await publisher.publish('n', String(i));
        acknowledged.push(i);
        return result;
      }),
    );
    const serials = results.flatMap(({ serials }) => serials);
    assert.deepEqual(acknowledged, Array.from({ length: 100 }, (_, i) => i));
    assert.equal(serials.length, 100);
    assertIncreasing(serials);
    const messages = await inbox.take(100);
    assert.deepEqual(messages.map(({ data }) => data), Array.from({ length: 100 }, (_, i) => String(i)));
    assert.deepEqual(messages.map(({ serial }) => serial), serials);
  });

  test(`echo=false withholds only what the connection itself has published (${format.name})`, async (t) => {
    const name = channelName();
    const silent = realtime(t, { ...format, echoMessages: false });
    const inbox = await subscribe(silent.channels.get(name));
    const other = await subscribe(realtime(t, format).channels.get(name));
    await silent.channels.get(name).publish('mine', 'x');
    await rest(format).channels.get(name).publish('not mine', 'y');
    assert.deepEqual((await other.take(2)).map(({ name }) => name), ['mine', 'not mine']);
    assert.deepEqual((await inbox.take(1)).map(({ name }) => name), ['not mine']);
  });

  test(`ping is answered (${format.name})`, async (t) => {
    const { connection } = realtime(t, format);
    await reached(connection, 'connected');
    const milliseconds = await connection.ping();
    assert.ok(milliseconds >= 0 && milliseconds < 5000, String(milliseconds));
  });

  test(`close ends the connection (${format.name})`, async (t) => {
    const client = realtime(t, format);
    await reached(client.connection, 'connected');
    client.close();
    await reached(client.connection, 'closed');
    // The SDK's own code for a connection that its owner has closed.
    assert.equal(client.connection.errorReason.code, 80017);
  });

  test(`history of an attached channel comes in pages (${format.name})`, async (t) => {
    const channel = realtime(t, format).channels.get(channelName());
    await channel.attach();
    for (const data of ['1', '2', '3', '4', '5']) await channel.publish('n', data);
    const backwards = await allPages(channel.history({ limit: 2 }));
    assert.deepEqual(backwards.items.map(({ data }) => data), ['5', '4', '3', '2', '1']);
    assert.ok(backwards.lengths.every((length) => length <= 2));
    const forwards = await allPages(channel.history({ limit: 2, direction: 'forwards' }));
    assert.deepEqual(forwards.items.map(({ data }) => data), ['1', '2', '3', '4', '5']);
  });

  test(`a client whose transport was cut comes back and attaches again (${format.name})`, async (t) => {
    const proxy = await startProxy(t);
    const name = channelName();
    const client = realtime(t, { ...format, port: proxy.port });
    const channel = client.channels.get(name);
    const inbox = await subscribe(channel);
    const attachedAgain = new Promise((resolve) => {
      // The transport of the first connection is gone, so an `attached` or `update` is a new answer.
      client.connection.once('disconnected', () => channel.once(['attached', 'update'], resolve));
    });
    proxy.cut();
    await attachedAgain;
    await reached(client.connection, 'connected');
    await rest(format).channels.get(name).publish('after', 'the cut');
    assert.deepEqual((await inbox.take(1)).map(({ name }) => name), ['after']);
    await channel.publish('and', 'back');
    assert.deepEqual((await inbox.take(1)).map(({ name }) => name), ['and']);
  });
}

test('connecting tells the client its limits', async (t) => {
  const { connection } = realtime(t);
  const change = await new Promise((resolve) => connection.once('connected', resolve));
  assert.equal(change.reason ?? null, null);
  assert.match(connection.id, /^[A-Za-z0-9_-]+$/);
  assert.match(connection.key, /^[A-Za-z0-9_!-]+$/);
  // The SDK enforces the limit it was told before it sends anything.
  const large = realtime(t).channels.get(channelName()).publish('n', 'x'.repeat(70_000));
  await assert.rejects(large, { code: 40009 });
});

test('a publish needs no attachment', async (t) => {
  const name = channelName();
  const inbox = await subscribe(realtime(t).channels.get(name));
  const channel = realtime(t).channels.get(name);
  await channel.publish('n', 'unattached');
  assert.equal(channel.state, 'initialized');
  assert.equal((await inbox.take(1))[0].data, 'unattached');
});

test('detaching stops delivery, attaching starts it again', async (t) => {
  const name = channelName();
  const channel = realtime(t).channels.get(name);
  const inbox = await subscribe(channel);
  const publisher = realtime(t).channels.get(name);
  await publisher.publish('n', 'before');
  await inbox.take(1);
  await channel.detach();
  await publisher.publish('n', 'while detached');
  await channel.attach();
  await publisher.publish('n', 'after');
  assert.equal((await inbox.take(1))[0].data, 'after');
});

test('channels of one connection are apart', async (t) => {
  const client = realtime(t);
  const names = Array.from({ length: 20 }, () => channelName());
  const inboxes = await Promise.all(names.map((name) => subscribe(client.channels.get(name))));
  const publisher = realtime(t);
  await Promise.all(names.map((name) => publisher.channels.get(name).publish(name, 'x')));
  for (const [i, inbox] of inboxes.entries()) {
    assert.equal((await inbox.take(1))[0].name, names[i]);
  }
  assert.ok(inboxes.every(({ messages }) => messages.length === 0));
});

test('applications are apart', async (t) => {
  const name = channelName();
  const elsewhere = await subscribe(realtime(t, { key: keys.other }).channels.get(name));
  const here = await subscribe(realtime(t).channels.get(name));
  await rest().channels.get(name).publish('here', 'x');
  await here.take(1);
  await rest({ key: keys.other }).channels.get(name).publish('elsewhere', 'y');
  assert.equal((await elsewhere.take(1))[0].name, 'elsewhere');
  assert.equal(here.messages.length, 0);
  const { items } = await rest({ key: keys.other }).channels.get(name).history();
  assert.deepEqual(items.map(({ name }) => name), ['elsewhere']);
});

test('channels may be named almost anything', async (t) => {
  const client = realtime(t);
  for (const odd of ['a/b', '%', '100%25', 'two words', '🐎', 'a?b=c&d', 'a+b', 'ns:x:y', 'a#b', 'č', "it's", '..', 'a"b\\c']) {
    const name = `${odd} ${channelName()}`;
    const channel = client.channels.get(name);
    const inbox = await subscribe(channel);
    await rest().channels.get(name).publish('over REST', odd);
    await channel.publish('over the socket', odd);
    assert.deepEqual((await inbox.take(2)).map(({ data }) => data), [odd, odd]);
    const { items } = await rest().channels.get(name).history({ direction: 'forwards' });
    assert.deepEqual(items.map(({ name }) => name), ['over REST', 'over the socket'], odd);
  }
});

test('names that no channel may have are refused, and the connection lives on', async (t) => {
  const client = realtime(t);
  for (const name of ['', ':x', ',x', ' x', '[x', 'a\nb']) {
    await assert.rejects(client.channels.get(name).attach(), { code: 40010 }, JSON.stringify(name));
    await assert.rejects(client.channels.get(name).publish('n', 'x'), Error, JSON.stringify(name));
  }
  await client.channels.get(channelName()).attach();
});

test('modes are those that were asked for', async (t) => {
  const name = channelName();
  const everything = realtime(t).channels.get(name);
  await everything.attach();
  assert.deepEqual(everything.modes, [
    'presence', 'publish', 'subscribe', 'presence_subscribe', 'annotation_publish',
  ]);

  const reading = realtime(t).channels.get(name, { modes: ['SUBSCRIBE'] });
  const inbox = await subscribe(reading);
  assert.deepEqual(reading.modes, ['subscribe']);
  const refusal = await reading.publish('n', 'x').catch((error) => error);
  assert.ok([40160, 40165].includes(refusal.code), String(refusal));

  const writing = realtime(t).channels.get(name, { modes: ['PUBLISH'] });
  const withheld = await subscribe(writing);
  assert.deepEqual(writing.modes, ['publish']);
  await writing.publish('n', 'written');
  assert.equal((await inbox.take(1))[0].data, 'written');
  assert.equal(withheld.messages.length, 0);
});

test('a key can do what its capability says, and nothing else', async (t) => {
  const reader = realtime(t, { key: keys.news });
  const news = channelName('news:');
  const inbox = await subscribe(reader.channels.get(news));
  await rest().channels.get(news).publish('n', 'x');
  await inbox.take(1);

  const refused = reader.channels.get(channelName('secret'));
  await assert.rejects(refused.attach(), { code: 40160, statusCode: 401 });
  assert.equal(refused.state, 'failed');
  await assert.rejects(reader.channels.get(channelName('news:')).publish('n', 'x'), { code: 40160 });
  assert.equal(reader.connection.state, 'connected');

  const writer = realtime(t, { key: keys.writer }).channels.get(news);
  await writer.publish('n', 'y');
  assert.equal((await inbox.take(1))[0].data, 'y');
  await writer.attach();
  assert.deepEqual(writer.modes, ['publish']);
});

test('a refused publish does not disturb those around it', async (t) => {
  const client = realtime(t, { key: keys.writer });
  const name = channelName();
  const inbox = await subscribe(realtime(t).channels.get(name));
  const channel = client.channels.get(name);
  const outcomes = await Promise.allSettled([
    channel.publish('first', 'x'),
    client.channels.get(':bad').publish('n', 'x'),
    channel.publish('second', 'x'),
  ]);
  assert.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled']);
  assert.deepEqual((await inbox.take(2)).map(({ name }) => name), ['first', 'second']);
});

for (const [what, key, code] of [
  ['a wrong secret', 'app.all:wrong', 40101],
  ['an unknown key of a known application', 'app.none:s', 40400],
  ['an unknown application', 'this.is:wrong', 40101],
]) {
  test(`${what} fails the connection for good`, async (t) => {
    const { connection } = realtime(t, { key });
    const { reason } = await new Promise((resolve) => connection.once('failed', resolve));
    assert.equal(reason.code, code, String(reason));
  });
}

test('one message id is published once', async (t) => {
  const name = channelName();
  const inbox = await subscribe(realtime(t).channels.get(name));
  const publisher = realtime(t).channels.get(name);
  for (let i = 0; i < 3; i++) await publisher.publish({ id: 'some_msg_id', data: String(i) });
  await publisher.publish('n', 'last');
  const messages = await inbox.take(2);
  assert.deepEqual(messages.map(({ data }) => data), ['0', 'last']);
  assert.equal(messages[0].id, 'some_msg_id');
});

test("clientId of a message must be the connection's own", async (t) => {
  const name = channelName();
  const inbox = await subscribe(realtime(t).channels.get(name));
  const anyone = realtime(t).channels.get(name);
  await anyone.publish({ name: 'n', clientId: 'bob' });
  assert.equal((await inbox.take(1))[0].clientId, 'bob');
  const alice = realtime(t, { clientId: 'alice' }).channels.get(name);
  await assert.rejects(alice.publish({ name: 'n', clientId: 'bob' }), { code: 40012 });
});

/** A TCP proxy to the daemon whose connections can be cut from the middle. */
async function startProxy(t) {
  const [host, port] = address.split(':');
  const sockets = new Set();
  const server = createServer((client) => {
    const daemon = connect(Number(port), host);
    for (const [socket, peer] of [[client, daemon], [daemon, client]]) {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => {
        sockets.delete(socket);
        peer.destroy();
      });
      socket.pipe(peer);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  t.after(() => {
    server.close();
    cut();
  });
  return { port: server.address().port, cut };
}

function assertIncreasing(serials) {
  for (let i = 1; i < serials.length; i++) {
    assert.ok(serials[i - 1] < serials[i], `${serials[i - 1]} before ${serials[i]}`);
  }
}
