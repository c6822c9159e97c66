'use strict';
const PREFIX = 'mqtt_persistence_', REFRESH_MS = 2000, MAX_POINTS = 300, KINDS = ['command', 'sent_publish', 'sent_pubrel', 'received_publish', 'undelivered', 'other'];
const main = document.querySelector('main'), notice = document.getElementById('notice');
// Seconds from the browser's clock to the device's, since the two may differ.
let clockOffset = Number(document.body.dataset.now) - Date.now() / 1000;
// Points and changes per client, kept over a reload of the page.
let histories = {};
try { histories = JSON.parse(sessionStorage.getItem('history')) || {}; } catch { /* first visit, or storage is disabled */ }

// Parses the text format into a map per client, from "name|label value" to the sum of its samples.
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
    // Buckets are not shown; a sum and a count are enough for a mean.
    if ('le' in labels || !('client_id' in labels)) continue;
    if (!clients.has(labels.client_id)) clients.set(labels.client_id, new Map());
    const samples = clients.get(labels.client_id);
    const key = name.slice(PREFIX.length) + '|' + (labels.operation ?? labels.reason ?? labels.kind ?? labels.error ?? '');
    samples.set(key, (samples.get(key) || 0) + Number(value));
  }
  return clients;
}

// The formats below match those in page.rs.
const trim = (number, places) => number.toFixed(places).replace(/\.?0+$/, '');
function formatCount(number) { return Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f'); }
function formatBytes(number) {
  if (number < 1024) return formatCount(number) + ' B';
  const power = Math.min(3, Math.floor(Math.log2(number) / 10));
  return (number / 1024 ** power).toFixed(1) + ' ' + ['', 'KiB', 'MiB', 'GiB'][power];
}
function formatDuration(seconds) {
  if (seconds < 0.001) return (seconds * 1e6).toFixed(0) + ' µs';
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0) + ' ms';
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 1 : 0) + ' s';
  if (seconds < 7200) return Math.floor(seconds / 60) + ' min';
  if (seconds < 172800) return Math.floor(seconds / 3600) + ' h';
  return Math.floor(seconds / 86400) + ' d';
}
const now = () => Date.now() / 1000 + clockOffset;
const elapsed = at => at > 0 ? formatDuration(Math.max(0, now() - at)) : '–';
const ago = at => at <= 0 ? 'not yet' : now() - at < 1 ? 'now' : elapsed(at) + ' ago';
const age = seconds => seconds > 0 ? formatDuration(seconds) : '–';
const until = at => at - now() < 0.5 ? 'now' : 'in ' + formatDuration(at - now());
const FORMATS = { n: formatCount, b: formatBytes, s: age, a: ago, e: elapsed, u: until };

// Returns the maximum of ages and the sum of other samples of a cell, or null.
function cellValue(samples, cell) {
  let result = null;
  const { m, k = '', f } = cell.dataset, kinds = k.split(' ');
  for (const [key, value] of samples) {
    const bar = key.indexOf('|');
    if (key.slice(0, bar) !== m || (k && !kinds.includes(key.slice(bar + 1)))) continue;
    result = result === null ? value : f === 's' ? Math.max(result, value) : result + value;
  }
  return result;
}

// Writes only changes, since screen readers announce each write to a live region.
function setText(element, text) { if (element && element.textContent !== text) element.textContent = text; }

// Draws stacked areas, or a line without classes, and returns the maximum.
function drawChart(svg, times, rows, classes) {
  const max = Math.max(1e-9, ...rows.map(row => row.reduce((sum, value) => sum + value, 0)));
  // At least a minute, so that the first few points do not fill the width.
  const last = times.at(-1), span = Math.max(60, last - times[0]);
  const x = index => (300 - (last - times[index]) / span * 300).toFixed(1);
  const y = value => (79 - value / max * 76).toFixed(1);
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
  return rows.some(row => row.some(Boolean)) ? max : 0;
}

// Appends a point to the history of a client, and the changes since the last point.
function recordPoint(client, samples) {
  const at = now(), history = histories[client] ??= { points: [], changes: [], errors: {} };
  const point = {
    at, records: KINDS.map(kind => samples.get('records|' + kind) || 0),
    bytes: KINDS.reduce((sum, kind) => sum + (samples.get('record_bytes|' + kind) || 0), 0),
    age: Math.max(...KINDS.map(kind => samples.get('oldest_record_age_seconds|' + kind) || 0)),
    up: samples.get('store_up|'), opened: samples.get('opened_timestamp_seconds|'), calls: {},
  };
  for (const [key, value] of samples) {
    const match = key.match(/^operation_duration_seconds_(count|sum)\|(.*)/);
    if (match) (point.calls[match[2]] ??= {})[match[1]] = value;
  }
  const last = history.points.at(-1);
  const reasons = [];
  for (const [key, value] of samples) {
    if (!key.startsWith('store_errors_total|')) continue;
    const error = key.slice(19);
    if (value > (history.errors[error] ?? value)) reasons.push(error);
    history.errors[error] = value;
  }
  const addChange = text => { history.changes.unshift([at, text]); history.changes.length = Math.min(history.changes.length, 12); };
  if (last && last.opened !== point.opened) addChange('opened again');
  if (last && last.up !== point.up) addChange(point.up === 1 ? 'store up' : 'store down' + (reasons.length ? ': ' + reasons.join(', ') : ''));
  history.points.push(point);
  if (history.points.length > MAX_POINTS) history.points.shift();
  // Rates need the calls of the last few points only.
  if (history.points.length > 6) delete history.points.at(-6).calls;
  return history;
}

