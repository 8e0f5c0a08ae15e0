// Who may come in, as the SDK sees it: how many of a key and of an address, and how fast.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lose } from './client.mjs';
import { daemon, directory, keys, pause } from './daemon.mjs';

/** Waits until `connection` is in `state`; returns why it is. */
async function reaches(connection, state) {
  if (connection.state !== state) {
    await new Promise((resolve) => connection.once(state, resolve));
  }
  return connection.errorReason;
}

/** The states that a connection goes through from now on. */
function history(connection) {
  const states = [];
  connection.on(({ current }) => states.push(current));
  return states;
}

for (const [limit, code] of [
  ['connections_per_key_max', 40111],
  ['connections_per_address_max', 40150],
]) {
  test(`one more than ${limit} has failed and comes in when another has left`, async (t) => {
    const { realtime } = await daemon(t, await directory(t), `${keys}[limits]\n${limit} = 3\n`);
    const clients = [realtime(), realtime({ useBinaryProtocol: false }), realtime()];
    await Promise.all(clients.map(({ connection }) => reaches(connection, 'connected')));
    const late = realtime();
    const states = history(late.connection);
    const error = await reaches(late.connection, 'failed');
    assert.deepEqual([error.code, error.statusCode], [code, 403]);
    assert.deepEqual(states, ['connecting', 'failed'], 'it does not try again by itself');
    clients[0].close();
    await reaches(clients[0].connection, 'closed');
    late.connect();
    await reaches(late.connection, 'connected');
    // Each has its seat, and all of them work.
    const inbox = [];
    await late.channels.get('room').subscribe(({ data }) => inbox.push(data));
    await clients[1].channels.get('room').publish('greeting', 'hello');
    while (inbox.length === 0) await pause(5);
    assert.deepEqual(inbox, ['hello']);
  });
}

test('who resumes where no seat is left is put off, tries again and goes on where it was', async (t) => {
  const limit = (count) => `${keys}[limits]\nconnections_per_key_max = ${count}\n`;
  const { realtime, reload, log } = await daemon(t, await directory(t), limit(3));
  const clients = [realtime({ disconnectedRetryTimeout: 200 }), realtime(), realtime()];
  await Promise.all(clients.map(({ connection }) => reaches(connection, 'connected')));
  await reload(limit(1));
  while (!log.some((line) => line.includes('configuration reloaded'))) await pause(5);
  const [first, second] = clients;
  const { id } = first.connection;
  const refused = [];
  first.connection.on('disconnected', ({ reason }) => reason.code === 40111 && refused.push(reason));
  lose(first);
  while (refused.length < 2) await pause(5);
  assert.equal(refused[0].statusCode, 403);
  second.close();
  await reaches(first.connection, 'connected');
  assert.equal(first.connection.id, id, 'the connection goes on');
});

test('who comes too fast tries again by itself until it is in', async (t) => {
  const config = `${keys}[limits]\nconnects_per_second_max = 1\n`;
  const { realtime } = await daemon(t, await directory(t), config);
  const clients = Array.from({ length: 8 }, () => realtime({ disconnectedRetryTimeout: 300 }));
  const refused = [];
  for (const { connection } of clients) {
    connection.on('disconnected', ({ reason }) => refused.push(reason));
  }
  await Promise.all(clients.map(({ connection }) => reaches(connection, 'connected')));
  assert.ok(refused.length > 0, 'eight at once are more than two shards let in');
  for (const reason of refused) assert.deepEqual([reason.code, reason.statusCode], [80021, 429]);
});

test('a reload changes the limits and ends no connection', async (t) => {
  const { realtime, reload, log } = await daemon(t, await directory(t), keys);
  const clients = [realtime(), realtime(), realtime()];
  await Promise.all(clients.map(({ connection }) => reaches(connection, 'connected')));
  const reloaded = async (config) => {
    const count = () => log.filter((line) => line.includes('configuration reloaded')).length;
    const before = count();
    await reload(config);
    while (count() === before) await pause(5);
  };
  await reloaded(`${keys}[limits]\nconnections_per_key_max = 2\n`);
  const late = realtime();
  assert.equal((await reaches(late.connection, 'failed')).code, 40111);
  assert.ok(clients.every(({ connection }) => connection.state === 'connected'));
  assert.ok(!log.some((line) => line.includes('need a restart')), log.join('\n'));
  await reloaded(`${keys}[limits]\nconnections_per_key_max = 4\n`);
  late.connect();
  await reaches(late.connection, 'connected');
  await reloaded(`${keys}[limits]\nconnections_per_address_max = 4\n`);
  // Those that are there count as soon as the daemon has found out where from they have come.
  const outcome = ({ connection }) => new Promise((resolve) => {
    connection.once(['connected', 'failed'], ({ current, reason }) => resolve([current, reason?.code]));
  });
  let last;
  for (let tries = 0; tries < 100; tries++) {
    const fifth = realtime();
    last = await outcome(fifth);
    if (last[0] === 'failed') break;
    fifth.close();
    await pause(50);
  }
  assert.deepEqual(last, ['failed', 40150]);
  assert.ok([...clients, late].every(({ connection }) => connection.state === 'connected'));
});
