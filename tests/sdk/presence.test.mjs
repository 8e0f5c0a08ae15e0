// Presence with ably-js, over a WebSocket and over REST.
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import {
  allPages, channelName, formats, keys, lose, reached, realtime, rest, test,
} from './client.mjs';

/** Attaches and collects presence events; `await inbox.take(n)` gives the next `n`. */
async function listen(channel) {
  const events = [];
  let wake = () => {};
  await channel.presence.subscribe((event) => {
    events.push(event);
    wake();
  });
  return {
    events,
    async take(count) {
      while (events.length < count) await new Promise((resolve) => (wake = resolve));
      return events.splice(0, count);
    },
  };
}

const told = ({ action, clientId, data }) => [action, clientId, data];
const names = (members) => members.map(({ clientId }) => clientId).sort();

for (const format of formats) {
  test(`two clients see each other enter, change and leave (${format.name})`, async (t) => {
    const name = channelName();
    const watcher = realtime(t, { ...format, clientId: 'watcher' });
    const inbox = await listen(watcher.channels.get(name));
    const member = realtime(t, { ...format, clientId: 'alice' });
    const { presence } = member.channels.get(name);
    await presence.enter({ mood: 'good' });
    await presence.update(Buffer.from([0, 255]));
    await presence.leave('bye');
    const [entered, updated, left] = await inbox.take(3);
    assert.deepEqual(told(entered), ['enter', 'alice', { mood: 'good' }]);
    assert.deepEqual([updated.action, Buffer.from(updated.data)], ['update', Buffer.from([0, 255])]);
    assert.deepEqual(told(left), ['leave', 'alice', 'bye']);
    const id = member.connection.id;
    assert.deepEqual([entered, updated, left].map((event) => event.id), [0, 1, 2].map((n) => `${id}:${n}:0`));
    assert.equal(entered.connectionId, id);
    assert.ok(Math.abs(entered.timestamp - Date.now()) < 10_000);
    assert.deepEqual(await watcher.channels.get(name).presence.get(), []);
  });

  test(`a leave without data carries the last data (${format.name})`, async (t) => {
    const name = channelName();
    const inbox = await listen(realtime(t, format).channels.get(name));
    const { presence } = realtime(t, { ...format, clientId: 'alice' }).channels.get(name);
    await presence.enter('last words');
    await presence.leave();
    assert.deepEqual((await inbox.take(2)).map(told), [
      ['enter', 'alice', 'last words'],
      ['leave', 'alice', 'last words'],
    ]);
  });

  test(`members that were there before are told in pages on attach (${format.name})`, async (t) => {
    const name = channelName();
    const { presence } = realtime(t, format).channels.get(name);
    await Promise.all(Array.from({ length: 250 }, (_, n) => presence.enterClient(`client${n}`, String(n))));
    const late = realtime(t, format).channels.get(name);
    const members = await late.presence.get();
    assert.equal(members.length, 250);
    for (const { action, clientId, data } of members) {
      assert.deepEqual([action, clientId], ['present', `client${data}`]);
    }
    // Over REST in pages too, each member once.
    const { items, lengths } = await allPages(rest(format).channels.get(name).presence.get({ limit: 100 }));
    assert.deepEqual(lengths, [100, 100, 50]);
    assert.deepEqual(names(items), names(members));
  });

  test(`presence history goes back in pages (${format.name})`, async (t) => {
    const name = channelName();
    const { presence } = realtime(t, { ...format, clientId: 'alice' }).channels.get(name);
    await presence.enter({ n: 0 });
    for (let n = 1; n < 5; n++) await presence.update({ n });
    await presence.leave();
    const history = rest(format).channels.get(name).presence;
    const { items, lengths } = await allPages(history.history({ limit: 4 }));
    assert.deepEqual(lengths, [4, 2]);
    const expected = [['leave', 4], ...[4, 3, 2, 1].map((n) => ['update', n]), ['enter', 0]];
    assert.deepEqual(items.map(({ action, data }) => [action, data.n]), expected);
    const forwards = await history.history({ direction: 'forwards' });
    assert.deepEqual(forwards.items.map(({ id }) => id), items.map(({ id }) => id).reverse());
    // The realtime client asks the same.
    assert.equal((await presence.history({ limit: 1 })).items[0].action, 'leave');
  });
}

test('one connection may enter for many clients, and each is a member of its own', async (t) => {
  const name = channelName();
  const [first, second] = [realtime(t), realtime(t)];
  await first.channels.get(name).presence.enterClient('alice', 'a');
  await first.channels.get(name).presence.enterClient('bob', 'b');
  await second.channels.get(name).presence.enterClient('alice', 'c');
  const { presence } = rest().channels.get(name);
  assert.deepEqual(names((await presence.get({})).items), ['alice', 'alice', 'bob']);
  const alices = (await presence.get({ clientId: 'alice' })).items;
  assert.deepEqual(alices.map(({ data }) => data).sort(), ['a', 'c']);
  const { items } = await presence.get({ connectionId: second.connection.id });
  assert.deepEqual(items.map(({ clientId, action }) => [clientId, action]), [['alice', 'present']]);
  await first.channels.get(name).presence.leaveClient('alice');
  assert.deepEqual(names((await presence.get({})).items), ['alice', 'bob']);
});

test('a batch tells who is present on several channels', async (t) => {
  const [first, second] = [channelName(), channelName()];
  const { presence } = realtime(t).channels.get(first);
  await presence.enterClient('alice', 'a');
  const { results, successCount } = await rest().batchPresence([first, second]);
  assert.equal(successCount, 2);
  assert.deepEqual(results.map(({ channel }) => channel), [first, second]);
  // ably-js gives batches as they are on the wire: 1 is PRESENT.
  assert.deepEqual(results.map(({ presence }) => presence.map(told)), [[[1, 'alice', 'a']], []]);
});