// Updates the section of a client in place.
function updateSection(section, samples) {
  const client = section.dataset.client, history = recordPoint(client, samples), points = history.points, last = points.at(-1);
  for (const cell of section.querySelectorAll('[data-m]')) {
    const value = cellValue(samples, cell);
    setText(cell, value === null ? '–' : FORMATS[cell.dataset.f](value));
  }
  for (const box of section.querySelectorAll('[data-limit]')) box.hidden = !(samples.get(box.dataset.limit + '|') > 0);
  const state = section.querySelector('.state');
  if (last.up !== undefined) {
    setText(state, last.up === 1 ? 'Store up' : 'Store down');
    state.className = 'state ' + (last.up === 1 ? 'up' : 'down');
    setText(section.querySelector('.state-word'), state.textContent.toLowerCase());
  }
  // Rates cover the points that still have calls: the last ten seconds.
  const before = points.filter(point => point.calls)[0];
  let calls = 0, spent = 0;
  const over = last.at - before.at;
  for (const row of section.querySelectorAll('[data-operation]')) {
    const name = row.dataset.operation, to = last.calls[name] || {}, from = before.calls[name] || {};
    const count = (to.count || 0) - (from.count || 0), sum = (to.sum || 0) - (from.sum || 0);
    if (over > 0 && count >= 0) {
      setText(row.querySelector('.rate'), trim(count / over, 1));
      if (count > 0) setText(row.querySelector('.mean'), formatDuration(sum / count));
      calls += count;
      spent += sum;
    }
  }
  if (over > 0) {
    setText(section.querySelector('.calls'), trim(calls / over, 1));
    setText(section.querySelector('.latency'), calls > 0 ? formatDuration(spent / calls) : '–');
  }
  const span = formatDuration(Math.max(1, last.at - points[0].at));
  const charts = section.querySelector('.charts');
  charts.hidden = false;
  for (const [name, rows, format] of [
    ['records', points.map(point => point.records), formatCount],
    ['bytes', points.map(point => [point.bytes]), formatBytes],
    ['age', points.map(point => [point.age]), age],
  ]) {
    const figure = charts.querySelector('.' + name), max = drawChart(figure.querySelector('svg'), points.map(point => point.at), rows, name === 'records');
    const text = 'max in ' + span + ': ' + format(max);
    setText(figure.querySelector('.max'), text);
    figure.querySelector('svg').setAttribute('aria-label', figure.dataset.title + ', ' + text);
  }
  const list = section.querySelector('ol'), changes = history.changes.map(([at, text]) => text + ', ' + ago(at));
  changes.forEach((text, index) => {
    let item = list.querySelectorAll('.change')[index];
    if (!item) {
      item = document.createElement('li');
      item.className = 'change';
      list.insertBefore(item, list.querySelectorAll('.change')[index] || list.querySelector(':not(.change)'));
    }
    setText(item, text);
  });
}

// Fetches the page again, with sections for the present clients.
async function rebuild() {
  const response = await fetch(location.origin + '/', { cache: 'no-store' });
  if (!response.ok) throw new Error(response.status);
  const page = new DOMParser().parseFromString(await response.text(), 'text/html');
  clockOffset = Number(page.body.dataset.now) - Date.now() / 1000;
  main.replaceChildren(notice, ...[...page.querySelector('main').children].filter(child => child.id !== 'notice'));
}

let lastResponse = Date.now();
async function update() {
  try {
    const response = await fetch(location.origin + '/metrics', { cache: 'no-store' });
    if (response.status === 401) return location.reload();
    if (!response.ok) throw new Error('status ' + response.status);
    const clients = parse(await response.text());
    const shown = [...document.querySelectorAll('[data-client]')].map(section => section.dataset.client + '|' + section.dataset.hasStore);
    const present = [...clients].map(([client, samples]) => client + '|' + samples.has('store_up|'));
    if (shown.length !== present.length || present.some(client => !shown.includes(client))) await rebuild();
    for (const section of document.querySelectorAll('[data-client]')) {
      const samples = clients.get(section.dataset.client);
      if (samples) updateSection(section, samples);
    }
    for (const client of Object.keys(histories)) if (!clients.has(client)) delete histories[client];
    const down = [...clients.values()].some(samples => samples.get('store_up|') === 0);
    document.title = (down ? 'Store down – ' : '') + 'MQTT persistence';
    lastResponse = Date.now();
    notice.hidden = true;
    try { sessionStorage.setItem('history', JSON.stringify(histories)); } catch { /* storage is full; the history is lost on reload only */ }
  } catch (error) {
    setText(notice, 'No answer for ' + formatDuration((Date.now() - lastResponse) / 1000) + ' (' + error.message + '). Data is stale. Retrying.');
    notice.hidden = false;
  }
  document.getElementById('live').hidden = false;
}

(async () => {
  for (;;) {
    if (!document.hidden) await update();
    await new Promise(done => setTimeout(done, REFRESH_MS));
  }
})();
