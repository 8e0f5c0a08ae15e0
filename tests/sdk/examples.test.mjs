// The examples, run as their README says.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { address, keys, test } from './client.mjs';

const directory = fileURLToPath(new URL('../../examples/hello', import.meta.url));
const env = { ...process.env, RINGCAST_KEY: keys.all, RINGCAST_ADDRESS: address };

test('subscribe.mjs prints what publish.sh publishes', async (t) => {
  const subscriber = spawn(process.execPath, ['subscribe.mjs'], { cwd: directory, env });
  t.after(() => subscriber.kill());
  const lines = createInterface(subscriber.stdout)[Symbol.asyncIterator]();
  assert.match((await lines.next()).value, /^subscribed/);
  const text = 'quotes " and \\ backslashes';
  const { stdout } = await promisify(execFile)('./publish.sh', [text], { cwd: directory, env });
  assert.equal(JSON.parse(stdout).channel, 'hello');
  assert.equal((await lines.next()).value, `greeting ${text}`);
  subscriber.kill();
  await once(subscriber, 'exit');
});
