// The timeline: what is shown, how it is drawn, and what the pointer and the keys do to it.
// A frame costs about as many steps as the canvas has columns, however many events there are:
// what is narrower than a column is drawn as one column in the colour of its longest poll.

const GUTTER = 76, AXIS = 24, SHORTEST_VIEW = 40;
const LANE = lanes.length <= 5 ? { queue: 17, poll: 38, irq: 6, gap: 15 }
  : lanes.length <= 9 ? { queue: 13, poll: 27, irq: 5, gap: 10 }
  : lanes.length <= 20 ? { queue: 8, poll: 19, irq: 4, gap: 6 } : { queue: 4, poll: 12, irq: 2, gap: 4 };
const LANE_HEIGHT = LANE.queue + LANE.poll + LANE.irq + LANE.gap;
const MOST_ARROWS = 260;

const view = { from: 0, to: Math.max(data.duration, SHORTEST_VIEW) };
let selected = null, hovered = null, dragRange = null, colours = {};
const canvas = byId("timeline"), overview = byId("overview");
let width = 0, height = 0, overviewPicture = null, frameAsked = false;

const scaleX = () => (width - GUTTER) / (view.to - view.from);
const xOf = (time) => GUTTER + (time - view.from) * scaleX();
const timeAt = (x) => view.from + (x - GUTTER) / scaleX();
const laneTop = (lane) => AXIS + lane * LANE_HEIGHT;
const pollTop = (lane) => laneTop(lane) + LANE.queue + 2;

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["card", "ink", "quiet", "faint", "lane", "idle", "grid", "depth", "irq", "wake", "ipi", "message", "ring", "warn", "warn-back", "accent", "thread-ink", "muted", "edge"];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  const lightness = Number(style.getPropertyValue("--thread-l")), chroma = Number(style.getPropertyValue("--thread-c"));
  for (const group of groups) group.colour = `oklch(${lightness} ${chroma * group.chroma} ${group.hue})`;
  overviewPicture = null;
}

function resize() {
  const ratio = devicePixelRatio || 1;
  width = canvas.clientWidth;
  height = AXIS + lanes.length * LANE_HEIGHT + 2;
  for (const [element, tall] of [[canvas, height], [overview, 44]]) {
    element.width = Math.round(element.clientWidth * ratio);
    element.height = Math.round(tall * ratio);
    element.style.height = `${tall}px`;
    element.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }
  overviewPicture = null;
  redraw();
}

function redraw() {
  if (frameAsked) return;
  frameAsked = true;
  requestAnimationFrame(() => { frameAsked = false; draw(); });
}

function draw() {
  const began = performance.now();
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  drawAxis(context);
  context.save();
  context.beginPath();
  context.rect(GUTTER, 0, width - GUTTER, height);
  context.clip();
  let drawn = 0;
  for (const lane of lanes) drawn += drawLane(context, lane);
  drawNotes(context);
  const hidden = drawArrows(context);
  drawMark(context, hovered, 1.5);
  drawMark(context, selected, 2.5);
  if (dragRange) {
    context.fillStyle = colours.accent;
    context.globalAlpha = 0.18;
    const [a, b] = [xOf(dragRange[0]), xOf(dragRange[1])];
    context.fillRect(Math.min(a, b), 0, Math.abs(b - a), height);
    context.globalAlpha = 1;
  }
  context.restore();
  drawLabels(context);
  drawOverview();
  showRange(hidden);
  // A browser test reads these: polls that are on the canvas, and what the frame cost.
  document.documentElement.dataset.drawn = String(drawn);
  document.documentElement.dataset.frameMs = (performance.now() - began).toFixed(1);
}

function drawAxis(context) {
  const span = view.to - view.from;
  const rough = span / Math.max(2, (width - GUTTER) / 120);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (let time = Math.ceil(view.from / step) * step; time <= view.to; time += step) {
    const x = Math.round(xOf(time)) + 0.5;
    context.fillStyle = colours.grid;
    context.fillRect(x - 0.5, AXIS - 6, 1, height);
    context.fillStyle = colours.quiet;
    if (x < width - 60) context.fillText(formatTime(time, step), x + 4, AXIS / 2 - 2);
  }
}

