// The line to the agent: /events, and /status now and then where that does not work. The law: one loop, one
// thing after the other, so that an older answer never overwrites a newer one and nothing goes on unwanted.
// By fetch and not EventSource, which can show no token.

const POLL_MS = 2000, AGAIN_MS = 1000, EVENTS_AGAIN_MS = 10000, SILENCE_MS = 45000;
const KEY = "model-agent token";

class Locked extends Error {}
class Refused extends Error {}

let token = null;
try { token = sessionStorage.getItem(KEY); } catch { /* no storage: it is asked for on each visit */ }

let unlocked = () => {};

export function unlock(given) {
  token = given;
  try { sessionStorage.setItem(KEY, given); } catch { /* as above */ }
  unlocked();
}

export function ask(path, { headers = {}, signal } = {}) {
  const shown = token === null ? headers : { ...headers, Authorization: `Bearer ${token}` };
  return fetch(path, { cache: "no-cache", headers: shown, signal });
}

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

function checked(answer) {
  if (answer.status === 401) throw new Locked();
  if (!answer.ok) throw new Refused(`the agent answered ${answer.status}`);
  return answer;
}

async function readAll(signal) {
  return checked(await ask("status", { signal })).json();
}

// hands: `take` the whole document, `apply` changes, `progress` readings, `state` of the line with words for
// it, and `locked` where the agent asks for a token, with whether one was refused.
export async function follow(hands) {
  const place = { mark: null };
  for (let eventsAt = 0; ;) {
    try {
      if (Date.now() >= eventsAt) {
        eventsAt = Date.now() + EVENTS_AGAIN_MS;
        await listen(hands, place);
        eventsAt = 0;  // it was open until now
      }
    } catch (error) {
      if (error instanceof Locked) { await askForToken(hands); eventsAt = 0; continue; }
      if (!(error instanceof Refused)) eventsAt = 0;
    }
    const there = await poll(hands);
    await pause(there ? POLL_MS : AGAIN_MS);
  }
}

async function askForToken(hands) {
  const given = new Promise((done) => { unlocked = done; });
  hands.state("away", "asks for its token");
  hands.locked(token !== null);
  await given;
}

async function poll(hands) {
  try {
    hands.take(await readAll());
    hands.state("", "polling");
    return true;
  } catch {
    hands.state("away", "the agent does not answer; trying again");
    return false;
  }
}

async function listen(hands, place) {
  const over = new AbortController();
  let silence = null;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => over.abort(), SILENCE_MS);  // the agent says at least "quiet" each 15 s
  };
  let held = null, failed = null;  // what changes while /status is on its way is applied after it
  const anew = async () => {
    const mine = (held = []);
    while (held === mine && !over.signal.aborted) {
      try {
        const document = await readAll(over.signal);
        if (held !== mine) return;
        hands.take(document);
        mine.forEach(hands.apply);
        held = null;
        hands.state("live", "live");
      } catch (error) {
        if (error instanceof Locked) { failed = error; over.abort(); }
        else if (!over.signal.aborted) { hands.state("away", "/status does not answer; trying again"); await pause(POLL_MS); }
      }
    }
  };
  try {
    heard();
    const headers = place.mark === null ? {} : { "Last-Event-ID": place.mark };
    const answer = checked(await ask("events", { headers, signal: over.signal }));
    if (place.mark !== null) hands.state("live", "live");
    for await (const event of events(answer.body, heard)) {
      if (event.event === "resync") { place.mark = null; anew(); }
      else if (event.event === "changes") held ? held.push(JSON.parse(event.data)) : hands.apply(JSON.parse(event.data));
      else if (event.event === "progress") hands.progress(JSON.parse(event.data));
      if (event.id !== undefined && held === null) place.mark = event.id;
    }
  } catch (error) {
    throw failed ?? error;
  } finally {
    clearTimeout(silence);
    over.abort();
  }
}

async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", event = {};
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const colon = line.indexOf(": ");
      if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
      if (line !== "") continue;
      if (event.data !== undefined) yield event;
      event = {};
    }
  }
}
