// Unpacks the data: varints in base64 to typed arrays. The order of the values of each list is
// said in html.rs, at the function that packs it. Times are nanoseconds since the start.

/** Reads varints from base64. */
class Varints {
  constructor(base64) {
    const text = atob(base64);
    this.bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) this.bytes[i] = text.charCodeAt(i);
    this.at = 0;
  }
  get more() { return this.at < this.bytes.length; }
  next() {
    let value = 0, scale = 1, byte;
    do {
      byte = this.bytes[this.at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    return value;
  }
}

/** The index of the largest value in a range, in steps that grow with the logarithm. */
class RangeMax {
  constructor(values) {
    this.values = values;
    this.size = 1;
    while (this.size < values.length) this.size *= 2;
    this.tree = new Int32Array(2 * this.size).fill(-1);
    for (let i = 0; i < values.length; i++) this.tree[this.size + i] = i;
    for (let i = this.size - 1; i > 0; i--) this.tree[i] = this.larger(this.tree[2 * i], this.tree[2 * i + 1]);
  }
  larger(a, b) { return b < 0 || (a >= 0 && this.values[a] >= this.values[b]) ? a : b; }
  query(from, to) {
    let best = -1;
    for (let a = from + this.size, b = to + this.size; a < b; a >>= 1, b >>= 1) {
      if (a & 1) best = this.larger(best, this.tree[a++]);
      if (b & 1) best = this.larger(best, this.tree[--b]);
    }
    return best;
  }
}

/** The first index from which on `values` is at least (`above`: more than) `value`. */
function lowerBound(values, value, from = 0, above = false) {
  let low = from, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (above ? values[middle] <= value : values[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

const REASONS = ["waits", "runnable again", "exited", "migrates", "end not recorded"];

function readLane(cpu, number) {
  const lane = { number, gaps: cpu.gaps, covered: cpu.covered, records: cpu.records, inline: cpu.inline, timers: cpu.timers };
  const begin = [], end = [], thread = [], flags = [], queue = [], latency = [];
  let at = 0;
  for (const data = new Varints(cpu.polls); data.more;) {
    begin.push(at += data.next());
    end.push(at += data.next());
    thread.push(data.next());
    flags.push(data.next());
    queue.push(data.next());
    latency.push(data.next() - 1);
  }
  lane.begin = Float64Array.from(begin);
  lane.end = Float64Array.from(end);
  lane.thread = Uint32Array.from(thread);
  lane.flags = Uint8Array.from(flags);
  lane.queue = Uint8Array.from(queue);
  lane.latency = Float64Array.from(latency);
  lane.count = begin.length;
  lane.longest = new RangeMax(Float64Array.from(begin, (time, i) => end[i] - time));
  lane.busy = sums(lane.begin, lane.end);

  const idleBegin = [], idleEnd = [];
  at = 0;
  for (const data = new Varints(cpu.idle); data.more;) {
    idleBegin.push(at += data.next());
    idleEnd.push(at += data.next());
  }
  lane.idle = { begin: Float64Array.from(idleBegin), end: Float64Array.from(idleEnd) };
  lane.idle.sum = sums(lane.idle.begin, lane.idle.end);

  const irqBegin = [], irqEnd = [], line = [], outer = [];
  at = 0;
  for (const data = new Varints(cpu.interrupts); data.more;) {
    irqBegin.push(at += data.next());
    irqEnd.push(at + data.next());
    line.push(data.next());
    outer.push(data.next() === 0);
  }
  lane.irq = { begin: Float64Array.from(irqBegin), end: Float64Array.from(irqEnd), line };
  lane.irq.sum = sums(lane.irq.begin, lane.irq.end);
  lane.irq.total = irqBegin.reduce((sum, time, i) => sum + (outer[i] ? irqEnd[i] - time : 0), 0);

  const depthTime = [], depth = [];
  at = 0;
  for (const data = new Varints(cpu.depth); data.more;) {
    depthTime.push(at += data.next());
    depth.push(data.next());
  }
  lane.depth = { time: Float64Array.from(depthTime), value: Uint32Array.from(depth) };
  // What was recorded last: beyond it nothing is known.
  lane.last = Math.max(lane.end.at(-1) ?? 0, lane.idle.end.at(-1) ?? 0);
  lane.depth.max = new RangeMax(lane.depth.value);
  return lane;
}

/** sums[i] is the length of all spans before i together. */
function sums(begin, end) {
  const result = new Float64Array(begin.length + 1);
  for (let i = 0; i < begin.length; i++) result[i + 1] = result[i] + end[i] - begin[i];
  return result;
}

function readWakes(base64) {
  const list = [];
  let at = 0;
  for (const data = new Varints(base64); data.more;) {
    const time = (at += data.next()), cpu = data.next(), run = time + data.next(), thread = data.next();
    const waker = data.next() - 1, spawn = data.next() === 1, fromCpu = data.next();
    list.push({ kind: "wake", from: cpu, time, to: cpu, end: run, thread, waker, spawn, fromCpu });
  }
  return list;
}

function readIpis(base64) {
  const list = [];
  let at = 0;
  for (const data = new Varints(base64); data.more;) {
    const time = (at += data.next()), from = data.next(), to = data.next(), end = time + data.next();
    list.push({ kind: "ipi", from, time, to, end, doorbell: data.next() === 1 });
  }
  return list;
}

/** Messages as arrows: one to the server, and one from the server's reply back to the caller. */
function readMessages(base64, lanes) {
  const list = [];
  let at = 0;
  for (const data = new Varints(base64); data.more;) {
    const time = (at += data.next()), from = data.next(), to = data.next(), end = time + data.next();
    const replyIn = data.next() - 1, replyCpu = data.next(), caller = data.next() - 1, server = data.next() - 1;
    const message = { kind: "message", from, time, to, end, caller, server, replied: replyIn < 0 ? -1 : end + replyIn };
    list.push(message);
    const lane = lanes[from];
    if (replyIn < 0 || !lane || caller < 0) continue;
    // The reply arrives where the caller runs next.
    const limit = Math.min(lane.count, lowerBound(lane.begin, message.replied) + 200);
    for (let i = lowerBound(lane.begin, message.replied); i < limit; i++) {
      if (lane.thread[i] !== caller) continue;
      list.push({ kind: "message", reply: true, from: replyCpu, time: message.replied, to: from, end: lane.begin[i], caller, server });
      break;
    }
  }
  return list.sort((a, b) => a.time - b.time);
}

/** For each CPU the arrows that leave it and those that reach it, by time. */
function indexArrows(list, cpuCount) {
  const index = { all: list, time: Float64Array.from(list, (arrow) => arrow.time), out: [], into: [] };
  for (let cpu = 0; cpu < cpuCount; cpu++) {
    const out = list.filter((arrow) => arrow.from === cpu);
    const into = list.filter((arrow) => arrow.to === cpu).sort((a, b) => a.end - b.end);
    index.out.push({ list: out, time: Float64Array.from(out, (arrow) => arrow.time) });
    index.into.push({ list: into, time: Float64Array.from(into, (arrow) => arrow.end) });
  }
  return index;
}

const data = JSON.parse(document.getElementById("data").textContent);
const lanes = data.cpus.map(readLane);
const arrows = {
  wake: indexArrows(readWakes(data.wakes), lanes.length),
  ipi: indexArrows(readIpis(data.ipis), lanes.length),
  message: indexArrows(readMessages(data.messages, lanes), lanes.length),
};
const threads = data.threads.map(([name, site, id, cpu, priority, parent]) => ({ name, site, id, cpu, priority, parent }));

/** Threads of one name share a colour and a line in the legend; the busiest come first. */
const groups = (() => {
  const byName = new Map();
  for (const thread of threads) {
    // Threads whose names did not arrive would each be a line of their own.
    const name = thread.site ? thread.name : "(names unknown)";
    let group = byName.get(name);
    if (!group) byName.set(name, group = { name, site: thread.site, run: 0, polls: 0, members: 0, on: true });
    thread.group = group;
    group.members++;
  }
  for (const lane of lanes) {
    for (let i = 0; i < lane.count; i++) {
      const group = threads[lane.thread[i]].group;
      group.run += lane.end[i] - lane.begin[i];
      group.polls++;
    }
  }
  const list = [...byName.values()].sort((a, b) => b.run - a.run || a.name.localeCompare(b.name));
  const hues = [255, 55, 160, 350, 95, 215, 305, 25, 130, 280, 75, 190];
  list.forEach((group, i) => {
    group.hue = i < hues.length ? hues[i] : (i * 137.508) % 360;
    // Later rounds of hues are paler, so that they can be told from the first.
    group.chroma = i < hues.length ? 1 : 0.55;
  });
  return list;
})();

function formatDuration(ns) {
  if (ns < 1000) return `${Math.round(ns)} ns`;
  const [value, unit] = ns < 999500 ? [ns / 1e3, "µs"] : ns < 999.5e6 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
}

/** A moment, precise enough to tell two apart that are `step` ns from each other. */
function formatTime(ns, step) {
  const [scale, unit] = data.duration >= 2e9 ? [1e9, "s"] : [1e6, "ms"];
  const decimals = Math.min(9, Math.max(0, Math.ceil(Math.log10(scale / Math.max(step, 1)) - 1e-9)));
  return `${(ns / scale).toFixed(decimals)} ${unit}`;
}

const formatCount = (count) => count.toLocaleString("en");

/** A new element: tag, properties, children. Text is never parsed as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const byId = (id) => document.getElementById(id);