/** Calls `one(i, x0, x1)` for spans wider than a column and `many(i, j, x)` for those within one. */
function eachColumn(begin, end, one, many) {
  const scale = scaleX();
  let i = lowerBound(end, view.from, 0, true);
  while (i < begin.length && begin[i] < view.to) {
    const x0 = xOf(begin[i]), x1 = xOf(end[i]);
    if (x1 - x0 >= 1.2) {
      one(i, Math.max(x0, GUTTER - 2), Math.min(x1, width + 2));
      i++;
    } else {
      const x = Math.floor(x0);
      const columnEnd = view.from + (x + 1 - GUTTER) / scale;
      let j = i + 1;
      if (j < begin.length && begin[j] < columnEnd) j = lowerBound(begin, columnEnd, j);
      many(i, j, x);
      i = j;
    }
  }
}

function drawLane(context, lane) {
  const top = laneTop(lane.number), y = pollTop(lane.number), tall = LANE.poll;
  context.fillStyle = colours.lane;
  context.fillRect(GUTTER, y, width - GUTTER, tall);
  drawQueue(context, lane, top);
  context.fillStyle = colours.idle;
  const idle = lane.idle, scale = scaleX();
  eachColumn(idle.begin, idle.end,
    (i, x0, x1) => context.fillRect(x0, y + tall * 0.36, x1 - x0, tall * 0.28),
    (i, j, x) => { context.globalAlpha = Math.min(1, (idle.sum[j] - idle.sum[i]) * scale); context.fillRect(x, y + tall * 0.36, 1, tall * 0.28); });
  context.globalAlpha = 1;

  let drawn = 0;
  const labels = [];
  eachColumn(lane.begin, lane.end, (i, x0, x1) => {
    const group = threads[lane.thread[i]].group;
    context.fillStyle = group.on ? group.colour : colours.muted;
    const wide = x1 - x0;
    if (wide > 5) {
      context.beginPath();
      context.roundRect(x0 + 0.5, y, wide - 1, tall, Math.min(4, wide / 4));
      context.fill();
      if (wide > 34 && tall > 14) labels.push([i, x0, wide]);
    } else {
      context.fillRect(x0, y, Math.max(1, wide - 0.4), tall);
    }
    drawn++;
  }, (i, j, x) => {
    const busy = Math.min(1, (lane.busy[j] - lane.busy[i]) * scale);
    const group = threads[lane.thread[j - i === 1 ? i : lane.longest.query(i, j)]].group;
    context.fillStyle = group.on ? group.colour : colours.muted;
    // A single short poll must stay visible: never below a third.
    context.globalAlpha = 0.34 + 0.66 * busy;
    context.fillRect(x, y, 1, tall);
    context.globalAlpha = 1;
    drawn += j - i;
  });
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const [i, x, wide] of labels) drawSliceLabel(context, threads[lane.thread[i]], lane.end[i] - lane.begin[i], x, wide, y + tall / 2);

  context.fillStyle = colours.irq;
  const irqTop = y + tall + 1;
  eachColumn(lane.irq.begin, lane.irq.end,
    (i, x0, x1) => context.fillRect(x0, irqTop, x1 - x0, LANE.irq),
    (i, j, x) => { context.globalAlpha = Math.min(1, 0.12 + (lane.irq.sum[j] - lane.irq.sum[i]) * scale); context.fillRect(x, irqTop, 1, LANE.irq); });
  context.globalAlpha = 1;
  for (const [from, to, lost] of lane.gaps) drawGap(context, from, to, lost, y, tall);
  return drawn;
}

function drawSliceLabel(context, thread, duration, x, wide, y) {
  const shown = Math.max(x, GUTTER), room = wide - (shown - x) - 10;
  if (room < 22) return;
  context.fillStyle = thread.group.on ? colours["thread-ink"] : colours.quiet;
  let text = thread.name;
  const full = `${text}  ${formatDuration(duration)}`;
  if (context.measureText(full).width <= room) text = full;
  else if (context.measureText(text).width > room) {
    text = text.slice(0, Math.floor((room - 6) / 6));
    if (text.length < 2) return;
    text += "…";
  }
  context.fillText(text, shown + 5, y + 0.5);
}

