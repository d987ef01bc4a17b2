// The drawer of conversations: opened again, renamed, exported, deleted. Knows what is kept; nothing of answers.

import * as kept from "./conversations.js";
import { clear, h, icon, visible } from "./dom.js";

// talk(): the present conversation. reopen(id), renamed(id, title), deleted(id), exported(conversation): what follows.
export async function showPast(app, { talk, reopen, renamed, deleted, exported }) {
  const items = h("ul", { class: "past" });
  const close = h("button", { class: "quiet round", ariaLabel: app.t("close"), title: app.t("close"), onclick: () => dialog.close() }, icon("close"));
  const dialog = h("dialog", { class: "drawer", ariaLabelledby: "past-title", onclose: () => dialog.remove(), onclick: (event) => { if (event.target === dialog) dialog.close(); } },
    h("div", { class: "head" }, h("h2", { id: "past-title" }, app.t("talk.list")), close),
    items, h("p", { class: "muted small" }, app.t("talk.where", { most: kept.LIMIT })));
  document.body.append(dialog);
  dialog.showModal();
  await fill();

  async function fill() {
    const heads = await kept.list().catch(() => null);
    const shown = heads?.map(item) ?? [];
    const none = h("li", { class: "empty" }, app.t(heads ? "talk.none" : "talk.not-kept"));
    clear(items).append(...(shown.length ? shown : [none]));
    (items.querySelector(".open") ?? close).focus();
  }

  function item(head) {
    const name = visible(head.title);
    const action = (key, drawing, act) =>
      h("button", { class: "quiet round", title: app.t(key), ariaLabel: app.t(`${key}.of`, { title: name }), onclick: act }, icon(drawing));
    const about = `${app.formatDate(head.changed)} · ${app.t("talk.questions", { count: head.questions })}`;
    const open = h("button", { class: "open", ariaCurrent: head.id === talk().id ? "true" : null, onclick: () => { dialog.close(); reopen(head.id); } },
      h("span", null, h("span", { class: "title" }, name), h("span", { class: "muted small" }, about)));
    const row = h("li", null, open, action("talk.rename", "pen", () => rename(row, head)),
      action("talk.export-one", "save", async () => exported(await kept.load(head.id))),
      action("talk.delete", "trash", () => remove(row, head)));
    return row;
  }

  function rename(row, head) {
    const input = h("input", { value: head.title, ariaLabel: app.t("talk.rename") });
    const save = async (event) => {
      event.preventDefault();
      if (input.value.trim()) await renamed(head.id, input.value.trim());
      await fill();
    };
    clear(row).append(h("form", { class: "bar", onsubmit: save }, input,
      h("button", { class: "primary" }, app.t("talk.save")), h("button", { type: "button", onclick: fill }, app.t("talk.cancel"))));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // the drawer stays
      fill();
    });
    input.select();
  }

  function remove(row, head) {
    const yes = h("button", { class: "danger", onclick: async () => {
      await kept.remove(head.id);
      deleted(head.id);
      await fill();
    } }, app.t("talk.delete"));
    clear(row).append(h("div", { class: "bar" }, h("span", null, app.t("talk.really", { title: visible(head.title) })), yes,
      h("button", { onclick: fill }, app.t("talk.cancel"))));
    yes.focus();
  }
}
