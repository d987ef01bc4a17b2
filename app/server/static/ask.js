// Ask questions in a conversation, and keep it. Knows the events of `/api/ask`; how an answer looks is answer.js.

import { inMarkdown, spoken, turnView, useApp } from "./answer.js";
import { Problem, problemOf } from "./api.js";
import * as kept from "./conversations.js";
import { clear, h, icon, visible } from "./dom.js";
import { showPast } from "./past.js";

export const title = "nav.ask";
export const words = { en: {}, zh: {} }; // in words.js: they are needed for the first paint

const MOST_CHARS = 8000; // of a question, as the server takes it
const EXAMPLES = 3;

let app = null;
let talk = kept.fresh();
let running = null; // {controller} of the answer that is coming
let keeps = true; // whether this browser keeps conversations
let isMissing = false; // whether the address named one that is not kept
let screen = null; // what is on the page now: {turns, field, refresh, views: turn -> view}

// rest: the id of a conversation, or nothing for the present one.
export async function show(root, given, rest) {
  app = given;
  useApp(app);
  if (rest && rest !== talk.id && !running) talk = await found(rest);
  const turns = h("div");
  const field = h("textarea", {
    id: "question", rows: 1, placeholder: app.t("ask.placeholder"), ariaLabel: app.t("ask.question"), ariaDescribedby: "hint", enterkeyhint: "send",
  });
  const act = h("button", { class: "primary round", type: "submit" });
  const hint = h("p", { class: "hint", id: "hint" });
  const bar = h("div", { class: "bar ask-bar" });
  const submit = () => (running ? running.controller.abort() : ask(field.value));
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); submit(); } }, field, act);
  field.addEventListener("input", refresh);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return; // 229: an input method's own Enter
    event.preventDefault();
    if (!running) ask(field.value);
  });
  document.addEventListener("keydown", keys);
  root.append(h("div", { class: "column talk" }, bar, turns),
    h("div", { class: "composer" }, h("div", { class: "column" }, form, hint)));
  screen = { turns, field, refresh, views: new Map() };
  draw();
  if (matchMedia("(hover: hover)").matches) field.focus({ preventScroll: true });
  return () => {
    document.removeEventListener("keydown", keys);
    screen = null;
  };

  function refresh() {
    if (!CSS.supports("field-sizing", "content")) {
      field.style.height = "auto";
      field.style.height = `${field.scrollHeight}px`;
    }
    const long = Array.from(field.value).length;
    const name = app.t(running ? "ask.stop" : "ask.send");
    act.replaceChildren(icon(running ? "stop" : "send"));
    act.setAttribute("aria-label", name);
    act.title = name;
    act.disabled = !running && (!field.value.trim() || long > MOST_CHARS);
    hint.classList.toggle("warn", long > MOST_CHARS);
    clear(hint).append(...(long > MOST_CHARS ? [app.t("ask.too-long", { long, most: MOST_CHARS })]
      : [app.t("ask.hint"), " · ", h("button", { class: "link", type: "button", onclick: app.showKeys }, app.t("keys.title"))]));
    const button = (key, drawing, onclick, disabled = false) => h("button", { class: "quiet", onclick, disabled }, icon(drawing), app.t(`talk.${key}`));
    clear(bar).append(...[
      talk.turns.length && button("new", "plus", begin, Boolean(running)),
      button("list", "list", past),
      talk.turns.some((turn) => turn.record) && button("export", "save", () => exported(talk)),
    ].filter(Boolean));
  }
}

// ---- the conversation

function draw() {
  if (!screen) return;
  screen.views.clear();
  clear(screen.turns).append(talk.turns.length ? heading() : welcome());
  for (const turn of talk.turns) added(turn);
  address();
  screen.refresh();
}

const heading = () => h("h1", { class: "unseen" }, visible(talk.title));

function added(turn) {
  const view = turnView(turn, (changes) => { if (!running) run(turn, changes); });
  screen.views.set(turn, view);
  screen.turns.append(view.element);
  return view;
}

// The address says which conversation this is, so that it is there again when the page is loaded again.
function address() {
  if (screen) history.replaceState(null, "", talk.changed ? `#/ask/${talk.id}` : "#/ask");
}

function begin() {
  talk = kept.fresh();
  app.closeSource();
  draw();
  screen?.field.focus();
}

async function found(id) {
  try {
    const one = await kept.load(id);
    if (one) return one;
    isMissing = true;
  } catch {
    keeps = false;
  }
  return kept.fresh();
}

async function keep(one) {
  try {
    await kept.save(one);
    if (one === talk) address();
  } catch {
    keeps = false; // the list of conversations says so
  }
}

function past() {
  return showPast(app, {
    talk: () => talk,
    exported,
    deleted: (id) => { if (id === talk.id) begin(); },
    async reopen(id) {
      running?.controller.abort();
      app.closeSource();
      talk = await found(id);
      draw();
      scrollTo(0, 0);
      screen.field.focus({ preventScroll: true });
    },
    async renamed(id, name) {
      const one = id === talk.id ? talk : await found(id);
      one.title = name;
      await keep(one);
      if (one === talk) screen.turns.querySelector("h1").textContent = visible(name);
    },
  });
}

function exported(one) {
  const name = one.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "conversation";
  kept.download(`${name}.md`, inMarkdown(one));
}

// ---- asking

