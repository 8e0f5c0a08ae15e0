// The examples, run as their README says.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { address, rest, test } from './client.mjs';

// What `ringcast serve` has printed when it was started without a key.
const greeting = process.env.RINGCAST_GREETING;
const key = greeting.match(/export RINGCAST_KEY='(.*)'/)[1];
const env = { ...process.env, RINGCAST_KEY: key, RINGCAST_ADDRESS: address };
const directory = fileURLToPath(new URL('../../examples/hello', import.meta.url));

/** Starts a process that is stopped with its test; returns the lines that it prints. */
function start(t, command, args, options) {
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'inherit'], detached: true, ...options });
  t.after(() => process.kill(-child.pid)); // the group: a shell and what it has started
  return createInterface(child.stdout)[Symbol.asyncIterator]();
}

test('subscribe.mjs prints what publish.sh publishes', async (t) => {
  const lines = start(t, process.execPath, ['subscribe.mjs'], { cwd: directory });
  assert.match((await lines.next()).value, /^subscribed/);
  const text = 'quotes " and \\ backslashes';
  const { stdout } = await promisify(execFile)('./publish.sh', [text], { cwd: directory, env });
  assert.equal(JSON.parse(stdout).channel, 'hello');
  assert.equal((await lines.next()).value, `greeting ${text}`);
});

test('what serve prints can be pasted', async (t) => {
  // Commands are indented, and their lines follow each other.
  const commands = greeting.match(/(^ {2}.*\n)+/gm);
  const [exported, subscribe, publish] = commands;
  assert.equal(commands.length, 3, greeting);
  const lines = start(t, 'bash', ['-c', exported + subscribe]);
  const line = lines.next();
  let printed = false;
  line.then(() => (printed = true));
  // The subscriber says nothing until the first message, so publish until it has seen one.
  for (let i = 0; i < 50 && !printed; i++) {
    const { stdout } = await promisify(execFile)('bash', ['-c', exported + publish], { env });
    assert.equal(JSON.parse(stdout).channel, 'hello', stdout);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.equal((await line).value, 'greeting hello, world');
  const { items } = await rest({ key }).channels.get('hello').history({ limit: 1 });
  assert.equal(items[0].data, 'hello, world');
});
