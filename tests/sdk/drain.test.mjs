// A daemon that drains sends its clients to another one, which listens on the same port of another address.
import assert from 'node:assert/strict';
import process from 'node:process';
import { address, channelName, reached, realtime, rest, subscribe, test } from './client.mjs';

const [otherHost] = process.env.RINGCAST_OTHER.split(':');
const pid = Number(process.env.RINGCAST_PID);

test('clients of a daemon that drains go on with another, attached as they were', async (t) => {
  const options = { fallbackHosts: [otherHost], disableConnectivityCheck: true };
  const clients = Array.from({ length: 20 }, () => realtime(t, options));
  const name = channelName();
  const inboxes = await Promise.all(clients.map((client) => subscribe(client.channels.get(name))));
  const here = rest();
  for (let number = 0; number < 20; number++) await here.channels.get(name).publish('before', `${number}`);

  const reasons = clients.map(
    (client) => new Promise((resolve) => client.connection.once('disconnected', resolve)),
  );
  process.kill(pid, 'SIGTERM');
  for (const { reason } of await Promise.all(reasons)) {
    assert.equal(reason.code, 50320);
    assert.equal(reason.statusCode, 503);
  }
  await Promise.all(clients.map((client) => reached(client.connection, 'connected')));
  await Promise.all(clients.map((client) => reached(client.channels.get(name), 'attached')));

  const there = rest({ endpoint: otherHost });
  await there.channels.get(name).publish('after', '20');
  for (const inbox of inboxes) {
    const data = (await inbox.take(21)).map((message) => message.data);
    assert.deepEqual(data, Array.from({ length: 21 }, (_, number) => `${number}`));
  }
  await assert.rejects(fetch(`http://${address}/time`), 'the first daemon accepts nobody');
});
