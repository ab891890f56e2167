// What stands above the table: server, models.json, memory, and the verdict over all of it.
import { byId, el, put, size } from "./parts.js";

const WAITS_FOR_MEMORY = new Set(["MemoryBudgetExceeded", "ExceedsMemoryBudget", "UpdateNeedsRoom"]);
const MOST_REFUSED = 100;

export function drawHead(head, models) {
  const { server, config, memory } = head;
  put("server-state", server.ready ? "Ready" : "Not ready", server.ready ? "big good" : "big bad");
  put("server-url", `${server.protocol ?? "not found yet"} · ${server.url}`);
  drawConfig(config);
  drawMemory(memory, models);
  const [words, kind] = verdict(config, models);
  put("verdict", words, `verdict ${kind}`);
}

let drawnConfig = "";

function drawConfig(config) {
  const now = JSON.stringify(config);
  if (now === drawnConfig) return;
  drawnConfig = now;
  if (config.error) put("config-state", "Refused", "big bad");
  else put("config-state", config.digest ? `${config.accepted} accepted` : "Not read yet", config.digest ? "big" : "big wait");
  const applied = (config.appliedDigest ?? "").slice(0, 12);
  put("config-digest", [config.path, applied && (config.error ? `${applied} stays in force` : applied)].filter(Boolean).join(" · "));
  const told = byId("config-told");
  told.hidden = config.error === null;
  told.replaceChildren(...(config.error ? [el("b", {}, config.error.reason), ` ${config.error.message}`, remedy(config, config.error.reason)] : []));
  byId("refused").hidden = config.rejected.length === 0;
  put("refused-count", `${config.rejected.length} ${config.rejected.length === 1 ? "entry" : "entries"} refused`);
  const rest = config.rejected.length - MOST_REFUSED;
  byId("refused-list").replaceChildren(
    ...config.rejected.slice(0, MOST_REFUSED).map((entry) => el("li", {}, nameOf(entry), ` ${entry.reason}: ${entry.message}`, remedy(config, entry.reason))),
    ...(rest > 0 ? [el("li", {}, `and ${rest} more, in /status`)] : []));
}

function nameOf(entry) {
  if (entry.name === null) return el("b", {}, "an entry without a name");
  return el("a", { href: `#model=${encodeURIComponent(entry.name)}` }, entry.name);
}

function remedy(config, reason) {
  const told = config.explanations[reason];
  return told ? el("span", { class: "remedy" }, `${told.cause} ${told.remedy}`) : "";
}

function verdict(config, models) {
  const count = models.size, failed = [...models.values()].filter((model) => model.phase === "Failed").length;
  const left = [...models.values()].filter((model) => model.reason !== null).length;
  const refused = config.rejected.length;
  if (config.error) return [count ? `models.json is refused; the ${count} models that were accepted last go on.` : "models.json is refused, and no model is known.", "bad"];
  if (config.digest === null && count === 0) return ["models.json has not been read yet.", ""];
  const also = refused ? ` ${refused} ${refused === 1 ? "entry is" : "entries are"} refused.` : "";
  if (count === 0) return [refused ? also.trim() : "No models are wanted.", refused ? "bad" : ""];
  if (failed) return [`${failed} of ${count} models failed.${also}`, "bad"];
  if (left) return [`${left} of ${count} models are not up to date yet.${also}`, refused ? "bad" : ""];
  return [`All ${count} models are ready and up to date.${also}`, refused ? "bad" : "good"];
}

function drawMemory(memory, models) {
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
