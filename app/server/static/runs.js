// Evaluation runs: their main scores, their reports, and two side by side. Knows the JSON of /api/runs; measures nothing.

import { clear, h, visible } from "./dom.js";
import { bar, loading, shared, trouble } from "./parts.js";

const KEY_MEASURES = [
  "retrieval.success@1", "retrieval.recall@5", "answer.correct", "answer.choice", "abstention.accuracy", "citations.gold_precision",
  "citations.balanced_accuracy", "answer.f1",
];
const KEYS_SHOWN = 4;
const FLIPS_SHOWN = 20;
const SETTINGS_SHOWN = 20;

export const title = "runs.title";
export const words = {
  en: {
    ...shared.en,
    "runs.title": "Evaluation runs", "runs.lead": "How good the answers are, measured. Choose two runs to see whether one is better.",
    "runs.empty": "There are no evaluation runs in {folder} yet.", "runs.empty.how": "To make one:",
    "runs.unreadable": "The folder {folder} cannot be read:", "runs.left-out": "{count} older folders are not listed.", "runs.left-out.one": "1 older folder is not listed.",
    "runs.questions": "{count} questions", "runs.questions.one": "1 question", "runs.unfinished": "not finished",
    "runs.broken": "Cannot be used: {problem}", "runs.report": "Open the report", "runs.report.of": "Open the report of {name} in a new tab",
    "runs.choose": "Compare {name}", "runs.chosen.0": "Choose two runs to compare them.", "runs.chosen.1": "{a} against …", "runs.chosen.2": "{a} against {b}",
    "runs.compare": "Compare", "runs.swap": "Swap", "runs.back": "All runs",
    "runs.against": "{a} against {b}", "runs.pair": "A is {a}, B is {b}. {count} questions were asked of both.",
    "runs.better": "B is better in {count} measures: {names}.", "runs.better.one": "B is better in 1 measure: {names}.",
    "runs.worse": "B is worse in {count} measures: {names}.", "runs.worse.one": "B is worse in 1 measure: {names}.",
    "runs.same": "No difference is shown: {count} questions do not tell the two apart.",
    "runs.measures": "Measures", "runs.all": "All {count} measures", "runs.main": "Main measures only",
    "runs.measure": "measure", "runs.difference": "B − A", "runs.interval": "95% interval", "runs.p": "p", "runs.verdict": "verdict", "runs.n": "questions",
    "runs.verdict.better": "better", "runs.verdict.worse": "worse", "runs.verdict.no difference shown": "no difference shown",
    "runs.p.note": "p: a randomisation test of all measures together, two-sided.",
    "runs.settings": "What was set differently", "runs.setting": "setting",
    "runs.flips": "Questions that flipped", "runs.flips.none": "Both runs have the same questions right.",
    "runs.gained": "{count} only B has right", "runs.lost": "{count} only A has right",
    "runs.right-in": "only {run} has it right", "runs.lost-in": "{run} lost it: {stage}. {why}",
    "runs.stages": "Where questions were lost", "runs.stage": "stage", "runs.in": "in {run}",
    "retrieval": "Retrieval", "answer": "Answers", "abstention": "Abstention", "citations": "Citations", "judge": "Judge",
    "problem.not-comparable": "These two runs cannot be compared.",
  },
  zh: {
    ...shared.zh,
    "runs.title": "评测", "runs.lead": "用测量说明回答有多好。选择两次评测，看哪一次更好。",
    "runs.empty": "{folder} 中还没有评测。", "runs.empty.how": "运行一次评测：",
    "runs.unreadable": "无法读取文件夹 {folder}：", "runs.left-out": "另有 {count} 个较早的文件夹未列出。",
    "runs.questions": "{count} 个问题", "runs.unfinished": "未完成",
    "runs.broken": "无法使用：{problem}", "runs.report": "打开报告", "runs.report.of": "在新标签页中打开 {name} 的报告",
    "runs.choose": "比较 {name}", "runs.chosen.0": "选择两次评测进行比较。", "runs.chosen.1": "{a} 对比……", "runs.chosen.2": "{a} 对比 {b}",
    "runs.compare": "比较", "runs.swap": "互换", "runs.back": "全部评测",
    "runs.against": "{a} 对比 {b}", "runs.pair": "A 为 {a}，B 为 {b}。两者都回答了 {count} 个问题。",
    "runs.better": "B 在 {count} 项指标上更好：{names}。", "runs.worse": "B 在 {count} 项指标上更差：{names}。",
    "runs.same": "未显示出差别：{count} 个问题不足以区分两者。",
    "runs.measures": "指标", "runs.all": "全部 {count} 项指标", "runs.main": "仅主要指标",
    "runs.measure": "指标", "runs.difference": "B − A", "runs.interval": "95% 区间", "runs.p": "p", "runs.verdict": "结论", "runs.n": "问题数",
    "runs.verdict.better": "更好", "runs.verdict.worse": "更差", "runs.verdict.no difference shown": "未显示差别",
    "runs.p.note": "p：对所有指标一并进行的双侧随机化检验。",
    "runs.settings": "设置的不同之处", "runs.setting": "设置",
    "runs.flips": "结果不同的问题", "runs.flips.none": "两次评测答对的问题相同。",
    "runs.gained": "{count} 个只有 B 答对", "runs.lost": "{count} 个只有 A 答对",
    "runs.right-in": "只有 {run} 答对", "runs.lost-in": "{run} 丢失于：{stage}。{why}",
    "runs.stages": "问题丢失在哪一步", "runs.stage": "步骤", "runs.in": "{run}",
    "retrieval": "检索", "answer": "回答", "abstention": "拒答", "citations": "引用", "judge": "评判",
    "stage.not in index": "索引中没有", "stage.not retrieved": "未检索到", "stage.lost in fusion": "合并时丢失", "stage.lost in re-ranking": "重排时丢失",
    "stage.cut from the prompt": "未放入提示", "stage.wrongly abstained": "误拒答", "stage.reader missed it": "阅读时遗漏", "stage.citation wrong": "引用错误",
    "stage.answered without an answer in the documents": "文档中没有答案却作答", "stage.failed": "出错", "stage.wrong": "有误",
    "problem.not-comparable": "这两次评测无法比较。",
  },
};

