// The chat example whole: its `npm start`, two pages in a real browser, and a daemon.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { test } from './client.mjs';

const example = fileURLToPath(new URL('../../examples/chat', import.meta.url));

async function freePort() {
  const socket = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => socket.once('listening', resolve));
  const { port } = socket.address();
  await new Promise((resolve) => socket.close(resolve));
  return port;
}

/** Starts a process that is stopped with its test; resolves with the first line that `matches`. */
function start(t, command, args, options, matches) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
  t.after(() => child.kill('SIGKILL'));
  const line = new Promise((resolve, reject) => {
    createInterface(child.stdout).on('line', (text) => matches.test(text) && resolve(text));
    child.once('exit', () => reject(new Error(`${command} has ended`)));
  });
  line.catch(() => {}); // its end is the end of the test
  return line;
}

/** Starts the daemon and the example; returns the page's address. */
async function startChat(t, path) {
  const [port, functionPort] = [await freePort(), await freePort()];
  const config = await readFile(join(example, 'ringcast.toml'), 'utf8');
  const file = join(path, 'ringcast.toml');
  await writeFile(file, config.replace('127.0.0.1:3001', `127.0.0.1:${functionPort}`));
  const serve = ['serve', '--config', file, '--listen', `127.0.0.1:${port}`, '--shards', '2'];
  await start(t, process.env.RINGCAST_BINARY, serve, {}, /^listening on/);
  const env = { ...process.env, RINGCAST_ADDRESS: `127.0.0.1:${port}`, PORT: '0', FUNCTION_PORT: functionPort };
  const line = await start(t, process.execPath, ['start.mjs'], { cwd: example, env }, /^open /);
  return line.match(/http\S+/)[0];
}

test('two pages see each other\'s words masked, once, also after one was offline', async (t) => {
  const path = await mkdtemp(join(tmpdir(), 'ringcast-chat-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  const url = await startChat(t, path);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(() => browser.close());
  const open = async (name) => {
    const context = await browser.newContext({ viewport: { width: 760, height: 560 } });
    const page = await context.newPage();
    page.on('pageerror', (error) => t.diagnostic(`${name}: ${error}`));
    await page.goto(`${url}#name=${name}`);
    await page.locator('#members', { hasText: name }).waitFor();
    return page;
  };
  const say = async (page, text) => {
    await page.locator('input[name=text]').fill(text);
    await page.locator('button').click();
  };
  const shows = (page, text) => page.locator('#messages li', { hasText: text }).waitFor();
  const all = (page) => page.locator('#messages li').allInnerTexts();

  const ann = await open('ann');
  await say(ann, 'is anybody here?');
  await shows(ann, 'is anybody here?');
  const bob = await open('bob');
  await shows(bob, 'is anybody here?'); // from history
  await ann.locator('#members', { hasText: 'ann, bob' }).waitFor();
  await bob.locator('input[name=text]').pressSequentially('what the he');
  await ann.locator('#typing', { hasText: 'bob' }).waitFor();
  await say(bob, 'what the heck, ann');
  for (const page of [ann, bob]) await shows(page, 'what the ****, ann');

  await bob.context().setOffline(true);
  for (const text of ['one', 'two', 'three']) {
    await say(ann, text);
    await shows(ann, text);
  }
  await bob.waitForTimeout(5000);
  assert.equal(await bob.locator('#messages li', { hasText: 'three' }).count(), 0, 'it is offline');
  await bob.context().setOffline(false);
  await shows(bob, 'three');
  const expected = ['annis anybody here?', 'bobwhat the ****, ann', 'annone', 'anntwo', 'annthree'];
  for (const page of [ann, bob]) assert.deepEqual(await all(page), expected);
  if (process.env.SCREENSHOT) await ann.screenshot({ path: process.env.SCREENSHOT });
});
