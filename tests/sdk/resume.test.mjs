// Connections that lose their transports while messages are under way: nothing lost, nothing twice.
import assert from 'node:assert/strict';
import { channelName, formats, lose, reached, realtime, subscribe, test } from './client.mjs';

const MESSAGES = 300;
const LOSSES = 5;

const connected = (client) => reached(client.connection, 'connected');

/** Takes the client's transport away, without a word to the server, and waits until it is back. */
async function loseTransport(client) {
  const lost = new Promise((resolve) => client.connection.once('disconnected', resolve));
  lose(client);
  await lost;
  await connected(client);
}

const numbers = Array.from({ length: MESSAGES }, (_, number) => String(number));

for (const { name, useBinaryProtocol } of formats) {
  test(`a subscriber that loses its transport misses nothing (${name})`, async (t) => {
    const [publisher, subscriber] = [realtime(t), realtime(t, { useBinaryProtocol })];
    const room = channelName();
    const inbox = await subscribe(subscriber.channels.get(room));
    const { id } = subscriber.connection;
    const lost = [];
    subscriber.channels.get(room).on('update', (change) => lost.push(change.reason));
    const published = [];
    for (const number of numbers) {
      // Not awaited: some are on their way when the transport goes.
      published.push(publisher.channels.get(room).publish('n', number));
      if (number % (MESSAGES / LOSSES) === 0) await loseTransport(subscriber);
    }
    const received = await inbox.take(MESSAGES);
    assert.deepEqual(received.map((message) => message.data), numbers);
    await Promise.all(published);
    assert.equal(subscriber.connection.id, id, 'the connection goes on');
    assert.deepEqual(lost.filter(Boolean), [], 'no loss of continuity was announced');
  });

  test(`a publisher that loses its transport publishes nothing twice (${name})`, async (t) => {
    const [publisher, subscriber] = [realtime(t, { useBinaryProtocol }), realtime(t)];
    const room = channelName();
    const inbox = await subscribe(subscriber.channels.get(room));
    await connected(publisher);
    const acknowledged = [];
    for (const number of numbers) {
      acknowledged.push(publisher.channels.get(room).publish('n', number));
      if (number % (MESSAGES / LOSSES) === 0) await loseTransport(publisher);
    }
    await Promise.all(acknowledged);
    const received = await inbox.take(MESSAGES);
    assert.deepEqual(received.map((message) => message.data), numbers);
  });
}

test('another client recovers a connection and its channels go on', async (t) => {
  const first = realtime(t);
  const [room, publisher] = [channelName(), realtime(t)];
  const inbox = await subscribe(first.channels.get(room));
  await publisher.channels.get(room).publish('n', 'heard');
  await inbox.take(1);
  const recover = first.connection.createRecoveryKey();
  const { id } = first.connection;
  await publisher.channels.get(room).publish('n', 'missed');
  const second = realtime(t, { recover });
  const later = await subscribe(second.channels.get(room));
  assert.deepEqual((await later.take(1)).map((message) => message.data), ['missed']);
  assert.equal(second.connection.id, id);
  assert.equal(second.connection.errorReason, null);
});
