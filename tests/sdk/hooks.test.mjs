// Rules: the chat example without its page, endpoints that fail, a daemon that is killed.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import Ably from 'ably';
import { subscribe, test } from './client.mjs';
import { daemon, directory, endpoint, freePort, keys, pause } from './daemon.mjs';

const example = new URL('../../examples/chat/', import.meta.url);
const FUNCTION_KEY = 'chat.function:for-trying-out-2';

/** The example's configuration, with the function at `port` and more lines in front. */
async function chatConfig(port, front = '') {
  const config = await readFile(new URL('ringcast.toml', example), 'utf8');
  return front + config.replace('127.0.0.1:3001', `127.0.0.1:${port}`);
}

const rule = (url, more) =>
  `${keys}[[rules]]\nid = "r"\napp = "chat"\nurl = "${url}"\nallow_private = true\n${more}\n`;

test('each message comes out of the function once, masked and in order, an outage included', async (t) => {
  const functionPort = await freePort();
  const { port, realtime, log } = await daemon(t, await directory(t), await chatConfig(functionPort));
  process.env.RINGCAST_ADDRESS = `127.0.0.1:${port}`;
  process.env.FUNCTION_KEY = FUNCTION_KEY;
  const { handler } = await import(new URL('handler.mjs', example));
  const { runFunction } = await import(new URL('run-function.mjs', example));

  const inbox = await subscribe(realtime().channels.get('chat:to-clients'));
  const publishers = ['ann', 'bob'].map((clientId) => realtime({ clientId }).channels.get('chat:from-clients'));
  const publish = async (from, to) => {
    for (let n = from; n < to; n++) {
      await Promise.all(publishers.map((channel) => channel.publish('said', { text: `what the heck ${n}` })));
    }
  };
  let functions = await runFunction(handler, functionPort);
  await publish(0, 20);
  await inbox.take(20);
  functions.close();
  functions.closeAllConnections();
  await publish(20, 40);
  await pause(3000);
  functions = await runFunction(handler, functionPort);
  t.after(() => {
    functions.close();
    functions.closeAllConnections();
  });
  await publish(40, 60);
  const messages = await inbox.take(100);
  await pause(1500);
  assert.equal(inbox.messages.length, 0, 'nothing comes twice');
  const expected = Array.from({ length: 60 }, (_, n) => `what the **** ${n}`);
  const { items } = await realtime().channels.get('chat:to-clients').history({ limit: 1000, direction: 'forwards' });
  assert.equal(items.length, 120);
  for (const clientId of ['ann', 'bob']) {
    const own = (list) => list.filter((message) => message.clientId === clientId).map(({ data }) => data.text);
    assert.deepEqual(own(items), expected);
    assert.deepEqual(own(messages), expected.slice(-50), clientId);
  }
  assert.ok(log.every((line) => !line.includes('given up')), log.join('\n'));
});

test('what waits for its delivery survives kill -9 where there is a state directory', async (t) => {
  const path = await directory(t);
  const functionPort = await freePort();
  const config = await chatConfig(functionPort, '[server]\nstate_dir = "state"\n');
  const first = await daemon(t, path, config);
  const channel = first.rest.channels.get('chat:from-clients:room');
  for (let n = 0; n < 50; n++) await channel.publish('said', { text: `${n}` });
  await pause(500);
  await first.kill();
  const { requests, until } = await endpoint(t, () => [200], functionPort);
  const second = await daemon(t, path, config);
  await until(() => requests.length >= 50);
  const texts = requests.map(({ body }) => JSON.parse(JSON.parse(body).messages[0].data).text);
  assert.deepEqual(texts, Array.from({ length: 50 }, (_, n) => `${n}`));
  assert.ok(second.log.some((line) => line.includes('50 events wait')), second.log.join('\n'));
  // What was delivered is not sent again by a third one.
  await pause(500);
  await second.kill();
  await daemon(t, path, config);
  await pause(1000);
  assert.equal(requests.length, 50);
});