function drawQueue(context, lane, top) {
  const { time, value, max } = lane.depth;
  if (!time.length) return;
  const deepest = Math.max(4, value[max.query(0, time.length)]);
  const heightOf = (depth) => (LANE.queue - 1) * Math.min(1, depth / deepest);
  const base = top + LANE.queue;
  context.fillStyle = colours.depth;
  let i = Math.max(0, lowerBound(time, view.from, 0, true) - 1);
  const scale = scaleX();
  while (i < time.length && time[i] < view.to) {
    const x0 = xOf(time[i]), next = i + 1 < time.length ? time[i + 1] : Math.max(time[i], lane.last), x1 = xOf(next);
    let depth = value[i], right = x1, j = i + 1;
    if (x1 - x0 < 1) {
      const columnEnd = view.from + (Math.floor(x0) + 1 - GUTTER) / scale;
      j = lowerBound(time, columnEnd, i + 1);
      depth = value[max.query(i, j)];
      right = Math.floor(x0) + 1;
    }
    const tall = heightOf(depth);
    if (tall > 0) context.fillRect(Math.max(x0, GUTTER), base - tall, Math.max(1, right - Math.max(x0, GUTTER)), tall);
    i = j;
  }
}

function drawGap(context, from, to, lost, y, tall) {
  if (to < view.from || from > view.to) return;
  const x0 = Math.max(GUTTER, xOf(from)), x1 = Math.max(x0 + 3, Math.min(width, xOf(to)));
  context.save();
  context.beginPath();
  context.rect(x0, y - 1, x1 - x0, tall + 2);
  context.clip();
  context.fillStyle = colours["warn-back"];
  context.fillRect(x0, y - 1, x1 - x0, tall + 2);
  context.strokeStyle = colours.warn;
  context.lineWidth = 1;
  context.globalAlpha = 0.55;
  context.beginPath();
  for (let x = x0 - tall; x < x1; x += 6) { context.moveTo(x, y + tall + 1); context.lineTo(x + tall + 2, y - 1); }
  context.stroke();
  context.globalAlpha = 1;
  if (x1 - x0 > 70) {
    const text = `${formatCount(lost)} lost`;
    const wide = context.measureText(text).width + 10;
    context.fillStyle = colours["warn-back"];
    context.fillRect((x0 + x1 - wide) / 2, y + 4, wide, tall - 8);
    context.fillStyle = colours.warn;
    context.textAlign = "center";
    context.fillText(text, (x0 + x1) / 2, y + tall / 2);
  }
  context.restore();
}

function drawNotes(context) {
  let lastX = -10, lastCpu = -1;
  for (const [cpu, time, , text] of data.notes) {
    context.fillStyle = text.startsWith("watchdog") ? colours.irq : colours.faint;
    const x = xOf(time);
    if (x < GUTTER || x > width || (cpu === lastCpu && x - lastX < 2)) continue;
    const crowded = cpu === lastCpu && x - lastX < 14;
    [lastX, lastCpu] = [x, cpu];
    const y = pollTop(cpu);
    if (crowded) { context.fillRect(x, y - 3, 1, 3); continue; }
    context.beginPath();
    context.moveTo(x - 3.5, y - 5);
    context.lineTo(x + 3.5, y - 5);
    context.lineTo(x, y + 1);
    context.fill();
  }
}

/** The arrows that start or end in a poll. */
function arrowsOf(poll) {
  const { lane, index } = poll, from = lanes[lane].begin[index], to = lanes[lane].end[index];
  const found = [];
  for (const kind of ["wake", "ipi", "message"]) {
    if (!byId(`show-${kind}`).checked) continue;
    for (const side of [arrows[kind].out[lane], arrows[kind].into[lane]]) {
      for (let i = lowerBound(side.time, from); i < side.list.length && side.time[i] <= to && found.length < 400; i++) {
        const arrow = side.list[i];
        // A wake that is answered at this begin belongs here only if it is for this thread.
        if (kind === "wake" && side === arrows[kind].into[lane] && arrow.thread !== lanes[lane].thread[index]) continue;
        if (!found.includes(arrow)) found.push(arrow);
      }
    }
  }
  return found;
}

