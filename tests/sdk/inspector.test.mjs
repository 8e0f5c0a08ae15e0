// The inspector of rules in a real browser, with the traffic of the chat example.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { subscribe, test } from './client.mjs';
import { daemon, directory, freePort } from './daemon.mjs';

const example = new URL('../../examples/chat/', import.meta.url);
const TOKEN = '0123456789abcdef0123456789abcdef';

test('an operator signs in and sees what the chat\'s rule sends, live, with request and answer', async (t) => {
  const path = await directory(t);
  const [functionPort, adminPort] = [await freePort(), await freePort()];
  await writeFile(join(path, 'admin.token'), TOKEN);
  const config = await readFile(new URL('ringcast.toml', example), 'utf8');
  const admin = `[admin]\nlisten = "127.0.0.1:${adminPort}"\ntoken_file = "admin.token"\n`;
  const { port, realtime } = await daemon(t, path, admin + config.replace('127.0.0.1:3001', `127.0.0.1:${functionPort}`));
  process.env.RINGCAST_ADDRESS = `127.0.0.1:${port}`;
  process.env.FUNCTION_KEY = 'chat.function:for-trying-out-2';
  const { handler } = await import(new URL('handler.mjs', example));
  const { runFunction } = await import(new URL('run-function.mjs', example));
  const functions = await runFunction(handler, functionPort);
  t.after(() => {
    functions.close();
    functions.closeAllConnections();
  });
  const inbox = await subscribe(realtime().channels.get('chat:to-clients'));
  const said = realtime({ clientId: 'ann' }).channels.get('chat:from-clients');
  await said.publish('said', { text: 'before the page was open' });
  await inbox.take(1);

  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(() => browser.close());
  const page = await (await browser.newContext({ viewport: { width: 1060, height: 640 } })).newPage();
  await page.goto(`http://127.0.0.1:${adminPort}/hooks`);
  await page.locator('input[name=token]').fill(TOKEN);
  await page.locator('button').click();
  await page.locator('#live', { hasText: /^live$/ }).waitFor();
  await page.locator('#rules tr', { hasText: 'mask' }).waitFor();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(`${error}`));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  const rows = page.locator('#attempts tr');
  await rows.filter({ hasText: 'chat:from-clients' }).first().waitFor(); // from before

  await said.publish('said', { text: 'what the heck, ann' });
  assert.equal((await inbox.take(1))[0].data.text, 'what the ****, ann');
  await page.locator('#text').fill('what the heck');
  // It is drawn with the next frame, and the attempt may end after the message has come.
  await page.waitForFunction(() => document.querySelectorAll('#attempts tr').length === 1);
  const row = rows.filter({ hasText: '200' });
  await row.click();
  const request = await page.locator('#request').innerText();
  assert.match(request, /^POST http:\/\/127\.0\.0\.1:\d+\/\n/);
  assert.match(request, /x-ably-signature: \*\*\*/);
  assert.match(request, /what the heck, ann/);
  const summary = await page.locator('#summary').innerText();
  assert.match(summary, /^delivered: status 200 after \d+ ms, try 1; events \d+$/);
  // Its number is larger than what a double holds, and exact all the same.
  const listed = await page.evaluate(async () => (await fetch('/hooks/attempts')).text());
  assert.ok(listed.includes(`"events":[${summary.split(' ').at(-1)}]`), summary);

  // What was said is text, whatever it looks like.
  await said.publish('said', { text: '<img src=x onerror="document.title=1">' });
  await page.locator('#text').fill('onerror');
  await rows.filter({ hasText: 'delivered' }).first().waitFor();
  await page.waitForFunction(() => document.querySelectorAll('#attempts tr').length === 1);
  await rows.first().click();
  await page.locator('#request', { hasText: 'onerror' }).waitFor();
  assert.equal(await page.locator('#details img').count(), 0);
  assert.equal(await page.title(), 'ringcast: rules');

  functions.close();
  functions.closeAllConnections();
  await said.publish('said', { text: 'nobody is there' });
  await page.locator('#text').fill('nobody is there');
  await rows.filter({ hasText: 'retry' }).first().waitFor();
  await page.locator('#outcome').selectOption('delivered');
  await page.waitForFunction(() => document.querySelectorAll('#attempts tr').length === 0);
  await page.locator('#rules tr', { hasText: 'Connection refused' }).waitFor();
  assert.deepEqual(complaints, []);
  if (process.env.SCREENSHOT) {
    await page.locator('#outcome').selectOption('');
    await page.locator('#text').fill('');
    await rows.filter({ hasText: 'delivered' }).first().click();
    await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true });
  }
});