test('an outage with two kill -9 in it costs no event and no order', async (t) => {
  for (const mode of ['single', 'batch']) {
    const path = await directory(t);
    const port = await freePort();
    const more = `channel = "^room-"\nmode = "${mode}"\nbatch_interval = "100ms"`;
    const config = '[server]\nstate_dir = "state"\n' + rule(`http://127.0.0.1:${port}/`, more);
    const rooms = Array.from({ length: 8 }, (_, at) => `room-${at}`);
    let next = 0;
    const publish = async ({ rest }, count) => {
      for (const end = next + count; next < end; next++) {
        await Promise.all(rooms.map((room) => rest.channels.get(room).publish('n', `${next}`)));
      }
    };
    // An endpoint that does not answer is one that has not got it.
    let isThere = true;
    let got = [];
    const arrived = await endpoint(t, ({ body }) => {
      if (!isThere) return [503];
      const parsed = JSON.parse(body);
      const items = parsed.items?.map(({ data }) => [data.channelId, data]) ?? [[parsed.channel, parsed]];
      got.push(...items.map(([channel, { messages }]) => [channel, Number(messages[0].data)]));
      return [200];
    }, port);
    let one = await daemon(t, path, config);
    await publish(one, 5);
    await arrived.until(() => got.length >= 40);
    isThere = false;
    await publish(one, 10);
    await pause(500);
    await one.kill();
    one = await daemon(t, path, config);
    await publish(one, 10);
    await pause(500);
    isThere = true;
    // In the middle of catching up.
    await arrived.until(() => got.length >= 80);
    await one.kill();
    one = await daemon(t, path, config);
    await publish(one, 5);
    const seen = () => new Set(got.map(([room, n]) => `${room} ${n}`));
    await arrived.until(() => seen().size === 30 * rooms.length);
    for (const room of rooms) {
      const own = got.filter(([other]) => other === room).map(([, n]) => n);
      const firsts = own.filter((n, at) => own.indexOf(n) === at);
      assert.deepEqual(firsts, Array.from({ length: 30 }, (_, n) => n), `${mode} ${room}`);
    }
    await one.kill();
  }
});

test('batches are signed, and those that fail are sent again with what has come since', async (t) => {
  const { url, requests, until } = await endpoint(t, (_, index) => [index === 1 ? 500 : 200]);
  const more = 'channel = "^room$"\nmode = "batch"\nbatch_interval = "100ms"\nsigning_key = "chat.server"';
  const { rest } = await daemon(t, await directory(t), rule(url, more));
  for (let n = 0; n < 30; n++) {
    await rest.channels.get('room').publish('n', `${n}`);
    if (n % 10 === 9) await pause(200);
  }
  const delivered = () => {
    const good = requests.filter(({ status }) => status === 200);
    return good.flatMap(({ body }) => JSON.parse(body).items.map(({ data }) => data.messages[0].data));
  };
  await until(() => delivered().length >= 30);
  assert.deepEqual(delivered(), Array.from({ length: 30 }, (_, n) => `${n}`));
  assert.ok(requests.length < 15, `${requests.length} requests`);
  for (const { headers, body } of requests) {
    assert.equal(headers['x-ably-version'], '1.2');
    assert.equal(headers['x-ably-key'], 'chat.server');
    const signature = createHmac('sha256', 'for-trying-out-1').update(body).digest('base64');
    assert.equal(headers['x-ably-signature'], signature);
  }
  const [item] = JSON.parse(requests[0].body).items;
  assert.equal(item.webhookId, 'r');
  assert.equal(item.name, 'channel.message');
  assert.equal(item.data.channelId, 'room');
});

test('a bare body is the data, with the rest in headers', async (t) => {
  const { url, requests, until } = await endpoint(t);
  const more = 'channel = ""\nenveloped = false\nheaders = { "x-mine" = "yes" }';
  const { rest } = await daemon(t, await directory(t), rule(url, more));
  const channel = rest.channels.get('room');
  await channel.publish('text', 'hello');
  await channel.publish({ name: 'json', data: { a: 1 }, clientId: 'é' });
  await channel.publish('bytes', Buffer.from([0, 255]));
  await until(() => requests.length === 3);
  assert.deepEqual(requests.map(({ body }) => body.toString('latin1')), ['hello', '{"a":1}', '\u0000\u00ff']);
  const types = requests.map(({ headers }) => headers['content-type']);
  assert.deepEqual(types, ['text/plain; charset=utf-8', 'application/json', 'application/octet-stream']);
  assert.equal(requests[1].headers['x-ably-message-client-id'], '%C3%A9');
  assert.equal(requests[1].headers['x-ably-envelope-channel'], 'room');
  assert.equal(requests[1].headers['x-mine'], 'yes');
});

test('messages can skip a rule where the capability permits, and ephemeral ones are not sent', async (t) => {
  const { url, requests, until } = await endpoint(t);
  const { rest, port } = await daemon(t, await directory(t), rule(url, 'channel = ""'));
  const channel = rest.channels.get('room');
  for (const skipRule of ['*', 'r', ['other', 'r']]) {
    await channel.publish({ name: 'skips', extras: { privileged: { skipRule } } });
  }
  await channel.publish({ name: 'ephemeral', extras: { ephemeral: true } });
  await channel.publish({ name: 'last', extras: { privileged: { skipRule: ['other'] } } });
  const plain = new Ably.Rest({ key: 'chat.plain:hush', endpoint: '127.0.0.1', port, tls: false, logLevel: 0 });
  await assert.rejects(
    plain.channels.get('room').publish({ name: 'may not', extras: { privileged: { skipRule: '*' } } }),
    { code: 40160 },
  );
  await until(() => requests.length > 0);
  await pause(300);
  const names = requests.map(({ body }) => JSON.parse(body).messages.map(({ name }) => name));
  assert.deepEqual(names, [['last']]);
});

