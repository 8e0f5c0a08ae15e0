// The inspector: rules once a second or so, attempts as they end. Whatever comes from events is shown as
// text, never as markup.
'use strict';

/** Attempts that are kept here; the daemon keeps fewer of each rule. */
const ATTEMPTS_MAX = 500;
const RULES_MS = 2000;

/** Of outcomes; others are bad. What a function rejects, it was asked to judge. */
const STYLES = { delivered: 'good', accepted: 'good', replaced: 'good', rejected: '', retry: '' };

const $ = (id) => document.getElementById(id);
const attempts = [];
let paused = false;
let drawn = false;

function cells(row, values) {
  row.replaceChildren(...values.map(([text, style]) => {
    const cell = document.createElement('td');
    cell.textContent = text;
    if (style) cell.className = style;
    return cell;
  }));
  return row;
}

const time = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

function showRules(rules) {
  $('rules').replaceChildren(...rules.map((rule) => {
    const state = rule.isLooping ? `${rule.state}, feeds itself` : rule.isBroken ? `${rule.state}, endpoint fails` : rule.state;
    const failure = rule.lastFailure ? `${time(rule.lastFailure.time)} ${rule.lastFailure.note}` : '';
    const row = document.createElement('tr');
    row.title = rule.target;
    return cells(row, [
      [rule.rule], [rule.app], [state, rule.isLooping || rule.isBroken ? 'bad' : ''], [rule.waiting, 'number'],
      [rule.inFlight, 'number'], [rule.delivered, 'number'], [rule.failed, 'number'], [rule.dead, 'number'],
      [failure, 'faint'],
    ]);
  }));
  const chosen = $('rule').value;
  const options = rules.map((rule) => new Option(rule.rule, rule.rule));
  $('rule').replaceChildren(new Option('every rule', ''), ...options);
  $('rule').value = rules.some((rule) => rule.rule === chosen) ? chosen : '';
}

function isWanted(attempt) {
  const [rule, outcome, text] = [$('rule').value, $('outcome').value, $('text').value.trim()];
  if (rule && attempt.rule !== rule) return false;
  if (outcome && attempt.outcome !== outcome) return false;
  if (!text) return true;
  const { status, note, channels, request } = attempt;
  return [status, note, request.body, ...channels].some((part) => `${part ?? ''}`.includes(text));
}

function rowOf(attempt) {
  const row = document.createElement('tr');
  row.tabIndex = 0;
  row.onclick = () => showDetails(attempt);
  row.onkeydown = (event) => event.key === 'Enter' && showDetails(attempt);
  const style = STYLES[attempt.outcome] ?? 'bad';
  return cells(row, [
    [time(attempt.time)], [attempt.rule], [attempt.channels.join(', ')], [attempt.outcome, style],
    [attempt.status ?? attempt.note], [attempt.latencyMs, 'number'], [attempt.attempt, 'number'],
    [attempt.eventCount, 'number'],
  ]);
}

/** Draws the list, newest first, at most once a frame. */
function draw() {
  if (drawn || paused) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    $('attempts').replaceChildren(...attempts.filter(isWanted).map(rowOf));
  });
}

function showDetails(attempt) {
  const { request, nextTry } = attempt;
  const again = nextTry ? `, again at ${time(nextTry)}` : '';
  $('number').textContent = attempt.id;
  $('summary').textContent = `${attempt.outcome}: ${attempt.note} after ${attempt.latencyMs} ms, try ${attempt.attempt}${again}${attempt.events.length ? `; events ${attempt.events.join(', ')}` : ''}`;
  const headers = request.headers.map(({ name, value }) => `${name}: ${value}`).join('\n');
  const body = request.body ?? (request.bodyBase64 ? `(base64) ${request.bodyBase64}` : '');
  $('request').textContent = `${request.method} ${request.url}\n${headers}\n\n${body}\n\n(${request.bodyBytes} bytes)`;
  $('details').hidden = false;
  $('details').scrollIntoView({ block: 'nearest' });
}

function take(attempt) {
  if (attempt.missed) return;
  attempts.unshift(attempt);
  attempts.length = Math.min(attempts.length, ATTEMPTS_MAX);
  draw();
}

/** Numbers of events are larger than what a double holds: these stay text. */
const exact = (_, value, context) => (Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source) || value;

async function get(path) {
  const response = await fetch(path);
  // The session is over.
  if (response.status === 401) location.reload();
  if (!response.ok) throw new Error(`${response.status}`);
  return JSON.parse(await response.text(), exact);
}

async function refresh() {
  try {
    showRules(await get('/hooks/rules'));
  } catch {
    // The stream says whether the daemon is there.
  }
  setTimeout(refresh, RULES_MS);
}

async function begin() {
  const stream = new EventSource('/hooks/attempts/stream');
  stream.onopen = async () => {
    $('live').textContent = 'live';
    // What went by before, and between two connections.
    const newest = attempts[0]?.id ?? 0;
    for (const attempt of await get(`/hooks/attempts?after=${newest}&limit=200`)) {
      if (!attempts.some(({ id }) => id === attempt.id)) take(attempt);
    }
  };
  stream.onmessage = ({ data }) => {
    const attempt = JSON.parse(data, exact);
    if (!attempts.some(({ id }) => id === attempt.id)) take(attempt);
  };
  stream.onerror = () => ($('live').textContent = 'not connected');
  for (const id of ['rule', 'outcome', 'text']) $(id).addEventListener('input', draw);
  $('pause').onclick = () => {
    paused = !paused;
    $('pause').textContent = paused ? 'Go on' : 'Pause';
    draw();
  };
  await refresh();
}

begin();
