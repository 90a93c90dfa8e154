// What went wrong, from the events: when, why, what it was seen by, and how long nothing got through.
const MAX_INCIDENTS = 50;
const BAD = ['link-down', 'link-degraded', 'link-dampened', 'no-usable-link'];

// Traffic may leave a link before we call it down: the other end noticed first, and has told us. Such a move is of the
// incident if it came after the last good packet, and not by an order.
function cameBefore(moved, event) {
  if (!moved || event.detect_ms === null || !moved.trace || !moved.trace.last_good_ns) return null;
  return Date.parse(event.time) - Date.parse(moved.time) <= event.detect_ms ? moved : null;
}

function found(events) {
  const open = new Map();
  const left = new Map();
  const all = [];
  for (const event of events) {
    const key = `${event.group}\n${event.link || ''}`;
    if (BAD.includes(event.what)) {
      const known = open.get(key);
      if (known) {
        known.further.push(event);
        continue;
      }
      const incident = { event, further: [], until: null, moved: cameBefore(left.get(key), event) };
      open.set(key, incident);
      all.push(incident);
    } else if (event.what === 'link-up') {
      for (const one of [key, `${event.group}\n`]) {
        if (open.has(one)) open.get(one).until = event.time;
        open.delete(one);
      }
    } else if (event.what === 'active-changed') {
      for (const link of event.from || []) {
        if ((event.to || []).includes(link)) continue;
        const key = `${event.group}\n${link}`;
        left.set(key, event);
        const incident = open.get(key);
        if (incident && !incident.moved) incident.moved = event;
      }
    }
  }
  return all;
}

function time(text) {
  const made = element('time', text.replace('T', ' ').replace(/\.\d+Z$/, ' UTC'));
  made.dateTime = text;
  return made;
}

// Where the time between the last good packet and the new routes went.
function evidence(incident) {
  const trace = incident.moved && incident.moved.trace;
  const parts = [];
  if (incident.event.detect_ms !== null) {
    parts.push(`the last good packet came ${duration(incident.event.detect_ms / 1000)} before`);
  }
  if (trace && trace.last_good_ns) {
    parts.push(`silence and verdict ${duration((trace.decided_ns - trace.last_good_ns) / 1e9)}`);
    parts.push(`routes ${((trace.routed_ns - trace.decided_ns) / 1e6).toFixed(2)} ms`);
  }
  return parts.join('; ') || 'what the kernel said of the interface, or an order';
}

function outage(incident) {
  const { event, moved } = incident;
  if (event.what === 'no-usable-link') return 'the group had no way';
  if (!moved) return 'no traffic had to move';
  const trace = moved.trace;
  const gone = trace && trace.last_good_ns ? `, ${duration((trace.routed_ns - trace.last_good_ns) / 1e9)} after the last good packet` : '';
  return `traffic went on by ${(moved.to || []).join(' + ') || 'nothing'}${gone}`;
}

function card(incident) {
  const { event, until } = incident;
  const made = element('li');
  const title = element('h3', `${event.group}${event.link ? ` ${event.link}` : ''}: `);
  title.append(element('span', event.what.replaceAll('-', ' '), event.what === 'link-degraded' ? 'doubt' : 'bad'));
  const facts = element('dl');
  const fact = (name, ...what) => {
    const told = element('dd');
    told.append(...what);
    facts.append(element('dt', name), told);
  };
  const lasted = until ? Math.max(0, (Date.parse(until) - Date.parse(event.time)) / 1000) : null;
  fact('When', time(event.time), lasted === null ? ', and it goes on' : `, for ${duration(lasted)}`);
  fact('Cause', event.why || 'not known');
  fact('Evidence', evidence(incident));
  fact('Outage', outage(incident));
  if (incident.further.length) {
    fact('Then', incident.further.map((one) => `${one.what.replaceAll('-', ' ')}: ${one.why}`).slice(-3).join('; '));
  }
  made.append(title, facts);
  return made;
}

function showIncidents(events) {
  const all = found(events).slice(-MAX_INCIDENTS).reverse();
  at('no-incidents').hidden = all.length > 0;
  at('incidents').replaceChildren(...all.map(card));
}

again();
listen();
