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

  pane.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  pane.addEventListener("click", (event) => { if (event.target === pane) close(); }); // beside a sheet
  document.addEventListener("keydown", (event) => {
    if (!pane.open || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && !document.querySelector("dialog:modal:not(#source)")) {
      event.preventDefault();
      close();
    } else if (walk && pane.contains(event.target) && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
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
      await fill(body, known, `${path}/page/${known.page}?${span}`);
    } catch (problem) {
      if (mine !== coming) return;
      body.removeAttribute("aria-busy");
      clear(body).append(h("p", { class: "notice warn", role: "alert" }, app.problemWords(problem)));
    }
  }

  function head(one, body) {
    const title = h("h2", { id: "source-title" }, visible(one.title || one.source || ""));
    const steps = walk && [[-1, "left", "source.previous"], [1, "right", "source.next"]].map(([by, drawing, name]) =>
      h("button", { class: "quiet round", ariaLabel: app.t(name), title: app.t(name), onclick: () => walk(by) }, icon(drawing)));
    const shape = one.has_page_image && [["page", false], ["text", true]].map(([name, text]) =>
      h("button", { class: "quiet", ariaPressed: asText === text, onclick: () => choose(text) }, app.t(`source.${name}`)));
    const made = h("div", { class: "head" }, title, h("p", { class: "place" }, one.marker ? `[${one.marker}] ` : null, placeOf(app, one)),
      h("button", { class: "quiet round close", ariaLabel: app.t("close"), title: app.t("close"), onclick: close }, icon("close")),
      (steps || shape) && h("div", { class: "bar" }, steps, shape));
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
    try {
      await page(body, one, image);
    } catch (problem) {
      words(body, one);
      body.prepend(h("p", { class: "notice warn" }, `${app.problemWords(problem)} ${app.t("source.no-image")}`));
    }
  }

  // The page as it looks. The server says what encloses the marks, as shares of the page: left, top, right, bottom.
  async function page(body, one, image) {
    const pixels = Math.min(2000, Math.max(200, Math.round(body.clientWidth * Math.min(devicePixelRatio, 2))));
    const { blob, header } = await app.api.picture(`${image}&width=${pixels}`);
    const address = URL.createObjectURL(blob);
    const shown = h("img", { src: address, alt: app.t("source.image", { page: String(one.page), name: visible(one.source) }) });
    try {
      await shown.decode();
    } finally {
      URL.revokeObjectURL(address);
    }
    ready(body, one);
    body.classList.add("page");
    clear(body).append(shown, h("p", { class: "unseen" }, visible(one.quote)));
    const top = Number((header("x-marked") ?? "").split(",")[1] ?? 0);
    body.scrollTop = Math.max(0, top * shown.clientHeight - body.clientHeight / 4);
  }

  function ready(body, one) {
    body.removeAttribute("aria-busy");
    body.setAttribute("aria-label", app.t("source.region", { name: visible(one.source) }));
  }

  function words(body, one) {
    ready(body, one);
    body.classList.remove("page");
    const mark = h("mark", null, visible(one.quote));
    const stops = one.start + Array.from(one.quote + one.after).length < one.characters;
    const elided = h("span", { class: "elided" }, "…");
    clear(body).append(...[one.text_start > 0 && elided, h("span", { class: "around" }, visible(one.before)), mark,
      h("span", { class: "around" }, visible(one.after)), stops && elided.cloneNode(true)].filter(Boolean));
    const room = Math.max(0, (body.clientHeight - mark.offsetHeight) / 3);
    body.scrollTop += mark.getBoundingClientRect().top - body.getBoundingClientRect().top - room;
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
