// Small parts that all files of the page use.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function put(id, text, className) {
  const there = byId(id);
  if (there.textContent !== text) there.textContent = text;
  if (className !== undefined && there.className !== className) there.className = className;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function size(bytes) {
  let amount = bytes, unit = 0;
  while (amount >= 1024 && unit < UNITS.length - 1) { amount /= 1024; unit += 1; }
  return `${amount.toFixed(1).replace(/\.0$/, "")} ${UNITS[unit]}`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h${Math.floor((whole % 3600) / 60) ? ` ${Math.floor((whole % 3600) / 60)} min` : ""}`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

const FORMS = {
  ago: (seconds) => (seconds > 0 ? `in ${span(seconds)}` : `${span(-seconds)} ago`),
  next: (seconds) => (seconds > 0.5 ? `in ${span(seconds)}` : "now"),
  lasts: (seconds) => `for ${span(-seconds)}`,
};

function told(instant, form) {
  return FORMS[form]((Date.parse(instant) - Date.now()) / 1000);
}

export const agoOf = (instant) => told(instant, "ago");
export const nextOf = (instant) => told(instant, "next");

export const phaseBadge = (phase) => el("span", { class: `badge p-${phase}` }, phase);

// A time as told from now; `retell` keeps it so.
export function when(instant, form = "ago") {
  return el("time", { datetime: instant, "data-form": form, title: new Date(instant).toLocaleString() }, told(instant, form));
}

export function retell(root) {
  for (const each of root.querySelectorAll("time[data-form]")) {
    const text = told(each.dateTime, each.dataset.form);
    if (each.textContent !== text) each.textContent = text;
  }
}
