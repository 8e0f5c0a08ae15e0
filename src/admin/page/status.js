// Draws what the status stream says, one card for each shard.
'use strict';

const SECONDS = 120;

// Name, how it is written, and where it comes from. A scale of its own for each: cores are compared by
// the numbers, a line shows how one of them has changed.
const SERIES = [
  ['load', percent, (shard) => shard.load],
  ['connections', count, (shard) => shard.connections],
  ['sends/s', count, (shard) => shard.sends_per_s],
  ['publications/s', count, (shard) => shard.publications_per_s],
  ['ring depth', count, (shard) => shard.ring_depth],
  ['mesh depth', count, (shard) => shard.mesh_depth],
  ['mail waiting', count, (shard) => shard.mail_waiting],
  ['slow consumers', count, (shard) => shard.slow_consumers],
  ['stalls', count, (shard) => shard.stalls],
];

const TOTALS = [
  ['connections', count, (shard) => shard.connections],
  ['sends/s', count, (shard) => shard.sends_per_s],
  ['publications/s', count, (shard) => shard.publications_per_s],
  ['bytes/s', count, (shard) => shard.sent_bytes_per_s],
  ['channels', count, (shard) => shard.channels],
  ['slow consumers', count, (shard) => shard.slow_consumers],
];

function count(value) {
  return Math.round(value).toLocaleString('en');
}

function percent(value) {
  return `${Math.round(value * 100)} %`;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A number with its name, and the line of its past. */
function figure(name) {
  const box = element('div', 'figure', '');
  const value = element('span', 'number', '');
  const canvas = document.createElement('canvas');
  canvas.setAttribute('aria-hidden', 'true');
  box.dataset.name = name;
  box.append(element('span', 'faint', name), value, canvas);
  return { box, value, canvas, past: [] };
}

function draw({ canvas, past }) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [width, height];
  }
  const context = canvas.getContext('2d');
  context.clearRect(0, 0, width, height);
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 1.5 * scale;
  const top = Math.max(...past, 1e-9);
  context.beginPath();
  past.forEach((value, index) => {
    const x = width - (past.length - 1 - index) * (width / (SECONDS - 1));
    const y = height - scale - (value / top) * (height - 3 * scale);
    index === 0 ? context.moveTo(x, y) : context.lineTo(x, y);
  });
  context.stroke();
}

function show(of, text, value) {
  of.value.textContent = text;
  of.past.push(value);
  if (of.past.length > SECONDS) of.past.shift();
  draw(of);
}

const cards = new Map();
const totals = new Map();

function card(shard) {
  if (cards.has(shard.shard)) return cards.get(shard.shard);
  const box = element('article', 'panel', '');
  const title = element('h2', '', `shard ${shard.shard} on CPU ${shard.core}`);
  const note = element('p', 'bad', '');
  const figures = SERIES.map(([name]) => figure(name));
  box.dataset.shard = shard.shard;
  box.append(title, note, ...figures.map(({ box }) => box));
  document.getElementById('shards').append(box);
  const made = { box, note, figures };
  cards.set(shard.shard, made);
  return made;
}

function total([name]) {
  if (totals.has(name)) return totals.get(name);
  const made = figure(name);
  made.box.classList.add('panel');
  document.getElementById('totals').append(made.box);
  totals.set(name, made);
  return made;
}

function health(word, isGood) {
  const shown = document.getElementById('health');
  shown.textContent = word;
  shown.className = isGood ? 'good' : 'bad';
}

function showStatus(status) {
  document.getElementById('version').textContent = status.version;
  // It begins with the same word when all is well.
  const { summary } = status;
  const rest = summary.startsWith(status.health) ? summary.slice(status.health.length) : summary;
  document.getElementById('summary').textContent = rest.trim();
  health(status.health, status.health === 'serving');
  for (const shard of status.shards) {
    const { box, note, figures } = card(shard);
    box.classList.toggle('stalled', shard.is_stalled);
    note.textContent = shard.is_stalled
      ? `stands still for ${Math.round(shard.standstill_ms / 1000)} s`
      : '';
    SERIES.forEach(([, write, of], index) => show(figures[index], write(of(shard)), of(shard)));
  }
  for (const row of TOTALS) {
    const sum = status.shards.reduce((sum, shard) => sum + row[2](shard), 0);
    show(total(row), row[1](sum), sum);
  }
}

const stream = new EventSource('/status/stream');
stream.onmessage = ({ data }) => showStatus(JSON.parse(data));
// The browser connects again by itself.
stream.onerror = () => health('no answer', false);
