// The admin's page in a real browser: live numbers of each core, and the core that stands still.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { address, test } from './client.mjs';

const admin = process.env.RINGCAST_ADMIN;

const ARGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

async function openPage(t, colorScheme) {
  const profile = await mkdtemp(join(tmpdir(), 'ringcast-admin-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ARGS,
    colorScheme,
    viewport: { width: 900, height: 620 },
  });
  t.after(async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  });
  const page = await context.newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (line) => line.type() === 'error' && complaints.push(line.text()));
  const requests = [];
  page.on('request', (request) => requests.push(request.url()));
  await page.goto(admin);
  return { page, complaints, requests };
}

function publish(channel) {
  return fetch(`http://${address}/channels/${channel}/messages?key=app.all:hush`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{"data":"hello"}',
  });
}

/** The number that a card shows under a name. */
function figure(page, shard, name) {
  return page.locator(`[data-shard="${shard}"] [data-name="${name}"] .number`);
}

test('the page shows what each core does, as it does it', async (t) => {
  const { page, complaints, requests } = await openPage(t, 'dark');
  await page.locator('#health', { hasText: 'serving' }).waitFor();
  assert.equal(await page.locator('[data-shard]').count(), 2);
  const listening = new AbortController();
  t.after(() => listening.abort());
  const listen = () =>
    fetch(`http://${address}/sse?channels=room&v=3&key=app.all:hush`, { signal: listening.signal });
  await Promise.all(Array.from({ length: 10 }, listen));
  const totals = page.locator('#totals');
  const shown = (name) => totals.locator(`[data-name="${name}"] .number`);
  await shown('channels').filter({ hasText: '1' }).waitFor();
  // Until the page has seen it, however slow this machine is.
  const until = Date.now() + 30000;
  while ((await shown('sends/s').innerText()) === '0' || (await shown('publications/s').innerText()) === '0') {
    assert.ok(Date.now() < until, await totals.innerText());
    await Promise.all(Array.from({ length: 20 }, () => publish('room')));
  }
  for (const name of ['load', 'connections', 'ring depth', 'mesh depth', 'slow consumers', 'stalls']) {
    assert.match(await figure(page, 0, name).innerText(), /^[\d,]+( %)?$/, name);
  }
  // Lines are drawn: some pixel of a canvas is not transparent.
  const isDrawn = await page.locator('[data-shard="0"] [data-name="load"] canvas').evaluate((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value !== 0);
  });
  assert.ok(isDrawn);
  assert.deepEqual(complaints, []);
  assert.ok(requests.every((url) => url.startsWith(admin)), `nothing from elsewhere: ${requests}`);
  if (process.env.SCREENSHOT) {
    for (let i = 0; i < 60; i++) {
      await Promise.all(Array.from({ length: 5 + 40 * (i % 7 === 0) }, () => publish('room')));
      await page.waitForTimeout(200);
    }
    await page.screenshot({ path: process.env.SCREENSHOT });
  }
});

test('light and dark are told apart', async (t) => {
  const ground = async (scheme) => {
    const { page } = await openPage(t, scheme);
    return page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  };
  assert.notEqual(await ground('light'), await ground('dark'));
});

// The last one: nothing wakes that core up again.
test('a core that stands still is named', async (t) => {
  const { page } = await openPage(t, 'light');
  await page.locator('#health', { hasText: 'serving' }).waitFor();
  process.kill(Number(process.env.RINGCAST_PID), 'SIGUSR1');
  await page.locator('#health', { hasText: 'stalled' }).waitFor({ timeout: 60000 });
  await page.locator('[data-shard="1"]', { hasText: 'stands still for' }).waitFor();
  assert.match(await page.locator('#summary').innerText(), /^shard 1 on CPU \d+ stands still$/);
  assert.equal(await page.locator('.stalled').count(), 1);
});
