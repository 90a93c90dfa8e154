'use strict';
// Everything that comes from the daemon becomes text, never markup.
const PERIOD_MS = 2000;
const HISTORY = 60;
const MAX_EVENTS = 100;
const HISTORY_MS = 15000;
const history = new Map();
let said = '';
let built = '';
let seen;
let drawn = 0;

const at = (id) => document.getElementById(id);

function element(name, text, classes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

// A picture with its words.
function canvas(classes, width, height, words) {
  return shape('svg', {
    class: classes, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': words,
  });
}

// One bar, that stands on the ground.
function column(x, height, ground, classes) {
  const made = shape('rect', { x, y: ground - height, width: 0.8, height });
  if (classes) made.setAttribute('class', classes);
  return made;
}

function ms(value) {
  return value === null || value === undefined ? '–' : `${value < 10 ? value.toFixed(3) : value.toFixed(1)} ms`;
}

function since(text) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(text)) / 1000));
  if (!Number.isFinite(seconds)) return '';
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

function tone(link) {
  if (link.state === 'up' && link.usable) return 'good';
  return link.state === 'down' || link.state === 'absent' ? 'bad' : 'doubt';
}

// One bar for each look: its height is the share of probes that were answered.
function bar(key, link) {
  const values = history.get(key) || [];
  values.push(link.state === 'up' || link.state === 'degraded' ? 1 - link.loss : 0);
  if (values.length > HISTORY) values.shift();
  history.set(key, values);
  const lost = values.filter((value) => value === 0).length;
  const picture = canvas(`bar ${tone(link)}`, HISTORY, 10, `of the last ${values.length} looks ${lost} found it without an answer`);
  values.forEach((value, index) => {
    picture.append(column(HISTORY - values.length + index, Math.max(0.4, 10 * value), 10));
  });
  return picture;
}

function row(group, link) {
  const line = element('tr');
  const name = element('th', link.name);
  name.scope = 'row';
  name.append(element('div', link.interface, 'dim'));
  const active = group.active.includes(link.name);
  const state = element('td', `${link.state}${link.drained ? ', drained' : ''}`, `state ${tone(link)}`);
  const cell = (title, text) => {
    const made = element('td', text);
    made.dataset.title = title;
    return made;
  };
  const looks = cell('Last 2 min', '');
  looks.append(bar(`${group.name}\n${link.name}`, link));
  const why = link.usable ? '' : link.suspicion || link.last_down_reason || '';
  line.append(
    name, state, cell('Traffic', active ? `yes, ${Math.round(link.share * 100)} %` : 'no'), cell('For', since(link.since)),
    cell('RTT', ms(link.rtt_ms)), cell('Jitter', ms(link.jitter_ms)), cell('Loss', `${(link.loss * 100).toFixed(1)} %`),
    looks, element('td', why, 'why'));
  return line;
}

// What is so now: replaced with every look.
function now(group) {
  const usable = group.links.filter((link) => link.usable).length;
  const carries = group.active.length ? `Traffic goes by ${group.active.join(' + ')}` : 'No link carries traffic';
  const made = [element('p', `${carries}, for ${since(group.since)}: ${group.reason}`, usable ? 'good' : 'bad')];
  if (usable < 2 && group.links.length > 1) made.push(element('p', usable ? 'There is no spare link.' : 'No link is usable.', 'bad'));
  if (group.pinned) made.push(element('p', `Pinned to ${group.pinned}.`, 'doubt'));
  if (!group.failover) made.push(element('p', 'Automatic failover is off.', 'doubt'));
  const links = element('table');
  links.append(
    element('caption', `Links of ${group.name}`, 'hidden'),
    head(['Link', 'State', 'Traffic', 'For', 'RTT', 'Jitter', 'Loss', 'Last 2 min', 'Why']));
  const body = element('tbody');
  for (const link of group.links) body.append(row(group, link));
  links.append(body);
  made.push(links);
  return made;
}

