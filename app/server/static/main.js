// The frame of the page: views by the hash of the address, language, colours, keys. Knows no view's content.
//
// A view is a module `NAME.js`, shown at `#/NAME` (and `#/NAME/…`, `#/NAME?…`), imported when first needed. It exports
//   title   a key into its words, for the title of the window
//   words   {en: {key: "text with {value}"}, zh: {…}}; "key.one" is used instead of "key" where values.count is 1
//   show    async (root, app, rest) => cleanup or nothing: fills `root`, the empty <main>. `rest` is what follows
//           `#/NAME` in the address, without its first "/" or "?" ("" mostly). A change of language shows it anew.
// A view has one <h1> (it may be class "unseen"), builds with `h` of dom.js, and wears the classes that style.css lists
// at its top; rules of its own go into its own style sheet, which `app.style("NAME.css")` loads. `app` has
//   api            get(path), send(method, path, body), stream(path, body, onEvent, signal),
//                  upload(path, file, onProgress), picture(path); they throw Problem {status, code, message, requestId, retrySeconds}
//   t(key, values) the words in the present language; language is "en" or "zh"
//   problemWords(problem)   one sentence on what went wrong, in the present language
//   openSource(citation, trigger, step)   opens the source beside the view. citation: {doc_id, start, end} and what is
//                  known of {source, page, line, heading, marker}; focus goes back to `trigger` when it is closed;
//                  step(1 or -1), where given, opens the neighbours
//   closeSource()
//   go(hash)       to another view: go("#/search?q=…")
//   announce(text) says it to those who listen instead of looking
//   showKeys()     the card of keys; singleKeys() whether keys without Ctrl or Alt may act
//   formatNumber(value, options), formatDate(value, options)   as in Intl; a date is an ISO string or milliseconds

import * as api from "./api.js";
import { clear, h, icon } from "./dom.js";
import { makeSources } from "./sources.js";
import { words } from "./words.js";

const VIEWS = ["ask", "library", "search", "runs", "map"];
const LANGUAGES = { en: "en", zh: "zh-CN" };

const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

// What a person chose, where the browser keeps it; else for as long as the page is open.
const chosen = {
  get: (name) => { try { return localStorage.getItem(`rag-${name}`); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(`rag-${name}`, value); } catch { /* nothing is kept here */ } },
};