/** Draws the arrows in view, faintly, and those of the poll in focus; returns how many are hidden. */
function drawArrows(context) {
  const focus = hovered?.index !== undefined ? hovered : selected;
  let hidden = 0;
  if (!focus || focus.index === undefined) {
    for (const kind of ["wake", "ipi", "message"]) {
      if (!byId(`show-${kind}`).checked) continue;
      const index = arrows[kind];
      const from = lowerBound(index.time, view.from), to = lowerBound(index.time, view.to);
      if (to - from > MOST_ARROWS) { hidden += to - from; continue; }
      for (let i = from; i < to; i++) drawArrow(context, index.all[i], 0.5);
    }
    return hidden;
  }
  for (const arrow of arrowsOf(focus)) drawArrow(context, arrow, 1);
  return 0;
}

function drawArrow(context, arrow, alpha) {
  const middle = LANE.poll / 2;
  const x0 = xOf(arrow.time), x1 = xOf(arrow.end);
  if (Math.max(x0, x1) < GUTTER || Math.min(x0, x1) > width) return;
  const down = arrow.to > arrow.from ? 1 : arrow.to < arrow.from ? -1 : 0;
  // Arrows between CPUs leave at the facing edge; those within one CPU bow out over it.
  const y0 = pollTop(arrow.from) + middle + down * middle * 0.7, y1 = pollTop(arrow.to) + middle - down * middle * 0.7;
  context.globalAlpha = alpha;
  context.strokeStyle = context.fillStyle = colours[arrow.kind];
  context.lineWidth = alpha > 0.9 ? 1.8 : 1.2;
  context.setLineDash(arrow.kind === "ipi" && !arrow.doorbell ? [4, 3] : []);
  context.beginPath();
  context.moveTo(x0, y0);
  let angle;
  if (down === 0) {
    const bow = Math.min(LANE.poll * 0.9, 9 + Math.abs(x1 - x0) / 6);
    const top = y0 - middle - bow / 2;
    context.bezierCurveTo(x0, top, x1, top, x1, y1 - middle * 0.4);
    angle = Math.PI / 2;
    context.stroke();
    arrowHead(context, x1, y1 - middle * 0.4, angle);
  } else {
    const reach = Math.max(10, Math.min(60, Math.abs(x1 - x0) / 2)), lift = (y1 - y0) * 0.45;
    context.bezierCurveTo(x0 + reach * 0.3, y0 + lift, x1 - reach, y1 - lift * 0.3, x1, y1);
    angle = Math.atan2(lift * 0.3, reach);
    context.stroke();
    arrowHead(context, x1, y1, angle);
  }
  context.setLineDash([]);
  context.beginPath();
  context.arc(x0, y0, 2, 0, 7);
  context.fill();
  context.globalAlpha = 1;
}

function arrowHead(context, x, y, angle) {
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x - 7 * Math.cos(angle - 0.42), y - 7 * Math.sin(angle - 0.42));
  context.lineTo(x - 7 * Math.cos(angle + 0.42), y - 7 * Math.sin(angle + 0.42));
  context.fill();
}

function drawMark(context, poll, line) {
  if (!poll || poll.index === undefined) return;
  const lane = lanes[poll.lane];
  const x0 = Math.max(xOf(lane.begin[poll.index]), GUTTER - 4), x1 = Math.min(xOf(lane.end[poll.index]), width + 4);
  context.strokeStyle = colours.ring;
  context.lineWidth = line;
  context.beginPath();
  context.roundRect(x0 - 0.5, pollTop(poll.lane) - 1, Math.max(3, x1 - x0 + 1), LANE.poll + 2, 4);
  context.stroke();
}

/** How much of the shown time a CPU ran threads. */
function shareInView(lane) {
  const i = lowerBound(lane.end, view.from, 0, true), j = lowerBound(lane.begin, view.to);
  if (j <= i) return 0;
  let busy = lane.busy[j] - lane.busy[i];
  busy -= Math.max(0, view.from - lane.begin[i]) + Math.max(0, lane.end[j - 1] - view.to);
  const from = Math.max(0, view.from), to = Math.min(data.duration, view.to);
  return to > from ? Math.min(1, busy / (to - from)) : 0;
}

