// Talks to the server it came from. Knows HTTP and events; nothing of what they are about.

// What went wrong. `status` is 0 and `code` "network", "stopped" or "broken-off" where no answer came at all.
export class Problem extends Error {
  constructor(status, code, message, { requestId = "", retrySeconds = null } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId, retrySeconds });
  }
}

export const get = (path) => send("GET", path);

// The record of the answer, null where it is empty. Throws Problem.
export async function send(method, path, body, { signal } = {}) {
  const answer = await request(method, path, body, signal);
  const text = await answer.text().catch((error) => { throw lost(error); });
  return text ? JSON.parse(text) : null;
}

// A picture as a file in memory, and what the server says of it in its headers: {blob, header(name)}. Throws Problem.
export async function picture(path, { signal } = {}) {
  const answer = await request("GET", path, undefined, signal);
  const blob = await answer.blob().catch((error) => { throw lost(error); });
  return { blob, header: (name) => answer.headers.get(name) };
}

// onEvent(name, record) for each server-sent event, in order. Returns when the stream has ended. Throws Problem.
export async function stream(path, body, onEvent, signal) {
  const answer = await request(body === undefined ? "GET" : "POST", path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const frames = new Frames(onEvent);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      frames.push(value);
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error instanceof DOMException || error instanceof TypeError ? lost(error) : error;
  }
}

// Sends a File, Blob or FormData; onProgress(share) with [0, 1] while it goes. Returns the record. Throws Problem.
export function upload(path, file, onProgress = () => {}, { method = "POST", headers = {}, signal } = {}) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open(method, path);
    for (const [name, value] of Object.entries(headers)) sending.setRequestHeader(name, value);
    sending.upload.onprogress = (event) => onProgress(event.lengthComputable ? event.loaded / event.total : 0);
    sending.onerror = () => reject(new Problem(0, "network", ""));
    sending.onabort = () => reject(new Problem(0, "stopped", ""));
    sending.onload = () => {
      const header = (name) => sending.getResponseHeader(name);
      if (sending.status >= 400) reject(problem(sending.status, sending.responseText, header));
      else resolve(sending.responseText ? JSON.parse(sending.responseText) : null);
    };
    signal?.addEventListener("abort", () => sending.abort());
    sending.send(file);
  });
}

// The form of an error inside a stream: {error: {message, code, request_id}}.
export function problemOf(record, status = 0, retrySeconds = null) {
  const { code = "failed", message = "", request_id: requestId = "" } = record?.error ?? {};
  return new Problem(status, code, message, { requestId, retrySeconds });
}

async function request(method, path, body, signal) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    throw lost(error);
  }
  if (!answer.ok) throw problem(answer.status, await answer.text().catch(() => ""), (name) => answer.headers.get(name));
  return answer;
}

function problem(status, text, header) {
  if (status === 401) location.reload(); // the cookie has run out: the server shows the sign-in page
  let record = null;
  try {
    record = JSON.parse(text);
  } catch {
    // not one of ours; the status says enough
  }
  const retry = Number.parseInt(header("retry-after") ?? "", 10);
  return problemOf(record, status, Number.isNaN(retry) ? null : retry);
}

function lost(error) {
  return new Problem(0, error?.name === "AbortError" ? "stopped" : "network", ""); // what a browser says of it helps nobody
}

// Server-sent events as WHATWG HTML, section 9.2.6, reads them: lines end in CRLF, LF or CR; an event in an empty line.
class Frames {
  #onEvent;
  #rest = "";
  #name = "";
  #data = [];

  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/); // a CR at the very end may be half of a CRLF
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.#onEvent(this.#name || "message", JSON.parse(this.#data.join("\n")));
      this.#name = "";
      this.#data = [];
      return;
    }
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
    if (field === "event") this.#name = value;
    if (field === "data") this.#data.push(value);
  }
}
