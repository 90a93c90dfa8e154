// The last day, from /history.json: one column for each step of ten minutes.
const STEPS = 144;
const HOUR_S = 3600;

function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / HOUR_S)} h ${Math.round(seconds / 60) % 60} min`;
}

// Never better than it was: only all of it is 100 %.
function percent(share, digits = 3) {
  if (share === null || share === undefined) return '–';
  const scale = 10 ** digits;
  return share >= 1 ? '100 %' : `${(Math.floor(share * 100 * scale) / scale).toFixed(digits)} %`;
}

function lossOf(share) {
  if (share === null || share === undefined) return '–';
  if (share <= 0) return '0 %';
  return share < 0.00001 ? '< 0.001 %' : `${(share * 100).toFixed(3)} %`;
}

function clock(seconds) {
  return `${new Date(seconds * 1000).toISOString().slice(11, 16)} UTC`;
}

// The place of a link's past; it is filled by draw().
function past(group, link) {
  const made = element('div', undefined, 'past');
  made.dataset.group = group.name;
  made.dataset.link = link.name;
  const details = element('details');
  details.append(element('summary', `${link.name}, hour by hour`));
  details.addEventListener('toggle', () => { if (details.open) hours(made); });
  made.append(element('h3', `${link.name}, last 24 hours`), element('p'), element('div', undefined, 'charts'), details);
  return made;
}

function watched(step) {
  return step.up_s + step.degraded_s + step.down_s;
}

function words(day) {
  if (!day || !day.observed_s) return 'Not watched yet.';
  const outages = day.outages || day.outage_s
    ? `${day.outages} ${day.outages === 1 ? 'outage' : 'outages'}, ${duration(day.outage_s)} in all, the longest ${duration(day.longest_outage_s)}`
    : 'no outage';
  const failover = day.worst_failover_ms === null ? '' : `, worst failover ${duration(day.worst_failover_ms / 1000)}`;
  const rtt = day.rtt_median_ms === null ? '' : `; round trip ${ms(day.rtt_median_ms)}, 99 of 100 below ${ms(day.rtt_p99_ms)}`;
  return `Answered ${percent(day.availability)} of ${duration(day.observed_s)}: ${outages}${failover}; loss ${lossOf(day.loss)}${rtt}.`;
}

function tip(shaped, text) {
  const title = shape('title', {});
  title.textContent = text;
  shaped.append(title);
  return shaped;
}

// Colour says what height says too: low is answered, middle degraded, tall out, nothing not watched.
function states(steps, place, text) {
  const picture = canvas('chart states', STEPS, 10, text);
  for (const step of steps) {
    const [height, tone] = step.down_s > 0 ? [10, 'bad'] : step.degraded_s > 0 ? [7, 'doubt'] : [4, 'good'];
    const one = column(place(step), height, 10, tone);
    const out = step.down_s > 0 ? `, out for ${duration(step.down_s)}` : '';
    const degraded = step.degraded_s > 0 ? `, degraded for ${duration(step.degraded_s)}` : '';
    picture.append(tip(one, `from ${clock(step.begins_s)}: watched for ${duration(watched(step))}${out}${degraded}`));
  }
  return picture;
}

// The median as a line, in a band from the 10th to the 90th of 100; where nothing was measured there is a gap.
function roundTrips(steps, place, most) {
  const picture = canvas('chart tall rtt', STEPS, 40, `round trip: up to ${ms(most)} for 90 of 100`);
  const y = (value) => 40 - 38 * value / (most || 1);
  const parts = [];
  for (const step of steps) {
    if (step.rtt_median_ms === null) continue;
    const last = parts[parts.length - 1];
    const follows = last && place(step) - place(last[last.length - 1]) === 1;
    if (follows) last.push(step); else parts.push([step]);
  }
  for (const part of parts) {
    // A step is as wide as a column, so that one alone can be seen.
    const line = (of) => part.flatMap((step) => [[place(step), y(step[of])], [place(step) + 0.9, y(step[of])]]);
    const points = (list) => list.map((point) => point.join(',')).join(' ');
    picture.append(
      shape('polygon', { points: points([...line('rtt_p90_ms'), ...line('rtt_p10_ms').reverse()]) }),
      shape('polyline', { points: points(line('rtt_median_ms')) }));
  }
  return picture;
}

function losses(steps, place) {
  const worst = steps.reduce((most, step) => Math.max(most, step.sent ? step.lost / step.sent : 0), 0);
  const picture = canvas('chart loss bad', STEPS, 10, `loss: at most ${lossOf(worst)} in ten minutes`);
  for (const step of steps) {
    const share = step.sent ? step.lost / step.sent : 0;
    if (share > 0) picture.append(tip(column(place(step), Math.max(1, 10 * share), 10), `from ${clock(step.begins_s)}: ${lossOf(share)}`));
  }
  return picture;
}

function charts(steps, nowS, stepS, text) {
  const place = (step) => STEPS - 1 - (nowS - step.begins_s) / stepS;
  const most = steps.reduce((high, step) => Math.max(high, step.rtt_p90_ms || 0), 0);
  const ends = element('div', undefined, 'ends');
  ends.append(element('span', `${clock(nowS - (STEPS - 1) * stepS)} yesterday`), element('span', 'low: answered, middle: degraded, tall: out'), element('span', 'now'));
  const label = (name) => element('span', name);
  const rtt = label('Round trip');
  rtt.append(element('div', `to ${ms(most)}`));
  return [
    label('Answered'), states(steps, place, text), rtt, roundTrips(steps, place, most),
    label('Loss'), losses(steps, place), label(''), ends];
}

// The same as a table, made when somebody wants it.
function hours(made) {
  const byHour = new Map();
  for (const step of made.steps || []) {
    const hour = Math.floor(step.begins_s / HOUR_S);
    byHour.set(hour, [...(byHour.get(hour) || []), step]);
  }
  const table = element('table');
  table.append(element('caption', `${made.dataset.link} of ${made.dataset.group}, hour by hour`, 'hidden'));
  table.append(head(['From', 'Answered', 'Outages', 'Loss', 'RTT']));
  const body = element('tbody');
  for (const [hour, steps] of [...byHour].reverse()) {
    const sum = (of) => steps.reduce((all, step) => all + step[of], 0);
    const seen = steps.reduce((all, step) => all + watched(step), 0);
    const medians = steps.map((step) => step.rtt_median_ms).filter((value) => value !== null).sort((a, b) => a - b);
    const line = element('tr');
    const from = element('th', clock(hour * HOUR_S));
    from.scope = 'row';
    line.append(
      from, element('td', seen ? percent(1 - sum('down_s') / seen) : '–'), element('td', String(sum('outages'))),
      element('td', sum('sent') ? lossOf(sum('lost') / sum('sent')) : '–'),
      element('td', ms(medians.length ? medians[Math.floor(medians.length / 2)] : null)));
    body.append(line);
  }
  table.append(body);
  // The summary stays where it is: the keyboard may be on it.
  const before = made.querySelector('details table');
  if (before) before.remove();
  made.querySelector('details').append(table);
}

function draw(history, groups) {
  const named = (numbers) => Object.fromEntries(history.fields.map((name, index) => [name, numbers[index]]));
  for (const made of document.querySelectorAll('.past')) {
    const group = groups.find((one) => one.name === made.dataset.group);
    const link = group && group.links.find((one) => one.name === made.dataset.link);
    const numbers = ((history.groups[made.dataset.group] || {})[made.dataset.link]) || [];
    const first = history.now_s - (STEPS - 1) * history.step_s;
    made.steps = numbers.map(named).filter((step) => step.begins_s >= first && watched(step) > 0);
    const text = words(link && link.statistics && link.statistics.last_24h);
    made.querySelector('p').textContent = text;
    made.querySelector('.charts').replaceChildren(...charts(made.steps, history.now_s, history.step_s, text));
    if (made.querySelector('details').open) hours(made);
  }
}
