// The SDK and a browser over TLS. Node trusts the daemon's authority by NODE_EXTRA_CA_CERTS.
import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { channelName, formats, realtime, rest, subscribe, test } from './client.mjs';

const [endpoint, port] = process.env.RINGCAST_TLS_ADDRESS.split(':');
const key = 'app.key:hush';
const secure = { key, endpoint, tlsPort: Number(port), tls: true };

for (const { name, useBinaryProtocol } of formats) {
  test(`messages go to and fro in ${name}`, async (t) => {
    const client = realtime(t, { ...secure, useBinaryProtocol });
    const channel = client.channels.get(channelName());
    const inbox = await subscribe(channel);
    const large = 'x'.repeat(40_000);
    await channel.publish('realtime', large);
    await rest({ ...secure, useBinaryProtocol }).channels.get(channel.name).publish('rest', { a: 1 });
    const messages = await inbox.take(2);
    assert.deepEqual(messages.map((message) => message.name), ['realtime', 'rest']);
    assert.ok(messages[0].data === large);
    assert.equal((await channel.history()).items.length, 2);
  });
}

test('a browser connects with wss', async (t) => {
  const certificate = new X509Certificate(await readFile(process.env.RINGCAST_CERTIFICATE));
  const spki = certificate.publicKey.export({ type: 'spki', format: 'der' });
  const hash = createHash('sha256').update(spki).digest('base64');
  const profile = await mkdtemp(join(tmpdir(), 'ringcast-tls-browser-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
      `--ignore-certificate-errors-spki-list=${hash}`],
  });
  t.after(async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  });
  const page = await context.newPage();
  const url = `wss://${endpoint}:${port}/?v=6&format=json&key=${key}`;
  const first = await page.evaluate((url) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.onmessage = ({ data }) => resolve(JSON.parse(data));
    socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
  }), url);
  assert.equal(first.action, 4, 'CONNECTED');
});