function ask(text) {
  const asked = text.trim();
  if (!asked || running || Array.from(asked).length > MOST_CHARS) return;
  if (!talk.turns.length) {
    talk.title = asked;
    clear(screen.turns).append(heading());
  }
  const turn = { asked };
  talk.turns.push(turn);
  const wasWriting = document.activeElement === screen.field;
  app.closeSource();
  if (wasWriting) screen.field.focus({ preventScroll: true });
  screen.field.value = "";
  const { element } = added(turn);
  run(turn);
  element.scrollIntoView({ block: "start" });
}

// changes: to the request, such as another reader.
async function run(turn, changes = {}) {
  const controller = new AbortController();
  const mine = talk;
  const history = kept.historyOf(mine.turns.slice(0, mine.turns.indexOf(turn)));
  const view = () => screen?.views.get(turn);
  Object.assign(turn, { understood: null, draft: "", record: null, problem: null, looked: null });
  running = { controller };
  screen.refresh();
  view().update();
  app.announce(app.t("ask.reading"));
  try {
    const body = { question: turn.asked, history, stream: true, explain: true, ...changes };
    await app.api.stream("/api/ask", body, (name, record) => {
      if (name === "understood") turn.understood = record.question;
      else if (name === "written") turn.draft += record.text;
      else if (name === "answered") turn.record = record;
      else if (name === "failed") throw problemOf(record);
      if (name === "understood") view()?.update();
      else if (name === "written") view()?.more(record.text);
    }, controller.signal);
    if (!turn.record) throw new Problem(0, "broken-off", "");
    turn.draft = "";
    if (turn.record.abstained) turn.looked = await lookedFor(turn.record, controller.signal);
  } catch (problem) {
    if (!(problem instanceof Problem)) console.error(problem);
    const { code = "failed", message, requestId, retrySeconds } = problem;
    turn.problem = { code, message, requestId, until: retrySeconds ? Date.now() + 1000 * retrySeconds : 0 };
  }
  running = null;
  view()?.update();
  screen?.refresh();
  app.announce(turn.record ? spoken(turn.record) : app.problemWords(turn.problem));
  await keep(mine);
}

// What a refusal looked for, and the passages nearest to it.
async function lookedFor(record, signal) {
  try {
    const seen = await app.api.send("POST", "/api/search", { question: record.question, top_k: 3 }, { signal });
    return { terms: Object.keys(seen.terms), hits: seen.hits.map(({ stages, before, after, ...hit }) => hit) };
  } catch {
    return null; // the answer itself names the places of what was found
  }
}

// ---- nothing asked yet

function welcome() {
  const counted = h("p", { class: "muted" }, "\u00a0");
  const missing = isMissing ? h("p", { class: "notice warn", role: "alert" }, app.t("talk.missing")) : "";
  isMissing = false;
  const below = h("div", { class: "examples" });
  const none = () => {
    counted.textContent = app.t("problem.no-index");
    below.append(h("a", { class: "button primary", href: "#/library" }, app.t("ask.to-library")));
  };
  app.api.get("/api/index").then((facts) => {
    if (!facts.documents) return none();
    counted.textContent = app.t("welcome.documents", { count: facts.documents });
    return examples(below).catch(() => {}); // they are only a hint
  }).catch((problem) => {
    if (problem.code === "no-index") none();
    else counted.textContent = app.problemWords(problem);
  });
  return h("div", { class: "welcome" }, h("h1", null, app.t("welcome.title")), h("p", { class: "lead" }, app.t("welcome.lead")),
    counted, below, keeps ? "" : h("p", { class: "muted small" }, app.t("talk.not-kept")), missing);
}

// Titles of documents that are there: what can be asked of a library nobody knows but its owner. Those in the language of
// the page first; "Chapter 1", and what is no more than a word, asks nothing.
async function examples(place) {
  const { documents } = await app.api.get("/api/documents?limit=200");
  const titles = documents.map((each) => each.title?.trim()).filter((name) => name && name.length <= 60);
  const isHan = (name) => /\p{Script=Han}/u.test(name);
  const isWordy = (name) => (isHan(name) ? Array.from(name).length >= 4 : name.split(/\s+/).filter((word) => /\p{L}{2}/u.test(word)).length >= 2);
  const asks = (name) => isWordy(name) && !/^(?:chapter|part|section|title|untitled)\b/i.test(name);
  const isNear = (name) => Number(isHan(name) === (app.language === "zh"));
  const some = [...new Set(titles)].filter(asks).sort((one, other) => isNear(other) - isNear(one)).slice(0, EXAMPLES);
  if (some.length) place.append(h("p", { class: "muted small" }, app.t("welcome.for-example")));
  place.append(...some.map((name) => h("button", { onclick: () => { if (!running) ask(name); } }, visible(name))));
}

// ---- keys

function keys(event) {
  if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog:modal")) return;
  const { key, target } = event;
  const isPlain = app.singleKeys() && !target.closest?.("input, textarea, select");
  if (key === "Escape" && running) running.controller.abort();
  else if (/^Arrow(Left|Right)$/.test(key) && target.matches?.(".turn button.cite")) neighbour(target, key === "ArrowRight" ? 1 : -1).focus();
  else if (isPlain && key === "/") screen.field.focus();
  else if (isPlain && /^[1-9]$/.test(key) && stop(target, key)) stop(target, key).click();
  else return;
  event.preventDefault();
}

function neighbour(marker, step) {
  const all = [...marker.closest(".turn").querySelectorAll("button.cite")];
  return all[(all.indexOf(marker) + step + all.length) % all.length];
}

// The first citation with a number in the answer that is being read, or in the last one.
function stop(target, number) {
  const from = target.closest?.(".turn") ?? screen.turns.lastElementChild;
  return [...from.querySelectorAll("button.cite")].find((each) => each.textContent === `[${number}]`);
}
