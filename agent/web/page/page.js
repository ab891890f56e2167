// The page: what /status says, kept fresh by /events. No value from the agent is ever read as HTML.
import { detail, fillDetail, unknown } from "./detail.js";
import { fillGoing } from "./going.js";
import { drawHead } from "./head.js";
import { ask, follow, unlock } from "./line.js";
import { byId, el, phaseBadge, put, retell, size } from "./parts.js";

const ROW = 56, SPARE = 12;
const ORDER = ["Failed", "Rejected", "Downloading", "Loading", "Updating", "Pending", "Downloaded", "Unloading", "Ready"];

const models = new Map();
let rejected = [];  // entries that are refused and under whose name nothing is there, as rows
let head = null, shown = [], sort = { key: "phase", down: false }, phase = null, words = "";
let orderDirty = true, drawn = "";

// ---- what comes in ----

function take(document) {
  head = document;
  models.clear();
  for (const model of document.models) models.set(model.name, model);
  changed();
  refreshOne();
}

function apply(change) {
  for (const name of change.gone) models.delete(name);
  for (const model of change.models) {
    tellNews(models.get(model.name), model);
    models.set(model.name, model);
  }
  if (change.config) tellRefusals(head.config, change.config);
  const { config = head.config, server = head.server, memory = head.memory } = change;
  head = { ...head, config, server, memory };
  const touched = [...change.models.map((model) => model.name), ...change.gone];
  if (change.config || touched.includes(openName())) refreshOne();
  changed();
}

function progress(readings) {
  for (const [name, reading] of Object.entries(readings)) {
    const model = models.get(name);
    if (model) model.progress = reading;
    if (model && name === openName()) fillDetail(model);
  }
  drawSoon();
}

function changed() {
  orderDirty = true;
  drawSoon();
}

function line(kind, text) {
  byId("line").className = `line ${kind}`;
  if (byId("line-words").textContent !== text) byId("line-words").textContent = text;
}

// ---- the token, where the agent asks for one ----

let asksForToken = false;

function locked(refused) {
  asksForToken = true;
  put("lock-words", refused ? "This token is not the one that the agent asks for." : "This agent asks for its bearer token, the one in its --status-token-file.");
  byId("token").value = "";
  if (!byId("lock").open) byId("lock").showModal();
}

byId("lock").addEventListener("close", () => { if (asksForToken) byId("lock").showModal(); });  // Escape is no answer
byId("lock-form").addEventListener("submit", (event) => {
  event.preventDefault();
  asksForToken = false;
  byId("lock").close();
  unlock(byId("token").value.trim());
});

// ---- news for who does not see the page: a few sentences every 2 s at most ----

let news = [], newsTimer = null;

function tellNews(before, after) {
  if (!before || before.phase === after.phase) return;
  if (after.phase === "Failed") news.push(`${after.name} failed: ${after.reason}`);
  else if (after.phase === "Ready" && after.reason === null) news.push(`${after.name} is ready`);
  tellSoon();
}

function tellRefusals(before, after) {
  const known = new Set(before.rejected.map((entry) => entry.name));
  for (const entry of after.rejected) if (!known.has(entry.name)) news.push(`${entry.name ?? "An entry"} is refused: ${entry.reason}`);
  if (after.error && after.error.message !== before.error?.message) news.push(`models.json is refused: ${after.error.reason}`);
  tellSoon();
}

function tellSoon() {
  if (news.length) newsTimer ??= setTimeout(() => {
    const said = news.slice(0, 3).join(". ") + (news.length > 3 ? `. And ${news.length - 3} more changes` : "");
    if (said) byId("news").textContent = said;
    news = [];
    newsTimer = null;
  }, 2000);
}

// ---- drawing ----

let frame = 0;

function drawSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    draw();
  });
}

function draw() {
  if (head === null) return;
  if (orderDirty) {
    orderDirty = false;
    markRefused();
    drawHead(head, models);
    drawPhases();
    arrange();
  }
  drawRows();
}

function markRefused() {
  const byName = new Map(head.config.rejected.filter((entry) => entry.name !== null).map((entry) => [entry.name, entry]));
  for (const model of models.values()) model.refused = byName.get(model.name);
  rejected = [...byName.values()].filter((entry) => !models.has(entry.name)).map((entry) => ({
    ...entry, phase: "Rejected", ready: false, spec: null, heldBytes: 0, progress: null, attempts: 0, nextRetryTime: null, servedRevision: null,
  }));
}

function drawPhases() {
  const counts = new Map();
  for (const model of [...models.values(), ...rejected]) counts.set(model.phase, (counts.get(model.phase) ?? 0) + 1);
  if (phase !== null && !counts.has(phase)) phase = null;
  const chip = (name, count) => {
    const button = el("button", { "aria-pressed": String(phase === name), "data-phase": name ?? "" },
      name === null ? "All" : phaseBadge(name), el("b", {}, String(count)));
    button.onclick = () => { phase = phase === name ? null : name; changed(); };
    return button;
  };
  const kept = document.activeElement?.dataset?.phase;
  byId("phases").replaceChildren(chip(null, models.size + rejected.length), ...ORDER.filter((name) => counts.has(name)).map((name) => chip(name, counts.get(name))));
  if (kept !== undefined) byId("phases").querySelector(`[data-phase="${kept}"]`)?.focus();
}

const KEYS = {
  name: () => 0,
  phase: (model) => ORDER.indexOf(model.phase),
  memory: (model) => -(model.heldBytes || 0),
  next: (model) => (model.progress ? 0 : model.nextRetryTime ? Date.parse(model.nextRetryTime) : Infinity),
};

