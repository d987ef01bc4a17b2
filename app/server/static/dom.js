// Builds elements. Every text goes in as text: nothing here, or anywhere in the page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";
const OWN_LINK = /^(#|\/(?!\/)|blob:)/;
const NEVER = new Set(["style", "srcdoc", "innerHTML", "outerHTML"]);

const ICONS = {
  send: "M12 19V5m-6 6 6-6 6 6", stop: "M7 7h10v10H7z", close: "m6 6 12 12M18 6 6 18", plus: "M12 5v14M5 12h14",
  list: "M4 7h16M4 12h16M4 17h10", save: "M12 4v11m-5-5 5 5 5-5M5 20h14", left: "m14 6-6 6 6 6", right: "m10 6 6 6-6 6",
  trash: "M5 7h14M10 7V4h4v3m-7 0 1 13h8l1-13", pen: "m5 19 1-4L16 5l3 3L9 18z", check: "m5 13 4 4L19 7",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.5 1.5m11 11L19 19M19 5l-1.5 1.5m-11 11L5 19",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z", upload: "M12 16V5m-5 5 5-5 5 5M5 20h14",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14m5 12 4 4",
};

// h("button", {class: "quiet", onclick: go, ariaLabel: "Close", dataset: {n: 1}}, "text", node, [more], null)
// "on…" listens, "aria…" becomes the attribute ("false" is said, null is left out), other values become attributes:
// true is present, false and null are absent. `value` and `checked` are set as what they are now.
export function h(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) set(made, name, value);
  made.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

function set(element, name, value) {
  if (NEVER.has(name)) throw new Error(`${name} is not set in this page`);
  if (name === "dataset") Object.assign(element.dataset, value);
  else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "value" || name === "checked") element[name] = value;
  else if (value === null || value === undefined) return;
  else if (name.startsWith("aria")) element.setAttribute(name.replace(/^aria-?/, "aria-").toLowerCase(), String(value));
  else if (value === false) return;
  else if ((name === "href" || name === "src") && !OWN_LINK.test(value)) throw new Error(`not a place of ours: ${value}`);
  else element.setAttribute(name, value === true ? "" : String(value));
}

export function clear(element) {
  element.replaceChildren();
  return element;
}

// A line drawing, for the eye only: its button carries the name.
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

// Offsets of the server count Unicode code points, those of JavaScript UTF-16 units: (start, end) => text.
export function byCodePoint(text) {
  const points = Array.from(text);
  return (start, end) => points.slice(start, end).join("");
}

const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

// Text of a document with what acts unseen, such as a change of direction, spelt out.
export function visible(text) {
  return text.replace(HIDDEN, (found) => `[U+${found.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

// `text` with marks: [start, end, properties] in code points from its start, sorted and never nested.
export function marked(text, marks) {
  const slice = byCodePoint(text);
  const parts = [];
  let at = 0;
  for (const [start, end, properties] of [...marks].sort((one, other) => one[0] - other[0])) {
    if (start < at || end <= start) continue;
    parts.push(visible(slice(at, start)), h("mark", properties, visible(slice(start, end))));
    at = end;
  }
  return [...parts, visible(slice(at, undefined))];
}
