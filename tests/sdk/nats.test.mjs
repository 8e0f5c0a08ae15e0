// Rules whose events go to a NATS server: Debian's, started and killed here.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createConnection, createServer } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connect, nanos } from 'nats';
import { test } from './client.mjs';
import { daemon, directory, freePort, keys, pause } from './daemon.mjs';

/** Starts a server below `path`; `kill` ends it as kill -9 does. */
async function natsServer(t, path, port, config = '') {
  const file = join(path, 'nats.conf');
  const jetstream = `jetstream { store_dir: "${join(path, 'streams')}" }`;
  await writeFile(file, `listen: "127.0.0.1:${port}"\n${jetstream}\n${config}\n`);
  const child = spawn('nats-server', ['-c', file], { stdio: 'ignore' });
  const gone = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const kill = async (signal = 'SIGKILL') => {
    child.kill(signal);
    await gone;
  };
  t.after(() => kill());
  // Until it listens.
  const isUp = () =>
    new Promise((resolve) => {
      const socket = createConnection({ port, host: '127.0.0.1' });
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
      socket.once('close', () => socket.destroy());
      socket.unref();
    });
  while (!(await isUp())) await pause(20);
  const reload = async (again) => {
    await writeFile(file, `listen: "127.0.0.1:${port}"\n${jetstream}\n${again}\n`);
    child.kill('SIGHUP');
  };
  return { kill, reload };
}

async function client(t, port, options = {}) {
  const connection = await connect({ servers: `nats://127.0.0.1:${port}`, ...options });
  t.after(() => connection.close());
  return connection;
}

/** A port that leads to another while it is open. */
async function relay(t, port) {
  const own = await freePort();
  let server;
  const sockets = new Set();
  const open = async () => {
    server = createServer((near) => {
      const far = createConnection({ port, host: '127.0.0.1' });
      for (const socket of [near, far]) sockets.add(socket.on('error', () => {}));
      near.pipe(far).pipe(near);
    }).listen(own, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
  };
  const cut = async () => {
    server?.close();
    for (const socket of sockets) socket.destroy();
    sockets.clear();
  };
  t.after(cut);
  return { port: own, open, cut };
}

/** What arrives on a subject; `until` waits for as many. */
async function listen(connection, subject) {
  const messages = [];
  let wake = () => {};
  const subscription = connection.subscribe(subject, {
    callback: (error, message) => {
      assert.equal(error, null);
      messages.push(message);
      wake();
    },
  });
  await connection.flush();
  const until = async (count) => {
    while (messages.length < count) await new Promise((resolve) => (wake = resolve));
  };
  return { messages, until, subscription };
}

const rule = (port, subject, more = '', lines = '') =>
  `${keys}[[rules]]\nid = "r"\napp = "chat"\nchannel = ""\nallow_private = true\n${lines}\n` +
  `[rules.nats]\nservers = ["nats://127.0.0.1:${port}"]\nsubject = "${subject}"\n${more}\n`;

const data = (message) => JSON.parse(message.string()).messages[0].data;

test('events are published on the subject of their channel, in its order', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  await natsServer(t, path, port);
  const all = await listen(await client(t, port), 'chat.>');
  const { rest } = await daemon(t, path, rule(port, '{app}.{rule}.{channel}', '', 'headers = { "x-mine" = "yes" }'));
  const names = ['room', 'v1.2 *', 'é:x'];
  for (let n = 0; n < 20; n++) await Promise.all(names.map((name) => rest.channels.get(name).publish('n', `${n}`)));
  await all.until(60);
  const subjects = ['chat.r.room', 'chat.r.v1%2E2%20%2A', 'chat.r.%C3%A9:x'];
  for (const [index, subject] of subjects.entries()) {
    const own = all.messages.filter((message) => message.subject === subject);
    assert.deepEqual(own.map(data), Array.from({ length: 20 }, (_, n) => `${n}`), subject);
    assert.equal(JSON.parse(own[0].string()).channel, names[index]);
  }
  const [{ headers }] = all.messages;
  assert.equal(headers.get('content-type'), 'application/json');
  assert.equal(headers.get('x-ably-version'), '1.2');
  assert.equal(headers.get('x-mine'), 'yes');
  const ids = new Set(all.messages.map((message) => message.headers.get('Nats-Msg-Id')));
  assert.equal(ids.size, 60);
});

test('a bare message has the headers of a bare request, and a batch is one message', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  await natsServer(t, path, port);
  const connection = await client(t, port);
  const [bare, batches] = [await listen(connection, 'bare'), await listen(connection, 'batch')];
  const second =
    '[[rules]]\nid = "b"\napp = "chat"\nchannel = ""\nallow_private = true\nmode = "batch"\nbatch_interval = "50ms"\n' +
    `nats = { servers = ["nats://127.0.0.1:${port}"], subject = "batch" }\n`;
  const { rest } = await daemon(t, path, rule(port, 'bare', '', 'enveloped = false') + second);
  await rest.channels.get('room').publish({ name: 'bytes', data: Buffer.from([0, 255]), clientId: 'é' });
  await bare.until(1);
  const [{ data: body, headers }] = bare.messages;
  assert.deepEqual([...body], [0, 255]);
  assert.equal(headers.get('content-type'), 'application/octet-stream');
  assert.equal(headers.get('x-ably-envelope-channel'), 'room');
  assert.equal(headers.get('x-ably-message-client-id'), '%C3%A9');
  await batches.until(1);
  const { items } = JSON.parse(batches.messages[0].string());
  assert.equal(items[0].data.messages[0].name, 'bytes');
});