test('presence.get waits for the whole SYNC', async (t) => {
  const name = channelName();
  const { presence } = realtime(t).channels.get(name);
  await Promise.all(Array.from({ length: 120 }, (_, n) => presence.enterClient(`client${n}`)));
  const late = realtime(t).channels.get(name);
  // Not attached yet: it attaches, and waits.
  assert.equal((await late.presence.get({ waitForSync: true })).length, 120);
  assert.ok(late.presence.syncComplete);
});

test('members leave at once when they detach or close', async (t) => {
  const name = channelName();
  const inbox = await listen(realtime(t).channels.get(name));
  const [alice, bob] = ['alice', 'bob'].map((clientId) => realtime(t, { clientId }));
  await alice.channels.get(name).presence.enter('a');
  await bob.channels.get(name).presence.enter('b');
  await inbox.take(2);
  await alice.channels.get(name).detach();
  assert.deepEqual((await inbox.take(1)).map(told), [['leave', 'alice', 'a']]);
  bob.close();
  assert.deepEqual((await inbox.take(1)).map(told), [['leave', 'bob', 'b']]);
});

test('a client that loses its transport and resumes was never away', async (t) => {
  const name = channelName();
  const watcher = realtime(t);
  const inbox = await listen(watcher.channels.get(name));
  const alice = realtime(t, { clientId: 'alice', transportParams: { remainPresentFor: 2000 } });
  const channel = alice.channels.get(name);
  await channel.presence.enter('here');
  await inbox.take(1);
  const { id } = alice.connection;
  for (let round = 0; round < 3; round++) {
    const dropped = new Promise((resolve) => alice.connection.once('disconnected', resolve));
    lose(alice);
    await dropped;
    await reached(alice.connection, 'connected');
    await reached(channel, 'attached');
    assert.equal(alice.connection.id, id);
  }
  await pause(3000);
  assert.deepEqual(inbox.events.map(told), []);
  assert.deepEqual(names(await watcher.channels.get(name).presence.get()), ['alice']);
  // What it does next is news again.
  await channel.presence.update('still here');
  assert.deepEqual((await inbox.take(1)).map(told), [['update', 'alice', 'still here']]);
});

test('a client that is lost for good leaves after its time', async (t) => {
  const name = channelName();
  const inbox = await listen(realtime(t).channels.get(name));
  const alice = realtime(t, { clientId: 'alice', transportParams: { remainPresentFor: 1000 } });
  await alice.channels.get(name).presence.enter('here');
  await inbox.take(1);
  // It does not come back.
  alice.connection.connectionManager.connectImpl = () => {};
  alice.connection.connectionManager.startConnect = () => {};
  const lost = Date.now();
  lose(alice);
  const [left] = await inbox.take(1);
  assert.deepEqual(told(left), ['leave', 'alice', 'here']);
  assert.ok(left.id === undefined || !left.id.startsWith(left.connectionId), left.id);
  const seconds = (Date.now() - lost) / 1000;
  assert.ok(seconds >= 0.9 && seconds < 5, `left after ${seconds} s`);
});

test('members enter again by themselves after their connection was suspended', async (t) => {
  const name = channelName();
  const watcher = realtime(t);
  const inbox = await listen(watcher.channels.get(name));
  const alice = realtime(t, { clientId: 'alice' });
  const channel = alice.channels.get(name);
  const own = await listen(channel);
  await channel.presence.enter('here');
  // Its own member is one that it has heard of, which may be later than the ACK.
  await Promise.all([own.take(1), inbox.take(1)]);
  const before = alice.connection.id;
  const suspended = new Promise((resolve) => alice.connection.once('suspended', resolve));
  alice.connection.connectionManager.notifyState({ state: 'suspended' });
  await suspended;
  // As if it had been away for longer than its connection is kept.
  alice.connection.connectionManager.connectionKey = 'unknown!key';
  alice.connect();
  await reached(channel, 'attached');
  assert.notEqual(alice.connection.id, before);
  const [event] = await inbox.take(1);
  assert.deepEqual([...told(event), event.connectionId], ['enter', 'alice', 'here', alice.connection.id]);
});

test('a client hears of its own members even if it subscribes to no presence', async (t) => {
  const name = channelName();
  const channel = realtime(t, { clientId: 'alice' }).channels.get(name, { modes: ['PRESENCE', 'PUBLISH'] });
  await channel.attach();
  await channel.presence.enter('mine');
  assert.deepEqual(names(channel.presence._myMembers.list({})), ['alice']);
});

test('presence is refused to those who may not, and the connection goes on', async (t) => {
  const name = channelName('news:');
  const reader = realtime(t, { key: keys.news, clientId: 'alice' });
  await reader.channels.get(name).attach();
  await assert.rejects(reader.channels.get(name).presence.enter(), { code: 40160 });
  const all = realtime(t, { clientId: 'alice' });
  const channel = all.channels.get(channelName(), { modes: ['SUBSCRIBE'] });
  await channel.attach();
  await assert.rejects(channel.presence.enter(), { code: 40165 });
  const open = all.channels.get(channelName());
  await open.attach();
  await assert.rejects(open.presence.enterClient('bob'), { code: 40012 });
  await open.presence.enter();
  const writer = rest({ key: keys.writer });
  await assert.rejects(writer.channels.get(name).presence.get({}), { code: 40160 });
  await assert.rejects(writer.channels.get(name).presence.history({}), { code: 40160 });
});
