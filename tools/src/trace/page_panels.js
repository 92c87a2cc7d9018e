// Everything around the timeline: facts, banner, legend, tooltip, tables, histograms.

const swatch = (group) => make("span", { className: "swatch", style: `background:${group.colour}` });
const cell = (text, className = "") => make("td", { className }, text);
const head = (...names) => make("thead", {}, make("tr", {}, ...names.map((name) => {
  const numeric = name.startsWith("#");
  return make("th", { scope: "col", className: numeric ? "number" : "" }, numeric ? name.slice(1) : name);
})));

function showFacts() {
  const host = data.host || "a machine";
  document.title = `Anax trace: ${host}`;
  const facts = [[host, ""], [formatDuration(data.duration), "recorded"], [String(lanes.length), lanes.length === 1 ? "CPU" : "CPUs"], [formatCount(data.records), "records"], [formatCount(threads.length), "threads"]];
  byId("facts").replaceChildren(...facts.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

/** What is missing is said before anything else. */
function showLosses() {
  const parts = [];
  if (data.lost > 0) {
    const where = lanes.filter((lane) => lane.gaps.length).map((lane) => `cpu${lane.number}`).join(", ");
    const total = data.lost + data.records;
    parts.push(make("b", {}, `${formatCount(data.lost)} records lost`), ` of ${formatCount(total)} (${(100 * data.lost / total).toFixed(1)} %), on ${where}; hatched below. `);
  }
  for (const [what, count] of Object.entries(data.damage)) if (count > 0) parts.push(`${formatCount(count)} ${what}. `);
  if (!data.complete) parts.push("The stream has no end mark: it was cut off.");
  byId("lost").replaceChildren(...parts);
  byId("lost").hidden = parts.length === 0;
}

function showThreads() {
  const wanted = byId("search").value.trim().toLowerCase();
  const total = groups.reduce((sum, group) => sum + group.run, 0) || 1;
  const items = groups.filter((group) => group.name.toLowerCase().includes(wanted)).map((group) => {
    const box = make("input", { type: "checkbox", checked: group.on });
    box.setAttribute("aria-label", `Show ${group.name}`);
    box.addEventListener("change", () => { group.on = box.checked; filterChanged(); });
    const name = make("button", { type: "button", className: "name", title: `${group.name}: ${formatCount(group.polls)} polls, ${formatDuration(group.run)}. Click to show it alone.` }, group.name);
    name.addEventListener("click", () => {
      const alone = group.on && groups.every((other) => other === group || !other.on);
      groups.forEach((other) => { other.on = alone || other === group; });
      filterChanged();
    });
    const many = group.members > 1 ? `×${formatCount(group.members)}  ` : "";
    return make("li", { className: group.on ? "" : "off" }, box, swatch(group), name, make("span", { className: "share" }, `${many}${(100 * group.run / total).toFixed(1)} %`));
  });
  byId("threads").replaceChildren(...items);
}

function filterChanged() {
  showThreads();
  showHistograms();
  showLongest();
  redraw();
}

function facts(poll) {
  const lane = lanes[poll.lane], i = poll.index, thread = threads[lane.thread[i]];
  const cut = (lane.flags[i] & 8) !== 0;
  const into = arrows.wake.into[poll.lane];
  let wake = null;
  for (let k = lowerBound(into.time, lane.begin[i]); k < into.list.length && into.time[k] === lane.begin[i]; k++) {
    if (into.list[k].thread === lane.thread[i]) wake = into.list[k];
  }
  const list = [["on", `cpu${poll.lane}, at ${formatTime(lane.begin[i], 10)}`], ["ran", `${cut ? "at least " : ""}${formatDuration(lane.end[i] - lane.begin[i])}, then ${REASONS[lane.flags[i] & 7]}`]];
  if (lane.latency[i] >= 0) list.push(["waited", `${formatDuration(lane.latency[i])} to run`]);
  if (wake) {
    const by = wake.waker >= 0 ? threads[wake.waker].name : "an interrupt, a timer or a message";
    list.push([wake.spawn ? "spawned by" : "woken by", `${by}${wake.fromCpu !== poll.lane ? ` on cpu${wake.fromCpu}` : ""}`]);
  }
  list.push(["queue", `${lane.queue[i]} behind it`]);
  return { thread, list };
}

function showTip(x, y, target) {
  const tip = byId("tip");
  if (!target || target.time !== undefined) { tip.hidden = true; return; }
  const lane = lanes[target.lane];
  if (target.irq !== undefined) {
    const length = lane.irq.end[target.irq] - lane.irq.begin[target.irq];
    tip.replaceChildren(make("div", { className: "name" }, `Interrupt, line ${lane.irq.line[target.irq]}`), `${formatDuration(length)} on cpu${target.lane}`);
  } else if (target.gap) {
    tip.replaceChildren(make("div", { className: "name" }, `${formatCount(target.gap[2])} records lost`), `${formatCount(target.gap[3])} overwritten in the ring, ${formatCount(target.gap[2] - target.gap[3])} lost on the way`);
  } else {
    const { thread, list } = facts(target);
    const lines = list.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
    tip.replaceChildren(make("div", { className: "name" }, swatch(thread.group), `${thread.name} #${thread.id}`), make("div", { className: "site" }, thread.site), make("dl", {}, ...lines));
  }
  tip.hidden = false;
  const box = canvas.parentElement.parentElement.getBoundingClientRect();
  const left = x + 16 + tip.offsetWidth > box.width ? x - tip.offsetWidth - 12 : x + 16;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${y + 18}px`;
}

function showSelection() {
  const place = byId("selection");
  if (!selected) {
    place.replaceChildren("Click a poll to follow its arrows. The wheel zooms, dragging moves.");
    return;
  }
  const { thread, list } = facts(selected);
  const items = list.map(([name, value]) => make("span", { className: "what" }, name, make("em", {}, value)));
  const counts = arrowsOf(selected).reduce((sum, arrow) => ({ ...sum, [arrow.kind]: (sum[arrow.kind] || 0) + 1 }), {});
  const named = Object.entries(counts).map(([kind, count]) => `${count} ${kind === "ipi" ? "IPI" : kind}${count > 1 ? "s" : ""}`);
  if (named.length) items.push(make("span", { className: "what" }, "arrows", make("em", {}, named.join(", "))));
  place.replaceChildren(make("b", {}, swatch(thread.group), `${thread.name} #${thread.id}`), make("span", { className: "site" }, thread.site), ...items);
}

function showRange(hidden) {
  const span = view.to - view.from;
  const note = hidden > 0 ? `; zoom in for ${formatCount(hidden)} arrows` : "";
  byId("range").replaceChildren(make("b", {}, formatDuration(span)), ` from ${formatTime(Math.max(0, view.from), span / 100)}${note}`);
}

function showLongest() {
  const all = [];
  for (const lane of lanes) {
    for (let i = 0; i < lane.count; i++) {
      const length = lane.end[i] - lane.begin[i];
      if (threads[lane.thread[i]].group.on && (all.length < 10 || length > all[9].length)) {
        all.push({ lane: lane.number, index: i, length });
        all.sort((a, b) => b.length - a.length);
        all.length = Math.min(all.length, 10);
      }
    }
  }
  const rows = all.map((poll) => {
    const lane = lanes[poll.lane], thread = threads[lane.thread[poll.index]];
    const button = make("button", { type: "button" }, swatch(thread.group), `${thread.name} #${thread.id}`);
    button.setAttribute("aria-label", `Zoom to ${thread.name}, ${formatDuration(poll.length)}`);
    const meter = make("td", { className: "meter" }, make("i", { style: `width:${Math.max(1, 100 * poll.length / all[0].length)}%;background:${thread.group.colour}` }));
    const row = make("tr", {}, cell((lane.flags[poll.index] & 8 ? "> " : "") + formatDuration(poll.length), "number"), meter, make("td", {}, button), cell(`cpu${poll.lane}`), cell(formatTime(lane.begin[poll.index], 1000), "number"), cell(thread.site, "site site-cell"));
    row.addEventListener("click", () => goTo(poll));
    return row;
  });
  byId("longest").replaceChildren(make("table", {}, head("#ran", "", "thread", "CPU", "#at", "spawned at"), make("tbody", {}, ...rows)));
}

function showMatrix() {
  const size = data.matrix.length, dense = size > 10;
  const sent = data.matrix.flat().reduce((sum, pair) => sum + pair[0], 0), rung = data.matrix.flat().reduce((sum, pair) => sum + pair[1], 0);
  byId("matrix-note").textContent = sent ? `${formatCount(sent)} sent, ${formatCount(rung)} doorbells rung: ${(100 * (sent - rung) / sent).toFixed(1)} % saved. Rows send, columns receive.` : "None were recorded.";
  if (!sent) return;
  const most = Math.max(...data.matrix.flat().map((pair) => pair[0]));
  const rows = data.matrix.map((row, from) => make("tr", {}, make("th", { scope: "row" }, dense ? `${from}` : `cpu${from}`), ...row.map(([count, bells], to) => {
    const title = `cpu${from} to cpu${to}: ${formatCount(count)} messages, ${formatCount(bells)} doorbells, ${formatCount(count - bells)} saved`;
    if (!count) return make("td", { className: "none", title }, dense ? "" : "·");
    const share = Math.round(6 + 46 * count / most);
    const element = make("td", { title, style: `background:color-mix(in oklab, var(--ipi) ${share}%, var(--card))` });
    if (!dense) element.append(formatCount(count), make("small", {}, `${formatCount(bells)} rung`));
    element.setAttribute("aria-label", title);
    return element;
  })));
  const top = make("thead", {}, make("tr", {}, make("td", { className: "none", style: "background:none" }), ...data.matrix.map((_, to) => make("th", { scope: "col" }, dense ? `${to}` : `→ cpu${to}`))));
  byId("matrix").className = dense ? "scroll dense" : "scroll";
  byId("matrix").replaceChildren(make("table", {}, top, make("tbody", {}, ...rows)));
}

const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Edges at 1, 2 and 5 times a power of ten, as in histogram.rs. */
const EDGES = Array.from({ length: 40 }, (_, i) => [1, 2, 5][i % 3] * 10 ** (2 + Math.floor(i / 3)));

function showHistogram(id, values, what) {
  const figure = byId(id);
  if (!values.length) { figure.replaceChildren(make("p", { className: "note" }, "Nothing to show.")); return; }
  const sorted = Float64Array.from(values).sort();
  const at = (percent) => sorted[Math.floor((sorted.length - 1) * percent / 100)];
  const first = Math.max(0, lowerBound(EDGES, sorted[0], 0, true) - 1), last = lowerBound(EDGES, sorted[sorted.length - 1], 0, true);
  const buckets = [];
  for (let k = first; k <= last; k++) {
    const from = k === 0 || k === first ? 0 : EDGES[k - 1], to = EDGES[k];
    buckets.push({ from: k === 0 ? 0 : EDGES[k - 1], to, count: lowerBound(sorted, to) - lowerBound(sorted, from) });
  }
  const wide = 460, tall = 190, base = tall - 24, top = 32, step = wide / buckets.length;
  const most = Math.max(...buckets.map((bucket) => bucket.count));
  const svg = shape("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img" });
  const summary = `${formatCount(sorted.length)} ${what}: median ${formatDuration(at(50))}, 99 % within ${formatDuration(at(99))}, longest ${formatDuration(sorted[sorted.length - 1])}`;
  svg.setAttribute("aria-label", summary);
  buckets.forEach((bucket, k) => {
    const high = bucket.count ? Math.max(1.5, (base - top) * bucket.count / most) : 0;
    const bar = shape("rect", { class: "bar-fill", x: k * step + 1.5, y: base - high, width: step - 3, height: high, rx: 2.5 });
    bar.append(shape("title", {}, `${formatDuration(bucket.from)} to ${formatDuration(bucket.to)}: ${formatCount(bucket.count)}`));
    svg.append(bar);
    const short = bucket.count >= 10000 ? `${Math.round(bucket.count / 1000)}k` : String(bucket.count);
    if (bucket.count) svg.append(shape("text", { class: "value", x: (k + 0.5) * step, y: base - high - 4, "text-anchor": "middle" }, short));
    const label = bucket.from === 0 ? "0" : formatDuration(bucket.from).replace(/\.0+(?= )/, "");
    if (buckets.length <= 8 || k % Math.ceil(buckets.length / 8) === 0) svg.append(shape("text", { x: k * step, y: base + 15, "text-anchor": k === 0 ? "start" : "middle" }, label));
  });
  svg.append(shape("line", { class: "axis", x1: 0, x2: wide, y1: base + 0.5, y2: base + 0.5 }));
  for (const [percent, name] of [[50, "median"], [99, "99 %"]]) {
    const value = at(percent), k = buckets.findIndex((bucket) => value < bucket.to), bucket = buckets[k];
    const low = Math.max(bucket.from, bucket.to / 2.5), share = Math.min(1, Math.max(0, Math.log(Math.max(value, low) / low) / Math.log(bucket.to / low)));
    const x = (k + share) * step;
    svg.append(shape("line", { class: "mark", x1: x, x2: x, y1: 12, y2: base }), shape("text", { class: "mark-text", x: x + (x > wide - 60 ? -4 : 4), y: 12, "text-anchor": x > wide - 60 ? "end" : "start" }, name));
  }
  const caption = make("figcaption", {}, make("b", {}, formatCount(sorted.length)), ` ${what}; median `, make("b", {}, formatDuration(at(50))), ", 90 % ", make("b", {}, formatDuration(at(90))), ", 99 % ", make("b", {}, formatDuration(at(99))), ", longest ", make("b", {}, formatDuration(sorted[sorted.length - 1])));
  figure.replaceChildren(svg, caption);
}

/** Both follow the filter of the legend. Polls without both ends do not count. */
function showHistograms() {
  const runs = [], waits = [];
  for (const lane of lanes) {
    for (let i = 0; i < lane.count; i++) {
      if (!threads[lane.thread[i]].group.on) continue;
      if (!(lane.flags[i] & 8)) runs.push(lane.end[i] - lane.begin[i]);
      if (lane.latency[i] >= 0) waits.push(lane.latency[i]);
    }
  }
  showHistogram("run-times", runs, "polls");
  showHistogram("latencies", waits, "wakes");
}

function showCpus() {
  const rows = lanes.map((lane) => {
    const covered = lane.covered || 1, run = lane.busy[lane.count], idle = lane.idle.sum[lane.idle.begin.length];
    const percent = (ns) => `${(100 * ns / covered).toFixed(1)} %`;
    const rest = Math.max(0, covered - run - idle);
    const stack = make("div", { className: "stack", title: `threads ${percent(run)}, asleep ${percent(idle)}, the executor itself ${percent(rest)}` }, make("i", { className: "run", style: `width:${100 * run / covered}%` }), make("i", { className: "rest", style: `width:${100 * rest / covered}%` }));
    const lost = lane.gaps.reduce((sum, gap) => sum + gap[2], 0);
    return make("tr", {}, make("th", { scope: "row" }, `cpu${lane.number}`), make("td", {}, stack), cell(percent(run), "number"), cell(percent(idle), "number"), cell(percent(lane.irq.total), "number"), cell(formatCount(lane.count), "number"), cell(formatCount(lost), "number"));
  });
  byId("cpus").replaceChildren(make("table", {}, head("", "", "#run", "#idle", "#irq", "#polls", "#lost"), make("tbody", {}, ...rows)));
}

function showTokens() {
  const used = data.tokens.filter(([, taken, contended]) => taken + contended > 0);
  byId("tokens-card").hidden = used.length === 0;
  const rows = used.map(([name, taken, contended, waited, longest]) => make("tr", {}, cell(name), cell(formatCount(taken), "number"), cell(formatCount(contended), "number"), cell(formatDuration(waited), "number"), cell(formatDuration(longest), "number")));
  byId("tokens").replaceChildren(make("table", {}, head("token", "#taken", "#contended", "#waited in all", "#longest wait"), make("tbody", {}, ...rows)));
}
