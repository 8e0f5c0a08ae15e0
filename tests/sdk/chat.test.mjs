// The chat example whole: its `npm start`, two pages in a real browser, and a daemon.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { test } from './client.mjs';
import { directory, freePort } from './daemon.mjs';

const example = fileURLToPath(new URL('../../examples/chat', import.meta.url));

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

/** Two or more pages of different visitors, in contexts of their own. */
async function visitors(t, url) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(() => browser.close());
  return async (name, hash = `#name=${name}`, prepare = undefined) => {
    const context = await browser.newContext({ viewport: { width: 860, height: 560 } });
    const page = await context.newPage();
    page.on('pageerror', (error) => t.diagnostic(`${name}: ${error}`));
    await prepare?.(page);
    await page.goto(url + hash);
    return page;
  };
}

const isHere = (page, name) => page.locator('#members li', { hasText: name }).waitFor();
const shows = (page, text) => page.locator('#messages li', { hasText: text }).waitFor();
const said = async (page) => {
  const texts = (selector) => page.locator(`#messages ${selector}`).allInnerTexts();
  const [who, text] = await Promise.all([texts('.face'), texts('.text')]);
  return text.map((one, at) => `${who[at]}: ${one}`);
};
const say = async (page, text) => {
  await page.locator('input[name=text]').fill(text);
  await page.locator('#say button').click();
};

test('two pages see each other\'s words masked, once, also after one was offline for 20 s', async (t) => {
  const open = await visitors(t, await startChat(t, await directory(t)));
  const ann = await open('ann');
  await isHere(ann, 'ann');
  await say(ann, 'is anybody here?');
  await shows(ann, 'is anybody here?');
  const bob = await open('bob');
  await shows(bob, 'is anybody here?'); // from history
  await isHere(ann, 'bob');
  await isHere(bob, 'ann');
  await bob.locator('input[name=text]').pressSequentially('what the he');
  await ann.locator('#typing', { hasText: 'bob is typing' }).waitFor();
  await say(bob, 'what the heck, ann');
  for (const page of [ann, bob]) await shows(page, 'what the ****, ann');

  await bob.context().setOffline(true);
  for (const text of ['one', 'two', 'three']) {
    await say(ann, text);
    await shows(ann, text);
  }
  await bob.waitForTimeout(20_000);
  assert.equal(await bob.locator('#messages li', { hasText: 'three' }).count(), 0, 'it is offline');
  await bob.context().setOffline(false);
  await shows(bob, 'three');
  await say(ann, 'four');
  for (const page of [ann, bob]) await shows(page, 'four');
  const expected = ['A: is anybody here?', 'B: what the ****, ann', 'A: one', 'A: two', 'A: three', 'A: four'];
  for (const page of [ann, bob]) assert.deepEqual(await said(page), expected);
  await isHere(ann, 'bob');
});

test('rooms are apart, and who comes in says a name', async (t) => {
  const open = await visitors(t, await startChat(t, await directory(t)));
  const ann = await open('ann', '');
  await ann.locator('#hello input').fill('ann');
  await ann.locator('#hello button').click();
  await isHere(ann, 'ann');
  const bob = await open('bob');
  await isHere(ann, 'bob');
  await bob.locator('#rooms a', { hasText: 'garden' }).click();
  await bob.locator('#room', { hasText: 'garden' }).waitFor();
  await isHere(bob, 'bob');
  await ann.locator('#members li', { hasText: 'bob' }).waitFor({ state: 'detached' });
  await say(bob, 'darn, nobody here');
  await shows(bob, '****, nobody here');
  await say(ann, 'where did he go?');
  await shows(ann, 'where did he go?');
  assert.deepEqual(await said(ann), ['A: where did he go?']);
  await ann.locator('#rooms a', { hasText: 'garden' }).click();
  await shows(ann, '****, nobody here');
  for (const page of [ann, bob]) assert.deepEqual(await said(page), ['B: ****, nobody here']);
  await bob.locator('#rooms a', { hasText: 'lobby' }).click();
  await shows(bob, 'where did he go?');
  if (process.env.SCREENSHOT) {
    for (const [page, text] of [[ann, 'there you are'], [bob, 'back in a moment']]) {
      await page.locator('#rooms a', { hasText: 'lobby' }).click();
      await page.locator('#room', { hasText: 'lobby' }).waitFor();
      await shows(page, 'where did he go?');
      await isHere(page, 'bob');
      await say(page, text);
      await shows(page, text);
    }
    await say(ann, 'heck, the kettle!');
    await shows(ann, '****, the kettle!');
    await bob.locator('input[name=text]').pressSequentially('dar');
    await ann.locator('#typing', { hasText: 'bob is typing' }).waitFor();
    await ann.screenshot({ path: process.env.SCREENSHOT });
  }
});

test('what is said on the way to another room is said there', async (t) => {
  const open = await visitors(t, await startChat(t, await directory(t)));
  const slow = (page) => page.routeWebSocket(/127/, (route) => {
    const server = route.connectToServer();
    server.onMessage((message) => setTimeout(() => route.send(message), 300));
  });
  const ann = await open('ann', undefined, slow);
  await say(ann, 'who is early?'); // while it still enters
  await shows(ann, 'who is early?');
  await ann.locator('#rooms a', { hasText: 'garden' }).click();
  await say(ann, 'darn, slow doors');
  await shows(ann, '****, slow doors');
  assert.deepEqual(await said(ann), ['A: ****, slow doors']);
});
