// Rules whose endpoints are reached over TLS with an authority of our own, by HTTP/1.1 and HTTP/2; and bounds.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { createSecureServer } from 'node:http2';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from './client.mjs';
import { daemon, directory, endpoint, keys, pause } from './daemon.mjs';

const openssl = (path, ...args) => promisify(execFile)('openssl', args, { cwd: path });

/** An authority, and below it a certificate for 127.0.0.1 and one for the daemon: `ca.pem`, `server.*`, `client.*`. */
async function certificates(path) {
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  await openssl(path, 'req', '-x509', ...curve, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=authority');
  for (const [name, extension] of [
    ['server', 'subjectAltName=IP:127.0.0.1'],
    ['client', 'extendedKeyUsage=clientAuth'],
  ]) {
    await openssl(path, 'req', ...curve, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    await writeFile(join(path, `${name}.ext`), extension);
    const by = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'];
    await openssl(path, 'x509', '-req', '-in', `${name}.csr`, ...by, '-out', `${name}.pem`, '-days', '2', '-extfile', `${name}.ext`);
  }
  const [ca, cert, key] = await Promise.all(['ca.pem', 'server.pem', 'server.key'].map((name) => readFile(join(path, name))));
  return { ca, cert, key };
}

/** Has `server` keep what it is sent, and by which version of HTTP. */
async function listen(t, server, answer = () => [200]) {
  const [requests, connections] = [[], new Set()];
  const load = { now: 0, most: 0 };
  let wake = () => {};
  server.on('request', async (request, response) => {
    load.most = Math.max(load.most, ++load.now);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const peer = request.socket.getPeerCertificate?.()?.subject?.CN;
    requests.push({ version: request.httpVersion, headers: request.headers, body: Buffer.concat(chunks), peer });
    const [status, headers] = answer(requests.length);
    load.now--;
    response.writeHead(status, headers);
    response.end();
    wake();
  });
  const failures = [];
  server.on('tlsClientError', (error) => {
    failures.push(error);
    wake();
  });
  server.on('secureConnection', (socket) => connections.add(socket));
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  t.after(() => {
    server.close();
    for (const socket of connections) socket.destroy();
  });
  const until = async (enough) => {
    while (!enough()) await new Promise((resolve) => (wake = resolve));
  };
  return { url: `https://127.0.0.1:${server.address().port}/`, requests, connections, load, failures, until };
}

const rule = (url, more = '', front = '') =>
  `${front}${keys}[[rules]]\nid = "r"\napp = "chat"\nchannel = ""\nurl = "${url}"\nallow_private = true\n${more}\n`;

const data = ({ body }) => JSON.parse(body).messages[0].data;

test('an endpoint that speaks HTTP/2 is reached over one connection, whatever goes side by side', async (t) => {
  const path = await directory(t);
  const { cert, key } = await certificates(path);
  const { url, requests, connections, until } = await listen(t, createSecureServer({ cert, key }));
  const { rest } = await daemon(t, path, rule(url, 'ca_file = "ca.pem"'));
  await rest.channels.get('first').publish('n', '0');
  await until(() => requests.length === 1);
  const names = Array.from({ length: 10 }, (_, n) => `c${n}`);
  for (let n = 0; n < 10; n++) await Promise.all(names.map((name) => rest.channels.get(name).publish('n', `${n}`)));
  await until(() => requests.length === 101);
  for (const name of names) {
    const own = requests.filter(({ body }) => JSON.parse(body).channel === name);
    assert.deepEqual(own.map(data), Array.from({ length: 10 }, (_, n) => `${n}`));
  }
  assert.ok(requests.every(({ version }) => version === '2.0'));
  assert.equal(connections.size, 1);
});

test('one that speaks HTTP/1.1 has no more requests at a time than the rule permits, and connections are used again', async (t) => {
  const path = await directory(t);
  const { cert, key } = await certificates(path);
  const { url, requests, connections, load, until } = await listen(t, createServer({ cert, key }));
  // The authority of all rules that name none.
  const { rest } = await daemon(t, path, rule(url, 'concurrency = 2', '[hooks]\nca_file = "ca.pem"\n'));
  const names = Array.from({ length: 10 }, (_, n) => `c${n}`);
  for (let n = 0; n < 10; n++) await Promise.all(names.map((name) => rest.channels.get(name).publish('n', `${n}`)));
  await until(() => requests.length === 100);
  assert.ok(requests.every(({ version }) => version === '1.1'));
  assert.ok(load.most <= 2, `${load.most} at a time`);
  // One that has just been used may not be back yet when the next request wants one.
  assert.ok(connections.size < 50, `${connections.size} connections`);
});

test('a certificate of an authority that is not trusted ends the connection before anything is said', async (t) => {
  const path = await directory(t);
  const { cert, key } = await certificates(path);
  const { url, requests, failures, until } = await listen(t, createServer({ cert, key }));
  const { rest } = await daemon(t, path, rule(url));
  await rest.channels.get('room').publish('n', 'kept');
  await until(() => failures.length >= 2);
  assert.equal(requests.length, 0);
});

test('an endpoint that asks for a certificate is shown one', async (t) => {
  const path = await directory(t);
  const { ca, cert, key } = await certificates(path);
  const server = createServer({ ca, cert, key, requestCert: true, rejectUnauthorized: true });
  const { url, requests, failures, until } = await listen(t, server);
  const other = `[[rules]]\nid = "without"\napp = "chat"\nchannel = ""\nurl = "${url}"\nallow_private = true\nca_file = "ca.pem"\n`;
  const files = 'ca_file = "ca.pem"\nclient_certificate_file = "client.pem"\nclient_key_file = "client.key"';
  const { rest } = await daemon(t, path, rule(url, files) + other);
  await rest.channels.get('room').publish('n', 'hello');
  await until(() => requests.length === 1 && failures.length >= 1);
  assert.equal(requests[0].peer, 'client');
  assert.equal(JSON.parse(requests[0].body).ruleId, 'r');
});

test('a redirect is not followed: what is secret goes nowhere else', async (t) => {
  const elsewhere = await endpoint(t);
  const { url, requests, until } = await endpoint(t, () => [307, { location: elsewhere.url }]);
  const { rest, log } = await daemon(t, await directory(t), rule(url, 'headers = { "x-secret" = "hush-hush" }'));
  await rest.channels.get('room').publish('n', 'hello');
  await until(() => requests.length === 1);
  while (!log.some((line) => line.includes('status 307'))) await pause(50);
  assert.equal(elsewhere.requests.length, 0);
  assert.ok(!log.join('\n').includes('hush-hush'));
});

test('an endpoint that says nothing is left after the time limit, and tried again', async (t) => {
  const { url, requests, until } = await endpoint(t, (_, index) => (index === 0 ? [0] : [200]));
  const { rest } = await daemon(t, await directory(t), rule(url, 'timeout = "200ms"'));
  await rest.channels.get('room').publish('n', 'hello');
  await until(() => requests.length === 2);
  assert.deepEqual(requests.map(data), ['hello', 'hello']);
});

test('requests keep to their rate, however many channels there are', async (t) => {
  const { url, requests, until } = await endpoint(t);
  const { rest } = await daemon(t, await directory(t), rule(url, 'requests_per_second_max = 20'));
  const names = Array.from({ length: 40 }, (_, n) => `c${n}`);
  await Promise.all(names.map((name) => rest.channels.get(name).publish('n', '0')));
  await until(() => requests.length === 40);
  const took_ms = requests[39].at - requests[0].at;
  assert.ok(took_ms >= 1500, `${took_ms} ms`);
});
