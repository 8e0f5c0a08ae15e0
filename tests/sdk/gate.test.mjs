// Rules that are asked before a publish: what they decide, what happens without an answer.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { subscribe, test } from './client.mjs';
import { SERVER_KEY, check, daemon, directory, endpoint, freePort, keys, pause } from './daemon.mjs';

const rule = (url, more = '') => `[[rules]]
id = "ask"
app = "chat"
channel = "^gated:"
invocation = "before-publish"
url = "${url}"
allow_private = true
${more}
`;

/** What the function of these tests says to a question. */
function decide({ messages, message }) {
  const text = message?.text ?? messages[0].data;
  if (text === 'rude') {
    return { action: 'reject', code: 42213, reason: 'be nice', rejectionDetail: { word: text } };
  }
  if (text === 'darn') {
    return message
      ? { action: 'accept', message: { text: '****' } }
      : { action: 'accept', messages: messages.map((one) => ({ ...one, data: '****' })) };
  }
  return { action: 'accept' };
}

/** A function that decides and keeps the questions. */
async function asked(t, port = 0, answer = decide) {
  const questions = [];
  const server = await endpoint(
    t,
    ({ body }) => {
      const question = JSON.parse(body);
      questions.push(question);
      const decided = answer(question, questions.length - 1);
      return Array.isArray(decided) ? decided : [200, {}, JSON.stringify(decided)];
    },
    port,
  );
  return { ...server, questions };
}

const code = async (promise) =>
  promise.then(
    () => undefined,
    (error) => error.code,
  );

test('a rule accepts, replaces or rejects, and ACK, NACK and HTTP status tell it', async (t) => {
  const ask = await asked(t);
  const { rest, realtime, port } = await daemon(t, await directory(t), keys + rule(ask.url));
  const client = realtime({ clientId: 'ann' });
  const inbox = await subscribe(realtime().channels.get('gated:room'));
  const channel = client.channels.get('gated:room');
  // Many at once keep their order, whatever is decided about each.
  const texts = Array.from({ length: 30 }, (_, at) => ['plain', 'darn', 'rude'][at % 3]);
  const codes = await Promise.all(texts.map((text) => code(channel.publish('said', text))));
  assert.deepEqual(
    codes,
    texts.map((text) => (text === 'rude' ? 42213 : undefined)),
  );
  const received = await inbox.take(20);
  assert.deepEqual(
    received.map(({ data }) => data),
    texts.filter((text) => text !== 'rude').map((text) => (text === 'darn' ? '****' : text)),
  );
  assert.deepEqual(new Set(received.map(({ clientId }) => clientId)), new Set(['ann']));
  const [question] = ask.questions;
  assert.equal(question.invocationMode, 'BEFORE_PUBLISH');
  assert.equal(question.ruleId, 'ask');
  assert.deepEqual([question.channel, question.messages[0].clientId], ['gated:room', 'ann']);

  // Over REST, alone and in a batch with a channel that nobody asks about.
  await rest.channels.get('gated:room').publish('said', 'darn');
  assert.equal((await inbox.take(1))[0].data, '****');
  const url = `http://127.0.0.1:${port}/channels/gated:room/messages`;
  const headers = {
    authorization: `Basic ${Buffer.from(SERVER_KEY).toString('base64')}`,
    'content-type': 'application/json',
    'x-ably-version': '3',
  };
  const refused = await fetch(url, { method: 'POST', headers, body: '{"data":"rude"}' });
  assert.equal(refused.status, 422);
  const { error } = await refused.json();
  assert.deepEqual(
    [error.code, error.statusCode, error.message, error.detail],
    [42213, 422, 'be nice', { word: 'rude' }],
  );
  const spec = { channels: ['gated:room', 'free'], messages: [{ data: 'rude' }] };
  const [result] = await rest.batchPublish([spec]);
  assert.deepEqual(
    result.results.map((one) => one.error?.code),
    [42213, undefined],
  );
});