export async function show(root, app, rest) {
  await app.style("views.css");
  const wanted = new URLSearchParams(rest);
  const [a, b] = [wanted.get("a"), wanted.get("b")];
  const place = h("div", { class: "wide" }, h("h1", null, a && b ? app.t("runs.against", { a: visible(a), b: visible(b) }) : app.t("runs.title")));
  const content = h("div", { class: "stack" }, loading(app));
  place.append(content);
  root.append(place);
  const gone = new AbortController();
  const fetched = (path) => app.api.send("GET", path, undefined, { signal: gone.signal });
  const fill = async () => {
    let made;
    try {
      if (a && b) {
        const path = `/api/runs/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`;
        made = comparison(app, { a, b }, ...(await Promise.all([fetched(path), fetched("/api/runs")])));
      } else made = list(app, await fetched("/api/runs"));
    } catch (problem) {
      if (problem.code === "stopped") return;
      made = [trouble(app, problem, problem.status === 422 ? null : () => { clear(content).append(loading(app)); fill(); }), a && b ? back(app) : null].filter(Boolean);
    }
    clear(content).append(...made.flat(Infinity).filter(Boolean));
  };
  fill(); // the page is shown meanwhile: a comparison takes seconds
  return () => gone.abort();
}

const back = (app) => h("p", null, h("a", { href: "#/runs" }, app.t("runs.back")));
const measureName = (app, measure) => {
  const [section, name] = measure.split(/\.(.*)/s);
  return [h("span", { class: "muted" }, visible(app.t(section))), " ", h("span", null, visible(name))];
};
const three = (app, value, options) => app.formatNumber(value, { minimumFractionDigits: 3, maximumFractionDigits: 3, ...options });
const signed = (app, value) => three(app, value, { signDisplay: "exceptZero" });

// ---- the list ------------------------------------------------------------------------------------------------------

function list(app, { runs, folder, left_out: leftOut, problem }) {
  if (problem) return [h("p", { class: "notice warn", role: "alert" }, app.t("runs.unreadable", { folder: visible(folder) }), " ", visible(problem))];
  if (!runs.length) {
    return [h("div", { class: "empty" }, h("p", null, app.t("runs.empty", { folder: visible(folder) })), h("p", null, app.t("runs.empty.how"), " ", h("code", null, "make eval")))];
  }
  const chosen = [];
  const said = h("p", { role: "status" });
  const go = h("button", { type: "button", class: "primary push", onclick: () => app.go(`#/runs?${new URLSearchParams({ a: chosen[0], b: chosen[1] })}`) }, app.t("runs.compare"));
  const bars = h("div", { class: "bar choice" }, said, go);
  const tell = () => {
    const [a, b] = chosen.map(visible);
    said.textContent = app.t(`runs.chosen.${chosen.length}`, { a, b });
    go.disabled = chosen.length < 2;
    for (const box of boxes) box.disabled = chosen.length === 2 && !box.checked;
  };
  const items = runs.map((run) => runItem(app, run, (event) => {
    if (event.target.checked) chosen.push(run.name);
    else chosen.splice(chosen.indexOf(run.name), 1);
    tell();
  }));
  const boxes = items.map((item) => item.querySelector("input")).filter(Boolean);
  tell();
  return [h("p", { class: "lead muted" }, app.t("runs.lead")), h("ul", { class: "rows runs" }, items),
    leftOut ? h("p", { class: "muted small" }, app.t("runs.left-out", { count: leftOut })) : null, boxes.length > 1 ? bars : null];
}

