// Passages for a question, and on demand how each was found. Knows the JSON of /api/search; ranks nothing itself.

import { byCodePoint, clear, h, icon, visible } from "./dom.js";
import { bar, placeButton, shared, trouble } from "./parts.js";

const TOPS = [5, 10, 20, 50];
const FILTERS = ["source", "type", "after", "before", "page"];
const STAGES = ["dense", "lexical", "fused", "interaction", "overlap"];
const MOST_TERMS = 12;
const MOST_DROPPED = 20;
const LONG = 600; // characters of a passage that are shown at first

export const title = "search.title";
export const words = {
  en: {
    ...shared.en,
    "search.title": "Search", "search.lead": "Passages of your documents, nearest to a question first.",
    "search.question": "What to look for", "search.go": "Search", "search.filters": "Narrow down",
    "search.source": "Path", "search.source.hint": "notes/, !drafts/",
    "search.type": "Type", "search.type.hint": "pdf, text/html, text/*",
    "search.after": "Dated from", "search.before": "Dated before", "search.date.hint": "2024, 2024-05",
    "search.page": "Pages", "search.page.hint": "3, 3-7, 12-",
    "search.top": "Passages", "search.found": "{count} passages in {ms} ms", "search.found.one": "1 passage in {ms} ms",
    "search.filtered": "only {filter}", "search.none": "Nothing was found.",
    "search.none.filtered": "Nothing was found among {filter}. Take a condition away, and search again.",
    "search.how": "How it was found", "search.also": "The same text is in {source}",
    "search.whole": "Show the whole passage",
    "search.stage": "stage", "search.rank": "rank", "search.score": "score",
    "search.dense": "meaning", "search.lexical": "words", "search.fused": "both", "search.interaction": "word by word", "search.overlap": "shared words",
    "search.reading": "How the question was read", "search.terms": "Words, by how much they tell",
    "search.terms.more": "and {count} more",
    "search.expansions": "Also looked for", "search.expansion": "{added} for {phrase}, at {weight}",
    "search.parts": "Searched in parts", "search.weights": "What counted", "search.evidence": "Evidence that an answer is here",
    "search.dropped": "Looked at and not shown", "search.dropped.more": "and {count} more", "search.why": "why", "search.document": "document",
    "search.why.rank": "rank {n}, after the last one shown", "search.why.document": "its document has as many hits as one may have", "search.why.similar": "too much like {source}",
  },
  zh: {
    ...shared.zh,
    "search.title": "检索", "search.lead": "从您的文档中找出与问题最接近的段落。",
    "search.question": "要找什么", "search.go": "检索", "search.filters": "缩小范围",
    "search.source": "路径", "search.source.hint": "notes/, !drafts/",
    "search.type": "类型", "search.type.hint": "pdf, text/html, text/*",
    "search.after": "日期不早于", "search.before": "日期早于", "search.date.hint": "2024, 2024-05",
    "search.page": "页码", "search.page.hint": "3, 3-7, 12-",
    "search.top": "段落数", "search.found": "{count} 个段落，用时 {ms} 毫秒",
    "search.filtered": "仅限 {filter}", "search.none": "没有找到。",
    "search.none.filtered": "在 {filter} 的范围内没有找到。请去掉一个条件再试。",
    "search.how": "如何找到的", "search.also": "{source} 中也有同样的文字",
    "search.whole": "显示整个段落",
    "search.stage": "阶段", "search.rank": "名次", "search.score": "得分",
    "search.dense": "语义", "search.lexical": "词语", "search.fused": "合并", "search.interaction": "逐词比对", "search.overlap": "共同词语",
    "search.reading": "问题是如何理解的", "search.terms": "词语，按其分量",
    "search.terms.more": "另有 {count} 个",
    "search.expansions": "同时查找", "search.expansion": "{phrase} 的同义词 {added}，权重 {weight}",
    "search.parts": "分部分检索", "search.weights": "各占比重", "search.evidence": "此处有答案的把握",
    "search.dropped": "看过但未显示", "search.dropped.more": "另有 {count} 个", "search.why": "原因", "search.document": "文档",
    "search.why.rank": "排在第 {n} 位，在最后一个显示的之后", "search.why.document": "该文档的段落已达上限", "search.why.similar": "与 {source} 过于相似",
  },
};