test('a chat room is moderated with the documented question and answer', async (t) => {
  const ask = await asked(t);
  const config = keys + rule(ask.url, 'question = "chat"');
  const { rest, realtime } = await daemon(t, await directory(t), config);
  const inbox = await subscribe(realtime().channels.get('gated:room::$chat'));
  const message = {
    name: 'chat.message',
    clientId: 'ann',
    data: { text: 'darn', metadata: { mood: 1 } },
    extras: { headers: { colour: 'red' } },
  };
  await rest.channels.get('gated:room::$chat').publish(message);
  const [received] = await inbox.take(1);
  assert.deepEqual(received.data, { text: '****', metadata: {} });
  assert.equal(received.name, 'chat.message');
  const [question] = ask.questions;
  assert.equal(question.room, 'gated:room');
  const headers = { colour: 'red' };
  assert.deepEqual(question.message, { clientId: 'ann', ...message.data, headers });
});

test('without an answer the rule decides, and one that answers again is asked again', async (t) => {
  for (const policy of ['reject', 'publish']) {
    const port = await freePort();
    const more = `timeout = "600ms"\non_failure = "${policy}"`;
    const config = keys + rule(`http://127.0.0.1:${port}/`, more);
    const { rest, log } = await daemon(t, await directory(t), config);
    const channel = rest.channels.get('gated:room');
    const expected = policy === 'reject' ? 42211 : undefined;
    assert.equal(await code(channel.publish('said', 'nobody listens')), expected);
    let mood = 'broken';
    const ask = await asked(t, port, (question, at) => {
      if (mood === 'broken') return [500];
      if (mood === 'refuses') return [403];
      if (mood === 'throttles') return at % 2 === 1 ? decide(question) : [429];
      if (mood === 'hangs') return [0];
      if (mood === 'talks') return [200, {}, 'x'.repeat(2 << 20)];
      return decide(question);
    });
    for (mood of ['broken', 'refuses', 'hangs', 'talks']) {
      assert.equal(await code(channel.publish('said', mood)), expected, mood);
    }
    // One that fails is asked again within the time, one that refuses is not.
    const count = (text) => ask.questions.filter(({ messages }) => messages[0].data === text).length;
    assert.ok(count('broken') > 1, 'repeated');
    assert.equal(count('refuses'), 1);
    ask.questions.length = 0;
    mood = 'throttles';
    assert.equal(await code(channel.publish('said', 'once more')), undefined);
    assert.equal(count('once more'), 2);
    mood = 'well';
    assert.equal(await code(channel.publish('said', 'rude')), 42213);
    assert.ok(log.some((line) => line.includes('questions without a decision')), log.join('\n'));
    ask.close();
  }
});

test('a slow rule holds up its channel alone, and questions of channels go side by side', async (t) => {
  const order = [];
  let answer = () => {};
  const answered = new Promise((resolve) => (answer = resolve));
  // Nothing is answered until all are asked and who need not be asked about has been published.
  const ask = await endpoint(t, () => answered.then(() => [200, {}, '{"action":"accept"}']));
  const { realtime } = await daemon(t, await directory(t), keys + rule(ask.url));
  const client = realtime();
  const publish = (publisher, name) =>
    publisher.channels
      .get(name)
      .publish('said', name)
      .then(() => order.push(name));
  const gated = Array.from({ length: 10 }, (_, at) => publish(client, `gated:${at}`));
  await ask.until(() => ask.requests.length === 10);
  await publish(realtime(), 'free');
  answer();
  await Promise.all(gated);
  assert.equal(order[0], 'free');
});

test('a reload changes whom to ask, and what waits for a rule that is gone is published', async (t) => {
  const ask = await endpoint(t, () => [0]);
  const other = await asked(t);
  const { rest, reload } = await daemon(t, await directory(t), keys);
  await rest.channels.get('gated:room').publish('said', 'nobody is asked');
  await reload(keys + rule(ask.url, 'timeout = "10s"'));
  // It takes a moment until every core has it.
  const waiting = [];
  while (ask.requests.length === 0) {
    waiting.push(rest.channels.get('gated:room').publish('said', 'held'));
    await pause(100);
  }
  waiting.push(rest.channels.get('gated:room').publish('said', 'behind it'));
  await pause(100);
  // That question goes on; who comes now is asked about elsewhere.
  await reload(keys + rule(other.url));
  const said = async (room) => code(rest.channels.get(`gated:${room}`).publish('said', 'rude'));
  for (let n = 0; ; n++) {
    const outcome = said(n);
    if ((await Promise.race([outcome, pause(500)])) === 42213) break;
    outcome.catch(() => {});
  }
  await reload(keys);
  while ((await said('once more')) === 42213) await pause(100);
  // Without an answer they would be refused.
  await Promise.all(waiting);
});

