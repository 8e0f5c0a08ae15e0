// For tests that start, configure and kill daemons of their own, and play the endpoints of their rules.
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createServer as createSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import Ably from 'ably';

/** The key of the app `chat` that may do everything, here as in examples/chat. */
export const SERVER_KEY = 'chat.server:for-trying-out-1';

/** Keys of a configuration: that one, and one that may only publish. */
export const keys = `[[keys]]\nkey = "${SERVER_KEY}"\n[[keys]]\nkey = "chat.plain:hush"\ncapability = { "*" = ["publish"] }\n`;

/** Waits. */
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A port that was free a moment ago. */
export async function freePort() {
  const socket = createSocket().listen(0, '127.0.0.1');
  await new Promise((resolve) => socket.once('listening', resolve));
  const { port } = socket.address();
  await new Promise((resolve) => socket.close(resolve));
  return port;
}

/** A directory that goes with its test. */
export async function directory(t) {
  const path = await mkdtemp(join(tmpdir(), 'ringcast-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/**
 * Starts a daemon with this configuration and more variables, on a port of its own or that of one before; `kill` ends it as kill -9 does, `reload` gives it another
 * configuration.
 */
export async function daemon(t, path, config, variables = {}, port = undefined) {
  const file = join(path, 'ringcast.toml');
  await writeFile(file, config);
  port ??= await freePort();
  const args = ['serve', '--config', file, '--listen', `127.0.0.1:${port}`, '--shards', '2'];
  const env = { ...process.env, ...variables };
  const child = spawn(process.env.RINGCAST_BINARY, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
  const log = [];
  createInterface(child.stderr).on('line', (line) => log.push(line));
  const gone = new Promise((resolve) => child.once('close', resolve));
  const kill = async (signal = 'SIGKILL') => {
    child.kill(signal);
    await gone;
  };
  const reload = async (changed) => {
    await writeFile(file, changed);
    child.kill('SIGHUP');
  };
  t.after(() => kill());
  let listens = false;
  for await (const line of createInterface(child.stdout)) {
    listens = line.startsWith('listening on');
    if (listens) break;
  }
  if (!listens) throw new Error(`the daemon has not started:\n${log.join('\n')}`);
  const options = { endpoint: '127.0.0.1', port, tls: false, logLevel: 0 };
  const rest = new Ably.Rest({ key: SERVER_KEY, ...options });
  const realtime = (overrides) => {
    const client = new Ably.Realtime({ key: SERVER_KEY, ...options, ...overrides });
    t.after(() => client.close());
    return client;
  };
  return { port, log, kill, reload, rest, realtime };
}

/**
 * An endpoint that keeps what it is sent; `answer` gives status, headers and body, perhaps later. Status 0 is none:
 * the request hangs.
 */
export async function endpoint(t, answer = () => [200], port = 0) {
  const requests = [];
  let wake = () => {};
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const kept = { headers: request.headers, body: Buffer.concat(chunks), at: Date.now() };
    const answered = answer(kept, requests.length);
    requests.push(kept);
    wake();
    const [status, headers, body] = await answered;
    if (status === 0) return;
    kept.status = status;
    wake();
    response.writeHead(status, headers).end(body);
  }).listen(port, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  t.after(close);
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    requests,
    close,
    /** Waits until `enough()`. */
    async until(enough) {
      while (!enough()) await new Promise((resolve) => (wake = resolve));
    },
  };
}

/** What `ringcast check` says against a configuration; nothing if it is in order. */
export async function check(t, config) {
  const file = join(await directory(t), 'ringcast.toml');
  await writeFile(file, config);
  return new Promise((resolve) => {
    execFile(process.env.RINGCAST_BINARY, ['check', '--config', file], (error, _, stderr) =>
      resolve(error ? stderr : ''),
    );
  });
}
