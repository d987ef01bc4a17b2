// Conversations, kept in this browser and nowhere else, and what one looks like as Markdown. Knows no page.
//
// A conversation is {id, title, changed, turns}; a turn {asked, understood, record, draft, problem, looked}: `record` is
// the answer as `POST /api/ask` gives it, null where it was stopped or failed.

export const LIMIT = 200;

const NAME = "rag-conversations";
const MARKER = /\s*\[\d{1,3}\]/g;
const MOST_TURNS = 100; // that the server takes

export function fresh() {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "", changed: 0, turns: [] };
}

// What is sent along with a follow-up. Markers are left out: they would point at passages of another prompt.
export function historyOf(turns) {
  return turns.filter((turn) => turn.record).slice(-MOST_TURNS)
    .map(({ record }) => ({ question: record.question, answer: record.answer.replace(MARKER, "") }));
}

// [{id, title, changed, questions}], the latest first. Throws where the browser keeps nothing.
export async function list() {
  const heads = await within("readonly", (stores) => result(stores.heads.getAll()));
  return heads.sort((one, other) => other.changed - one.changed);
}

// The conversation, null where it is not kept.
export async function load(id) {
  return (await within("readonly", (stores) => result(stores.talks.get(id)))) ?? null;
}

// Keeps it. One that went on elsewhere meanwhile, in another window, stays as it is: this one becomes a second one.
export function save(talk) {
  return within("readwrite", async (stores) => {
    const known = await result(stores.heads.get(talk.id));
    if (known && known.changed !== talk.changed) talk.id = fresh().id;
    talk.changed = Math.max(Date.now(), talk.changed + 1);
    const { id, title, changed, turns } = talk;
    stores.talks.put(structuredClone({ id, title, changed, turns }));
    stores.heads.put({ id, title, changed, questions: turns.length });
    const heads = await result(stores.heads.getAll());
    const old = heads.sort((one, other) => other.changed - one.changed).slice(LIMIT);
    for (const each of old) drop(stores, each.id);
  });
}

export function remove(id) {
  return within("readwrite", async (stores) => drop(stores, id));
}

function drop(stores, id) {
  stores.heads.delete(id);
  stores.talks.delete(id);
}

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => {
      for (const store of ["heads", "talks"]) opening.result.createObjectStore(store, { keyPath: "id" });
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => { opened = null; reject(opening.error); };
  });
  return opened;
}

async function within(mode, work) {
  const transaction = (await database()).transaction(["heads", "talks"], mode);
  const done = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
  const found = await work({ heads: transaction.objectStore("heads"), talks: transaction.objectStore("talks") });
  await done;
  return found;
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// Whether an answer is nothing but its quotes, as the extractive reader gives them.
export function isQuotes({ abstained, answer, citations, sentences }) {
  return !abstained && citations.length > 0 && !sentences.length && answer === citations.map((each) => `${each.quote} [${each.marker}]`).join(" ");
}

// As a document that can be read anywhere: questions, answers, every quote with its place.
// words: t(key, values); place(citation) => text; remarks(record) => lines.
export function markdown(talk, { t, place, remarks }) {
  const parts = [`# ${plain(talk.title)}`];
  for (const { asked, understood, record, draft } of talk.turns) {
    parts.push(`## ${plain(asked)}`);
    if (understood && understood !== asked) parts.push(`*${t("ask.understood", { question: plain(understood) })}*`);
    if (!record) {
      parts.push(draft ? `${escaped(draft)}\n\n*${t("ask.unchecked")}*` : `*${t("ask.unanswered")}*`);
      continue;
    }
    if (!isQuotes(record)) parts.push(escaped(record.answer));
    parts.push(...remarks(record).map((line) => `> ${plain(line)}`));
    for (const citation of record.citations) {
      const quote = escaped(citation.quote).replace(/\n/g, "\n> ");
      parts.push(`**\\[${citation.marker}\\] ${plain(place(citation))}**\n\n> ${quote}`);
    }
  }
  return `${parts.join("\n\n")}\n`;
}

// Text that Markdown must take as text: nothing in it becomes a link, an image, HTML or a heading.
function escaped(text) {
  return text.replace(/[\\`*_{}[\]<>#|~!&]/g, "\\$&").replace(/^(\s*)([-+=]|\d+[.)])/gm, (_, space, mark) => `${space}${mark.slice(0, -1)}\\${mark.slice(-1)}`)
    .replace(/^(?: {4}|\t)/gm, "\u00a0\u00a0\u00a0\u00a0");
}

function plain(text) {
  return escaped(text).replace(/\s+/g, " ").trim();
}

export function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/markdown;charset=utf-8" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
