// Rules whose events go to AWS: signatures, credentials, what invocations carry and what their answers mean.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Aws, REGION } from './aws.mjs';
import { test } from './client.mjs';
import { daemon, directory, keys, pause } from './daemon.mjs';

const ARN = `arn:aws:lambda:${REGION}:123456789012:function:mask`;

/** Variables that keep a daemon away from the credentials of whoever runs this. */
const NOTHING = {
  AWS_ACCESS_KEY_ID: '',
  AWS_SECRET_ACCESS_KEY: '',
  AWS_SESSION_TOKEN: '',
  AWS_PROFILE: '',
  AWS_WEB_IDENTITY_TOKEN_FILE: '',
  AWS_SHARED_CREDENTIALS_FILE: '/nowhere',
  AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: '',
  AWS_CONTAINER_CREDENTIALS_FULL_URI: '',
  AWS_EC2_METADATA_DISABLED: 'true',
  CREDENTIALS_DIRECTORY: '',
};

/** A rule for all channels, with these lines and this access. */
const rule = (lines, access = '') =>
  `${keys}[[rules]]\nid = "r"\napp = "chat"\nchannel = ""\nallow_private = true\n${lines}\naws = { ${access} }\n`;

const invoke = (aws, more = '') => `lambda = { function = "${ARN}", endpoint = "${aws.url}"${more} }`;

const inEnvironment = ({ id, secret, token = '' }) => ({
  ...NOTHING,
  AWS_ACCESS_KEY_ID: id,
  AWS_SECRET_ACCESS_KEY: secret,
  AWS_SESSION_TOKEN: token,
});

/** Nothing that the daemon says holds what signs. */
function assertSilent(aws, { log }) {
  for (const { id, secret, token = secret } of aws.keys.values()) {
    for (const word of [id, secret, token]) assert.ok(!log.join('\n').includes(word), word);
  }
}

const data = ({ event }) => event.messages[0].data;

test('a function is invoked with each event, in the order of its channel', async (t) => {
  const aws = await new Aws().start(t);
  const lines = invoke(aws, ', qualifier = "$LATEST"');
  const started = await daemon(t, await directory(t), rule(lines), inEnvironment(aws.issue(3_600_000)));
  const channels = ['a', 'b', 'c'].map((name) => started.rest.channels.get(name));
  for (let n = 0; n < 10; n++) await Promise.all(channels.map((channel) => channel.publish('said', `${n}`)));
  await aws.until(() => aws.invocations.length === 30);
  for (const name of ['a', 'b', 'c']) {
    const own = aws.invocations.filter(({ event }) => event.channel === name).map(data);
    assert.deepEqual(own, Array.from({ length: 10 }, (_, n) => `${n}`), name);
  }
  const [{ path, query, headers, event }] = aws.invocations;
  assert.equal(path, `/2015-03-31/functions/${encodeURIComponent(ARN)}/invocations`);
  assert.equal(query.get('Qualifier'), '$LATEST');
  assert.equal(headers['x-amz-invocation-type'], 'Event');
  assert.equal(headers['content-type'], 'application/json');
  assert.deepEqual([event.source, event.appId, event.ruleId], ['channel.message', 'chat', 'r']);
  assert.deepEqual(aws.refusals, []);
  assertSilent(aws, started);
});

test('a function that fails, and one that is throttled, are invoked again; what it refuses is not', async (t) => {
  const aws = await new Aws().start(t);
  const answers = [
    [200, { 'x-amz-function-error': 'Unhandled' }, '{"errorMessage":"no"}'],
    [429, { 'x-amzn-errortype': 'TooManyRequestsException', 'retry-after': '1' }],
    [200, {}, '"done"'],
    [413, { 'x-amzn-errortype': 'RequestTooLargeException' }],
  ];
  aws.answer = (index) => answers[index] ?? [200];
  const lines = invoke(aws, ', invocation = "request-response"');
  const started = await daemon(t, await directory(t), rule(lines), inEnvironment(aws.issue()));
  for (const text of ['1', '2', '3']) await started.rest.channels.get('room').publish('n', text);
  await aws.until(() => aws.invocations.length === 5);
  assert.deepEqual(aws.invocations.map(data), ['1', '1', '1', '2', '3']);
  assert.equal(aws.invocations[0].headers['x-amz-invocation-type'], 'RequestResponse');
  const isTold = (line) => line.includes('given up=1') && line.includes('status 413 RequestTooLargeException');
  while (!started.log.some(isTold)) await pause(50);
});