function arrange() {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (model) => (phase === null || model.phase === phase) && wanted.every((word) =>
    `${model.name} ${model.phase} ${model.reason ?? ""} ${model.spec?.storageUri ?? ""} ${model.spec?.framework ?? ""}`.toLowerCase().includes(word));
  const key = KEYS[sort.key], sign = sort.down ? -1 : 1;
  const compare = (a, b) => {
    const first = key(a), second = key(b);
    if (first !== second) return sign * (first < second ? -1 : 1);
    return (sort.key === "name" ? sign : 1) * (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  };
  shown = [...models.values(), ...rejected].filter(fits).sort(compare);
  byId("models").setAttribute("aria-rowcount", String(shown.length + 1));
  byId("models").hidden = shown.length === 0;
  const nothing = head.config.error ? "No model is known." : head.config.digest === null ? "models.json has not been read yet." : "No models are wanted.";
  put("empty", shown.length ? "" : models.size + rejected.length ? "No model fits the filter." : nothing);
  byId("empty").hidden = shown.length > 0;
  for (const th of document.querySelectorAll("th[data-sort]"))
    th.setAttribute("aria-sort", th.dataset.sort !== sort.key ? "none" : sort.down ? "descending" : "ascending");
}

const rowsOf = new Map();
const gapAbove = el("tr", { class: "gap", "aria-hidden": "true" }, el("td", {}));
const gapBelow = el("tr", { class: "gap", "aria-hidden": "true" }, el("td", {}));

function drawRows() {
  const body = byId("rows");
  const above = -body.getBoundingClientRect().top;
  const first = Math.max(0, Math.min(shown.length, Math.floor(above / ROW) - SPARE));
  const last = Math.min(shown.length, Math.ceil((above + innerHeight) / ROW) + SPARE);
  const visible = shown.slice(first, last);
  gapAbove.firstChild.style.height = `${first * ROW}px`;
  gapBelow.firstChild.style.height = `${(shown.length - Math.max(last, first)) * ROW}px`;
  const rows = visible.map((model, index) => fillRow(rowsOf.get(model.name) ?? newRow(model.name), model, first + index));
  const names = visible.map((model) => model.name).join("\n");
  if (names !== drawn || body.childElementCount === 0) {
    drawn = names;
    const focused = document.activeElement;
    body.replaceChildren(gapAbove, ...rows, gapBelow);
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }
  if (rowsOf.size > 400) {
    const kept = new Set(visible.map((model) => model.name));
    for (const name of rowsOf.keys()) if (!kept.has(name)) rowsOf.delete(name);
  }
}

function newRow(name) {
  const open = el("button", { title: name }, name);
  open.onclick = () => { location.hash = `model=${encodeURIComponent(name)}`; };
  const row = el("tr", {}, el("td", { class: "c-name" }, open, el("small", {}), el("div", { class: "narrow" })), el("td", { class: "c-phase" }, el("span", {})),
    el("td", { class: "c-going" }), el("td", { class: "c-memory" }), el("td", { class: "c-revision" }));
  rowsOf.set(name, row);
  return row;
}

function fillRow(row, model, index) {
  row.setAttribute("aria-rowindex", String(index + 2));
  const [name, state, going, memory, revision] = row.children;
  name.children[1].textContent = model.spec?.storageUri ?? (model.phase === "Rejected" ? "refused entry" : "not wanted any more");
  fillGoing(name.lastChild, model);
  state.firstChild.className = `badge p-${model.phase}`;
  state.firstChild.textContent = model.phase;
  fillGoing(going, model);
  memory.textContent = model.heldBytes ? size(model.heldBytes) : model.spec?.memory ?? "–";
  memory.title = model.heldBytes ? "reserved" : "wanted";
  revision.textContent = (model.servedRevision ?? "").slice(0, 10) || "–";
  return row;
}

// ---- one model ----

const one = byId("one");

function openName() {
  const found = /^#model=(.+)$/.exec(location.hash);
  try {
    return found ? decodeURIComponent(found[1]) : null;
  } catch {
    return null;
  }
}

let asked = 0;

async function refreshOne() {
  const name = openName(), mine = ++asked;
  if (name === null) {
    if (one.open) one.close();
    return;
  }
  if (byId("one-name").textContent !== name) byId("one-body").replaceChildren();
  byId("one-name").textContent = name;
  if (!one.open) one.showModal();
  let answer, model;
  try {
    answer = await ask(`status/${encodeURIComponent(name)}`);
    model = await answer.json();
  } catch {
    return;  // what was shown last stays; the line says that the agent is away
  }
  if (mine === asked) byId("one-body").replaceChildren(...(answer.ok ? detail(model) : unknown(model)));
}

one.addEventListener("close", () => {
  const name = openName();
  if (name !== null) history.pushState(null, "", location.pathname + location.search);
  rowsOf.get(name)?.querySelector("button")?.focus();
});
one.addEventListener("click", (event) => { if (event.target === one) one.close(); });
byId("close").onclick = () => one.close();

// ---- hands ----

byId("filter").addEventListener("input", (event) => { words = event.target.value; changed(); });
for (const th of document.querySelectorAll("th[data-sort]"))
  th.firstElementChild.onclick = () => {
    sort = { key: th.dataset.sort, down: sort.key === th.dataset.sort && !sort.down };
    changed();
  };
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement?.tagName !== "INPUT" && !one.open) {
    event.preventDefault();
    byId("filter").focus();
  }
  const row = document.activeElement?.closest?.("#rows tr");
  if (row && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    const next = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
    next?.querySelector("button")?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }
});
addEventListener("scroll", drawSoon, { passive: true });
addEventListener("resize", drawSoon);
addEventListener("hashchange", refreshOne);
setInterval(() => { drawSoon(); retell(byId("one-body")); }, 1000);  // the times that are told from now
follow({ take, apply, progress, state: line, locked });
