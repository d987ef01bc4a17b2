// A question and its answer as they are read: sentences with their sources and what checking found, refusals, failures.
// Knows the JSON of `/api/ask`; asks nothing itself.

import { isQuotes, markdown } from "./conversations.js";
import { byCodePoint, clear, h, icon, marked, visible } from "./dom.js";
import { placeOf } from "./sources.js";

const MATCHED = 0.5; // as `rag ask` marks words: below, the best match is rarely one to a person
const STRONG = 0.8;
const LEAST_SUPPORT = 0.2; // as in reader/records.py
const WEAK = new Set(["unsupported", "contradicted-number", "uncited"]);
const QUOTING_HELPS = new Set(["model", "busy", "timeout", "too-long"]); // quoting needs no language model
const HAN = /\p{Script=Han}/u;

let app = null;
let lists = 0;
export const useApp = (given) => { app = given; };

// turn: see conversations.js; again(changes) asks it once more. update() after the turn has changed, more(text) after
// a piece was added to its draft.
export function turnView(turn, again) {
  const element = h("article", { class: "turn" });
  let draft = null;
  let explained = false;
  update();
  return { element, update, more: (text) => (draft ? draft.appendData(visible(text)) : update()) };

  function update() {
    draft = null;
    clear(element).append(...asked(turn, explained), ...body());
    element.classList.toggle("explained", explained);
  }

  function body() {
    if (turn.record) return [...answered(turn.record, turn.looked, explained), after(turn, { explain, explained })];
    if (turn.problem) return failed(turn, again);
    if (!turn.draft) return [h("p", { class: "waiting" }, app.t(turn.understood ? "ask.reading" : "ask.searching"))];
    draft = document.createTextNode(visible(turn.draft));
    return [h("p", { class: "answer draft", lang: languageOf(turn.draft) }, draft)];
  }

  function explain() {
    explained = !explained;
    update();
    element.querySelector(".explain").focus();
  }
}

// The question, and how it was understood where that differs; the matches count in the latter.
function asked({ asked: question, understood, record }, explained) {
  const isFollowUp = understood && understood !== question;
  const marks = explained ? questionMarks(record) : [];
  const heading = h("h2", { lang: languageOf(question) }, isFollowUp ? visible(question) : marked(question, marks));
  if (!isFollowUp) return [heading];
  return [heading, h("p", { class: "understood" }, app.t("ask.understood", { question: "" }), h("span", null, marked(understood, marks)))];
}

function answered(record, looked, explained) {
  const walk = new Walk();
  if (record.abstained) return refusal(record, looked, walk);
  if (isQuotes(record)) return quotes(record, walk, explained);
  return [
    h("div", { class: "answer", lang: languageOf(record.answer) }, sentences(record, walk)),
    ...remarks(record),
    h("section", { class: "sources", ariaLabel: app.t("ask.sources") }, h("h3", null, app.t("ask.sources")),
      record.citations.map((citation) => sourceItem(citation, walk, quote(citation, record, explained)))),
  ];
}

function after(turn, { explain, explained }) {
  const { record } = turn;
  const list = h("dl", { class: "facts", hidden: true, id: `facts-${++lists}` }, facts(record));
  const toggle = (event) => {
    list.hidden = !list.hidden;
    event.currentTarget.setAttribute("aria-expanded", String(!list.hidden));
  };
  const copy = async (event) => {
    const button = event.currentTarget;
    await navigator.clipboard.writeText(inMarkdown({ title: turn.asked, turns: [turn] }));
    button.textContent = app.t("ask.copied");
    app.announce(app.t("ask.copied"));
  };
  const quiet = (key, properties) => h("button", { class: "quiet", ...properties }, app.t(key));
  return h("div", { class: "after" }, h("div", { class: "bar" },
    record.matches?.length ? quiet("ask.matched", { class: "quiet explain", ariaPressed: explained, onclick: explain }) : null,
    navigator.clipboard && !record.abstained ? quiet("ask.copy", { onclick: copy }) : null,
    quiet("ask.details", { ariaExpanded: false, ariaControls: list.id, onclick: toggle })), list);
}

// ---- citations

// The citations of one answer in the order they are met, each with the first button that opens it: in the pane one
// walks along them.
class Walk {
  #stops = new Map();