test('without an envelope the event is the data, whatever that is', async (t) => {
  const aws = await new Aws().start(t);
  const { rest } = await daemon(t, await directory(t), rule(`${invoke(aws)}\nenveloped = false`), inEnvironment(aws.issue()));
  const channel = rest.channels.get('room');
  await channel.publish('json', { a: [1] });
  await channel.publish('text', 'say "hé"');
  await channel.publish('bytes', Buffer.from([0, 255]));
  await aws.until(() => aws.invocations.length === 3);
  assert.deepEqual(aws.invocations.map(({ event }) => event), [{ a: [1] }, 'say "hé"', 'AP8=']);
});

test('a function is asked before a publish, and answers with status and body', async (t) => {
  const aws = await new Aws().start(t);
  const replies = [
    { statusCode: 200, body: '{"action":"accept"}' },
    { statusCode: 200, body: '{"action":"accept","messages":[{"data":"****"}]}' },
    { statusCode: 200, body: '{"action":"reject","rejectionDetail":{"word":"rude"}}' },
    { statusCode: 403 },
  ];
  aws.answer = (index) => [200, {}, JSON.stringify(replies[index])];
  const lines = `${invoke(aws, ', invocation = "request-response"')}\ninvocation = "before-publish"`;
  const started = await daemon(t, await directory(t), rule(lines), inEnvironment(aws.issue(3_600_000)));
  const channel = started.rest.channels.get('room');
  await channel.publish('said', 'plain');
  await channel.publish('said', 'darn');
  await assert.rejects(channel.publish('said', 'rude'), { code: 42211, statusCode: 422 });
  await assert.rejects(channel.publish('said', 'forbidden'), { code: 42211 });
  const { items } = await channel.history({ direction: 'forwards' });
  assert.deepEqual(items.map((item) => item.data), ['plain', '****']);
  assert.deepEqual(aws.invocations.map(data), ['plain', 'darn', 'rude', 'forbidden']);
  assert.equal(aws.invocations[0].headers['x-amz-invocation-type'], 'RequestResponse');
  assert.deepEqual(aws.refusals, []);
});

test('a URL of a function is signed as well, and batches are', async (t) => {
  const aws = await new Aws().start(t);
  aws.answer = () => [200];
  const { id, secret } = aws.issue();
  const lines = `url = "${aws.url}/a%20b/?x=1&y=%20"\nmode = "batch"\nbatch_interval = "100ms"\nheaders = { "x-mine" = "yes" }`;
  const access = `region = "${REGION}", access_key_id = "${id}", secret_access_key = "${secret}"`;
  const path = await directory(t);
  const started = await daemon(t, path, rule(lines, access), NOTHING);
  await started.rest.channels.get('room').publish('n', 'one');
  await aws.until(() => aws.invocations.length === 1);
  const [{ path: url, headers, event }] = aws.invocations;
  assert.equal(url, '/a%20b/');
  assert.equal(headers['x-mine'], 'yes');
  assert.equal(event.items[0].data.messages[0].data, 'one');
  assertSilent(aws, started);
  const args = ['config', 'effective', '--config', join(path, 'ringcast.toml')];
  const { stdout } = await promisify(execFile)(process.env.RINGCAST_BINARY, args);
  assert.ok(!stdout.includes(secret));
});

test('what is signed wrongly, too late or changed on its way is refused, and delivered when that is over', async (t) => {
  const aws = await new Aws().start(t);
  aws.answer = () => [200];
  const path = await directory(t);
  const file = join(path, 'credentials');
  const key = aws.issue();
  const write = (secret) =>
    writeFile(file, `[other]\naws_access_key_id = x\n[mine]\naws_access_key_id = ${key.id}\naws_secret_access_key = ${secret}\n`);
  await write('not this one');
  const access = `region = "${REGION}", credentials_file = "credentials", profile = "mine"`;
  const started = await daemon(t, path, rule(`url = "${aws.url}/"`, access), NOTHING);
  await started.rest.channels.get('room').publish('n', 'kept');
  const refused = async (count) => {
    await aws.until(() => aws.refusals.length >= count);
    assert.equal(aws.invocations.length, 0);
    assert.ok(aws.refusals.every((type) => type === 'InvalidSignatureException'), `${aws.refusals}`);
  };
  await refused(1);
  aws.skewMs = 3_600_000;
  await write(key.secret); // is read again, since the old one was not good
  await refused(aws.refusals.length + 1);
  aws.skewMs = 0;
  aws.tamper = (body) => Buffer.from(`${body}`.replace('kept', 'lost'));
  await refused(aws.refusals.length + 1);
  aws.tamper = (body) => body;
  await aws.until(() => aws.invocations.length === 1);
  assert.equal(data(aws.invocations[0]), 'kept');
  assertSilent(aws, started);
});

