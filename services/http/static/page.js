// Countdowns by the server's business time, times in the viewer's zone, and pages that follow what happens.
"use strict";

// --- times ---

let loaded = performance.now(); // when the content came that is shown now
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const over = new Set(); // deadlines at which the page was loaded again

function duration(ms) {
  if (ms <= 0) return "no time";
  const seconds = Math.floor(ms / 1000), hours = Math.floor(seconds / 3600);
  const two = (number) => String(number).padStart(2, "0");
  return `${hours} h ${two(Math.floor(seconds / 60) % 60)} min` + (hours < 1 ? ` ${two(seconds % 60)} s` : "");
}

function tick() {
  for (const element of document.querySelectorAll("[data-deadline]")) {
    const { deadline, now, scale } = element.dataset;
    const left = Date.parse(deadline) - Date.parse(now) - (performance.now() - loaded) * Number(scale);
    const text = duration(left);
    if (element.textContent !== text) element.textContent = text;
    if (left > 0 || over.has(deadline)) continue;
    over.add(deadline); // what could be done until then is over
    if (live && !document.hidden) update();
  }
}

function dress(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    element.textContent = local.format(new Date(element.dateTime.replace(/(\.\d{3})\d*/, "$1")));
  }
}

// --- following ---

const SHORTEST_PAUSE_MS = 1000, LONGEST_PAUSE_MS = 30_000;
const live = document.getElementById("live");
let stream, timer, loading, again, pause = SHORTEST_PAUSE_MS;

const viewerOf = (page) => page.querySelector(".who bdi")?.textContent;
const content = () => document.getElementById("content");

// Shows one of the notes above the content, or none.
function say(id) {
  for (const note of live.querySelectorAll(":scope > [role=status]")) note.hidden = note.id !== id;
}

function stop() {
  clearTimeout(timer);
  stream?.close();
}

// Opens the stream of changes to what is shown. A browser has few connections to a server, so a hidden tab has none.
function follow() {
  stop();
  if (document.hidden) return;
  stream = new EventSource(live.dataset.stream + encodeURIComponent(content().dataset.shown));
  stream.onopen = () => { pause = SHORTEST_PAUSE_MS; };
  stream.addEventListener("changed", update);
  stream.onerror = () => later(true);
}

// Tries again after a while: shows what is so then, and follows from there.
function later(quietly) {
  stop();
  if (!quietly) say("lost");
  timer = setTimeout(catchUp, pause * (0.5 + Math.random()));
  pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
}

async function catchUp() {
  if (await update()) follow();
}

// Shows what is so now. Returns whether that was possible. What comes meanwhile is shown after.
async function update() {
  again = true;
  if (loading) return loading;
  loading = (async () => {
    let done = false;
    while (again) {
      again = false;
      done = await load().catch(() => later());
    }
    loading = undefined;
    return done;
  })();
  return loading;
}

async function load() {
  const answer = await fetch(live.dataset.page, { headers: { Accept: "text/html" }, redirect: "manual" });
  if (answer.type === "opaqueredirect" || answer.status === 401) {
    stop();
    say("ended");
    return false;
  }
  if (!answer.ok && answer.status !== 404) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (viewerOf(page) !== viewerOf(document)) { // tabs share a login, and 404 is for somebody who is no party
    stop();
    say("other");
    return false;
  }
  show(page.getElementById("content"));
  return true;
}

function show(now) {
  if (isBeingWritten()) return say(now.dataset.shown === content().dataset.shown ? "" : "news");
  const focused = content().contains(document.activeElement) ? document.activeElement : null;
  dress(now);
  Idiomorph.morph(content(), now, { callbacks: { beforeAttributeUpdated: (name) => name !== "open" } });
  loaded = performance.now();
  tick();
  say("");
  if (focused && document.activeElement !== focused) {
    (document.getElementById(focused.id) ?? document.getElementById("main")).focus({ preventScroll: true });
  }
}

function isBeingWritten() {
  const fields = content().querySelectorAll(":is(textarea, input:not([type=hidden]), select)");
  const isChanged = (field) => field.value !== (field.defaultValue ?? "");
  return content().querySelector("[data-refused]") !== null || [...fields].some(isChanged);
}

dress(document);
tick();
setInterval(tick, 250);
if (live) {
  follow();
  let wasHidden = document.hidden;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else if (wasHidden) catchUp();
    wasHidden = document.hidden;
  });
  addEventListener("pageshow", (event) => { if (event.persisted) catchUp(); });
  document.addEventListener("submit", () => { // the answer is another page, unless somebody stops it
    stop();
    timer = setTimeout(catchUp, LONGEST_PAUSE_MS);
  });
}