export async function show(root, app, rest) {
  await app.style("views.css");
  const asked = new URLSearchParams(rest);
  const results = h("section", { class: "results", ariaLive: "polite" });
  const form = makeForm(app, asked, (wanted) => {
    history.pushState(null, "", `#/search?${wanted}`);
    search(wanted);
  });
  let running = null;

  async function search(wanted) {
    running?.abort();
    const mine = running = new AbortController();
    results.setAttribute("aria-busy", "true");
    let made;
    try {
      made = found(app, await app.api.send("POST", "/api/search", bodyOf(wanted), { signal: mine.signal }));
    } catch (problem) {
      if (problem.code === "stopped") return;
      made = trouble(app, problem, problem.status >= 500 || problem.status === 0 || problem.status === 429 ? () => search(wanted) : null);
    }
    if (mine !== running) return;
    clear(results).append(...[made].flat());
    results.removeAttribute("aria-busy");
  }

  root.append(h("div", { class: "column" }, h("h1", null, app.t("search.title")), h("p", { class: "lead muted" }, app.t("search.lead")), form, results));
  if (asked.get("q")) search(asked);
  else form.elements.q.focus();
  return () => running?.abort();
}

function makeForm(app, asked, submit) {
  const top = Number(asked.get("top")) || 5;
  const used = FILTERS.some((name) => asked.get(name));
  const field = (name) => h("label", { class: "field" }, h("span", null, app.t(`search.${name}`)),
    h("input", { name, value: asked.get(name) ?? "", maxlength: 200, spellcheck: "false", autocapitalize: "off", placeholder: app.t(`search.${name === "after" || name === "before" ? "date" : name}.hint`) }));
  const form = h("form", { class: "search-form", role: "search" },
    h("div", { class: "line" },
      h("input", { type: "search", name: "q", value: asked.get("q") ?? "", required: true, maxlength: 8000, ariaLabel: app.t("search.question"), placeholder: app.t("search.question"), dir: "auto" }),
      h("button", { class: "primary" }, icon("search"), h("span", null, app.t("search.go")))),
    h("details", { open: used }, h("summary", null, app.t("search.filters")),
      h("div", { class: "fields" }, FILTERS.map(field),
        h("label", { class: "field" }, h("span", null, app.t("search.top")),
          h("select", { name: "top" }, [...new Set([...TOPS, top])].sort((a, b) => a - b).map((each) => h("option", { value: each, selected: each === top }, app.formatNumber(each))))))));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value.trim() && !(name === "top" && value === "5")) wanted.set(name, value.trim());
    submit(wanted);
  });
  return form;
}

function bodyOf(wanted) {
  const list = (name) => (wanted.get(name) ?? "").split(",").map((each) => each.trim()).filter(Boolean);
  const one = (name) => wanted.get(name) || null;
  const filter = { source: list("source"), type: list("type"), after: one("after"), before: one("before"), page: one("page") };
  const isEmpty = FILTERS.every((name) => !wanted.get(name));
  return { question: wanted.get("q"), top_k: Math.min(100, Math.max(1, Number(wanted.get("top")) || 5)), filter: isEmpty ? null : filter };
}

function found(app, record) {
  const { hits, filter } = record;
  if (!hits.length) {
    const said = filter ? app.t("search.none.filtered", { filter: visible(filter) }) : app.t("search.none");
    return [h("p", { class: "empty" }, said), reading(app, record)];
  }
  const facts = app.t("search.found", { count: hits.length, ms: Math.round(record.timings_ms.total ?? 0) });
  const mark = marker(record);
  return [
    h("p", { class: "muted small" }, facts, filter && ` · ${app.t("search.filtered", { filter: visible(filter) })}`),
    h("ol", { class: "rows hits" }, hits.map((hit) => hitItem(app, hit, mark))),
    reading(app, record),
  ];
}

function hitItem(app, hit, mark) {
  const text = h("p", { class: "quote", dir: "auto" }, mark(byCodePoint(hit.text)(0, LONG)));
  const whole = hit.text.length > LONG && h("button", { type: "button", class: "link", onclick: () => {
    clear(text).append(...mark(hit.text));
    whole.remove();
  } }, app.t("search.whole"));
  if (whole) text.append("…");
  return h("li", null,
    h("p", { class: "hit-head" }, h("span", { class: "rank" }, app.formatNumber(hit.rank)), placeButton(app, hit)),
    text, whole,
    hit.also_in.map((other) => h("p", { class: "muted small", dir: "auto" }, app.t("search.also", { source: visible(other.source) }))),
    hit.stages && h("details", { class: "small" }, h("summary", null, app.t("search.how")), stageTable(app, hit.stages)));
}

function stageTable(app, stages) {
  const rows = STAGES.map((stage) => h("tr", null, h("th", { scope: "row" }, app.t(`search.${stage}`)),
    h("td", { class: "number" }, number(app, stages[`${stage}_rank`], 0)), h("td", { class: "number" }, number(app, stages[`${stage}_score`], 3))));
  const head = ["stage", "rank", "score"].map((name, at) => h("th", { scope: "col", class: at ? "number" : null }, app.t(`search.${name}`)));
  return h("table", { class: "narrow" }, h("thead", null, h("tr", null, head)), h("tbody", null, rows));
}

