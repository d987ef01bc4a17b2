// The documents: which there are, new ones, what became of each, and their end. Knows the JSON of /api/documents and
// /api/ingest; reads no file itself.

import { problemOf } from "./api.js";
import { clear, h, icon, visible } from "./dom.js";
import { inWords } from "./failures.js";
import { confirmed, loading, shared, trouble } from "./parts.js";

const ROWS = 50;
const AT_ONCE = 2; // files on their way
const TYPING_MS = 200;

export const title = "library.title";
export const words = {
  en: {
    ...shared.en,
    "library.title": "Library", "library.count": "{count} documents", "library.count.one": "1 document",
    "library.found": "{count} documents with “{words}” in their name or title", "library.found.one": "1 document with “{words}” in its name or title",
    "library.empty": "There are no documents yet.", "library.empty.how": "Add some here, or run rag ingest FOLDER on this machine.", "library.none": "No document has “{words}” in its name or title.",
    "library.add": "Add documents", "library.drop": "or drop files anywhere on this page", "library.drop.now": "Drop the files to add them",
    "library.filter": "Filter by name or title", "library.again": "Look for changes", "library.again.hint": "Read the folders again that were ingested before",
    "library.again.none": "Nothing has changed.", "library.again.done": "{added} new, {changed} changed, {missing} gone from disk and kept.",
    "library.interrupted": "It was interrupted; what was complete is kept.",
    "library.facts": "{type} · {characters} characters · {count} passages", "library.facts.one": "{type} · {characters} characters · 1 passage",
    "library.open": "Read", "library.account": "Account", "library.account.of": "Account of {name}", "library.delete.of": "Delete {name}",
    "library.page": "{from} to {to} of {total}", "library.before": "Previous", "library.after": "Next",
    "library.uploads": "Uploads", "library.waiting": "waiting", "library.sending": "sending", "library.queued": "safe on the server, waiting for its turn",
    "library.reading": "being read", "library.in": "in the library", "library.same": "in the library already", "library.replaced": "in the library, in place of the one before",
    "library.deleted": "deleted again", "library.refused": "not taken in: {reason}", "library.folder": "A folder cannot be dropped; choose the files in it.",
    "library.dismiss": "Hide what is done", "library.running": "Documents are being read", "library.progress": "{done} of {total}",
    "library.failures": "{count} files could not be read", "library.failures.one": "1 file could not be read", "library.failures.some": "{shown} of {count} are listed here.",
    "library.delete": "Delete", "library.delete.title": "Delete {name}?",
    "library.delete.lines": "Its {count} passages leave the index, and nothing is answered from it any more.", "library.delete.lines.one": "Its passage leaves the index, and nothing is answered from it any more.",
    "library.delete.uploaded": "Its uploaded file is removed too. This cannot be undone.",
    "library.delete.elsewhere": "Its file stays where it is: {root}. When that folder is ingested again, it comes back.",
    "library.delete.failed": "The uploaded file is removed. This cannot be undone.",
    "library.delete.whole": "It is inside a file with other documents, all of which go with it:", "library.delete.compact": "Also write the index anew, so that no byte of it is left there (takes longer)",
    "library.deleting": "Deleting …",
    "library.receipt.gone": "{name} is deleted, and nothing is left of it.", "library.receipt.shared": "{name} is deleted. All of its text is in other documents too, and stays there.", "library.receipt.left": "{name} is deleted: it is found no more. Stretches of it are still in files of the index.",
    "library.receipt.found": "{name} is deleted, but something of it is still found.",
    "library.receipt.looked": "Looked for: searches with its own passages ({searches}), words that only it had ({terms}), samples of its bytes ({samples}, in {files} files). Found: {found}, {terms_left} and {left}.",
    "library.receipt.file": "The uploaded file was removed.", "library.receipt.compact": "To be rid of them: rag index compact",
    "account.bytes": "bytes of its file", "account.characters": "characters of text", "account.in_chunks": "in passages", "account.blank": "white space between passages", "account.unaccounted": "unaccounted for",
    "account.chunks": "passages", "account.tokens": "tokens", "account.embedded": "with an embedding", "account.unembedded": "without one", "account.unknown": "unknown to the encoder", "account.left_out": "not taken over",
    "problem.part-of-file": "It is part of a file with other documents.", "problem.storage": "The server cannot store it.", "problem.ingest": "The documents could not be read.",
    "progress.looking for files": "looking for files", "progress.reading and encoding": "reading and encoding", "progress.saving": "saving",
    "progress.sampling the documents": "sampling the documents", "progress.indexing words": "indexing words",
    "type.text/plain": "text", "type.message/rfc822": "e-mail",
  },
  zh: {
    ...shared.zh,
    "library.title": "文库", "library.count": "{count} 个文档", "library.found": "{count} 个文档的名称或标题含有“{words}”",
    "library.empty": "还没有文档。", "library.empty.how": "在此添加，或在本机运行 rag ingest FOLDER。", "library.none": "没有名称或标题含有“{words}”的文档。",
    "library.add": "添加文档", "library.drop": "或将文件拖放到本页任意位置", "library.drop.now": "松开即可添加文件",
    "library.filter": "按名称或标题筛选", "library.again": "检查改动", "library.again.hint": "重新读取以前收录过的文件夹",
    "library.again.none": "没有改动。", "library.again.done": "新增 {added} 个，改动 {changed} 个，{missing} 个已不在磁盘上但仍保留。",
    "library.interrupted": "处理被中断，已完成的部分保留。",
    "library.facts": "{type} · {characters} 个字符 · {count} 个段落",
    "library.open": "阅读", "library.account": "明细", "library.account.of": "{name} 的明细", "library.delete.of": "删除 {name}",
    "library.page": "第 {from} 至 {to} 个，共 {total} 个", "library.before": "上一页", "library.after": "下一页",
    "library.uploads": "上传", "library.waiting": "等待中", "library.sending": "正在发送", "library.queued": "已存入服务器，等待处理",
    "library.reading": "正在读取", "library.in": "已加入文库", "library.same": "文库中已有", "library.replaced": "已加入文库，取代先前的版本",
    "library.deleted": "随后已删除", "library.refused": "未能收录：{reason}", "library.folder": "不能拖放文件夹，请选择其中的文件。",
    "library.dismiss": "隐藏已完成的", "library.running": "正在读取文档", "library.progress": "{done} / {total}",
    "library.failures": "{count} 个文件无法读取", "library.failures.some": "此处列出 {count} 个中的 {shown} 个。",
    "library.delete": "删除", "library.delete.title": "删除 {name}？",
    "library.delete.lines": "它的 {count} 个段落将从索引中移除，此后的回答不再使用它。",
    "library.delete.uploaded": "上传的文件也会一并删除，此操作无法撤销。",
    "library.delete.elsewhere": "原文件仍保留在 {root}。再次收录该文件夹时，它会重新出现。",
    "library.delete.failed": "上传的文件将被删除，此操作无法撤销。",
    "library.delete.whole": "它与其他文档同在一个文件中，这些文档会一并删除：", "library.delete.compact": "同时重写索引，使其中不留下它的任何字节（耗时较长）",
    "library.deleting": "正在删除……",
    "library.receipt.gone": "{name} 已删除，没有留下任何内容。", "library.receipt.shared": "{name} 已删除。它的文字也都在其他文档中，在那里仍然保留。", "library.receipt.left": "{name} 已删除，不会再被找到。索引文件中仍有它的片段。",
    "library.receipt.found": "{name} 已删除，但仍能找到它的内容。",
    "library.receipt.looked": "核查：用它自己的段落检索 {searches} 次，只有它才有的词 {terms} 个，在 {files} 个文件中查找其字节样本 {samples} 个。仍找到：{found}、{terms_left}、{left}。",
    "library.receipt.file": "上传的文件已删除。", "library.receipt.compact": "彻底清除请运行：rag index compact",
    "account.bytes": "文件字节数", "account.characters": "文本字符数", "account.in_chunks": "在段落中", "account.blank": "段落之间的空白", "account.unaccounted": "去向不明",
    "account.chunks": "段落", "account.tokens": "词元", "account.embedded": "已编码", "account.unembedded": "未编码", "account.unknown": "编码器不认识", "account.left_out": "未收录的内容",
    "problem.part-of-file": "它是一个文件的一部分，该文件还含有其他文档。", "problem.storage": "服务器无法保存。", "problem.ingest": "文档未能读取。",
    "progress.looking for files": "正在查找文件", "progress.reading and encoding": "正在读取和编码", "progress.saving": "正在保存",
    "progress.sampling the documents": "正在抽样", "progress.indexing words": "正在为词语建立索引",
    "type.text/plain": "文本", "type.message/rfc822": "电子邮件",
  },
};