function runItem(app, run, choose) {
  const facts = [
    run.dataset && run.dataset !== run.name ? visible(run.dataset) : null,
    run.questions === null ? null : app.t("runs.questions", { count: run.questions }),
    run.started && !Number.isNaN(Date.parse(run.started)) ? app.formatDate(run.started) : null,
    run.system && visible(run.system),
    run.problem || run.finished ? null : app.t("runs.unfinished"),
  ].filter(Boolean).join(" · ");
  const name = h("bdi", { class: "name" }, visible(run.name));
  return h("li", null,
    run.comparable ? h("label", { class: "pick" }, h("input", { type: "checkbox", onchange: choose, ariaLabel: app.t("runs.choose", { name: visible(run.name) }) }), name) : h("p", { class: "pick" }, name),
    run.has_report ? h("a", { class: "report", href: `/api/runs/${encodeURIComponent(run.name)}/report`, target: "_blank", rel: "noopener", ariaLabel: app.t("runs.report.of", { name: visible(run.name) }) }, app.t("runs.report"), h("span", { ariaHidden: "true" }, " ↗")) : null,
    facts && h("p", { class: "muted small facts-line", dir: "auto" }, facts),
    run.problem && h("p", { class: "small warning", dir: "auto" }, app.t("runs.broken", { problem: visible(run.problem) })),
    run.scores.length ? h("dl", { class: "scores" }, keyScores(run.scores).map((score) => scoreItem(app, score))) : null);
}

function keyScores(scores) {
  const known = new Map(scores.map((score) => [score.measure, score]));
  const wanted = KEY_MEASURES.filter((name) => known.has(name)).slice(0, KEYS_SHOWN);
  return wanted.length ? wanted.map((name) => known.get(name)) : scores.slice(0, KEYS_SHOWN);
}

function scoreItem(app, { measure, value, low, high }) {
  const between = low === null || high === null ? null : app.t("part.between", { low: three(app, low), high: three(app, high) });
  return h("div", { title: between }, h("dt", null, measureName(app, measure)),
    h("dd", null, h("b", null, three(app, value)), between && h("span", { class: "unseen" }, between), bar(high ?? value, { low: low ?? value, tick: value })));
}

// ---- two runs ------------------------------------------------------------------------------------------------------

function comparison(app, names, record, { runs }) {
  const main = new Set(runs.flatMap((run) => [names.a, names.b].includes(run.name) ? run.scores.map((score) => score.measure) : []));
  const differ = (verdict) => record.differences.filter((one) => one.verdict === verdict).map((one) => one.measure);
  const verdicts = ["better", "worse"].filter((verdict) => differ(verdict).length).map((verdict) =>
    h("p", { class: `notice${verdict === "worse" ? " warn" : ""}` }, app.t(`runs.${verdict}`, { count: differ(verdict).length, names: visible(differ(verdict).join(", ")) })));
  const swapped = new URLSearchParams({ a: names.b, b: names.a });
  return [
    h("p", { class: "bar" }, h("a", { href: "#/runs" }, app.t("runs.back")), h("a", { href: `#/runs?${swapped}` }, app.t("runs.swap"))),
    h("p", { class: "muted" }, app.t("runs.pair", { a: visible(names.a), b: visible(names.b), count: record.n })),
    verdicts.length ? verdicts : h("p", { class: "notice" }, app.t("runs.same", { count: record.n })),
    record.notes.map((note) => h("p", { class: "muted small", dir: "auto" }, visible(note))),
    settingsTable(app, record.settings),
    measures(app, record.differences, main),
    flips(app, record.flips),
    stages(app, record.moves),
  ];
}

const table = (app, label, head, rows) => h("div", { class: "scroll", tabindex: 0, role: "region", ariaLabel: label },
  h("table", null, h("thead", null, h("tr", null, head.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))), h("tbody", null, rows)));
const row = (name, ...cells) => h("tr", null, h("th", { scope: "row" }, name), cells.map(([text, kind]) => h("td", { class: kind }, text)));

