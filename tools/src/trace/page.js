// Start, and what pointer and keys do. The view is kept in the address (#at=from-to, in ns), so
// that a moment can be sent to someone; theme=dark and poll=cpu.index may stand there too.

const address = new URLSearchParams(location.hash.slice(1));

function setView(from, to) {
  const longest = Math.max(data.duration * 1.04, SHORTEST_VIEW);
  const span = Math.min(Math.max(to - from, SHORTEST_VIEW), longest);
  const middle = (from + to) / 2, slack = Math.max(span * 0.5, data.duration * 0.02);
  const clamped = Math.min(Math.max(middle, span / 2 - slack), Math.max(data.duration - span / 2 + slack, span / 2 - slack));
  view.from = clamped - span / 2;
  view.to = clamped + span / 2;
  redraw();
  clearTimeout(setView.timer);
  setView.timer = setTimeout(() => {
    address.set("at", `${Math.round(view.from)}-${Math.round(view.to)}`);
    try { history.replaceState(null, "", `#${address}`); } catch { /* some browsers forbid it for files */ }
  }, 300);
}

/** Goes there in a few steps, at once where motion is unwelcome. */
function glideTo(from, to) {
  cancelAnimationFrame(glideTo.frame);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) { setView(from, to); return; }
  const start = performance.now(), before = { ...view };
  const step = (now) => {
    const share = Math.min(1, (now - start) / 180), ease = 1 - (1 - share) ** 3;
    setView(before.from + (from - before.from) * ease, before.to + (to - before.to) * ease);
    if (share < 1) glideTo.frame = requestAnimationFrame(step);
  };
  glideTo.frame = requestAnimationFrame(step);
}

function zoom(factor, around = (view.from + view.to) / 2, glide = true) {
  const from = around - (around - view.from) * factor, to = around + (view.to - around) * factor;
  if (glide) glideTo(from, to); else setView(from, to);
}
const showAll = () => glideTo(-data.duration * 0.005, data.duration * 1.005);
const pan = (share) => glideTo(view.from + share * (view.to - view.from), view.to + share * (view.to - view.from));

function select(poll) {
  selected = poll;
  if (poll) address.set("poll", `${poll.lane}.${poll.index}`); else address.delete("poll");
  showSelection();
  redraw();
}

/** Selects a poll and zooms to it and its neighbourhood. */
function goTo(poll) {
  select({ lane: poll.lane, index: poll.index });
  const lane = lanes[poll.lane], length = Math.max(lane.end[poll.index] - lane.begin[poll.index], 200);
  glideTo(lane.begin[poll.index] - length * 1.5, lane.end[poll.index] + length * 1.5);
  canvas.scrollIntoView({ block: "nearest" });
}

/** Moves the view, if need be, so that a poll is in it. */
function reveal(poll) {
  const lane = lanes[poll.lane], from = lane.begin[poll.index], to = lane.end[poll.index], span = view.to - view.from;
  if (from < view.from || to > view.to) {
    const longer = Math.max(span, (to - from) * 1.5);
    glideTo((from + to - longer) / 2, (from + to + longer) / 2);
  }
}

function stepPoll(by, laneBy = 0) {
  if (!selected) {
    const lane = lanes.find((candidate) => candidate.count > 0);
    if (!lane) return;
    select({ lane: lane.number, index: Math.min(lane.count - 1, lowerBound(lane.end, view.from, 0, true)) });
  } else if (laneBy) {
    const time = lanes[selected.lane].begin[selected.index], lane = lanes[selected.lane + laneBy];
    if (!lane || !lane.count) return;
    select({ lane: lane.number, index: Math.min(lane.count - 1, lowerBound(lane.end, time)) });
  } else {
    const index = selected.index + by;
    if (index < 0 || index >= lanes[selected.lane].count) return;
    select({ lane: selected.lane, index });
  }
  reveal(selected);
}

