'use strict';
const PREFIX = 'mqtt_persistence_', EVERY = 2000, KEEP = 300, KINDS = ['command', 'sent_publish', 'sent_pubrel', 'received_publish', 'undelivered', 'other'];
const main = document.querySelector('main'), notice = document.getElementById('notice');
// The clock of the device and that of the browser need not agree.
let offset = Number(document.body.dataset.now) - Date.now() / 1000;
let memory = {};
try { memory = JSON.parse(sessionStorage.getItem('history')) || {}; } catch { /* the first visit */ }

// The text format: client, then name and label, then the sum of what has both.
function parse(text) {
  const clients = new Map();
  for (const line of text.split('\n')) {
    if (!line.startsWith(PREFIX)) continue;
    const [, name, inner = '', value] = line.match(/^([\w:]+)(?:\{(.*)\})? (\S+)/) || [];
    if (!name) continue;
    const labels = {};
    for (const [, label, quoted] of inner.matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)) {
      labels[label] = quoted.replace(/\\(.)/g, (_, c) => c === 'n' ? '\n' : c);
    }
    if ('le' in labels || !('client_id' in labels)) continue;
    if (!clients.has(labels.client_id)) clients.set(labels.client_id, new Map());
    const samples = clients.get(labels.client_id);
    const key = name.slice(PREFIX.length) + '|' + (labels.operation ?? labels.kind ?? labels.error ?? '');
    samples.set(key, (samples.get(key) || 0) + Number(value));
  }
  return clients;
}

const trim = (number, places) => number.toFixed(places).replace(/\.?0+$/, '');
function whole(number) { return Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f'); }
function bytes(number) {
  if (number < 1024) return whole(number) + ' B';
  const power = Math.min(3, Math.floor(Math.log2(number) / 10));
  return (number / 1024 ** power).toFixed(1) + ' ' + ['', 'KiB', 'MiB', 'GiB'][power];
}
function time(seconds) {
  if (seconds < 0.001) return (seconds * 1e6).toFixed(0) + ' µs';
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0) + ' ms';
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 1 : 0) + ' s';
  if (seconds < 7200) return Math.floor(seconds / 60) + ' min';
  if (seconds < 172800) return Math.floor(seconds / 3600) + ' h';
  return Math.floor(seconds / 86400) + ' d';
}
const now = () => Date.now() / 1000 + offset;
const elapsed = at => at > 0 ? time(Math.max(0, now() - at)) : '–';
const ago = at => at <= 0 ? 'not yet' : now() - at < 1 ? 'now' : elapsed(at) + ' ago';
const age = seconds => seconds > 0 ? time(seconds) : '–';
const FORMATS = { n: whole, b: bytes, s: age, a: ago, e: elapsed };

// Of ages the greatest counts, of everything else the sum.
function look(samples, cell) {
  let found = null;
  const { m, k = '', f } = cell.dataset, kinds = k.split(' ');
  for (const [key, value] of samples) {
    const bar = key.indexOf('|');
    if (key.slice(0, bar) !== m || (k && !kinds.includes(key.slice(bar + 1)))) continue;
    found = found === null ? value : f === 's' ? Math.max(found, value) : found + value;
  }
  return found;
}

function set(element, text) { if (element && element.textContent !== text) element.textContent = text; }

function draw(svg, times, rows, classes) {
  const most = Math.max(1e-9, ...rows.map(row => row.reduce((sum, value) => sum + value, 0)));
  // A minute at least, so that the first looks are not drawn as if they were all.
  const last = times.at(-1), span = Math.max(60, last - times[0]);
  const x = index => (300 - (last - times[index]) / span * 300).toFixed(1);
  const y = value => (79 - value / most * 76).toFixed(1);
  svg.replaceChildren();
  const base = rows.map(() => 0);
  for (let part = 0; part < rows[0].length; part++) {
    if (rows.every(row => !row[part])) continue;
    const lower = rows.map((_, index) => x(index) + ',' + y(base[index])).reverse();
    rows.forEach((row, index) => { base[index] += row[part]; });
    const upper = rows.map((_, index) => x(index) + ',' + y(base[index]));
    const shape = document.createElementNS(svg.namespaceURI, classes ? 'polygon' : 'polyline');
    shape.setAttribute('points', (classes ? [...upper, ...lower] : upper).join(' '));
    shape.setAttribute('class', classes ? 'k' + part : 'stroke');
    svg.append(shape);
  }
  return rows.some(row => row.some(Boolean)) ? most : 0;
}

function remember(client, samples) {
  const at = now(), known = memory[client] ??= { points: [], changes: [], errors: {} };
  const point = {
    at, records: KINDS.map(kind => samples.get('records|' + kind) || 0),
    bytes: KINDS.reduce((sum, kind) => sum + (samples.get('record_bytes|' + kind) || 0), 0),
    age: Math.max(...KINDS.map(kind => samples.get('oldest_record_age_seconds|' + kind) || 0)),
    up: samples.get('store_up|'), opened: samples.get('opened_timestamp_seconds|'), calls: {},
  };
  for (const [key, value] of samples) {
    const found = key.match(/^operation_duration_seconds_(count|sum)\|(.*)/);
    if (found) (point.calls[found[2]] ??= {})[found[1]] = value;
  }
  const last = known.points.at(-1);
  const reasons = [];
  for (const [key, value] of samples) {
    if (!key.startsWith('store_errors_total|')) continue;
    const error = key.slice(19);
    if (value > (known.errors[error] ?? value)) reasons.push(error);
    known.errors[error] = value;
  }
  const tell = what => { known.changes.unshift([at, what]); known.changes.length = Math.min(known.changes.length, 12); };
  if (last && last.opened !== point.opened) tell('opened again');
  if (last && last.up !== point.up) tell(point.up === 1 ? 'store up' : 'store down' + (reasons.length ? ': ' + reasons.join(', ') : ''));
  known.points.push(point);
  if (known.points.length > KEEP) known.points.shift();
  // What is only needed of the last few.
  if (known.points.length > 6) delete known.points.at(-6).calls;
  return known;
}