test('what a stream has confirmed is there once and in order, whatever is killed on the way', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  let server = await natsServer(t, path, port);
  const manager = await (await client(t, port)).jetstreamManager();
  await manager.streams.add({ name: 'CHAT', subjects: ['chat.>'], duplicate_window: nanos(120_000) });
  const config = '[server]\nstate_dir = "state"\n' + rule(port, 'chat.{channel}', 'jetstream = true', 'timeout = "2s"');
  let ringcast = await daemon(t, path, config);
  const names = ['a', 'b'];
  const publish = async (from, to) => {
    for (let n = from; n < to; n++) await Promise.all(names.map((name) => ringcast.rest.channels.get(name).publish('n', `${n}`)));
  };
  const publishing = publish(0, 300);
  await pause(100);
  await server.kill();
  await publishing;
  server = await natsServer(t, path, port);
  await publish(300, 350);
  await pause(300); // an event is in the spool soon after its publish was acknowledged
  await ringcast.kill();
  ringcast = await daemon(t, path, config);
  await publish(350, 400);
  const reader = await client(t, port);
  const subscription = await reader.jetstream().consumers.get('CHAT', { filterSubjects: 'chat.>' });
  const found = { a: [], b: [] };
  const messages = await subscription.consume();
  for await (const message of messages) {
    found[message.subject.slice(5)].push(Number(data(message)));
    if (found.a.length >= 400 && found.b.length >= 400) break;
  }
  const expected = Array.from({ length: 400 }, (_, n) => n);
  assert.deepEqual(found.a, expected);
  assert.deepEqual(found.b, expected);
});

test('without a stream nothing is confirmed: events wait until there is one', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  await natsServer(t, path, port);
  const { rest, log } = await daemon(t, path, rule(port, 'late.{channel}', 'jetstream = true'));
  await rest.channels.get('room').publish('n', 'kept');
  while (!log.some((line) => line.includes('no stream has the subject'))) await pause(100);
  const connection = await client(t, port);
  const manager = await connection.jetstreamManager();
  await manager.streams.add({ name: 'LATE', subjects: ['late.>'] });
  let info;
  do {
    await pause(100);
    info = await manager.streams.info('LATE');
  } while (info.state.messages === 0);
  assert.equal(info.state.messages, 1);
});

test('a connection that breaks and is away loses nothing, streams or not', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  await natsServer(t, path, port);
  const all = await listen(await client(t, port), 'x.>');
  const wire = await relay(t, port);
  const { rest } = await daemon(t, path, rule(wire.port, 'x.{channel}', '', 'timeout = "1s"'));
  const names = ['a', 'b', 'c'];
  const publish = async (from, to) => {
    for (let n = from; n < to; n++) await Promise.all(names.map((name) => rest.channels.get(name).publish('n', `${n}`)));
  };
  await publish(0, 10); // nobody is there yet
  for (let n = 10; n < 100; n += 30) {
    await wire.open();
    await all.until(3 * n);
    const publishing = publish(n, n + 30);
    await all.until(3 * n + 20);
    await wire.cut();
    await publishing;
  }
  await wire.open();
  const found = (name) => all.messages.filter(({ subject }) => subject === `x.${name}`).map((message) => Number(data(message)));
  const expected = Array.from({ length: 100 }, (_, n) => n);
  while (names.some((name) => new Set(found(name)).size < 100)) await all.until(all.messages.length + 1);
  for (const name of names) {
    const numbers = found(name);
    // Twice perhaps, but never out of order.
    assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b));
    assert.deepEqual([...new Set(numbers)], expected);
  }
});

test('who may not publish has delivered nothing, and secrets are not told', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  const permissions = (subject) =>
    `authorization { users = [ { user: ringcast, password: "hush-hush", permissions: { publish: ["${subject}", "_INBOX.>"] } },
       { user: reader, password: "hush" } ] }`;
  const { reload } = await natsServer(t, path, port, permissions('other'));
  const login = 'user = "ringcast"\npassword = "hush-hush"';
  const { rest, log } = await daemon(t, path, rule(port, 'x.{channel}', login));
  const all = await listen(await client(t, port, { user: 'reader', pass: 'hush' }), 'x.>');
  await rest.channels.get('room').publish('n', 'kept');
  while (!log.some((line) => line.toLowerCase().includes('permissions violation'))) await pause(100);
  assert.equal(all.messages.length, 0);
  await reload(permissions('x.>'));
  await all.until(1);
  assert.equal(data(all.messages[0]), 'kept');
  assert.ok(!log.join('\n').includes('hush-hush'), log.join('\n'));
});

test('a message that is larger than the server takes is given up, those behind it are not', async (t) => {
  const [path, port] = [await directory(t), await freePort()];
  await natsServer(t, path, port, 'max_payload: 4096');
  const all = await listen(await client(t, port), 'x.>');
  const { rest, log } = await daemon(t, path, rule(port, 'x.{channel}'));
  for (const text of ['a', 'x'.repeat(5000), 'b']) await rest.channels.get('room').publish('n', text);
  await all.until(2);
  assert.deepEqual(all.messages.map(data), ['a', 'b']);
  while (!log.some((line) => line.includes('given up=1'))) await pause(50);
});
