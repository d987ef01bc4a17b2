// What the views beside "ask" have in common: problems, places, bars, a question before something is done. Knows no view.

import { h, visible } from "./dom.js";
import { placeOf } from "./sources.js";

export const shared = {
  en: {
    "part.again": "Try again", "part.loading": "Loading …",
    "part.more": "Show more", "part.cancel": "Cancel", "part.between": "{low} to {high}, 95% interval",
    "part.add": "Add documents",
  },
  zh: {
    "part.again": "重试", "part.loading": "正在加载……",
    "part.more": "显示更多", "part.cancel": "取消", "part.between": "{low} 至 {high}，95% 区间",
    "part.add": "添加文档",
  },
};

// What went wrong: in a sentence, then in the server's own words, then what can be done about it.
export function trouble(app, problem, again) {
  if (!problem.code) { // a fault of this page, which must not look like one of the server
    console.error(problem);
    return h("p", { class: "notice warn", role: "alert" }, app.t("view.failed"));
  }
  return h("div", { class: "notice warn problem", role: "alert" },
    h("p", null, app.problemWords(problem)),
    problem.message ? h("p", { class: "said", dir: "auto" }, visible(problem.message)) : null,
    h("div", { class: "bar" },
      again && h("button", { type: "button", onclick: again }, app.t("part.again")),
      problem.code === "no-index" && h("a", { class: "button", href: "#/library" }, app.t("part.add"))));
}

export const loading = (app) => h("p", { class: "empty", role: "status" }, app.t("part.loading"));

// A button that opens the source of a passage, and says where it stands.
export function placeButton(app, passage) {
  const button = h("button", { type: "button", class: "link place", dir: "auto", onclick: () => app.openSource(passage, button) }, placeOf(app, passage));
  return button;
}

// The part of a whole in [0, 1] that a bar fills, from `low` where it does not begin at the left end.
export function bar(share, { low = 0, tick = null } = {}) {
  const fill = h("span", { class: "fill" });
  const cut = (value) => `${100 * Math.min(1, Math.max(0, value))}%`;
  fill.style.left = cut(low);
  fill.style.width = share > 0 ? cut(Math.max(share - low, 0.004)) : "0";
  const mark = tick === null ? null : h("span", { class: "tick" });
  if (mark) mark.style.left = cut(tick);
  return h("span", { class: "meter", ariaHidden: "true" }, fill, mark);
}

// Asks before something is done that cannot be undone. Resolves to whether it was agreed to.
export function confirmed(app, { title, lines, action }) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "card", ariaLabelledby: "confirm-title" },
      h("form", { method: "dialog", class: "stack" },
        h("h2", { id: "confirm-title" }, title),
        lines.map((line) => typeof line === "string" ? h("p", { dir: "auto" }, line) : line),
        h("div", { class: "bar" },
          h("button", { value: "no", autofocus: true, class: "push" }, app.t("part.cancel")),
          h("button", { value: "yes", class: "danger" }, action))));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
