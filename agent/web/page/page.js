// The page: what /status says, kept fresh by /events. No value from the agent is ever read as HTML.
import { detail } from "./detail.js";
import { byId, el, put, size, span, agoOf, phaseBadge } from "./parts.js";

const ROW = 56, SPARE = 12, POLL_MS = 2000, RETRY_MS = 10000;
const ORDER = ["Failed", "Downloading", "Loading", "Updating", "Pending", "Downloaded", "Unloading", "Ready"];
const WAITS_FOR_MEMORY = new Set(["MemoryBudgetExceeded", "ExceedsMemoryBudget", "UpdateNeedsRoom"]);

const DOING = {
  Queued: "Next in line", Downloading: "Asks the storage", Loading: "The model server loads it",
  Unloading: "The model server lets it go", Updating: "Steps aside for its next revision",
};

const models = new Map();
let head = null, shown = [], sort = { key: "phase", down: false }, phase = null, words = "";
let orderDirty = true, drawn = "";

// ---- what comes in ----

function take(document) {
  head = document;
  models.clear();
  for (const model of document.models) models.set(model.name, model);
  changed();
}

function apply(change) {
  for (const name of change.gone) models.delete(name);
  for (const model of change.models) {
    tellNews(models.get(model.name), model);
    models.set(model.name, model);
  }
  if (change.config) head = { ...head, config: change.config, server: change.server, memory: change.memory };
  const touched = [...change.models.map((model) => model.name), ...change.gone];
  if (touched.includes(openName())) refreshOne();
  changed();
}

function progress(readings) {
  for (const [name, reading] of Object.entries(readings)) {
    const model = models.get(name);
    if (model) model.progress = reading;
  }
  drawSoon();
}

function changed() {
  orderDirty = true;
  drawSoon();
}

// ---- the line to the agent: /events, and /status now and then where that does not work ----

let source = null, held = null, polling = null, retry = null;

async function readAll() {
  const answer = await fetch("status", { cache: "no-cache" });
  if (!answer.ok) throw new Error(`/status answered ${answer.status}`);
  return answer.json();
}

async function resync() {
  const mine = (held = []);  // what changes while /status is on its way is applied after it
  try {
    const document = await readAll();
    if (held !== mine) return;
    take(document);
    mine.forEach(apply);
    held = null;
    refreshOne();
    line("live", "live");
  } catch {
    if (held === mine) { held = null; fallBack(); }
  }
}

function follow() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource("events");
  source.addEventListener("resync", resync);
  source.addEventListener("changes", (event) => {
    const change = JSON.parse(event.data);
    held ? held.push(change) : apply(change);
  });
  source.addEventListener("progress", (event) => progress(JSON.parse(event.data)));
  source.onopen = () => { stopPolling(); line("live", "live"); };
  source.onerror = () => {
    line("away", "the agent does not answer; trying again");
    fallBack();
  };
}

function fallBack() {
  if (polling === null) polling = setInterval(poll, POLL_MS);
  if (source?.readyState === EventSource.CLOSED) {
    clearTimeout(retry);
    retry = setTimeout(follow, RETRY_MS);
  }
}

async function poll() {
  try {
    take(await readAll());
    refreshOne();
    if (source?.readyState !== EventSource.OPEN) line("", "polling");
  } catch {
    line("away", "the agent does not answer; trying again");
  }
}

function stopPolling() {
  clearInterval(polling);
  polling = null;
}

function line(kind, text) {
  byId("line").className = `line ${kind}`;
  if (byId("line-words").textContent !== text) byId("line-words").textContent = text;
}

// ---- news for who does not see the page: at most one sentence every 2 s ----

let news = [], newsTimer = null;