const number = (app, value, digits) => value === null || value === undefined ? "–" : app.formatNumber(value, { maximumFractionDigits: digits, minimumFractionDigits: digits });

// How the question was read, and what was looked at without being shown.
function reading(app, record) {
  const kept = new Set(longest(Object.keys(record.terms)));
  const terms = Object.entries(record.terms).filter(([stem]) => kept.has(stem)).sort((one, other) => other[1] - one[1]).map(([stem, weight]) => [record.question.match(patternOf([stem]))?.[0] ?? stem, weight]);
  const heaviest = terms[0]?.[1] || 1;
  const block = (name, ...content) => h("div", { class: "block" }, h("h2", { class: "label" }, app.t(`search.${name}`)), content);
  const share = (value) => app.formatNumber(value, { style: "percent" });
  const bars = (pairs, most) => h("ul", { class: "bars" }, pairs.map(([name, value]) => h("li", null, h("bdi", null, visible(name)), bar(value / most), h("span", { class: "number" }, share(value)))));
  return h("details", { class: "reading" }, h("summary", null, app.t("search.reading")),
    terms.length ? block("terms", bars(terms.slice(0, MOST_TERMS), heaviest), terms.length > MOST_TERMS && h("p", { class: "muted small" }, app.t("search.terms.more", { count: terms.length - MOST_TERMS }))) : null,
    record.expansions.length ? block("expansions", h("ul", null, record.expansions.map((one) => h("li", null, app.t("search.expansion", { added: visible(one.added), phrase: visible(one.phrase), weight: one.weight }))))) : null,
    record.parts.length > 1 ? block("parts", h("ul", null, record.parts.map((part) => h("li", { dir: "auto" }, visible(part))))) : null,
    Object.keys(record.weights).length ? block("weights", bars(Object.entries(record.weights).map(([name, value]) => [app.t(`search.${name}`), value]), 1)) : null,
    record.evidence === null ? null : block("evidence", bars([["", record.evidence]], 1)),
    record.dropped.length ? block("dropped", droppedTable(app, record.dropped)) : null);
}

// The server says why in English; what is not known here is shown as it is.
function whyOf(app, reason) {
  const [, rank] = /^rank (\d+), after the last one shown$/.exec(reason) ?? [];
  if (rank) return app.t("search.why.rank", { n: rank });
  if (reason === "its document has as many hits as one may have") return app.t("search.why.document");
  const [, source] = /^too much like (.+)$/s.exec(reason) ?? [];
  return source && source !== "a better hit" ? app.t("search.why.similar", { source: visible(source) }) : visible(reason);
}

function droppedTable(app, dropped) {
  const rows = dropped.slice(0, MOST_DROPPED).map((one) => h("tr", null, h("th", { scope: "row" }, h("bdi", null, visible(one.source))),
    ["dense", "lexical", "fused"].map((stage) => h("td", { class: "number" }, number(app, one.stages[`${stage}_rank`], 0))), h("td", null, whyOf(app, one.reason))));
  const head = ["document", "dense", "lexical", "fused", "why"].map((name, at) => h("th", { scope: "col", class: at % 4 ? "number" : null }, app.t(`search.${name}`)));
  return [h("div", { class: "scroll", tabindex: 0, role: "region", ariaLabel: app.t("search.dropped") }, h("table", { class: "small" }, h("thead", null, h("tr", null, head)), h("tbody", null, rows))),
    dropped.length > MOST_DROPPED && h("p", { class: "muted small" }, app.t("search.dropped.more", { count: dropped.length - MOST_DROPPED }))];
}

// text => nodes in which the words are marked that the search counted.
function marker(record) {
  const stems = longest([...Object.keys(record.terms), ...record.expansions.flatMap((one) => one.terms)].filter((stem) => stem.trim()));
  if (!stems.length) return (text) => [visible(text)];
  const pattern = patternOf(stems);
  return (text) => text.split(pattern).map((piece, at) => at % 2 ? h("mark", null, visible(piece)) : visible(piece));
}

// Chinese is searched by pairs of characters and by single ones: a single one counts for little, and is no word to show
// where a pair holds it.
const longest = (stems) => stems.filter((stem) => !/^\p{Script=Han}$/u.test(stem) || !stems.some((other) => other !== stem && other.includes(stem)));

// The search says stems: a word that begins with one counts, as far as a page can tell ("ferri" is of "ferry" too);
// where no spaces are, the very characters.
function patternOf(stems) {
  const parts = [...new Set(stems)].sort((one, other) => other.length - one.length).map((stem) => {
    const said = stem.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/i$/, "[iy]");
    return /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u.test(stem) ? said : `(?<![\\p{L}\\p{N}])${said}[\\p{L}\\p{N}\\p{M}]*`;
  });
  return new RegExp(`(${parts.join("|")})`, "giu");
}
