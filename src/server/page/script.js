'use strict';
// Fetches the page again, adds to it what only a history has (curves, rates, changes), and swaps what differs.
const REFRESH_MS = 2000, MAX_POINTS = 300, RATE_MS = 11000, MAX_CHANGES = 12;
const notice = document.getElementById('notice');
const clockTime = ms => new Date(ms).toLocaleTimeString('en-GB');
const total = numbers => numbers.reduce((sum, number) => sum + number, 0);

// Points and changes by client, kept over a reload of the page.
let histories = new Map();
try { histories = new Map(JSON.parse(sessionStorage.getItem('history'))); } catch { /* storage is disabled */ }

// Appends what a section of the page shows to the history of its client.
function record(section) {
  const { client, state, opened } = section.dataset;
  const history = histories.get(client) ?? { points: [], changes: [], state, opened };
  histories.set(client, history);
  const { points, changes } = history, at = Date.now();
  // Rates need the calls of the last ten seconds only, and counts may begin again with an opening.
  for (const point of points) {
    if (history.opened !== opened || Math.abs(at - point.at) > RATE_MS) delete point.calls;
  }
  if (history.opened !== opened) changes.unshift(clockTime(at) + ' Opened again');
  if (history.state !== state) changes.unshift(clockTime(at) + ' ' + state);
  Object.assign(history, { state, opened });
  changes.length = Math.min(changes.length, MAX_CHANGES);
  const point = { at, curves: [], calls: {} };
  for (const { dataset } of section.querySelectorAll('figure')) {
    point.curves.push({ values: dataset.values.split(' ').map(Number), text: dataset.text });
  }
  for (const { dataset } of section.querySelectorAll('[data-operation]')) {
    point.calls[dataset.operation] = { count: Number(dataset.count), spent: Number(dataset.spent) };
  }
  points.push(point);
  if (points.length > MAX_POINTS) points.shift();
  return history;
}

// Draws stacked areas or, for a single value, a line.
function drawCurve(figure, points, index) {
  const svg = figure.querySelector('svg'), curve = points.map(point => point.curves[index]);
  const rows = curve.map(({ values }) => values), sums = rows.map(total), max = Math.max(...sums);
  // At least a minute, so that the first few points do not fill the width.
  const last = points.at(-1).at, span = Math.max(60000, last - points[0].at);
  const x = row => (300 - (last - points[row].at) / span * 300).toFixed(1);
  const y = value => (79 - value / (max || 1) * 76).toFixed(1);
  const base = rows.map(() => 0), parts = rows[0].length;
  for (let part = 0; part < parts; part++) {
    if (rows.every(row => !row[part])) continue;
    const lower = base.map((value, row) => x(row) + ',' + y(value)).reverse();
    rows.forEach((row, number) => { base[number] += row[part]; });
    const upper = base.map((value, row) => x(row) + ',' + y(value));
    const shape = document.createElementNS(svg.namespaceURI, parts > 1 ? 'polygon' : 'polyline');
    shape.setAttribute('points', (parts > 1 ? [...upper, ...lower] : upper).join(' '));
    shape.setAttribute('class', parts > 1 ? 'k' + part : 'stroke');
    svg.append(shape);
  }
  const text = 'max since ' + clockTime(points[0].at) + ': ' + curve[sums.indexOf(max)].text;
  figure.querySelector('.max').textContent = text;
  svg.setAttribute('aria-label', figure.dataset.title + ', ' + text);
}

// Fills in the rates and mean times of the last ten seconds.
function addRates(section, points) {
  const last = points.at(-1), first = points.find(point => point.calls), seconds = (last.at - first.at) / 1000;
  if (!(seconds > 0)) return;
  const all = { count: 0, spent: 0 };
  for (const row of section.querySelectorAll('[data-operation]')) {
    const name = row.dataset.operation, before = first.calls[name] ?? { count: 0, spent: 0 };
    const count = last.calls[name].count - before.count, spent = last.calls[name].spent - before.spent;
    row.querySelector('.rate').textContent = (count / seconds).toFixed(1);
    if (count > 0) row.querySelector('.mean').textContent = (spent / count * 1000).toFixed(3);
    all.count += count;
    all.spent += spent;
  }
  section.querySelector('.calls').textContent = (all.count / seconds).toFixed(1);
  if (all.count > 0) section.querySelector('.latency').textContent = (all.spent / all.count * 1000).toFixed(3);
}

// Adds to a section that was fetched what only the history of its client has.
function complete(section) {
  const { points, changes } = record(section);
  section.querySelectorAll('figure').forEach((figure, index) => drawCurve(figure, points, index));
  addRates(section, points);
  section.querySelector('ol').prepend(...changes.map(text => {
    const item = document.createElement('li');
    item.textContent = text;
    return item;
  }));
  for (const element of section.querySelectorAll('.scripted')) element.hidden = false;
}

// Makes a node equal to a fetched one. What stays keeps its focus, selection and scroll position, and screen readers
// announce only what differs.
function swap(node, fresh) {
  if (node.nodeValue !== fresh.nodeValue) node.nodeValue = fresh.nodeValue;
  for (const { name, value } of fresh.attributes ?? []) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  for (const { name } of [...node.attributes ?? []]) {
    if (!fresh.hasAttribute(name)) node.removeAttribute(name);
  }
  let next = node.firstChild;
  for (const child of [...fresh.childNodes]) {
    let same = next;
    while (same && (same.nodeName !== child.nodeName || same.dataset?.client !== child.dataset?.client)) {
      same = same.nextSibling;
    }
    if (same) {
      while (next !== same) next = remove(next);
      swap(same, child);
      next = same.nextSibling;
    } else {
      node.insertBefore(child, next);
    }
  }
  while (next) next = remove(next);
}

// Removes a node and returns the one behind it.
function remove(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

let answered = Date.now();
async function update() {
  try {
    // The origin leaves out a password in the address, with which a browser fetches nothing.
    const response = await fetch(location.origin + '/', { cache: 'no-store', signal: AbortSignal.timeout(10000) });
    if (response.status === 401) return location.reload();
    if (!response.ok) throw new Error('status ' + response.status);
    const page = new DOMParser().parseFromString(await response.text(), 'text/html');
    const sections = [...page.querySelectorAll('section')];
    sections.forEach(complete);
    for (const client of histories.keys()) {
      if (!sections.some(section => section.dataset.client === client)) histories.delete(client);
    }
    swap(document.querySelector('main'), page.querySelector('main'));
    document.title = page.title;
    answered = Date.now();
    notice.hidden = true;
    try { sessionStorage.setItem('history', JSON.stringify([...histories])); } catch { /* storage is full */ }
  } catch (error) {
    notice.textContent = 'No answer since ' + clockTime(answered) + ' (' + error.message + '). Data is stale. Retrying.';
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
