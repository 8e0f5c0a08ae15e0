// Says things on chat:from-clients, shows what comes on chat:to-clients, each with the room behind it.
// #name=ann&room=garden in the address says who is here and where.
const ROOMS = ['lobby', 'garden', 'kitchen'];
const $ = (id) => document.getElementById(id);
const params = () => new URLSearchParams(location.hash.slice(1));

async function askName() {
  $('hello').showModal();
  await new Promise((resolve) => $('hello').addEventListener('close', resolve, { once: true }));
  const name = $('hello').querySelector('input').value.trim() || 'somebody';
  location.hash = new URLSearchParams({ ...Object.fromEntries(params()), name });
  return name;
}

const name = params().get('name') || (await askName());
const daemon = await (await fetch('/daemon.json')).json();
const realtime = new Ably.Realtime({ ...daemon, authUrl: `/auth?name=${encodeURIComponent(name)}` });
realtime.connection.on(({ current }) => {
  $('state').textContent = current;
  $('state').dataset.state = current;
});

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function face(clientId) {
  const made = element('span', 'face', [...clientId][0].toUpperCase());
  const hue = [...clientId].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  made.style.background = `hsl(${hue} 55% 45%)`;
  made.ariaHidden = true;
  return made;
}

/** Everything of one room; `leave` ends it. */
async function join(room) {
  const suffix = room === ROOMS[0] ? '' : `:${room}`;
  const from = realtime.channels.get(`chat:from-clients${suffix}`);
  const to = realtime.channels.get(`chat:to-clients${suffix}`);
  let isHere = true;

  const list = $('messages');
  list.replaceChildren();
  $('members').replaceChildren();
  // A message comes from history or live, whichever is first; its serial says where it belongs.
  function show({ serial, clientId, timestamp, data }) {
    if (!isHere) return;
    let after = list.lastElementChild;
    while (after && after.dataset.serial > serial) after = after.previousElementSibling;
    if (after?.dataset.serial === serial) return;
    const time = element('time', '', new Date(timestamp).toLocaleTimeString([], { timeStyle: 'short' }));
    const who = element('div', 'who', clientId, time);
    const item = element('li', '', face(clientId), who, element('div', 'text', data.text));
    item.dataset.serial = serial;
    after ? after.after(item) : list.prepend(item);
    list.lastElementChild.scrollIntoView();
  }

  // What was said before the attachment begins is history; so it is again should continuity ever be lost.
  async function fill() {
    const { items } = await to.history({ untilAttach: true, limit: 100 });
    items.forEach(show);
  }
  const refill = ({ resumed }) => !resumed && fill().catch(console.error);
  await to.subscribe(show);
  await fill();
  to.on(['attached', 'update'], refill);

  async function showMembers() {
    const members = await to.presence.get();
    if (!isHere) return;
    const names = [...new Set(members.map(({ clientId }) => clientId))].sort();
    $('members').replaceChildren(...names.map((one) => element('li', one === name ? 'me' : '', one)));
    const typing = members.filter(({ clientId, data }) => data?.typing && clientId !== name);
    const who = [...new Set(typing.map(({ clientId }) => clientId))].join(', ');
    $('typing').textContent = who && `${who} ${typing.length > 1 ? 'are' : 'is'} typing …`;
  }
  await to.presence.subscribe(showMembers);
  await to.presence.enter({ typing: false });

  let isTyping = false;
  let stop;
  return {
    type(typing) {
      clearTimeout(stop);
      if (typing) stop = setTimeout(() => this.type(false), 3000);
      if (typing !== isTyping) to.presence.update({ typing: (isTyping = typing) }).catch(console.error);
    },
    say: (text) => from.publish('said', { text }),
    async leave() {
      isHere = false;
      clearTimeout(stop);
      to.off(refill);
      to.unsubscribe(show);
      to.presence.unsubscribe(showMembers);
      await to.presence.leave();
      await to.detach();
    },
  };
}

let here = null;
let moves = Promise.resolve();
function move() {
  const room = params().get('room') || ROOMS[0];
  $('room').textContent = `# ${room}`;
  const rooms = ROOMS.includes(room) ? ROOMS : [...ROOMS, room];
  const link = (one) => {
    const made = element('a', '', one);
    made.href = `#${new URLSearchParams({ name, room: one })}`;
    if (one === room) made.ariaCurrent = 'page';
    return made;
  };
  $('rooms').replaceChildren(...rooms.map(link));
  $('say').elements.text.focus();
  // One after the other, however fast somebody clicks.
  moves = moves
    .then(async () => {
      const left = here;
      here = null;
      await left?.leave();
      here = await join(room);
    })
    .catch((error) => ($('typing').textContent = `cannot enter: ${error.message}`));
}
addEventListener('hashchange', move);
move();

// What is typed or said during a move belongs to the room that the page shows by then: it waits for the move.
const input = $('say').elements.text;
input.addEventListener('input', async () => {
  await moves;
  here?.type(input.value !== '');
});
$('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (text === '') return;
  input.value = '';
  try {
    await moves;
    if (!here) throw new Error('in no room');
    here.type(false);
    await here.say(text);
  } catch (error) {
    $('typing').textContent = `not sent: ${error.message}`;
    input.value = text;
  }
});
