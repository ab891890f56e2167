// One model: why it stands as it does, what is next, what to do, and what happened.
import { agoOf, el, phaseBadge, size, span, when } from "./parts.js";

export function detail(model) {
  const answer = model.explanation;
  return [
    el("section", {}, phaseBadge(model.phase), el("p", { class: "summary" }, answer.summary), since(answer)),
    todo(answer),
    memory(answer.memory),
    section("What is next", pairs([
      ["Next step", answer.nextStep],
      ["Next try", answer.nextTime && `${agoOf(answer.nextTime)} (${new Date(answer.nextTime).toLocaleTimeString()})`],
      ["Waits for", answer.waitsFor],
    ])),
    story(model.history),
    section("What is wanted and what serves", pairs([
      ["Storage", model.spec && el("code", {}, model.spec.storageUri)],
      ["Framework", model.spec?.framework],
      ["Memory", model.spec?.memory ?? (model.spec && "not given")],
      ["Reserved", size(model.heldBytes)],
      ["Wanted revision", model.revision && el("code", {}, model.revision.slice(0, 16))],
      ["Served revision", model.servedRevision && el("code", {}, model.servedRevision.slice(0, 16))],
    ])),
    model.conditions.length > 0 && section("Conditions", pairs(model.conditions.map((condition) => [
      condition.type, `${condition.status}, since ${agoOf(condition.lastTransitionTime).replace(" ago", "")}${condition.reason ? ` · ${condition.reason}` : ""}`,
    ]))),
  ].filter(Boolean);
}

function since(answer) {
  return answer.since === null ? "" : el("p", { class: "quiet" }, `for ${agoOf(answer.since).replace(" ago", "")}, since ${new Date(answer.since).toLocaleString()}`);
}

function todo(answer) {
  if (answer.remedy === null || answer.remedy === "Wait.") return null;
  return el("section", { class: "todo" }, el("h3", {}, "What to do"), el("p", {}, answer.remedy), el("p", { class: "quiet" }, `Usual cause: ${answer.cause}`));
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
  return section("Memory", el("p", { class: "quiet" }, `Needs ${size(sum.needBytes)}; ${size(sum.freeBytes)} of the budget of ${size(sum.budgetBytes)} are free. Held by:`), el("ul", { class: "holders" }, ...rows));
}

function story(history) {
  const items = history.map((each, index) => {
    const until = history[index + 1]?.time;
    const lasted = until ? `for ${span((Date.parse(until) - Date.parse(each.time)) / 1000)}` : "now";
    const message = each.message ?? (each.reason && each.reason !== each.phase ? each.reason : null);
    return el("li", { class: `p-${each.phase}` }, phaseBadge(each.phase), " ", el("small", {}, `${lasted} · `), when(each.time), ...(message ? [el("p", {}, message)] : []));
  });
  return section("What happened", el("ol", { class: "story" }, ...items.reverse()));
}

function pairs(rows) {
  return el("dl", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function section(title, ...parts) {
  return el("section", {}, el("h3", {}, title), ...parts);
}
