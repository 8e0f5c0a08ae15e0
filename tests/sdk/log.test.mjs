// Clients of a daemon that is killed and comes back, with channels that it keeps on disk.
import assert from 'node:assert/strict';
import { subscribe, test } from './client.mjs';
import { daemon, directory, keys, pause } from './daemon.mjs';

const KILLS = 3;

const config = (path, ack) => `${keys}
[server]
state_dir = "${path}"
[[apps]]
id = "chat"
[[apps.namespaces]]
id = "kept"
persist = true
ack = "${ack}"
`;

for (const ack of ['written', 'fsynced']) {
  test(`after kill -9 all goes on: messages once and in order, continuity, members (${ack})`, async (t) => {
    const path = await directory(t);
    let started = await daemon(t, path, config(path, ack));
    const { port, realtime } = started;
    const patience = { disconnectedRetryTimeout: 100 };
    const name = 'kept:room';
    const reader = realtime({ ...patience, clientId: 'ann' }).channels.get(name);
    const inbox = await subscribe(reader);
    await reader.presence.enter('here');
    const losses = [];
    reader.on(['attached', 'update'], ({ current, resumed, reason }) => {
      if (current === 'attached' && !resumed) losses.push(reason);
    });

    const writer = realtime({ ...patience, clientId: 'bob' });
    const channel = writer.channels.get(name);
    let count = 0;
    let goesOn = true;
    const publishing = (async () => {
      // With an id, what is sent again because its ACK was lost with the daemon is published once.
      for (; goesOn; count++) await channel.publish({ id: `m-${count}`, name: 'n', data: `${count}` });
    })();
    for (let kill = 0; kill < KILLS; kill++) {
      const before = count;
      while (count < before + 50) await pause(5);
      await started.kill();
      await pause(200);
      started = await daemon(t, path, config(path, ack), {}, port);
      await writer.connection.whenState('connected');
    }
    const before = count;
    while (count < before + 50) await pause(5);
    goesOn = false;
    await publishing;

    const seen = await inbox.take(count);
    assert.deepEqual(
      seen.map(({ data }) => data),
      Array.from({ length: count }, (_, at) => `${at}`),
    );
    assert.deepEqual(losses, [], 'continuity is kept');
    assert.equal(inbox.messages.length, 0, 'and nothing else');
    const page = await started.rest.channels.get(name).history({ limit: 1000, direction: 'forwards' });
    assert.deepEqual(
      page.items.map(({ data }) => data),
      seen.slice(0, page.items.length).map(({ data }) => data),
    );
    // Members are not kept: the SDK enters again when it attaches (RTP17i).
    let members = [];
    while (members.length < 1) {
      members = await channel.presence.get();
      await pause(20);
    }
    assert.deepEqual(
      members.map(({ clientId, data }) => [clientId, data]),
      [['ann', 'here']],
    );
  });
}