function settingsTable(app, settings) {
  const both = settings.filter((one) => one.a !== null && one.b !== null).slice(0, SETTINGS_SHOWN);
  if (!both.length) return null;
  const said = (value) => h("bdi", null, visible(typeof value === "string" ? value : JSON.stringify(value)));
  return h("details", null, h("summary", null, app.t("runs.settings")),
    table(app, app.t("runs.settings"), [[app.t("runs.setting")], ["A"], ["B"]], both.map((one) => row(visible(one.name), [said(one.a)], [said(one.b)]))));
}

function measures(app, differences, main) {
  const important = differences.filter((one) => main.has(one.measure) || one.verdict !== "no difference shown");
  const body = h("div");
  const more = h("button", { type: "button", onclick: () => draw(body.dataset.all !== "1") });
  function draw(all) {
    body.dataset.all = all ? "1" : "0";
    more.textContent = app.t(all ? "runs.main" : "runs.all", { count: differences.length });
    more.hidden = important.length === differences.length;
    clear(body).append(table(app, app.t("runs.measures"),
      [[app.t("runs.measure")], ["A", "number"], ["B", "number"], [app.t("runs.difference"), "number"], [app.t("runs.interval"), "number"], [app.t("runs.p"), "number"], [app.t("runs.n"), "number"], [app.t("runs.verdict")]],
      (all ? differences : important).map((one) => row(measureName(app, one.measure), [three(app, one.a), "number"], [three(app, one.b), "number"],
        [h("b", null, signed(app, one.difference)), "number"], [`${signed(app, one.low)}, ${signed(app, one.high)}`, "number muted nowrap"], [one.p_adjusted < 0.001 ? `< ${three(app, 0.001)}` : three(app, one.p_adjusted), "number nowrap"], [app.formatNumber(one.n), "number"],
        [app.t(`runs.verdict.${one.verdict}`), `verdict ${one.verdict}`]))));
  }
  draw(false);
  return h("section", null, h("h2", null, app.t("runs.measures")), body, h("p", { class: "bar" }, h("span", { class: "muted small" }, app.t("runs.p.note")), more));
}

function flips(app, all) {
  const gained = all.filter((flip) => flip.right_in === "b").length;
  if (!all.length) return h("section", null, h("h2", null, app.t("runs.flips")), h("p", { class: "muted" }, app.t("runs.flips.none")));
  const items = h("ul", { class: "rows flips" });
  const more = h("button", { type: "button", onclick: () => next() }, app.t("part.more"));
  const next = () => {
    const from = items.childElementCount;
    items.append(...all.slice(from, from + FLIPS_SHOWN).map((flip) => flipItem(app, flip)));
    more.hidden = items.childElementCount >= all.length;
    if (from) items.children[from].focus();
  };
  next();
  return h("section", null, h("h2", null, app.t("runs.flips")),
    h("p", { class: "muted" }, app.t("runs.gained", { count: gained }), " · ", app.t("runs.lost", { count: all.length - gained })), items, more);
}

function flipItem(app, flip) {
  const right = flip.right_in.toUpperCase(), other = right === "A" ? "B" : "A";
  const lost = flip.lost && app.t("runs.lost-in", { run: other, stage: stageName(app, flip.lost.stage), why: visible(flip.lost.why) });
  return h("li", { tabindex: -1 }, h("p", { dir: "auto" }, visible(flip.question)),
    h("p", { class: "small" }, h("span", { class: right === "B" ? "chip" : "chip warn" }, app.t("runs.right-in", { run: right })), " ", h("span", { class: "muted" }, lost)));
}

const stageName = (app, stage) => { const said = app.t(`stage.${stage}`); return said === `stage.${stage}` ? stage : said; };

function stages(app, moves) {
  const names = [...new Set(moves.flatMap((move) => [move.a, move.b]).filter(Boolean))];
  if (!names.length) return null;
  const count = (side, stage) => moves.filter((move) => move[side] === stage).reduce((sum, move) => sum + move.n, 0);
  const most = Math.max(...names.flatMap((stage) => [count("a", stage), count("b", stage)]));
  const cell = (n) => [[h("span", null, app.formatNumber(n)), bar(n / most)], "counted"];
  return h("section", null, h("h2", null, app.t("runs.stages")), table(app, app.t("runs.stages"),
    [[app.t("runs.stage")], [app.t("runs.in", { run: "A" })], [app.t("runs.in", { run: "B" })]], names.map((stage) => row(stageName(app, stage), cell(count("a", stage)), cell(count("b", stage))))));
}
