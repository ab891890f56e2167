// One model: why it stands as it does, what is next, what to do, and what happened.
import { fillProgress } from "./going.js";
import { el, phaseBadge, size, span, when } from "./parts.js";

export function detail(model) {
  const answer = model.explanation;
  const rejected = answer.refusal !== null && !answer.refusal.whole;
  const badges = rejected && model.spec === null ? [phaseBadge("Rejected")] : [phaseBadge(model.phase), ...(rejected ? [" ", phaseBadge("Rejected")] : [])];
  return [
    el("section", {}, ...badges, el("p", { class: "summary" }, answer.summary), since(answer)),
    progress(model),
    refusal(answer),
    todo(answer),
    memory(answer.memory),
    section("What is next", pairs([
      ["Next step", answer.nextStep],
      ["Next try", answer.nextTime && el("span", {}, when(answer.nextTime, "next"), ` (${new Date(answer.nextTime).toLocaleTimeString()})`)],
      ["Waits for", answer.waitsFor],
    ])),
    tries(answer.attempts),
    model.history.length > 0 && story(model.history),
    model.spec !== null && section("What is wanted and what serves", pairs([
      ["Storage", el("code", {}, model.spec.storageUri)],
      ["Framework", model.spec.framework],
      ["Memory", model.spec.memory ?? "not given"],
      ["Reserved", size(model.heldBytes)],
      ["Wanted revision", model.revision && el("code", {}, model.revision.slice(0, 16))],
      ["Its bytes", proof(model.integrity)],
      ["Served revision", model.servedRevision && el("code", {}, model.servedRevision.slice(0, 16))],
    ])),
    model.conditions.length > 0 && section("Conditions", pairs(model.conditions.map((condition) => [
      condition.type, el("span", {}, `${condition.status} `, when(condition.lastTransitionTime, "lasts"), condition.reason ? ` · ${condition.reason}` : ""),
    ]))),
  ].filter(Boolean);
}

const PROOFS = {
  signed: "as signed by the key that the agent has", declared: "as models.json declares",
  provider: "as the storage’s own checksum says", "seen-first": "as first seen; nobody names a checksum",
};

function proof(integrity) {
  return integrity && `${PROOFS[integrity.proof] ?? integrity.proof}${integrity.checksums.length ? ` (${integrity.checksums.join(", ")})` : ""}`;
}

// What is told of a name that no model has: the error, with its explanation where it has one.
export function unknown(error) {
  const answer = error.explanation;
  return [el("section", {}, el("p", { class: "summary" }, error.message)), answer && todo(answer)].filter(Boolean);
}

// The download as it is now; `fillDetail` keeps it so between two readings of the whole.
function progress(model) {
  const cell = el("div", { id: "one-going" });
  if (model.progress) fillProgress(cell, model);
  return el("section", {}, cell);
}

export function fillDetail(model) {
  const cell = document.getElementById("one-going");
  if (cell && model.progress) fillProgress(cell, model);
}

function since(answer) {
  return answer.since === null ? "" : el("p", { class: "quiet" }, when(answer.since, "lasts"), `, since ${new Date(answer.since).toLocaleString()}`);
}

function refusal(answer) {
  const told = answer.refusal;
  if (told === null || told.remedy === answer.remedy) return null;  // the summary is about it
  return el("section", { class: "todo bad" }, el("h3", {}, told.whole ? "models.json is refused" : "The entry in models.json is refused"),
    el("p", {}, el("b", {}, told.reason), ` ${told.message}`), el("p", {}, told.remedy), el("p", { class: "quiet" }, `Usual cause: ${told.cause}`));
}

function todo(answer) {
  if (answer.remedy === null || answer.remedy.startsWith("Wait")) return null;
  return el("section", { class: "todo" }, el("h3", {}, "What to do"), el("p", {}, answer.remedy), el("p", { class: "quiet" }, `${answer.meaning} Usual cause: ${answer.cause}`));
}

function memory(sum) {
  if (sum === null) return null;
  const held = [...sum.holders.map((holder) => [holder.name, holder.bytes])];
  if (sum.otherModels) held.push([`${sum.otherModels} more`, sum.otherBytes]);
  const rows = held.map(([name, bytes]) => {
    const bar = el("div", { class: "bar" }, el("span", {}));
    bar.firstChild.style.width = `${Math.min(100, (100 * bytes) / (sum.budgetBytes || 1))}%`;
    return el("li", {}, el("span", { title: name }, name), bar, el("b", {}, size(bytes)));
  });
  return section("Memory", el("p", { class: "quiet" }, `Needs ${size(sum.needBytes)}; ${size(sum.freeBytes)} of the budget of ${size(sum.budgetBytes)} are free.${rows.length ? " Held by:" : ""}`), el("ul", { class: "holders" }, ...rows));
}

function tries(attempts) {
  if (attempts.length === 0) return null;
  return section("Last tries", el("ol", { class: "tries" }, ...attempts.toReversed().map((each) =>
    el("li", {}, el("span", { class: "at" }, `try ${each.attempts} · `, when(each.time)), el("span", {}, el("b", {}, each.reason ?? ""), ` ${each.message ?? ""}`)))));
}

function story(history) {
  const items = history.map((each, index) => {
    const until = history[index + 1]?.time;
    const lasted = each.leftOut ? [when(each.time)] : until
      ? [`for ${span((Date.parse(until) - Date.parse(each.time)) / 1000)} · `, when(each.time)]
      : [when(each.time, "lasts"), ", until now"];
    const message = each.message ?? (each.reason && each.reason !== each.phase ? each.reason : null);
    return el("li", { class: `p-${each.phase}` }, phaseBadge(each.phase), " ", el("small", {}, ...lasted),
      ...(message ? [el("p", {}, message)] : []), ...(each.leftOut ? [el("p", { class: "left-out" }, `… ${each.leftOut} more followed, no longer kept`)] : []));
  });
  return section("What happened", el("ol", { class: "story" }, ...items.reverse()));
}

function pairs(rows) {
  return el("dl", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function section(title, ...parts) {
  return el("section", {}, el("h3", {}, title), ...parts);
}