const app = {
  api,
  chosen,
  language: chosen.get("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"),
  t(key, values = {}) {
    const known = words[app.language];
    const text = (values.count === 1 ? known[`${key}.one`] : undefined) ?? known[key] ?? words.en[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => {
      const value = values[name];
      return typeof value === "number" ? app.formatNumber(value) : value ?? whole;
    });
  },
  problemWords(problem) {
    const key = `problem.${problem.code ?? "failed"}`;
    return key in words.en ? app.t(key) : app.t("problem.failed");
  },
  openSource: (citation, trigger, step) => sources.open(citation, trigger, step),
  closeSource: () => sources.close(),
  go: (hash) => { location.hash = hash; },
  announce(text) {
    const place = byId("said");
    clear(place);
    setTimeout(() => { place.textContent = text; }, 60); // a change is read out, the same text again is not
  },
  singleKeys: () => chosen.get("keys") !== "off",
  showKeys,
  style(name) {
    const href = `/page/${name}`;
    if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
    return new Promise((resolve) => {
      document.head.append(h("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve }));
    });
  },
  formatNumber: (value, options) => new Intl.NumberFormat(LANGUAGES[app.language], options).format(value),
  formatDate: (value, options = { dateStyle: "medium", timeStyle: "short" }) =>
    new Intl.DateTimeFormat(LANGUAGES[app.language], options).format(new Date(value)),
};

let cleanup = null;
let shown = "";
let turn = 0;
const sources = makeSources(app, byId("source"));

function present() {
  const [, name = "", rest = ""] = /^#\/(\w+)(?:[/?](.*))?$/.exec(location.hash) ?? [];
  return VIEWS.includes(name) ? { name, rest } : { name: "ask", rest: "" };
}

async function show() {
  const { name, rest } = present();
  const root = byId("main");
  const mine = ++turn;
  const isNew = shown !== "" && shown !== name;
  if (isNew) sources.close();
  shown = name;
  frame(name);
  let view = null;
  try {
    view = await import(`./${name}.js`);
    if (mine !== turn) return;
    for (const language of Object.keys(LANGUAGES)) Object.assign(words[language], view.words[language]);
    await cleanup?.();
    cleanup = null;
    root.dataset.view = name;
    document.title = `${app.t(view.title)} · cited-rag`;
    cleanup = (await view.show(clear(root), app, rest)) ?? null;
  } catch (error) {
    if (mine !== turn) return;
    console.error(error);
    clear(root).append(h("h1", null, app.t(`nav.${name}`)), h("p", { class: "notice warn" }, app.t("view.failed")));
  }
  if (isNew && mine === turn) {
    scrollTo(0, 0);
    if (!root.contains(document.activeElement)) root.focus({ preventScroll: true }); // a view may have a field to begin in
  }
}

function frame(name) {
  document.documentElement.lang = LANGUAGES[app.language];
  byId("skip").textContent = app.t("skip");
  const links = VIEWS.map((each) =>
    h("a", { href: `#/${each}`, ariaCurrent: each === name ? "page" : null }, app.t(`nav.${each}`)));
  const other = app.language === "en" ? "zh" : "en";
  clear(byId("top")).append(
    h("a", { class: "name", href: "#/ask", ariaLabel: app.t("home") }, h("img", { src: "/page/icon.svg", alt: "", width: 24, height: 24 }), h("span", null, "cited-rag")),
    h("nav", { ariaLabel: app.t("views") }, links),
    h("div", { class: "switches" },
      h("button", { class: "quiet", lang: LANGUAGES[other], onclick: () => speak(other) }, other === "zh" ? "中文" : "English"),
      h("button", { class: "quiet round", id: "colours", onclick: paint, ariaPressed: isDark(), ariaLabel: app.t("dark"), title: app.t("dark") }, icon(isDark() ? "light" : "dark"))),
  );
}

function speak(language) {
  chosen.set("language", language);
  app.language = language;
  sources.close();
  show();
  byId("top").querySelector(".switches button").focus();
}

function isDark() {
  const own = document.documentElement.dataset.colours;
  return own ? own === "dark" : dark.matches;
}

function paint() {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.colours = next;
  chosen.set("colours", next);
  frame(present().name);
  byId("colours").focus();
}

function showKeys() {
  const rows = [["/", "ask"], ["Enter", "send"], ["Shift Enter", "line"], ["Esc", "escape"], ["1 … 9", "open"], ["← →", "walk"], ["?", "keys"]];
  const dialog = h("dialog", { class: "card keys", ariaLabelledby: "keys-title", onclose: () => dialog.remove(), onclick: (event) => { if (event.target === dialog) dialog.close(); } },
    h("div", { class: "head" }, h("h2", { id: "keys-title" }, app.t("keys.title")),
      h("button", { class: "quiet round", ariaLabel: app.t("close"), onclick: () => dialog.close() }, icon("close"))),
    h("dl", null, rows.map(([keys, name]) => [h("dt", null, keys.split(" ").map((key) => (key === "…" ? " – " : h("kbd", null, key)))), h("dd", null, app.t(`keys.${name}`))])),
    h("label", { class: "check" }, h("input", { type: "checkbox", checked: app.singleKeys(), onchange: (event) => chosen.set("keys", event.target.checked ? "on" : "off") }), app.t("keys.single")));
  document.body.append(dialog);
  dialog.showModal();
}

addEventListener("keydown", (event) => {
  const isFree = !event.defaultPrevented && !event.altKey && !event.ctrlKey && !event.metaKey && !document.querySelector("dialog:modal");
  if (event.key !== "?" || !isFree || event.target.closest?.("input, textarea, select") || !app.singleKeys()) return;
  event.preventDefault();
  showKeys();
});

if (["light", "dark"].includes(chosen.get("colours"))) document.documentElement.dataset.colours = chosen.get("colours");
dark.addEventListener("change", () => frame(present().name));
addEventListener("hashchange", show);
byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("main").focus(); });
show();