function show(section, samples) {
  const client = section.dataset.client, known = remember(client, samples), points = known.points, last = points.at(-1);
  for (const cell of section.querySelectorAll('[data-m]')) {
    const value = look(samples, cell);
    set(cell, value === null ? '–' : FORMATS[cell.dataset.f](value));
  }
  const state = section.querySelector('.state');
  if (last.up !== undefined) {
    set(state, last.up === 1 ? 'Store up' : 'Store down');
    state.className = 'state ' + (last.up === 1 ? 'up' : 'down');
    set(section.querySelector('.word'), state.textContent.toLowerCase());
  }
  // Over the last ten seconds.
  const before = points.filter(point => point.calls)[0];
  let calls = 0, spent = 0;
  const over = last.at - before.at;
  for (const row of section.querySelectorAll('[data-operation]')) {
    const name = row.dataset.operation, to = last.calls[name] || {}, from = before.calls[name] || {};
    const count = (to.count || 0) - (from.count || 0), sum = (to.sum || 0) - (from.sum || 0);
    if (over > 0 && count >= 0) {
      set(row.querySelector('.rate'), trim(count / over, 1));
      if (count > 0) set(row.querySelector('.mean'), time(sum / count));
      calls += count;
      spent += sum;
    }
  }
  if (over > 0) {
    set(section.querySelector('.calls'), trim(calls / over, 1));
    set(section.querySelector('.latency'), calls > 0 ? time(spent / calls) : '–');
  }
  const span = time(Math.max(1, last.at - points[0].at));
  const charts = section.querySelector('.charts');
  charts.hidden = false;
  for (const [name, rows, format] of [
    ['records', points.map(point => point.records), whole],
    ['bytes', points.map(point => [point.bytes]), bytes],
    ['age', points.map(point => [point.age]), age],
  ]) {
    const figure = charts.querySelector('.' + name), most = draw(figure.querySelector('svg'), points.map(point => point.at), rows, name === 'records');
    const text = 'the most in ' + span + ': ' + format(most);
    set(figure.querySelector('.most'), text);
    figure.querySelector('svg').setAttribute('aria-label', figure.dataset.title + ', ' + text);
  }
  const list = section.querySelector('ol'), seen = known.changes.map(([at, what]) => what + ', ' + ago(at));
  seen.forEach((text, index) => {
    let item = list.querySelectorAll('.seen')[index];
    if (!item) {
      item = document.createElement('li');
      item.className = 'seen';
      list.insertBefore(item, list.querySelectorAll('.seen')[index] || list.querySelector(':not(.seen)'));
    }
    set(item, text);
  });
}

// The server writes the page anew, for the clients that there are by now.
async function rebuild() {
  const answer = await fetch(location.origin + '/', { cache: 'no-store' });
  if (!answer.ok) throw new Error(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  offset = Number(page.body.dataset.now) - Date.now() / 1000;
  main.replaceChildren(notice, ...[...page.querySelector('main').children].filter(child => child.id !== 'notice'));
}

let lastAnswer = Date.now();
async function update() {
  try {
    const answer = await fetch(location.origin + '/metrics', { cache: 'no-store' });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error('status ' + answer.status);
    const clients = parse(await answer.text());
    const shown = [...document.querySelectorAll('[data-client]')].map(section => section.dataset.client + '|' + section.dataset.tells);
    const there = [...clients].map(([client, samples]) => client + '|' + samples.has('store_up|'));
    if (shown.length !== there.length || there.some(client => !shown.includes(client))) await rebuild();
    for (const section of document.querySelectorAll('[data-client]')) {
      const samples = clients.get(section.dataset.client);
      if (samples) show(section, samples);
    }
    for (const client of Object.keys(memory)) if (!clients.has(client)) delete memory[client];
    const down = [...clients.values()].some(samples => samples.get('store_up|') === 0);
    document.title = (down ? 'Store down – ' : '') + 'MQTT persistence';
    lastAnswer = Date.now();
    notice.hidden = true;
    try { sessionStorage.setItem('history', JSON.stringify(memory)); } catch { /* there is no room, and it can be done without */ }
  } catch (error) {
    set(notice, 'No answer for ' + time((Date.now() - lastAnswer) / 1000) + ' (' + error.message + '). What is shown is as old. Trying again.');
    notice.hidden = false;
  }
  document.getElementById('live').hidden = false;
}

(async () => {
  for (;;) {
    if (!document.hidden) await update();
    await new Promise(done => setTimeout(done, EVERY));
  }
})();