/** Goes to the poll in which the selected one was woken. */
function backToWaker() {
  if (!selected) return;
  const lane = lanes[selected.lane], time = lane.begin[selected.index], into = arrows.wake.into[selected.lane];
  for (let k = lowerBound(into.time, time); k < into.list.length && into.time[k] === time; k++) {
    const wake = into.list[k];
    if (wake.thread !== lane.thread[selected.index] || wake.waker < 0) continue;
    const from = lanes[wake.fromCpu] ?? lane;
    // The last poll of the waker that began before the wake.
    for (let i = lowerBound(from.begin, wake.time, 0, true) - 1, tries = 0; i >= 0 && tries < 5000; i--, tries++) {
      if (from.thread[i] === wake.waker) { select({ lane: from.number, index: i }); reveal(selected); return; }
    }
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  const [x] = place(event);
  drag = { x, from: view.from, to: view.to, moved: false, range: event.shiftKey };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = place(event);
  if (drag) {
    if (Math.abs(x - drag.x) > 3) drag.moved = true;
    if (drag.moved && drag.range) { dragRange = [timeAt(drag.x), timeAt(x)]; redraw(); }
    else if (drag.moved) {
      canvas.classList.add("grabbing");
      const shift = (drag.x - x) / (width - GUTTER) * (drag.to - drag.from);
      setView(drag.from + shift, drag.to + shift);
    }
    byId("tip").hidden = true;
    return;
  }
  const target = hit(x, y);
  const same = target?.lane === hovered?.lane && target?.index === hovered?.index && target?.irq === hovered?.irq;
  hovered = target;
  if (!same) redraw();
  const box = byId("overview").parentElement.getBoundingClientRect();
  showTip(event.clientX - box.left, event.clientY - box.top, target);
});
canvas.addEventListener("pointerup", (event) => {
  const [x, y] = place(event);
  if (drag && !drag.moved) {
    const target = hit(x, y);
    select(target?.index !== undefined ? target : null);
  } else if (dragRange) {
    glideTo(Math.min(...dragRange), Math.max(...dragRange));
  }
  drag = dragRange = null;
  canvas.classList.remove("grabbing");
  redraw();
});
canvas.addEventListener("pointerleave", () => { hovered = null; byId("tip").hidden = true; redraw(); });
canvas.addEventListener("dblclick", (event) => {
  const target = hit(...place(event));
  if (target?.index !== undefined) goTo(target); else showAll();
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const unit = event.deltaMode === 1 ? 20 : 1;
  const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const shift = sideways * unit / (width - GUTTER) * (view.to - view.from);
    setView(view.from + shift, view.to + shift);
  } else {
    zoom(1.0022 ** (event.deltaY * unit), timeAt(Math.max(GUTTER, place(event)[0])), false);
  }
}, { passive: false });

function moveOverview(event) {
  if (event.type === "pointermove" && !(event.buttons & 1)) return;
  const box = overview.getBoundingClientRect();
  const time = (event.clientX - box.left - GUTTER) / Math.max(1, box.width - GUTTER) * data.duration;
  const half = (view.to - view.from) / 2;
  setView(time - half, time + half);
}
overview.addEventListener("pointerdown", (event) => { overview.setPointerCapture(event.pointerId); moveOverview(event); });
overview.addEventListener("pointermove", moveOverview);

const KEYS = {
  "+": () => zoom(0.5), "=": () => zoom(0.5), w: () => zoom(0.5), "-": () => zoom(2), s: () => zoom(2),
  ArrowLeft: () => pan(-0.25), a: () => pan(-0.25), ArrowRight: () => pan(0.25), d: () => pan(0.25),
  "[": () => stepPoll(-1), "]": () => stepPoll(1), ArrowUp: () => stepPoll(0, -1), ArrowDown: () => stepPoll(0, 1),
  Enter: () => selected && goTo(selected), Escape: () => select(null), b: backToWaker, "0": showAll, f: showAll,
};
canvas.addEventListener("keydown", (event) => {
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
});

byId("zoom-in").addEventListener("click", () => zoom(0.5));
byId("zoom-out").addEventListener("click", () => zoom(2));
byId("fit").addEventListener("click", showAll);
byId("search").addEventListener("input", showThreads);
byId("all-threads").addEventListener("click", () => { groups.forEach((group) => { group.on = true; }); filterChanged(); });
for (const kind of ["wake", "ipi", "message"]) byId(`show-${kind}`).addEventListener("change", () => { showSelection(); redraw(); });
byId("keys-button").addEventListener("click", () => {
  byId("keys").hidden = !byId("keys").hidden;
  byId("keys-button").setAttribute("aria-expanded", String(!byId("keys").hidden));
});

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Use the ${name === "dark" ? "light" : "dark"} theme`);
  readColours();
  showThreads();
  showLongest();
  showSelection();
  redraw();
}
const darkWanted = matchMedia("(prefers-color-scheme: dark)");
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
darkWanted.addEventListener("change", () => setTheme(darkWanted.matches ? "dark" : "light"));

showFacts();
showLosses();
setTheme(address.get("theme") ?? (darkWanted.matches ? "dark" : "light"));
showMatrix();
showHistograms();
showCpus();
showTokens();
new ResizeObserver(resize).observe(byId("scroller"));
resize();
const [wantedFrom, wantedTo] = (address.get("at") ?? "").split("-").map(Number);
if (wantedTo > wantedFrom) setView(wantedFrom, wantedTo); else setView(-data.duration * 0.005, data.duration * 1.005);
const [wantedLane, wantedPoll] = (address.get("poll") ?? "").split(".").map(Number);
if (lanes[wantedLane]?.count > wantedPoll) select({ lane: wantedLane, index: wantedPoll });
// The first frame at once: a page that is printed or photographed has its picture.
draw();