test('members and the life of channels are sources, too', async (t) => {
  const { url, requests, until } = await endpoint(t);
  const config =
    rule(url, 'channel = "^room$"\nsource = "channel.presence"') +
    `[[rules]]\nid = "life"\napp = "chat"\nurl = "${url}"\nallow_private = true\nchannel = "^room$"\n` +
    'source = "channel.lifecycle"\n';
  const { realtime } = await daemon(t, await directory(t), config);
  const { presence } = realtime({ clientId: 'ann' }).channels.get('room');
  await presence.enter('here');
  await presence.update('still');
  await presence.leave();
  await until(() => requests.length === 4);
  const bodies = requests.map(({ body }) => JSON.parse(body));
  const events = bodies.filter(({ source }) => source === 'channel.presence').flatMap((body) => body.presence);
  assert.deepEqual(events.map(({ action, clientId, data }) => [action, clientId, data]), [
    [2, 'ann', 'here'],
    [4, 'ann', 'still'],
    [3, 'ann', 'still'],
  ]);
  const [life] = bodies.filter(({ source }) => source === 'channel.lifecycle');
  assert.equal(life.name, 'channel.opened');
  assert.equal(life.data.status.isActive, true);
});

test('Retry-After is honoured, a refusal is not repeated, and a full rule refuses where it shall', async (t) => {
  const answers = [[503, { 'retry-after': '2' }], [200], [404]];
  const { url, requests, until, close } = await endpoint(t, (_, index) => answers[index] ?? [200]);
  const more = 'channel = ""\nwhen_full = "refuse"\nwaiting_bytes_max = "64KiB"\nenveloped = false';
  const { rest, log } = await daemon(t, await directory(t), rule(url, more));
  const channel = rest.channels.get('room');
  for (const data of ['a', 'b', 'c']) await channel.publish('n', data);
  await until(() => requests.length === 4);
  assert.deepEqual(requests.map(({ body }) => `${body}`), ['a', 'a', 'b', 'c']);
  assert.ok(requests[1].at - requests[0].at >= 1900, 'two seconds later');
  await pause(500);
  assert.ok(log.some((line) => line.includes('given up=1') && line.includes('404')), log.join('\n'));
  close();
  let refused;
  for (let n = 0; n < 100 && !refused; n++) {
    await channel.publish('n', 'x'.repeat(10_000)).catch((error) => (refused = error));
  }
  assert.deepEqual([refused.code, refused.statusCode], [70003, 503]);
});

test('what an endpoint has refused is listed and can be sent again', async (t) => {
  const path = await directory(t);
  let status = 400;
  const { url, requests, until } = await endpoint(t, () => [status]);
  const config = '[server]\nstate_dir = "state"\n' + rule(url, 'channel = ""');
  const hooks = async (command) => {
    const args = ['hooks', command, '--config', join(path, 'ringcast.toml')];
    if (command !== 'replay') args.push('--json');
    return (await promisify(execFile)(process.env.RINGCAST_BINARY, args)).stdout;
  };
  const first = await daemon(t, path, config);
  await first.rest.channels.get('room').publish('n', 'again');
  await until(() => requests.length === 1);
  await pause(500);
  const letter = JSON.parse(await hooks('dead'));
  assert.deepEqual([letter.rule, letter.channel, letter.reason], ['r', 'room', 'refused by the endpoint']);
  assert.equal(await hooks('list'), '');
  await assert.rejects(hooks('replay'), /another process has it open/);
  await first.kill();
  assert.match(await hooks('replay'), /^1 events wait again/);
  assert.equal(JSON.parse(await hooks('list')).channel, 'room');
  status = 200;
  await daemon(t, path, config);
  await until(() => requests.length === 2);
  assert.deepEqual(requests[1].body, requests[0].body);
  assert.equal(await hooks('dead'), '');
});

test('a daemon that ends in order delivers first, and says what it could not deliver', async (t) => {
  const { url, requests, close } = await endpoint(t, (_, index) => (index === 0 ? [503] : [200]));
  const first = await daemon(t, await directory(t), rule(url, 'channel = ""'));
  for (const data of ['a', 'b']) await first.rest.channels.get('room').publish('n', data);
  await first.kill('SIGTERM');
  const data = requests.map(({ body }) => JSON.parse(body).messages[0].data);
  assert.deepEqual(data, ['a', 'a', 'b']);
  assert.ok(!first.log.some((line) => line.includes('not delivered')), first.log.join('\n'));
  close();
  const second = await daemon(t, await directory(t), rule(url, 'channel = ""'));
  await second.rest.channels.get('room').publish('n', 'c');
  const began = Date.now();
  await second.kill('SIGTERM');
  assert.ok(Date.now() - began < 10_000);
  assert.ok(second.log.some((line) => line.includes('are lost: 1')), second.log.join('\n'));
});