test('a role is assumed with the keys of the service manager, and again before its keys expire', async (t) => {
  const aws = await new Aws().start(t);
  aws.externalId = '123.chat';
  // Keys are replaced five minutes before their end.
  aws.leaseMs = 302_000;
  const path = await directory(t);
  const own = aws.issue();
  await mkdir(join(path, 'credentials'));
  const text = `[default]\naws_access_key_id=${own.id}\naws_secret_access_key=${own.secret}\n`;
  await writeFile(join(path, 'credentials', 'aws-credentials'), text);
  const role = 'arn:aws:iam::123456789012:role/invoker';
  const access = `role_arn = "${role}", external_id = "123.chat", sts_endpoint = "${aws.url}"`;
  const variables = { ...NOTHING, CREDENTIALS_DIRECTORY: join(path, 'credentials') };
  const started = await daemon(t, path, rule(invoke(aws), access), variables);
  const channel = started.rest.channels.get('room');
  for (let n = 0; aws.roles.length < 2; n++) {
    await channel.publish('n', `${n}`);
    await aws.until(() => aws.invocations.length === n + 1);
  }
  const [first, second] = aws.roles;
  assert.deepEqual([first.RoleArn, first.RoleSessionName, first.by], [role, 'ringcast', own.id]);
  assert.notEqual(first.id, second.id);
  assert.ok(aws.invocations.length > 2, 'keys are used more than once');
  assert.deepEqual(aws.refusals, []);
  assertSilent(aws, started);
});

test('a role that may not be assumed leaves events waiting', async (t) => {
  const aws = await new Aws().start(t);
  aws.externalId = 'another';
  const access = `role_arn = "arn:aws:iam::123456789012:role/invoker", sts_endpoint = "${aws.url}"`;
  const { rest } = await daemon(t, await directory(t), rule(invoke(aws), access), inEnvironment(aws.issue()));
  await rest.channels.get('room').publish('n', 'kept');
  await aws.until(() => aws.refusals.length === 2);
  assert.deepEqual(aws.refusals, ['AccessDenied', 'AccessDenied']);
  delete aws.externalId;
  await aws.until(() => aws.invocations.length === 1);
  assert.equal(data(aws.invocations[0]), 'kept');
});

test('a web identity, a container and a machine have keys, too', async (t) => {
  const path = await directory(t);
  await writeFile(join(path, 'token'), 'identity\n');
  const role = 'arn:aws:iam::123456789012:role/of-cluster';
  for (const [name, variables] of [
    ['identity', { AWS_WEB_IDENTITY_TOKEN_FILE: join(path, 'token'), AWS_ROLE_ARN: role, AWS_ROLE_SESSION_NAME: 'pod-1' }],
    ['container', { AWS_CONTAINER_CREDENTIALS_FULL_URI: '/container/keys', AWS_CONTAINER_AUTHORIZATION_TOKEN: 'task' }],
    ['machine', { AWS_EC2_METADATA_DISABLED: '', AWS_EC2_METADATA_SERVICE_ENDPOINT: '/' }],
  ]) {
    const aws = await new Aws().start(t);
    Object.assign(aws, { webIdentityToken: 'identity', token: 'task' });
    const urls = Object.entries(variables).map(([key, value]) => [key, value.replace(/^\/(?=$|container)/, `${aws.url}/`)]);
    const own = name === 'identity' ? variables : Object.fromEntries(urls);
    const config = rule(invoke(aws), `sts_endpoint = "${aws.url}"`);
    const { rest, kill } = await daemon(t, path, config, { ...NOTHING, ...own });
    await rest.channels.get('room').publish('n', name);
    await aws.until(() => aws.invocations.length === 1);
    assert.equal(data(aws.invocations[0]), name);
    if (name === 'identity') assert.deepEqual([aws.roles[0].RoleArn, aws.roles[0].RoleSessionName], [role, 'pod-1']);
    await kill();
  }
});

test('a function can be asked before a publish', async (t) => {
  const aws = await new Aws().start(t);
  const returned = { accept: { action: 'accept' }, reject: { action: 'reject', code: 42213, reason: 'be nice' } };
  aws.answer = (index) => {
    const body = JSON.stringify(returned[aws.invocations[index].event.messages[0].data]);
    return [200, {}, JSON.stringify({ statusCode: 200, body })];
  };
  const lines = `invocation = "before-publish"\n${invoke(aws, ', invocation = "request-response"')}`;
  const { rest } = await daemon(t, await directory(t), rule(lines), inEnvironment(aws.issue()));
  const channel = rest.channels.get('room');
  await channel.publish('n', 'accept');
  await assert.rejects(channel.publish('n', 'reject'), { code: 42213, statusCode: 422 });
  const { items } = await channel.history();
  assert.deepEqual(items.map((message) => message.data), ['accept']);
});