export async function show(root, app) {
  await app.style("views.css");
  const library = new Library(app);
  root.append(library.element);
  library.list();
  library.resume();
  return () => library.leave();
}

const doc = (id) => `/api/documents/${encodeURIComponent(id)}`;

const OFFICE = "application/vnd.openxmlformats-officedocument.";
const TYPES = new Map([
  ["application/pdf", "PDF"], [`${OFFICE}wordprocessingml.document`, "Word"], [`${OFFICE}presentationml.presentation`, "PowerPoint"], [`${OFFICE}spreadsheetml.sheet`, "Excel"],
  ["application/vnd.oasis.opendocument.text", "OpenDocument"], ["application/vnd.oasis.opendocument.spreadsheet", "OpenDocument"], ["application/vnd.oasis.opendocument.presentation", "OpenDocument"],
  ["application/epub+zip", "EPUB"], ["application/rtf", "RTF"], ["application/x-ipynb+json", "Jupyter"], ["application/json", "JSON"], ["application/xml", "XML"], ["application/yaml", "YAML"],
  ["text/html", "HTML"], ["text/markdown", "Markdown"], ["text/csv", "CSV"], ["text/plain", null], ["message/rfc822", null],
]);

// What a person calls it; the words of those who need words are "type.…".
function typeName(app, type) {
  return TYPES.has(type) ? TYPES.get(type) ?? app.t(`type.${type}`) : visible(type);
}