test('a daemon that ends lets those publish who wait for an answer', async (t) => {
  const ask = await endpoint(t, async () => {
    await pause(700);
    return [200, {}, '{"action":"accept"}'];
  });
  const { rest, kill } = await daemon(t, await directory(t), keys + rule(ask.url));
  const published = rest.channels.get('gated:room').publish('said', 'just in time');
  await ask.until(() => ask.requests.length > 0);
  const gone = kill('SIGTERM');
  await published;
  await gone;
});

test('rules that are asked are configured with what goes with that', async (t) => {
  const url = 'http://127.0.0.1:9/';
  assert.equal(await check(t, keys + rule(url)), '');
  for (const [more, complaint] of [
    ['mode = "batch"', /mode/],
    ['source = "channel.presence"', /source/],
    ['retry_for = "1h"', /retry_for/],
    ['timeout = "1m"', /timeout/],
    ['retries_max = 11', /retries_max/],
    ['on_failure = "shrug"', /on_failure/],
  ]) {
    assert.match(await check(t, keys + rule(url, more)), complaint);
  }
  const after = rule(url, 'on_failure = "publish"').replace('before-publish', 'after-publish');
  assert.match(await check(t, keys + after), /on_failure/);
});

test('each question is in the inspector, with what came of it', async (t) => {
  const [path, adminPort, token] = [await directory(t), await freePort(), '0123456789abcdef'.repeat(2)];
  await writeFile(join(path, 'admin.token'), token);
  const admin = `[admin]\nlisten = "127.0.0.1:${adminPort}"\ntoken_file = "admin.token"\n`;
  const answers = { stumbles: [500], locked: [403], hangs: [0] };
  const ask = await asked(t, 0, (question) => {
    const text = question.messages[0].data;
    const answer = answers[text] ?? decide(question);
    if (text === 'stumbles') delete answers.stumbles; // it gets up again
    return answer;
  });
  const { rest } = await daemon(t, path, admin + keys + rule(ask.url, 'timeout = "600ms"'));
  const channel = rest.channels.get('gated:room');
  for (const text of ['plain', 'darn', 'rude', 'stumbles', 'locked', 'hangs']) {
    await code(channel.publish('said', text));
  }
  const get = async (path) => {
    const headers = { authorization: `Bearer ${token}` };
    return (await fetch(`http://127.0.0.1:${adminPort}${path}`, { headers })).json();
  };
  // The shard gives a question up by itself; the thread that asks notes it in its own time.
  let attempts = [];
  while (attempts.length < 7) {
    await pause(20);
    attempts = await get('/hooks/attempts?rule=ask');
  }
  assert.deepEqual(
    attempts.map(({ outcome, status, attempt }) => [outcome, status, attempt]),
    [
      ['accepted', 200, 1],
      ['replaced', 200, 1],
      ['rejected', 200, 1],
      ['retry', 500, 1],
      ['accepted', 200, 2],
      ['undecided', 403, 1],
      ['undecided', null, 1],
    ],
  );
  const [first, , , retried] = attempts;
  assert.deepEqual([first.channels, first.events, first.eventCount], [['gated:room'], [], 1]);
  assert.match(first.request.body, /BEFORE_PUBLISH.*plain/);
  assert.ok(retried.nextTry >= retried.time + 100 && !first.nextTry);
  assert.match(attempts.at(-1).note, /in time|timed out/);
  const [summary] = await get('/hooks/rules');
  assert.deepEqual([summary.failed, summary.lastFailure.note], [3, attempts.at(-1).note]);
});