function tellNews(before, after) {
  if (!before || before.phase === after.phase) return;
  if (after.phase === "Failed") news.push(`${after.name} failed: ${after.reason}`);
  else if (after.phase === "Ready" && after.reason === null) news.push(`${after.name} is ready`);
  newsTimer ??= setTimeout(() => {
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
    drawHead();
    arrange();
  }
  drawRows();
}

function drawHead() {
  const { server, config, memory } = head;
  put("server-state", server.ready ? "Ready" : "Not ready", server.ready ? "big good" : "big bad");
  put("server-url", `${server.protocol ?? "not found yet"} · ${server.url}`);
  if (config.error) put("config-state", config.error.reason, "big bad");
  else put("config-state", config.digest ? `${config.accepted} accepted` : "None yet", config.digest ? "big" : "big wait");
  put("config-digest", config.error ? config.error.message : `${config.path} · ${(config.appliedDigest ?? "").slice(0, 12)}`);
  byId("refused").hidden = config.rejected.length === 0;
  put("refused-count", `${config.rejected.length} refused`);
  byId("refused-list").replaceChildren(...config.rejected.slice(0, 100).map((entry) =>
    el("li", {}, el("b", {}, entry.name ?? "an entry without a name"), ` ${entry.reason}: ${entry.message}`)));
  drawMemory(memory);
  drawPhases();
}

function drawMemory(memory) {
  const holding = [...models.values()].filter((model) => model.heldBytes > 0).sort((a, b) => b.heldBytes - a.heldBytes);
  const named = holding.slice(0, 7), rest = holding.slice(7).reduce((sum, model) => sum + model.heldBytes, 0);
  const shares = named.map((model, index) => [model.name, model.heldBytes, `t${index}`]);
  if (rest) shares.push([`${holding.length - 7} more`, rest, "t7"]);
  const whole = Math.max(memory.budgetBytes ?? 0, memory.reservedBytes) || 1;
  put("memory-state", memory.budgetBytes === null
    ? `${size(memory.reservedBytes)} reserved, no budget`
    : `${size(memory.reservedBytes)} of ${size(memory.budgetBytes)}`);
  const bar = byId("memory-bar");
  bar.hidden = memory.budgetBytes === null;
  bar.replaceChildren(...shares.map(([name, bytes, tone]) => {
    const part = el("span", { class: tone, title: `${name}: ${size(bytes)}` });
    part.style.width = `${(100 * bytes) / whole}%`;
    return part;
  }));
  bar.setAttribute("aria-label", `${byId("memory-state").textContent}: ${shares.map(([name, bytes]) => `${name} ${size(bytes)}`).join(", ")}`);
  const legend = shares.map(([name, bytes, tone]) => el("li", {}, el("i", { class: tone }), `${name} ${size(bytes)}`));
  if (memory.freeBytes !== null) legend.push(el("li", {}, el("i", { class: "free" }), `free ${size(memory.freeBytes)}`));
  byId("memory-legend").replaceChildren(...legend);
  const waiting = [...models.values()].filter((model) => WAITS_FOR_MEMORY.has(model.reason));
  const told = waiting.slice(0, 5).map((model) => `${model.name} (${model.spec?.memory ?? "?"})`).join(", ");
  put("memory-waiting", waiting.length ? `Waiting for room: ${told}${waiting.length > 5 ? ` and ${waiting.length - 5} more` : ""}` : "");
}

function drawPhases() {
  const counts = new Map();
  for (const model of models.values()) counts.set(model.phase, (counts.get(model.phase) ?? 0) + 1);
  if (phase !== null && !counts.has(phase)) phase = null;
  const chip = (name, count) => {
    const button = el("button", { "aria-pressed": String(phase === name), "data-phase": name ?? "" },
      name === null ? "All" : phaseBadge(name), el("b", {}, String(count)));
    button.onclick = () => { phase = phase === name ? null : name; changed(); };
    return button;
  };
  const kept = document.activeElement?.dataset?.phase;
  byId("phases").replaceChildren(chip(null, models.size), ...ORDER.filter((name) => counts.has(name)).map((name) => chip(name, counts.get(name))));
  if (kept !== undefined) byId("phases").querySelector(`[data-phase="${kept}"]`)?.focus();
  const left = [...models.values()].filter((model) => model.reason !== null).length;
  const failed = counts.get("Failed") ?? 0;
  const fine = left === 0 && head.config.error === null && head.config.rejected.length === 0;
  put("verdict", models.size === 0 ? "No models are wanted." : fine ? `All ${models.size} models are ready and up to date.`
    : failed ? `${failed} of ${models.size} models failed.` : `${left} of ${models.size} models are not up to date yet.`,
  `verdict ${fine ? "good" : failed || head.config.error ? "bad" : ""}`);
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
  shown = [...models.values()].filter(fits).sort(compare);
  byId("models").setAttribute("aria-rowcount", String(shown.length + 1));
  byId("models").hidden = shown.length === 0;
  put("empty", shown.length ? "" : models.size ? "No model fits the filter." : "No models are wanted.");
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
  name.children[1].textContent = model.spec?.storageUri ?? "not wanted any more";
  fillGoing(name.lastChild, model);
  state.firstChild.className = `badge p-${model.phase}`;
  state.firstChild.textContent = model.phase;
  fillGoing(going, model);
  memory.textContent = model.heldBytes ? size(model.heldBytes) : model.spec?.memory ?? "–";
  memory.title = model.heldBytes ? "reserved" : "wanted";
  revision.textContent = (model.servedRevision ?? "").slice(0, 10) || "–";
  return row;
}

function fillGoing(cell, model) {
  const said = goingWords(model);
  if (model.progress) {
    const share = model.progress.totalBytes ? model.progress.bytes / model.progress.totalBytes : null;
    if (!cell.querySelector(".bar")) cell.replaceChildren(el("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, el("span", {})), el("small", {}));
    const bar = cell.firstChild;
    bar.className = share === null ? "bar unknown" : "bar";
    if (share !== null) {
      bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
      bar.firstChild.style.width = `${100 * share}%`;
    }
    bar.setAttribute("aria-label", `Download of ${model.name}`);
    cell.lastChild.textContent = said;
    return;
  }
  const [first, second] = said.split("\n");
  if (!cell.querySelector(".words")) cell.replaceChildren(el("div", { class: "words" }), el("small", {}));
  cell.firstChild.textContent = first;
  cell.firstChild.title = first;
  cell.lastChild.textContent = second ?? "";
}

function goingWords(model) {
  const reading = model.progress;
  if (reading) {
    const parts = [reading.totalBytes === null ? size(reading.bytes) : `${size(reading.bytes)} of ${size(reading.totalBytes)}`];
    if (reading.bytesPerSecond) parts.push(`${size(reading.bytesPerSecond)}/s`);
    if (reading.etaSeconds !== null) parts.push(`${span(reading.etaSeconds)} left`);
    return parts.join(" · ");
  }
  if (model.reason === null) return "Serves the wanted revision";
  const what = model.message ?? DOING[model.reason] ?? model.reason;
  const next = model.nextRetryTime ? `try ${model.attempts + 1} ${agoOf(model.nextRetryTime)}` : "";
  const reason = model.message ? model.reason : "";
  return `${what}\n${[reason, next, model.ready ? "an older revision serves" : ""].filter(Boolean).join(" · ")}`;
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
    answer = await fetch(`status/${encodeURIComponent(name)}`, { cache: "no-cache" });
    model = await answer.json();
  } catch {
    return;  // what was shown last stays; the line says that the agent is away
  }
  if (mine === asked) byId("one-body").replaceChildren(...(answer.ok ? detail(model) : [el("p", { class: "summary" }, model.message)]));
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
setInterval(drawSoon, 1000);  // the times that are told from now
follow();