  button(citation, properties, ...children) {
    const made = h("button", { ariaExpanded: false, ...properties, onclick: () => this.#open(citation, made) }, ...children);
    if (!this.#stops.has(citation)) this.#stops.set(citation, made);
    return made;
  }

  #open(citation, trigger) {
    const all = [...this.#stops];
    const at = all.findIndex(([each]) => each === citation);
    const step = (by) => this.#open(...all[(at + by + all.length) % all.length]);
    app.openSource(citation, trigger, all.length > 1 ? step : null);
  }
}

function marker(citation, walk, { added = false } = {}) {
  const place = placeOf(app, citation);
  const name = app.t(added ? "ask.cite-added" : "ask.cite", { n: String(citation.marker), place });
  return walk.button(citation, { class: added ? "cite added" : "cite", title: place, ariaLabel: name }, `[${citation.marker}]`);
}

// One source in a list: its number, its place, its words.
function sourceItem(one, walk, words) {
  const number = one.marker ? `[${one.marker}]` : "";
  return h("div", { class: "cited" }, number ? h("span", { class: "cite", ariaHidden: true }, number) : null,
    walk.button(one, { class: "open" }, number ? h("span", { class: "unseen" }, `${number} `) : null,
      h("span", { class: "place" }, placeOf(app, one)),
      words ? h("span", { class: layout("quote", one.quote ?? one.text), lang: languageOf(one.quote ?? one.text) }, words) : null));
}

// Which citation each marker of a sentence stands for: Map(marker -> citation).
function citationsOf(record, sentence) {
  return new Map(sentence.markers.map((number, at) => [number, record.citations[sentence.citations[at]]]));
}

// ---- an answer


function quotes(record, walk, explained) {
  const label = h("p", { class: "label" }, h("span", { class: "chip" }, icon("check"), app.t("label.quoted")));
  return [label, ...record.citations.map((citation) => h("figure", { class: "quoted" },
    h("blockquote", { class: layout("answer", citation.quote), lang: languageOf(citation.quote) }, quote(citation, record, explained), " ", marker(citation, walk)),
    h("figcaption", null, walk.button(citation, { class: "link place" }, placeOf(app, citation)))))];
}

// Lines of prose may be broken anew, for the eye alone: those of code, tables and verse may not. A table keeps its columns.
function layout(name, text) {
  if (/^\|.*\|\s*$/m.test(text)) return `${name} table`;
  return /^(?:\s{2,}|[|>*+-])|\n\s*\n|\S {3,}\S/m.test(text) ? name : `${name} prose`;
}

// The answer, each sentence with its markers as buttons and what checking found.
function sentences(record, walk) {
  const slice = byCodePoint(record.answer);
  const parts = [];
  let at = 0;
  for (const sentence of record.sentences) {
    const text = slice(sentence.start, sentence.end);
    const words = text.trimEnd();
    parts.push(visible(slice(at, sentence.start)), checked(words, sentence, citationsOf(record, sentence), walk),
      finding(sentence, record, walk), text.slice(words.length));
    at = sentence.end;
  }
  return [...parts, visible(slice(at, undefined))];
}

function checked(words, sentence, citations, walk) {
  const parts = words.split(/(\[\d+\][.,;:!?。，；：！？]*)/).map((part) => {
    const [, number, rest] = /^\[(\d+)\](.*)$/.exec(part) ?? [];
    const citation = citations.get(Number(number));
    return citation ? h("span", { class: "together" }, marker(citation, walk, sentence), rest) : visible(part);
  });
  return h("span", { class: WEAK.has(sentence.label) ? "sentence weak" : "sentence" }, parts);
}

// What checking found, in words where a sentence is not plainly borne out: never by colour alone.
function finding({ label, added, instead, support, markers, alone }, record, walk) {
  const share = support === null ? "" : ` ${app.t("label.support", { share: decimal(support) })}`;
  if (WEAK.has(label)) {
    const other = record.hits.find((hit) => hit.rank === instead);
    return h("span", { class: "finding warn", title: app.t(`label.${label}.long`) + share }, app.t(`label.${label}`),
      other ? [app.t("label.instead"), marker({ ...other, marker: instead }, walk)] : null);
  }
  const idle = markers.filter((_, position) => alone[position] < LEAST_SUPPORT).map((number) => `[${number}]`).join("");
  if (idle) return h("span", { class: "finding warn", title: app.t("label.supported") + share }, app.t("label.idle", { markers: idle }));
  const name = app.t(added ? "label.added" : "label.supported") + share;
  return h("span", { class: "finding", role: "img", ariaLabel: name, title: name }, icon("check"));
}

function remarks(record) {
  const lines = remarkLines(record);
  return lines.length ? [h("div", { class: "remarks" }, lines.map((line) => h("p", null, line)))] : [];
}

// What a person must know of a written answer as a whole, as `rag ask` says it.
function remarkLines({ sentences: checkedOnes, written, prompt }) {
  const without = prompt?.dropped.filter((id) => !prompt.beside_the_point.includes(id)).length;
  const counted = (key, count) => count && app.t(key, { count });
  return [
    counted("remark.added", checkedOnes.filter((sentence) => sentence.added).length),
    written && !written.complete && app.t("remark.cut"),
    written?.removed_markers.length && app.t("remark.removed", { numbers: written.removed_markers.join(", ") }),
    counted("remark.left-out", without),
    counted("remark.in-part", prompt?.cut.length),
  ].filter(Boolean);
}

// There is no answer: why, what was looked for, and where to look instead.
function refusal(record, looked, walk) {
  const wrote = record.written?.text.trim() ?? "";
  const why = record.abstention ?? "evidence";
  const words = looked ? wordsOf(record.question, looked.terms) : [];
  const hits = looked?.hits ?? record.hits.slice(0, 3);
  const about = [[app.t("refusal.looked-for"), visible(record.question)], [app.t("refusal.terms"), words.map(visible).join(app.t("list.comma"))]];
  return [
    h("p", { class: "answer", lang: languageOf(record.answer) }, visible(record.answer)),
    h("p", { class: "understood" }, app.t(`refusal.${why}`)),
    wrote && why === "verification" ? h("p", { class: "wrote" }, h("s", null, visible(wrote))) : "",
    wrote && why === "model" && wrote !== record.answer ? h("p", { class: "wrote" }, visible(wrote)) : "",
    ...remarks(record),
    h("dl", { class: "facts looked" }, pairs(about.filter(([, said]) => said))),
    hits.length ? h("section", { class: "sources", ariaLabel: app.t("refusal.nearest") }, h("h3", null, app.t("refusal.nearest")),
      hits.map((hit) => sourceItem(hit, walk, hit.text && visible(hit.text.trim())))) : h("p", { class: "muted" }, app.t("refusal.nothing")),
  ];
}

// The words of a question that its terms were made from: an index cuts endings off, "execut" is no word to show, and
// takes Chinese two characters at a time, across its words.
function wordsOf(question, all) {
  const han = all.filter((term) => HAN.test(term));
  const terms = all.filter((term) => !HAN.test(term));
  if (han.length && Intl.Segmenter) {
    const parts = Array.from(new Intl.Segmenter("zh", { granularity: "word" }).segment(question), (each) => each.segment);
    const isKnown = (part) => han.some((term) => term === part || (part.length > 1 && (term.includes(part) || part.includes(term))));
    terms.push(...parts.filter((part) => HAN.test(part) && isKnown(part)));
  } else terms.push(...han);
  const words = question.match(/[\p{L}\p{N}]+/gu) ?? [];
  const common = (word, term) => [...term].findIndex((each, at) => word[at]?.toLowerCase() !== each);
  const of = (term) => words.find((word) => [-1, term.length - 1].includes(common(word, term))) ?? term;
  return [...new Set(terms.map((term) => (HAN.test(term) ? term : of(term))))];
}

function facts({ evidence, reader, hits, prompt, written, timings_ms: timings }) {
  const rows = [
    [app.t("facts.evidence"), decimal(evidence)],
    [app.t("facts.reader"), reader.name === "extractive" ? app.t("facts.extractive") : visible([reader.name, reader.model].filter((name) => name !== "none").join(" · "))],
    [app.t("facts.passages"), app.formatNumber(hits.length)],
    prompt && [app.t("facts.prompt"), app.formatNumber(prompt.tokens)],
    written && [app.t("facts.written"), app.formatNumber(written.tokens)],
    ...Object.entries(timings).map(([name, ms]) => [timeName(name), `${app.formatNumber(ms, { maximumFractionDigits: 1 })} ms`]),
  ];
  return pairs(rows.filter(Boolean));
}

function timeName(name) {
  const said = app.t(`facts.time.${name}`);
  return said.startsWith("facts.") ? visible(name) : said; // a stage that this page does not know
}

const pairs = (rows) => rows.map(([name, said]) => [h("dt", null, name), h("dd", null, said)]);
const decimal = (value) => app.formatNumber(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

// ---- which words matched

// A quote; where it is explained, with the words that answered to the question marked.
function quote(citation, record, explained) {
  const own = (match) => match.marker === citation.marker && citation.start <= match.start && match.end <= citation.end;
  const marks = explained ? matchesOf(record).filter(own) : [];
  return marked(citation.quote, marks.map((match) => [match.start - citation.start, match.end - citation.start, strength(match)]));
}

const matchesOf = (record) => (record?.matches ?? []).filter((match) => match.similarity >= MATCHED);

function strength({ similarity }) {
  return { class: similarity >= STRONG ? "strong" : null, title: app.t("ask.similarity", { share: decimal(similarity) }) };
}

function questionMarks(record) {
  const best = new Map();
  for (const match of matchesOf(record)) {
    if (!(best.get(match.question_start)?.similarity >= match.similarity)) best.set(match.question_start, match);
  }
  return [...best.values()].map((match) => [match.question_start, match.question_end, strength(match)]);
}

// ---- when it went wrong

function failed({ problem, draft }, again) {
  const isStopped = problem.code === "stopped";
  const once = h("button", { class: "primary", onclick: () => again({}) }, app.t("ask.again"));
  const soon = h("span", { class: "muted small" });
  const others = [
    problem.code === "no-index" && h("a", { class: "button", href: "#/library" }, app.t("ask.to-library")),
    QUOTING_HELPS.has(problem.code) && h("button", { onclick: () => again({ reader: "extractive" }) }, app.t("ask.quote-instead")),
  ];
  const said = [problem.message, problem.requestId && app.t("problem.request", { id: problem.requestId })].filter(Boolean);
  if (problem.until) countDown(problem.until, once, soon);
  return [
    draft ? h("p", { class: "answer", lang: languageOf(draft) }, visible(draft)) : "",
    h("div", { class: isStopped ? "problem notice" : "problem notice warn" },
      h("p", null, app.problemWords(problem), draft ? ` ${app.t("ask.unchecked")}` : null),
      isStopped || !said.length ? null : h("p", { class: "said" }, visible(said.join(" · "))),
      h("div", { class: "bar" }, once, soon, others)),
  ];
}

// Lets nobody ask again before the server said there may be room.
function countDown(until, button, line) {
  const left = Math.max(0, Math.ceil((until - Date.now()) / 1000));
  button.disabled = left > 0;
  line.textContent = left ? app.t("ask.again-in", { count: left }) : "";
  if (left) setTimeout(() => { if (button.isConnected) countDown(until, button, line); }, 250);
}

// ---- in other forms

// What those who listen are told.
export function spoken(record) {
  if (record.abstained) return app.t("ask.said.refused");
  const weak = record.sentences.filter((sentence) => WEAK.has(sentence.label)).length;
  return [app.t("ask.said.answered", { count: record.citations.length }), weak ? app.t("ask.said.weak", { count: weak }) : ""].join(" ");
}

// A conversation as Markdown, in the words of the page.
export function inMarkdown(talk) {
  return markdown(talk, { t: app.t, place: (citation) => placeOf(app, citation), remarks: (record) => [...weakLines(record), ...remarkLines(record)] });
}

function weakLines(record) {
  const slice = byCodePoint(record.answer);
  return record.sentences.filter(({ label }) => WEAK.has(label)).map(({ label, start, end }) => `${app.t(`label.${label}`)}: ${slice(start, end)}`);
}

function languageOf(text) {
  return /[\u3040-\u30ff]/.test(text) ? "ja" : /[\u4e00-\u9fff]/.test(text) ? "zh-CN" : null;
}