function drawLabels(context) {
  context.fillStyle = colours.card;
  context.fillRect(0, 0, GUTTER, height);
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const lane of lanes) {
    const y = pollTop(lane.number) + LANE.poll / 2;
    context.fillStyle = colours.ink;
    context.font = `${LANE.poll > 16 ? "600 12px" : "10px"} system-ui, sans-serif`;
    context.fillText(`cpu${lane.number}`, 4, y);
    context.fillStyle = colours.quiet;
    context.font = `${LANE.poll > 16 ? "11px" : "9px"} system-ui, sans-serif`;
    context.textAlign = "right";
    context.fillText(`${Math.round(100 * shareInView(lane))} %`, GUTTER - 8, y);
    context.textAlign = "left";
    if (LANE.queue > 10) {
      context.fillStyle = colours.faint;
      context.font = "9px system-ui, sans-serif";
      context.fillText("queue", 4, laneTop(lane.number) + LANE.queue / 2 + 2);
    }
  }
}

/** The whole trace, one strip per CPU, drawn once; over it the frame of what is shown. */
function drawOverview() {
  const context = overview.getContext("2d"), wide = overview.clientWidth, tall = 44;
  if (!overviewPicture) {
    overviewPicture = document.createElement("canvas");
    overviewPicture.width = overview.width;
    overviewPicture.height = overview.height;
    const picture = overviewPicture.getContext("2d");
    const ratio = overview.width / Math.max(1, wide);
    picture.setTransform(ratio, 0, 0, ratio, 0, 0);
    const strip = (tall - 6) / Math.max(1, lanes.length), perColumn = data.duration / Math.max(1, wide - GUTTER);
    for (const lane of lanes) {
      for (let x = 0; x < wide - GUTTER; x++) {
        const i = lowerBound(lane.end, x * perColumn, 0, true), j = lowerBound(lane.begin, (x + 1) * perColumn, i);
        if (j <= i) continue;
        const group = threads[lane.thread[lane.longest.query(i, j)]].group;
        picture.fillStyle = group.colour;
        picture.globalAlpha = 0.25 + 0.75 * Math.min(1, (lane.busy[j] - lane.busy[i]) / perColumn);
        picture.fillRect(GUTTER + x, 3 + lane.number * strip, 1, Math.max(0.6, strip - (strip > 4 ? 1 : 0)));
      }
      picture.globalAlpha = 1;
      picture.fillStyle = colours.warn;
      for (const [from, to] of lane.gaps) picture.fillRect(GUTTER + from / perColumn, 3 + lane.number * strip, Math.max(2, (to - from) / perColumn), strip);
    }
  }
  context.clearRect(0, 0, wide, tall);
  context.drawImage(overviewPicture, 0, 0, wide, tall);
  const scale = (wide - GUTTER) / Math.max(1, data.duration);
  const x0 = Math.max(GUTTER, GUTTER + view.from * scale), x1 = Math.min(wide, GUTTER + view.to * scale);
  context.fillStyle = colours.card;
  context.globalAlpha = 0.72;
  context.fillRect(GUTTER, 0, x0 - GUTTER, tall);
  context.fillRect(x1, 0, wide - x1, tall);
  context.globalAlpha = 1;
  context.strokeStyle = colours.accent;
  context.lineWidth = 2;
  context.strokeRect(x0 + 1, 1, Math.max(4, x1 - x0 - 2), tall - 2);
  context.fillStyle = colours.quiet;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.fillText("all", 4, tall / 2);
}

/** The poll under a point of the canvas, or the lane, or null. */
function hit(x, y) {
  const number = Math.floor((y - AXIS) / LANE_HEIGHT);
  const lane = lanes[number];
  if (!lane || x < GUTTER) return null;
  const time = timeAt(x), near = 2.5 / scaleX();
  if (y >= pollTop(number) + LANE.poll + 1) {
    const i = lowerBound(lane.irq.end, time - near);
    if (i < lane.irq.begin.length && lane.irq.begin[i] <= time + near) return { lane: number, irq: i };
  }
  const gap = lane.gaps.find(([from, to]) => from - near <= time && time <= to + near);
  if (gap) return { lane: number, gap };
  let i = lowerBound(lane.end, time - near);
  const j = lowerBound(lane.begin, time + near);
  if (i >= j) return { lane: number, time };
  // Of those near the pointer, the one under it, else the longest.
  const under = lowerBound(lane.end, time, i, true);
  if (under < j && lane.begin[under] <= time) i = under; else i = lane.longest.query(i, j);
  return { lane: number, index: i };
}
