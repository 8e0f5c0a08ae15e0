// Says things on chat:from-clients, shows what comes on chat:to-clients. /#room=NAME is another room.
const params = new URLSearchParams(location.hash.slice(1));
const name = params.get('name') ?? prompt('Your name?') ?? 'somebody';
const room = params.get('room') ? `:${params.get('room')}` : '';
const $ = (id) => document.getElementById(id);
addEventListener('hashchange', () => location.reload());

const daemon = await (await fetch('/daemon.json')).json();
const realtime = new Ably.Realtime({ ...daemon, authUrl: `/auth?name=${encodeURIComponent(name)}` });
realtime.connection.on(({ current }) => ($('state').textContent = current));
const from = realtime.channels.get(`chat:from-clients${room}`);
const to = realtime.channels.get(`chat:to-clients${room}`);

const shown = new Set();
function show({ id, clientId, data }) {
  if (shown.has(id)) return;
  shown.add(id);
  const item = document.createElement('li');
  const who = document.createElement('b');
  who.textContent = clientId;
  item.append(who, data.text);
  $('messages').append(item);
  item.scrollIntoView();
}

// History goes up to where the subscription begins, so nothing is missed in between; what arrives first waits.
const waiting = [];
let take = (message) => waiting.push(message);
await to.subscribe((message) => take(message));
const { items } = await to.history({ untilAttach: true, limit: 50 });
items.reverse().forEach(show);
waiting.forEach(show);
take = show;

async function showMembers() {
  const members = await to.presence.get();
  const names = [...new Set(members.map(({ clientId }) => clientId))];
  $('members').textContent = names.sort().join(', ');
  const typing = members.filter(({ clientId, data }) => data?.typing && clientId !== name);
  $('typing').textContent = typing.length ? `${typing.map(({ clientId }) => clientId).join(', ')} …` : '';
}
await to.presence.subscribe(showMembers);
await to.presence.enter({ typing: false });

let isTyping = false;
let stop;
function type(typing) {
  clearTimeout(stop);
  if (typing) stop = setTimeout(() => type(false), 3000);
  if (typing !== isTyping) to.presence.update({ typing: (isTyping = typing) });
}

const input = $('say').elements.text;
input.addEventListener('input', () => type(input.value !== ''));
$('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (text === '') return;
  input.value = '';
  type(false);
  try {
    await from.publish('said', { text });
  } catch (error) {
    $('typing').textContent = `not sent: ${error.message}`;
    input.value = text;
  }
});
input.focus();
