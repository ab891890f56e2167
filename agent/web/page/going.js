// What is going on with a model, in a bar or in words: in its row and in its detail alike.
import { el, nextOf, size, span } from "./parts.js";

const DOING = {
  Queued: "Next in line", Downloading: "Asks the storage", Loading: "The model server loads it",
  Unloading: "The model server lets it go", Updating: "Steps aside for its next revision",
};

export function fillGoing(cell, model) {
  if (model.progress) return fillProgress(cell, model);
  const [first, second] = wordsOf(model);
  if (!cell.querySelector(".words")) cell.replaceChildren(el("div", { class: "words" }), el("small", {}));
  cell.firstChild.textContent = first;
  cell.firstChild.title = first;
  cell.lastChild.textContent = second;
}

export function fillProgress(cell, model) {
  const { bytes, totalBytes } = model.progress;
  if (!cell.querySelector(".bar")) cell.replaceChildren(el("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, el("span", {})), el("small", {}));
  const bar = cell.firstChild;
  bar.className = totalBytes ? "bar" : "bar unknown";
  bar.setAttribute("aria-label", `Download of ${model.name}`);
  if (totalBytes) {
    bar.setAttribute("aria-valuenow", String(Math.round((100 * bytes) / totalBytes)));
    bar.firstChild.style.width = `${(100 * bytes) / totalBytes}%`;
  }
  cell.lastChild.textContent = progressWords(model.progress);
}

function progressWords(reading) {
  const parts = [reading.totalBytes === null ? size(reading.bytes) : `${size(reading.bytes)} of ${size(reading.totalBytes)}`];
  if (reading.bytesPerSecond) parts.push(`${size(reading.bytesPerSecond)}/s`);
  if (reading.etaSeconds !== null) parts.push(`${span(reading.etaSeconds)} left`);
  return parts.join(" · ");
}

function wordsOf(model) {
  const refused = model.refused ? `its new entry is refused: ${model.refused.reason}` : "";
  if (model.reason === null) return ["Serves the wanted revision", refused];
  const what = model.message ?? DOING[model.reason] ?? model.reason;
  const next = model.nextRetryTime ? `try ${model.attempts + 1} ${nextOf(model.nextRetryTime)}` : "";
  const reason = model.message ? model.reason : "";
  return [what, [reason, next, model.ready ? "an older revision serves" : "", refused].filter(Boolean).join(" · ")];
}
