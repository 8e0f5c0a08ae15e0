// Tokens as ably-js uses them: requested, signed, renewed, revoked. Needs `ringcast sandbox`.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { address, channelName, reached, realtime, rest, test } from './client.mjs';

const app = await (
  await fetch(`http://${address}/apps`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      keys: [{}, { revocableTokens: true }, { capability: JSON.stringify({ 'news:*': ['subscribe'] }) }],
      namespaces: [{ id: 'members', authenticated: true }],
    }),
  })
).json();
const [all, revocable, news] = app.keys.map((key) => key.keyStr);
const keyed = rest({ key: all });

/** A client with nothing but what `authCallback` gives it. */
function tokenClient(t, authCallback, overrides = {}) {
  return realtime(t, { key: undefined, authCallback, ...overrides });
}

const connected = (client) => reached(client.connection, 'connected');
const next = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));

function jwt(key, claims) {
  const [kid, secret] = [key.slice(0, key.indexOf(':')), key.slice(key.indexOf(':') + 1)];
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT', kid })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

for (const useBinaryProtocol of [false, true]) {
  test(`a signed request becomes a token (${useBinaryProtocol ? 'MessagePack' : 'JSON'})`, async (t) => {
    const capability = { 'room:*': ['publish', 'subscribe'] };
    const params = { clientId: 'bob', ttl: 60_000, capability };
    const details = await rest({ key: all, useBinaryProtocol }).auth.requestToken(params);
    assert.equal(details.expires - details.issued, 60_000);
    assert.equal(details.clientId, 'bob');
    assert.deepEqual(JSON.parse(details.capability), capability);
    const client = tokenClient(t, (_, callback) => callback(null, details), { useBinaryProtocol });
    const channel = client.channels.get(channelName('room:'));
    const message = new Promise((resolve) => channel.subscribe(resolve));
    await channel.attach();
    await channel.publish('hello', 'world');
    assert.equal((await message).clientId, 'bob');
    await assert.rejects(client.channels.get('elsewhere').attach(), { code: 40160, statusCode: 401 });
  });
}

test('a token request is good for one token', async () => {
  const request = await keyed.auth.createTokenRequest({ clientId: 'bob' });
  const path = `/keys/${request.keyName}/requestToken`;
  const post = () => keyed.request('post', path, 2, {}, request, {});
  assert.equal((await post()).statusCode, 201);
  const again = await post();
  assert.deepEqual([again.statusCode, again.errorCode], [401, 40105]);
});

test('what a key does not have its tokens do not have', async () => {
  const limited = rest({ key: news });
  const details = await limited.auth.requestToken({ capability: { 'news:a': ['*'], other: ['publish'] } });
  assert.deepEqual(JSON.parse(details.capability), { 'news:a': ['subscribe'] });
  await assert.rejects(limited.auth.requestToken({ capability: { other: ['publish'] } }), { code: 40160 });
  await assert.rejects(limited.auth.requestToken({ capability: { 'news:a': ['publsh'] } }), { code: 40000 });
});

test('a JWT of the customer works over REST and realtime', async (t) => {
  const now = Math.floor(Date.now() / 1000);
  const token = jwt(all, { iat: now, exp: now + 60, 'x-ably-clientId': 'carol' });
  const client = tokenClient(t, (_, callback) => callback(null, token));
  await connected(client);
  assert.equal(client.auth.clientId, 'carol');
  const channel = rest({ key: undefined, token }).channels.get(channelName());
  await channel.publish('hello', 'world');
  assert.equal((await channel.history()).items[0].clientId, 'carol');
  const forged = token.slice(0, -2) + (token.endsWith('AA') ? 'BB' : 'AA');
  const refused = rest({ key: undefined, token: forged }).channels.get(channelName());
  await assert.rejects(refused.publish('hello', 'world'), { code: 40101, statusCode: 401 });
});

test('authorize() changes what a live connection may do', async (t) => {
  const name = channelName();
  const client = realtime(t, { key: all });
  await connected(client);
  const { id } = client.connection;
  const channel = client.channels.get(name);
  await channel.attach();
  const failed = next(channel, 'failed');
  await client.auth.authorize({ capability: { other: ['*'] } });
  assert.equal(client.connection.id, id);
  assert.equal((await failed).reason.code, 40160);
  await client.auth.authorize({ capability: { [name]: ['*'] } });
  await channel.attach();
  await channel.publish('hello', 'again');
  assert.equal(client.connection.id, id);
});

test('an expired token is renewed and the connection goes on', async (t) => {
  let count = 0;
  const client = tokenClient(t, (params, callback) => {
    count += 1;
    keyed.auth.requestToken({ ...params, ttl: 2000 }).then((token) => callback(null, token), callback);
  });
  await connected(client);
  const { id } = client.connection;
  const lost = await next(client.connection, 'disconnected');
  assert.deepEqual([lost.reason.code, lost.reason.statusCode], [40142, 401]);
  await connected(client);
  assert.deepEqual([client.connection.id, count], [id, 2]);
});

test('a client is asked for a new token before the end of its own', async (t) => {
  let count = 0;
  const client = tokenClient(t, (params, callback) => {
    count += 1;
    const ttl = count === 1 ? 10_000 : 60_000;
    keyed.auth.requestToken({ ...params, ttl }).then((token) => callback(null, token), callback);
  });
  await connected(client);
  client.connection.once('disconnected', () => assert.fail('disconnected'));
  await next(client.connection, 'update');
  assert.equal(count, 2);
  client.connection.off();
});

test('revoked tokens end their connections', async (t) => {
  const owner = rest({ key: revocable });
  const connect = async (clientId) => {
    const token = await owner.auth.requestToken({ clientId });
    const client = realtime(t, { key: undefined, token });
    await connected(client);
    return client;
  };
  const [bob, eve] = await Promise.all([connect('bob'), connect('eve')]);
  const ended = next(bob.connection, 'disconnected');
  const result = await owner.auth.revokeTokens([
    { type: 'clientId', value: 'bob' },
    { type: 'invalidType', value: 'x' },
  ]);
  assert.deepEqual([result.successCount, result.failureCount], [1, 1]);
  assert.equal(result.results[0].target, 'clientId:bob');
  assert.equal((await ended).reason.code, 40141);
  assert.equal(eve.connection.state, 'connected');
  await assert.rejects(keyed.auth.revokeTokens([{ type: 'clientId', value: 'bob' }]), { code: 40163 });
});

test('a namespace for identified clients is closed to anonymous ones', async (t) => {
  const client = tokenClient(t, (_, callback) => {
    keyed.auth.requestToken().then((token) => callback(null, token), callback);
  });
  await assert.rejects(client.channels.get('members:lounge').attach(), { code: 40161, statusCode: 401 });
});
