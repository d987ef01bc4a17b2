// The source of a citation: beside the view where there is room, else a sheet above it. Knows documents; no view.

import { clear, h, icon, visible } from "./dom.js";

const AROUND = 20_000; // characters before and after, as many as the server gives
const narrow = matchMedia("(max-width: 700px)");

// file:line, or file p. 3, and the headings it stands under: what a person looks it up by.
export function placeOf(app, one) {
  const parts = [one.slide && app.t("place.slide", { n: String(one.slide) }), one.sheet && app.t("place.sheet", { name: visible(one.sheet) }),
    one.row && app.t("place.row", { n: String(one.row) })].filter(Boolean);
  if (!parts.length && one.page) parts.push(app.t("place.page", { n: String(one.page) }));
  else if (!parts.length && one.line) parts.push(app.t("place.line", { n: String(one.line) }));
  return [visible(one.source ?? ""), ...parts, ...(one.heading?.length ? [one.heading.map(visible).join(" › ")] : [])].join(" · ");
}

// pane: the <dialog> of the page.
export function makeSources(app, pane) {
  let trigger = null;
  let walk = null;
  let coming = 0;
  let asText = app.chosen.get("source") === "text";
  let isLarge = app.chosen.get("page") === "large";

  pane.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  pane.addEventListener("click", (event) => { if (event.target === pane) close(); }); // beside a sheet
  document.addEventListener("keydown", (event) => {
    if (!pane.open || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && !document.querySelector("dialog:modal:not(#source)")) {
      event.preventDefault();
      close();
    } else if (walk && pane.contains(event.target) && !event.target.matches(".text.large") && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      event.preventDefault();
      walk(event.key === "ArrowRight" ? 1 : -1);
    }
  });
  narrow.addEventListener("change", () => { if (pane.open) close(); });

  // step: (1 or -1) => opens the next or the previous citation; left out where there is nothing to walk along
  async function open(citation, from, step) {
    release();
    [trigger, walk] = [from ?? document.activeElement, step ?? null];
    trigger?.setAttribute("aria-expanded", "true");
    const mine = ++coming;
    head(citation);
    const body = h("div", { class: "text", tabindex: 0, role: "region", ariaLabel: app.t("source.coming"), ariaBusy: true }, app.t("source.coming"));
    pane.append(body);
    if (!pane.open) narrow.matches ? pane.showModal() : pane.show();
    body.focus({ preventScroll: true });
    try {
      const path = `/api/source/${encodeURIComponent(citation.doc_id)}`;
      const span = new URLSearchParams({ start: citation.start, end: citation.end });
      const found = await app.api.get(`${path}?${span}&around=${AROUND}`);
      if (mine !== coming) return;
      if (citation.quote !== undefined && citation.quote !== found.quote) throw { code: "source-changed" };
      const known = { ...citation, ...found };
      head(known, body);
      await fill(body, known, (number) => `${path}/page/${number}?${span}`);
    } catch (problem) {
      if (mine !== coming) return;
      body.removeAttribute("aria-busy");
      clear(body).append(h("p", { class: "notice warn", role: "alert" }, app.problemWords(problem),
        problem.message ? h("span", { class: "muted small said" }, visible(problem.message)) : null));
    }
  }

  function head(one, body) {
    const title = h("h2", { id: "source-title" }, visible(one.title || (one.source ?? "").split("/").at(-1)));
    const steps = walk && [[-1, "left", "source.previous"], [1, "right", "source.next"]].map(([by, drawing, name]) =>
      h("button", { class: "quiet round", ariaLabel: app.t(name), title: app.t(name), onclick: () => walk(by) }, icon(drawing)));
    const shape = one.has_page_image && [["page", false], ["text", true]].map(([name, text]) =>
      h("button", { class: "quiet", ariaPressed: asText === text, onclick: () => choose(text) }, app.t(`source.${name}`)));
    const made = h("div", { class: "head" }, title, h("p", { class: "place" }, one.marker ? `[${one.marker}] ` : null, placeOf(app, one)),
      h("button", { class: "quiet round close", ariaLabel: app.t("close"), title: app.t("close"), onclick: close }, icon("close")),
      (steps || shape) && h("div", { class: "bar" }, steps, shape));
    pane.querySelector(".leaves")?.remove();
    if (body) pane.querySelector(".head").replaceWith(made);
    else clear(pane).append(made);

    function choose(text) {
      asText = text;
      app.chosen.set("source", text ? "text" : "page");
      open(one, trigger, walk ?? undefined);
    }
  }

  async function fill(body, one, image) {
    if (!one.has_page_image || asText) {
      words(body, one);
      return;
    }
    const mine = coming;
    try {
      await page(body, one, image, one.page);
    } catch (problem) {
      if (mine !== coming) return;
      words(body, one);
      body.prepend(h("p", { class: "notice warn" }, `${app.problemWords(problem)} ${app.t("source.no-image")}`));
    }
  }

  // A page as it looks. The server says what encloses the marks, as shares of the page: left, top, right, bottom.
  async function page(body, one, image, number) {
    const mine = coming;
    const pixels = Math.min(2000, Math.max(200, Math.round(body.clientWidth * (isLarge ? 1.75 : 1) * Math.min(devicePixelRatio, 2))));
    const { blob, header } = await app.api.picture(`${image(number)}&width=${pixels}`);
    const address = URL.createObjectURL(blob);
    const shown = h("img", { src: address, alt: app.t(one.page <= number && number <= one.last_page ? "source.image" : "source.image.other", { page: String(number), name: visible(one.source) }) });
    try {
      await shown.decode();
    } finally {
      URL.revokeObjectURL(address);
    }
    if (mine !== coming) return;
    ready(body, one);
    body.classList.add("page");
    body.classList.toggle("large", isLarge);
    clear(body).append(shown, number === one.page ? h("p", { class: "unseen" }, visible(one.quote)) : "");
    const [left, top] = (header("x-marked") ?? "").split(",").map(Number);
    body.scrollTop = Math.max(0, (top || 0) * shown.clientHeight - body.clientHeight / 4);
    body.scrollLeft = Math.max(0, (left || 0) * shown.clientWidth - body.clientWidth / 32);
    leaves(body, one, image, number);
  }

  // Below a page: the ones before and after it, and how large it is.
  function leaves(body, one, image, number) {
    const turn = async (event, to) => {
      const name = event.currentTarget.dataset.act;
      const mine = ++coming;
      body.setAttribute("aria-busy", "true");
      try {
        await page(body, one, image, to);
        if (mine !== coming) return;
        const same = pane.querySelector(`.leaves [data-act="${name}"]`);
        (same && !same.disabled ? same : body).focus({ preventScroll: true });
      } catch (problem) {
        if (mine !== coming) return;
        body.removeAttribute("aria-busy");
        body.prepend(h("p", { class: "notice warn", role: "alert" }, app.problemWords(problem)));
        body.scrollTop = 0;
      }
    };
    const step = (by, drawing, name) => h("button", { class: "quiet round", dataset: { act: drawing }, disabled: !one.pages || number + by < 1 || number + by > one.pages,
      ariaLabel: app.t(name), title: app.t(name), onclick: (event) => turn(event, number + by) }, icon(drawing));
    const size = h("button", { class: "quiet push", dataset: { act: "size" }, ariaPressed: isLarge, onclick: (event) => {
      isLarge = !isLarge;
      app.chosen.set("page", isLarge ? "large" : "whole");
      turn(event, number);
    } }, app.t("source.larger"));
    pane.querySelector(".leaves")?.remove();
    pane.append(h("div", { class: "bar leaves" }, step(-1, "left", "source.page-before"),
      h("span", { class: "muted small", role: "status" }, app.t("source.page-of", { n: String(number), total: String(one.pages ?? number) })),
      step(1, "right", "source.page-after"), size));
  }

  function ready(body, one) {
    body.removeAttribute("aria-busy");
    body.setAttribute("aria-label", app.t("source.region", { name: visible(one.source) }));
  }

  function words(body, one) {
    ready(body, one);
    body.classList.remove("page", "large");
    body.classList.toggle("lines", Boolean(one.has_page_image));
    const mark = one.quote ? h("mark", null, visible(one.quote)) : h("span"); // a document that is just read has nothing to mark
    const stop = one.start + Array.from(one.quote + one.after).length;
    const [before, after] = [one.before, one.after].map((text) => h("span", { class: "around" }, visible(text)));
    clear(body).append(more(body, one, one.text_start, before, -1), before, mark, after, more(body, one, stop, after, 1));
    const room = Math.max(0, (body.clientHeight - mark.offsetHeight) / 3);
    body.scrollTop += mark.getBoundingClientRect().top - body.getBoundingClientRect().top - room;
  }

  // A button for the text before (way -1) or after `at`, or nothing where it begins or ends there.
  function more(body, one, at, place, way) {
    if (way < 0 ? at <= 0 : at >= one.characters) return "";
    const mine = coming;
    const button = h("button", { class: "quiet elided", onclick: async () => {
      button.disabled = true;
      const [offset, limit] = way < 0 ? [Math.max(0, at - AROUND), Math.min(AROUND, at)] : [at, AROUND];
      try {
        const piece = await app.api.get(`/api/source/${encodeURIComponent(one.doc_id)}/text?offset=${offset}&limit=${limit}`);
        if (mine !== coming) return;
        const height = body.scrollHeight, top = body.scrollTop;
        place.textContent = way < 0 ? visible(piece.text) + place.textContent : place.textContent + visible(piece.text);
        button.replaceWith(more(body, one, way < 0 ? offset : piece.next ?? one.characters, place, way));
        if (way < 0) body.scrollTop = top + body.scrollHeight - height;
        body.focus({ preventScroll: true });
      } catch (problem) {
        if (mine !== coming) return;
        button.disabled = false;
        button.textContent = `${app.problemWords(problem)} ${app.t(way < 0 ? "source.earlier" : "source.later")}`;
      }
    } }, app.t(way < 0 ? "source.earlier" : "source.later"));
    return button;
  }

  function release() {
    trigger?.setAttribute("aria-expanded", "false");
  }

  function close() {
    if (!pane.open) return;
    coming += 1;
    release();
    pane.close();
    clear(pane);
    const back = trigger;
    trigger = walk = null;
    if (back?.isConnected) back.focus();
  }

  return { open, close };
}
