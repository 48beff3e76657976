// Countdowns by the server's business time, times in the viewer's zone, and news that do not overwrite a form.
"use strict";

const loaded = performance.now();

function left(element) {
  const passed = (performance.now() - (element.shownAt ?? loaded)) * Number(element.dataset.scale);
  return Date.parse(element.dataset.deadline) - Date.parse(element.dataset.now) - passed;
}

function duration(ms) {
  if (ms <= 0) return "no time";
  const seconds = Math.floor(ms / 1000), hours = Math.floor(seconds / 3600);
  const two = (number) => String(number).padStart(2, "0");
  return `${hours} h ${two(Math.floor(seconds / 60) % 60)} min` + (hours < 1 ? ` ${two(seconds % 60)} s` : "");
}

function tick() {
  for (const element of document.querySelectorAll("[data-deadline]")) {
    const text = duration(left(element));
    if (element.textContent !== text) element.textContent = text;
  }
}

const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function dress(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    element.textContent = local.format(new Date(element.dateTime.replace(/(\.\d{3})\d*/, "$1")));
  }
  for (const element of root.querySelectorAll("[data-deadline]")) element.shownAt = performance.now();
}

function isBeingWritten() {
  const fields = document.querySelectorAll("#content details[open] :is(textarea, input:not([type=hidden]), select)");
  return [...fields].some((field) => field.value !== field.defaultValue && field.value !== "");
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (!isBeingWritten()) return;
  event.preventDefault();
  const news = document.getElementById("news");
  if (news) news.hidden = false;
});
document.addEventListener("htmx:afterSettle", (event) => dress(document.getElementById("content") ?? event.target));
dress(document);
tick();
setInterval(tick, 250);