class Library {
  #app;
  #gone = new AbortController();
  #offset = 0;
  #words = "";
  #turn = 0;
  #queue = [];
  #sending = 0;
  #jobs = new Map(); // id -> what hears of it

  constructor(app) {
    this.#app = app;
    const t = app.t;
    this.count = h("p", { class: "lead muted", role: "status" });
    this.chooser = h("input", { type: "file", multiple: true, class: "unseen", tabindex: -1, ariaHidden: "true", onchange: () => { this.add(this.chooser.files); this.chooser.value = ""; } });
    this.filter = h("input", { type: "search", ariaLabel: t("library.filter"), placeholder: t("library.filter"), maxlength: 200 });
    this.lookAgain = h("button", { type: "button", title: t("library.again.hint"), onclick: () => this.again() }, t("library.again"));
    [this.news, this.uploads, this.documents, this.failures] = [1, 2, 3, 4].map(() => h("div", { class: "stack" }));
    this.element = h("div", { class: "wide stack library" },
      h("h1", null, t("library.title")), this.count,
      h("div", { class: "add" }, h("button", { type: "button", class: "primary", onclick: () => this.chooser.click() }, icon("plus"), t("library.add")), h("span", { class: "muted drop" }, t("library.drop")), this.chooser),
      this.news, this.uploads, h("div", { class: "bar" }, this.filter, h("span", { class: "push" }), this.lookAgain), this.failures, this.documents);
    clear(this.documents).append(loading(app));
    let typing = 0;
    this.filter.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => { this.#words = this.filter.value.trim(); this.#offset = 0; this.list(); }, TYPING_MS);
    });
    this.#takeDrops();
  }

  leave() {
    this.#gone.abort();
  }

  #send(method, path, body) {
    return this.#app.api.send(method, path, body, { signal: this.#gone.signal });
  }

  // ---- the list ----------------------------------------------------------------------------------------------------

  async list() {
    const app = this.#app, mine = ++this.#turn;
    let found;
    try {
      found = await this.#send("GET", `/api/documents?${new URLSearchParams({ q: this.#words, limit: ROWS, offset: this.#offset })}`);
    } catch (problem) {
      if (problem.code !== "stopped" && mine === this.#turn) clear(this.documents).append(trouble(app, problem, () => this.list()));
      return;
    }
    if (mine !== this.#turn) return;
    if (this.#offset && this.#offset >= found.total) { // the last of a page was deleted
      this.#offset = Math.max(0, this.#offset - ROWS);
      return void this.list();
    }
    this.count.textContent = found.total || !this.#words ? app.t(this.#words ? "library.found" : "library.count", { count: found.total, words: visible(this.#words) }) : "";
    const rows = found.documents.map((one) => this.#row(one));
    clear(this.documents).append(rows.length ? h("ul", { class: "rows documents" }, rows) : this.#empty(), ...this.#pages(found.total));
    clear(this.failures).append(...this.#failed(found));
  }

  #empty() {
    const t = this.#app.t;
    if (this.#words) return h("p", { class: "empty" }, t("library.none", { words: visible(this.#words) }));
    return h("div", { class: "empty" }, h("p", null, t("library.empty")), h("p", null, t("library.empty.how")));
  }

  #row(one) {
    const app = this.#app, name = visible(one.source);
    const open = h("button", { type: "button", class: "link name", dir: "auto", onclick: () => app.openSource({ doc_id: one.doc_id, source: one.source, start: 0, end: 0 }, open) }, name);
    const account = h("details", { class: "small" }, h("summary", { ariaLabel: app.t("library.account.of", { name }) }, app.t("library.account")));
    account.addEventListener("toggle", () => { if (account.open && account.childElementCount === 1) this.#account(account, one); });
    const title = one.title && one.title !== one.source ? h("p", { class: "title", dir: "auto" }, visible(one.title)) : null;
    return h("li", null, open, title,
      h("p", { class: "muted small", title: one.media_type }, app.t("library.facts", { type: typeName(app, one.media_type), characters: one.characters, count: one.chunks })), account,
      h("button", { type: "button", class: "quiet round delete", ariaLabel: app.t("library.delete.of", { name }), title: app.t("library.delete"), onclick: () => this.#delete(one) }, icon("trash")));
  }

  async #account(place, one) {
    const app = this.#app, body = h("div", null, loading(app));
    place.append(body);
    try {
      const { account } = await this.#send("GET", doc(one.doc_id));
      clear(body).append(accountList(app, account));
    } catch (problem) {
      if (problem.code !== "stopped") clear(body).append(trouble(app, problem, () => { body.remove(); this.#account(place, one); }));
    }
  }

  #pages(total) {
    const t = this.#app.t;
    if (total <= ROWS) return [];
    const turn = (by) => async () => {
      this.#offset += by * ROWS;
      await this.list();
      this.count.scrollIntoView({ block: "center" });
      this.documents.querySelector("button")?.focus({ preventScroll: true });
    };
    const button = (by, name, isLast) => h("button", { type: "button", disabled: isLast, onclick: turn(by) }, t(name));
    return [h("div", { class: "bar pages" }, button(-1, "library.before", this.#offset === 0),
      h("span", { class: "muted" }, t("library.page", { from: this.#offset + 1, to: Math.min(total, this.#offset + ROWS), total })), button(1, "library.after", this.#offset + ROWS >= total))];
  }

  #failed({ failures, failures_total: total }) {
    const app = this.#app;
    if (!total) return [];
    return [h("details", { class: "failures", open: total <= 3 }, h("summary", null, h("h2", null, app.t("library.failures", { count: total }))),
      total > failures.length && h("p", { class: "muted small" }, app.t("library.failures.some", { shown: failures.length, count: total })),
      h("ul", { class: "rows" }, failures.map((one) => h("li", null, h("p", { class: "name", dir: "auto" }, visible(one.source)), reasonOf(app, one),
        one.doc_id && h("button", { type: "button", class: "quiet round delete", ariaLabel: app.t("library.delete.of", { name: visible(one.source) }), title: app.t("library.delete"), onclick: () => this.#delete(one) }, icon("trash"))))))];
  }

  // ---- what is deleted ---------------------------------------------------------------------------------------------

  async #delete(one, whole = false) {
    const app = this.#app, name = visible(one.source);
    const compact = h("input", { type: "checkbox" });
    const isFailure = one.chunks === undefined;
    const lines = [
      whole ? app.t("library.delete.whole") : null,
      whole ? visible(whole) : null,
      isFailure ? null : app.t("library.delete.lines", { count: one.chunks }),
      isFailure ? app.t("library.delete.failed") : one.uploaded ? app.t("library.delete.uploaded") : app.t("library.delete.elsewhere", { root: visible(one.root) }),
    ].filter(Boolean);
    const check = isFailure ? [] : [h("label", { class: "check small" }, compact, app.t("library.delete.compact"))];
    if (!(await confirmed(app, { title: app.t("library.delete.title", { name }), lines: [...lines, ...check], action: app.t("library.delete") }))) return;
    clear(this.news).append(h("p", { class: "notice", role: "status" }, app.t("library.deleting")));
    this.news.scrollIntoView({ block: "nearest" });
    try {
      const made = await this.#send("DELETE", `${doc(one.doc_id)}?compact=${compact.checked}&whole=${Boolean(whole)}`);
      this.#tell(receipt(app, name, made));
      for (const item of this.uploads.querySelectorAll("li[data-done]")) {
        if (item.dataset.name === one.source) clear(item.querySelector(".said")).append(h("p", { class: "muted" }, app.t("library.deleted")));
      }
    } catch (problem) {
      if (problem.code === "part-of-file" && !whole) {
        clear(this.news);
        return void this.#delete(one, problem.message);
      }
      if (problem.code !== "stopped") this.#tell(trouble(app, problem));
      return;
    }
    await this.list();
  }

  #tell(element) {
    element.setAttribute("tabindex", "-1");
    clear(this.news).append(element);
    element.focus();
  }

  // ---- what comes in -----------------------------------------------------------------------------------------------

  #takeDrops() {
    const veil = h("div", { class: "veil", hidden: true }, this.#app.t("library.drop.now"));
    const listen = (name, act) => addEventListener(name, act, { signal: this.#gone.signal });
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    this.element.append(veil);
    listen("dragover", (event) => { if (hasFiles(event)) { event.preventDefault(); veil.hidden = false; } });
    listen("dragleave", (event) => { if (event.relatedTarget === null) veil.hidden = true; });
    listen("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      veil.hidden = true;
      const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
      const isFolder = items.some((item) => item.webkitGetAsEntry?.()?.isDirectory);
      if (isFolder) this.#tell(h("p", { class: "notice warn", role: "alert" }, this.#app.t("library.folder")));
      this.add(items.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile()));
    });
  }

  add(files) {
    if (!files.length) return;
    if (!this.uploads.childElementCount) {
      const done = h("button", { type: "button", class: "quiet", onclick: () => this.#dismiss() }, this.#app.t("library.dismiss"));
      this.uploads.append(h("section", { class: "uploads" }, h("div", { class: "bar" }, h("h2", null, this.#app.t("library.uploads")), h("span", { class: "push" }), done), h("ul", { class: "rows" })));
    }
    for (const file of files) {
      const item = new Upload(this.#app, file);
      this.uploads.querySelector("ul").append(item.element);
      this.#queue.push(item);
    }
    this.#next();
  }

  #dismiss() {
    for (const item of this.uploads.querySelectorAll("li[data-done]")) item.remove();
    if (!this.uploads.querySelector("li")) clear(this.uploads);
    this.element.querySelector(".add button").focus();
  }

  async #next() {
    if (this.#sending >= AT_ONCE || !this.#queue.length || this.#gone.signal.aborted) return;
    this.#sending += 1;
    const item = this.#queue.shift();
    this.#next();
    try {
      const kept = await item.send(this.#gone.signal);
      this.#follow(kept.job, item);
    } catch (problem) {
      if (problem.code !== "stopped") item.failed(problem);
    }
    this.#sending -= 1;
    this.#next();
  }

  // Tells all who wait for a run how it goes. Each hears progress(…), and at the end done(report) or failed(problem).
  async #follow(job, listener) {
    if (this.#jobs.has(job)) return void this.#jobs.get(job).push(listener);
    const listeners = [listener];
    this.#jobs.set(job, listeners);
    const end = (say) => {
      this.#jobs.delete(job);
      listeners.forEach(say);
      this.list();
    };
    let ended = false;
    try {
      await this.#app.api.stream(`/api/ingest/${encodeURIComponent(job)}/events`, undefined, (name, record) => {
        if (name === "progress") listeners.forEach((one) => one.progress(record));
        else if (name === "state") listeners.forEach((one) => one.progress(record.state === "running" ? record.progress ?? {} : null));
        else ended = true;
        if (name === "done") end((one) => one.done(record));
        else if (name === "failed") end((one) => one.failed(problemOf(record)));
      }, this.#gone.signal);
      if (!ended) end((one) => one.failed({ code: "broken-off", message: "" }));
    } catch (problem) {
      if (problem.code !== "stopped" && !ended) end((one) => one.failed(problem));
    }
  }

  // Runs that others began, or this page before it was left.
  async resume() {
    try {
      const { jobs } = await this.#send("GET", "/api/ingest");
      for (const job of jobs) if (job.state === "waiting" || job.state === "running") this.#watch(job.job);
    } catch {
      // the list of documents says what is wrong
    }
  }

  async again() {
    const app = this.#app;
    this.lookAgain.disabled = true;
    try {
      const { job } = await this.#send("POST", "/api/ingest", {});
      this.#watch(job, (report) => {
        const gone = { added: report.added.length, changed: report.changed.length, missing: report.missing.length };
        const said = Object.values(gone).some(Boolean) ? app.t("library.again.done", gone) : app.t("library.again.none");
        return h("p", { class: "notice", role: "status" }, said, report.interrupted ? ` ${app.t("library.interrupted")}` : "");
      });
    } catch (problem) {
      if (problem.code !== "stopped") clear(this.news).append(trouble(app, problem));
    }
    this.lookAgain.disabled = false;
  }

  #watch(job, said = () => null) {
    const app = this.#app;
    const line = new Progress(app);
    const notice = h("div", { class: "notice" }, h("p", { role: "status" }, app.t("library.running")), line.element);
    clear(this.news).append(notice);
    if (said) this.news.scrollIntoView({ block: "nearest" });
    const end = (element) => { if (element) notice.replaceWith(element); else notice.remove(); };
    this.#follow(job, { progress: (now) => line.show(now), done: (report) => end(said(report)), failed: (problem) => end(trouble(app, problem)) });
  }
}

// A bar with words: a run that waits (null), has begun ({}), or is at {stage, done, total, unit}.
class Progress {
  constructor(app) {
    this.app = app;
    this.bar = h("progress", { max: 1, ariaLabel: app.t("library.running") });
    this.words = h("p", { class: "muted small" });
    this.element = h("div", null, this.words, this.bar);
  }

  show(now) {
    const t = this.app.t;
    if (now === null) this.words.textContent = t("library.queued");
    else {
      const stage = t(`progress.${now.stage}`).replace(/^progress\./, "");
      this.words.textContent = [now.stage ? stage : t("library.reading"), now.total ? t("library.progress", { done: now.done, total: now.total }) : null].filter(Boolean).join(" · ");
    }
    this.share(now?.total ? now.done / now.total : null);
  }

  share(part) {
    if (part === null) this.bar.removeAttribute("value");
    else this.bar.value = part;
  }
}

// One file on its way: sent, kept, read, and in the library or not.
class Upload {
  constructor(app, file) {
    this.app = app;
    this.file = file;
    this.line = new Progress(app);
    this.bar = this.line.bar;
    this.bar.setAttribute("aria-label", visible(file.name));
    this.said = h("div", { class: "said small", role: "status" });
    this.element = h("li", null, h("p", { class: "name", dir: "auto" }, visible(file.name)), this.line.element, this.said);
    this.line.words.textContent = app.t("library.waiting");
  }

  async send(signal) {
    const sending = this.app.t("library.sending");
    this.line.words.textContent = sending;
    const path = `/api/documents?${new URLSearchParams({ name: this.file.name })}`;
    this.kept = await this.app.api.upload(path, this.file, (share) => this.line.share(share), { signal });
    this.line.show(null);
    return this.kept;
  }

  progress(now) {
    this.line.show(now);
  }

  done(report) {
    const t = this.app.t, { name } = this.kept;
    const failures = report.failures.filter((one) => one.source === name || one.source.startsWith(`${name}/`) || one.source.startsWith(`${name}!`));
    if (failures.length) return this.#end(failures.map((one) => reasonOf(this.app, one)), "warning");
    const isNew = [...report.added, ...report.changed].some((source) => source === name || source.startsWith(name));
    this.#end([h("p", null, icon("check"), t(this.kept.replaced && isNew ? "library.replaced" : isNew ? "library.in" : "library.same"))], "");
  }

  failed(problem) {
    const reason = [this.app.problemWords(problem), problem.message && visible(problem.message)].filter(Boolean).join(" ");
    this.#end([h("p", null, this.app.t("library.refused", { reason }))], "warning");
  }

  #end(said, kind) {
    this.line.element.remove();
    this.element.dataset.done = "";
    this.element.dataset.name = this.kept?.name ?? "";
    if (kind) this.element.classList.add(kind);
    clear(this.said).append(...said);
  }
}

const reasonOf = (app, { reason, advice }) => h("p", { class: "small reason", dir: "auto" }, inWords(app, reason), advice ? h("span", { class: "muted" }, ` · ${inWords(app, advice)}`) : null);

function accountList(app, account) {
  const names = ["bytes", "characters", "in_chunks", "blank", "unaccounted", "chunks", "tokens", "embedded", "unembedded", "unknown"];
  const items = names.filter((name) => account[name] !== null).map((name) => h("div", null, h("dt", null, app.t(`account.${name}`)), h("dd", null, app.formatNumber(account[name]))));
  const left = Object.entries(account.left_out).map(([name, value]) => `${visible(name)}: ${visible(typeof value === "string" ? value : JSON.stringify(value))}`);
  return h("dl", { class: "account" }, items, left.length ? h("div", { class: "whole" }, h("dt", null, app.t("account.left_out")), h("dd", { dir: "auto" }, left.join("; "))) : null);
}

function receipt(app, name, { receipt: made, file }) {
  const left = Object.values(made.left_in).reduce((sum, n) => sum + n, 0);
  const { searches, terms, terms_left, samples, files, found_by_search: found } = made;
  const isShared = made.gone && !terms && !samples && !file; // nothing is its own, so nothing of it could be looked for
  const outcome = isShared ? "shared" : made.gone ? "gone" : found || terms_left ? "found" : "left";
  return h("div", { class: `notice${made.gone ? "" : " warn"}`, role: "status" },
    h("p", null, app.t(`library.receipt.${outcome}`, { name })),
    h("p", { class: "small muted" }, isShared ? "" : app.t("library.receipt.looked", { searches, terms, samples, files, found, terms_left, left }), file ? ` ${app.t("library.receipt.file")}` : "", outcome === "left" ? ` ${app.t("library.receipt.compact")}` : ""));
}
