// The example's page in a real browser: Ably's browser build, CORS and all.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { address, keys, realtime, rest, subscribe, test } from './client.mjs';

const directory = fileURLToPath(new URL('../../examples/hello', import.meta.url));

const ARGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

async function openPage(t) {
  const profile = await mkdtemp(join(tmpdir(), 'ringcast-browser-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ARGS,
  });
  t.after(async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  });
  const page = await context.newPage();
  page.on('pageerror', (error) => t.diagnostic(`page: ${error}`));
  return page;
}

/** Opens the example's page, as its README says. */
async function openExample(t) {
  const env = { ...process.env, RINGCAST_KEY: keys.all, RINGCAST_ADDRESS: address, PORT: '0' };
  const server = spawn(process.execPath, ['serve.mjs'], { cwd: directory, env });
  t.after(() => server.kill());
  const [url] = await new Promise((resolve) => {
    createInterface(server.stdout).once('line', (line) => resolve(line.match(/http\S+/)));
  });
  const page = await openPage(t);
  await page.goto(url);
  return page;
}

test('the page shows what is published, and publishes', async (t) => {
  const page = await openExample(t);
  await page.locator('#state', { hasText: 'connected' }).waitFor();
  // It attaches after it has connected; what was published before that, it rightly does not show.
  const shown = page.locator('#messages li', { hasText: 'from elsewhere' });
  for (let i = 0; i < 50 && (await shown.count()) === 0; i++) {
    await rest().channels.get('hello').publish('greeting', 'from elsewhere');
    await page.waitForTimeout(100);
  }
  assert.ok((await shown.count()) > 0, await page.locator('body').innerText());

  const inbox = await subscribe(realtime(t).channels.get('hello'));
  await page.locator('input[name=text]').fill('from the page');
  await page.locator('button').click();
  assert.equal((await inbox.take(1))[0].data, 'from the page');
  await page.locator('#messages li', { hasText: 'from the page' }).waitFor();
});

test('REST works across origins, and its errors are readable', async (t) => {
  const page = await openExample(t);
  const [host, port] = address.split(':');
  const outcome = await page.evaluate(
    async ({ key, wrong, host, port }) => {
      const client = (key) => new Ably.Rest({ key, endpoint: host, port: Number(port), tls: false });
      const channel = client(key).channels.get('from a browser');
      await channel.publish('n', { a: 1 });
      const { items } = await channel.history({ limit: 1 });
      const refusal = client(wrong).channels.get('x').history();
      return { data: items[0].data, code: await refusal.catch((error) => error.code) };
    },
    { key: keys.all, wrong: 'app.all:wrong', host, port },
  );
  assert.deepEqual(outcome, { data: { a: 1 }, code: 40101 });
});

test('token, presence, history and resume work in a page', async (t) => {
  const page = await openExample(t);
  const [host, port] = address.split(':');
  const token = await rest().auth.requestToken({ clientId: 'page', ttl: 60_000 });
  const outcome = await page.evaluate(
    async ({ token, host, port }) => {
      const client = new Ably.Realtime({
        authCallback: (_, callback) => callback(null, token),
        endpoint: host,
        port: Number(port),
        tls: false,
      });
      const reached = (emitter, state) =>
        emitter.state === state || new Promise((resolve) => emitter.once(state, resolve));
      await reached(client.connection, 'connected');
      const channel = client.channels.get(`page-${Math.random()}`);
      const heard = [];
      await channel.subscribe((message) => heard.push(message.data));
      await channel.presence.enter('here');
      await channel.publish('n', 'before');
      const { id } = client.connection;
      const lost = new Promise((resolve) => client.connection.once('disconnected', resolve));
      client.connection.connectionManager.disconnectAllTransports();
      await lost;
      // Queued: it is sent once the connection goes on.
      await channel.publish('n', 'after');
      const members = await channel.presence.get();
      const history = await channel.history({ direction: 'forwards' });
      const outcome = {
        clientId: client.auth.clientId,
        goesOn: client.connection.id === id,
        heard,
        members: members.map(({ clientId, data }) => [clientId, data]),
        history: history.items.map((message) => message.data),
      };
      client.close();
      await reached(client.connection, 'closed');
      return outcome;
    },
    { token, host, port },
  );
  assert.deepEqual(outcome, {
    clientId: 'page',
    goesOn: true,
    heard: ['before', 'after'],
    members: [['page', 'here']],
    history: ['before', 'after'],
  });
});