function head(names) {
  const line = element('tr');
  for (const name of names) {
    const one = element('th', name);
    one.scope = 'col';
    line.append(one);
  }
  const made = element('thead');
  made.append(line);
  return made;
}

// Sections stay as long as groups and links are the same: what somebody has opened stays open, and the keyboard where it was.
function sections(groups) {
  const names = JSON.stringify(groups.map((group) => [group.name, group.links.map((link) => link.name)]));
  if (names !== built) {
    at('groups').replaceChildren(...groups.map((group, index) => {
      const made = element('section');
      const title = element('h2', group.name);
      title.id = `group-${index}`;
      made.setAttribute('aria-labelledby', title.id);
      title.append(element('span', ` ${group.kind}${group.role ? `, ${group.role}` : ''}`, 'dim'));
      made.append(title, element('div', undefined, 'now'), ...group.links.map((link) => past(group, link)));
      return made;
    }));
    built = names;
    drawn = 0;
  }
  groups.forEach((group, index) => at('groups').children[index].querySelector('.now').replaceChildren(...now(group)));
}

function entry(event) {
  const moved = event.what === 'active-changed'
    ? `: ${(event.from || []).join(' + ') || 'nothing'} → ${(event.to || []).join(' + ') || 'nothing'}` : '';
  const bad = event.what === 'link-down' || event.what === 'no-usable-link';
  const made = element('li');
  made.append(
    element('span', `${event.time} `, 'dim'), `${event.group}${event.link ? ` ${event.link}` : ''}: `,
    element('span', event.what.replaceAll('-', ' '), bad ? 'bad' : event.what === 'link-up' ? 'good' : 'doubt'),
    `${moved}${event.why ? `: ${event.why}` : ''}`);
  return made;
}

// What a screen reader is told: only what has changed, and not the figures.
function tell(status) {
  const words = status.groups.map((group) => {
    const usable = group.links.filter((link) => link.usable).length;
    return `${group.name}: ${usable} of ${group.links.length} links usable, traffic by ${group.active.join(', ') || 'none'}.`;
  }).join(' ');
  if (words !== said) at('summary').textContent = words;
  said = words;
}

async function get(path) {
  const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
  return answer.json();
}

async function look() {
  try {
    const [status, events] = await Promise.all([get('/status.json'), get('/events.json')]);
    at('about').textContent = `Version ${status.version}, engine ${status.engine}, up for ${since(new Date(Date.now() - status.uptime_s * 1000))}.`;
    sections(status.groups);
    const newest = events.length ? events[events.length - 1].time : '';
    if (newest !== seen || Date.now() - drawn > HISTORY_MS) {
      draw(await get('/history.json'), status.groups);
      [seen, drawn] = [newest, Date.now()];
    }
    showIncidents(events);
    at('events').replaceChildren(...events.slice(-MAX_EVENTS).reverse().map(entry));
    const cut = status.groups.filter((group) => !group.links.some((link) => link.usable));
    document.title = cut.length ? `(!) ${cut.map((group) => group.name).join(', ')} – link-watcher` : 'link-watcher';
    at('alarm').textContent = '';
    tell(status);
  } catch (error) {
    at('alarm').textContent = `The daemon does not answer: ${error.message}. What is shown is old.`;
  }
}

// Figures are asked for now and then; what happens is told at once, and many things together are one look.
let due;
let looking = false;

async function again() {
  clearTimeout(due);
  if (!looking) {
    looking = true;
    await look();
    looking = false;
  }
  clearTimeout(due);
  due = setTimeout(again, document.hidden ? 5 * PERIOD_MS : PERIOD_MS);
}

// A browser that is not told, because there are too many, goes on asking.
function listen() {
  const stream = new EventSource('/stream');
  stream.onmessage = () => {
    clearTimeout(due);
    due = setTimeout(again, 50);
  };
}
