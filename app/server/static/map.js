// The corpus as points on a plane, and where a question lies among them. Knows the JSON of /api/map; arranges nothing.

import { clear, h, visible } from "./dom.js";
import { loading, placeButton, shared, trouble } from "./parts.js";
import { placeOf } from "./sources.js";

const SIDE = 10_000; // of the plane, in the numbers that the server gives
const POLL_MS = 1_500;
const REACH = 18; // pixels from a point at which it is meant
const MARGIN = 22;
const BEGINNING = 140;

export const title = "map.title";
export const words = {
  en: {
    ...shared.en,
    "map.title": "Map", "map.lead": "Every point is a passage; passages that say similar things lie together.",
    "map.none": "The map of these documents is not drawn yet. {count} passages will be arranged by what they say; this takes up to a minute or two, and the library stays in use meanwhile.",
    "map.empty": "There are no passages to draw.", "map.draw": "Draw the map", "map.making": "The map is being drawn …",
    "map.failed": "The map could not be drawn:", "map.some": "{points} of {passages} passages, taken at random.", "map.all": "{passages} passages.",
    "map.question": "A question to find on the map", "map.go": "Find", "map.clear": "Clear",
    "map.canvas": "Map of the passages. The arrow keys go from passage to passage, Enter opens one.",
    "map.legend": "Documents by colour", "map.others": "all others", "map.hits": "Nearest to “{question}”",
    "map.hits.none": "Nothing was found for “{question}”.", "map.not-drawn": "not among the points; shown near its like",
    "map.here": "the question",
  },
  zh: {
    ...shared.zh,
    "map.title": "地图", "map.lead": "每个点是一个段落，内容相近的段落彼此靠近。",
    "map.none": "这些文档的地图尚未绘制。将按内容排列 {count} 个段落，最多需要一两分钟，其间文库照常可用。",
    "map.empty": "没有可以绘制的段落。", "map.draw": "绘制地图", "map.making": "正在绘制地图……",
    "map.failed": "地图未能绘制：", "map.some": "{passages} 个段落中随机选取的 {points} 个。", "map.all": "{passages} 个段落。",
    "map.question": "在地图上查找一个问题", "map.go": "查找", "map.clear": "清除",
    "map.canvas": "段落地图。方向键在段落之间移动，回车键打开段落。",
    "map.legend": "按颜色区分的文档", "map.others": "其余全部", "map.hits": "与“{question}”最接近的段落",
    "map.hits.none": "没有找到与“{question}”有关的内容。", "map.not-drawn": "不在所绘的点中，显示在相近段落旁",
    "map.here": "问题所在",
  },
};

export async function show(root, app) {
  await app.style("views.css");
  const content = h("div", { class: "stack mapped" }, loading(app));
  root.append(h("div", { class: "wide" }, h("h1", null, app.t("map.title")), content));
  const gone = new AbortController();
  let timer = 0, close = null;
  const fill = (...children) => { close?.(); close = null; clear(content).append(...children.filter(Boolean)); };

  async function look() {
    try {
      const map = await app.api.send("GET", "/api/map", undefined, { signal: gone.signal });
      if (map.state === "ready") {
        fill();
        close = drawn(content, app, map);
      } else if (map.state === "making") {
        if (!content.querySelector("progress")) fill(h("div", { class: "empty stack" }, h("p", { role: "status" }, app.t("map.making")), h("progress", { ariaLabel: app.t("map.making") })));
        timer = setTimeout(look, POLL_MS);
      } else fill(...notDrawn(map));
    } catch (problem) {
      if (problem.code !== "stopped") fill(trouble(app, problem, look));
    }
  }

  function notDrawn({ passages, problem }) {
    if (!passages) return [h("div", { class: "empty stack" }, h("p", null, app.t("map.empty")), h("p", null, h("a", { class: "button", href: "#/library" }, app.t("part.add"))))];
    return [
      problem && h("div", { class: "notice warn problem", role: "alert" }, h("p", null, app.t("map.failed")), h("p", { class: "said" }, visible(problem))),
      h("div", { class: "empty stack" }, h("p", null, app.t("map.none", { count: passages })), h("p", null, h("button", { type: "button", class: "primary", onclick: begin }, app.t("map.draw"))))];
  }

  async function begin(event) {
    event.target.disabled = true;
    try {
      await app.api.send("POST", "/api/map", undefined, { signal: gone.signal });
      await look();
    } catch (problem) {
      if (problem.code !== "stopped") fill(trouble(app, problem, problem.status === 501 ? null : look));
    }
  }

  look();
  return () => { gone.abort(); clearTimeout(timer); close?.(); };
}

// ---- the map that is there -----------------------------------------------------------------------------------------

function drawn(content, app, map) {
  const { points } = map;
  const tip = h("div", { class: "tip", hidden: true });
  const canvas = h("canvas", { tabindex: 0, role: "application", ariaLabel: app.t("map.canvas") });
  const plane = makePlane(canvas, map);
  const list = h("section", { class: "found", ariaLive: "polite" });
  const shown = { point: -1 };
  const passage = (at) => ({ ...map.documents[points.document[at]], start: points.start[at], end: points.end[at], line: points.line[at], page: points.page[at] });

  function point(at, { say = false } = {}) {
    shown.point = plane.point(at);
    canvas.classList.toggle("over", at >= 0);
    tip.hidden = at < 0;
    if (at < 0) return;
    const one = passage(at), text = beginning(points.text[at]);
    clear(tip).append(h("b", { dir: "auto" }, placeOf(app, one)), h("span", { class: "quote", dir: "auto" }, visible(text)));
    const [x, y] = plane.at(points.x[at], points.y[at]);
    const left = Math.min(Math.max(x - tip.offsetWidth / 2, 0), canvas.clientWidth - tip.offsetWidth);
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(y > tip.offsetHeight + 14 ? y - tip.offsetHeight - 12 : y + 14)}px)`;
    if (say) app.announce(`${placeOf(app, one)}: ${visible(text)}`);
  }

  const open = (at) => app.openSource(passage(at), canvas);
  canvas.addEventListener("pointermove", (event) => point(plane.near(event.offsetX, event.offsetY)));
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("blur", () => point(-1));
  canvas.addEventListener("click", (event) => {
    const at = plane.near(event.offsetX, event.offsetY);
    point(at);
    if (at >= 0) open(at);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) point(plane.beside(shown.point, way), { say: true });
    else if ((event.key === "Enter" || event.key === " ") && shown.point >= 0) open(shown.point);
    else if (event.key === "Escape" && shown.point >= 0) point(-1);
    else return;
    event.preventDefault();
  });

  const counted = map.passages > points.x.length ? app.t("map.some", { points: points.x.length, passages: map.passages }) : app.t("map.all", { passages: map.passages });
  content.append(h("p", { class: "lead muted" }, app.t("map.lead"), " ", counted), questionForm(app, plane, list),
    h("div", { class: "map" }, h("div", { class: "plane" }, canvas, tip), h("div", { class: "aside" }, list, legend(app, map, plane))));
  plane.start();
  return () => plane.stop();
}

const beginning = (text) => {
  const flat = Array.from(text.replace(/\s+/gu, " ").trim());
  return flat.length > BEGINNING ? `${flat.slice(0, BEGINNING).join("")}…` : flat.join("");
};

function legend(app, map, plane) {
  const counts = map.groups.map(() => 0);
  let others = 0;
  for (const group of map.points.group) if (group < counts.length) counts[group] += 1; else others += 1;
  const names = [...map.groups.map((name, at) => [visible(name), counts[at], at]), ...(others ? [[app.t("map.others"), others, map.groups.length]] : [])];
  const buttons = names.map(([name, count, group]) => h("button", { type: "button", class: "quiet", ariaPressed: "false", onclick: (event) => {
    const isOn = event.currentTarget.getAttribute("aria-pressed") === "true";
    for (const each of buttons) each.setAttribute("aria-pressed", "false");
    event.currentTarget.setAttribute("aria-pressed", String(!isOn));
    plane.single(isOn ? -1 : group);
  } }, h("span", { class: `swatch c${map.others && group === map.groups.length ? 8 : group}`, ariaHidden: "true" }), h("bdi", null, name), h("span", { class: "number muted" }, app.formatNumber(count))));
  return h("section", { class: "legend-list" }, h("h2", null, app.t("map.legend")), h("ul", null, buttons.map((button) => h("li", null, button))));
}

function questionForm(app, plane, list) {
  let running = null;
  const form = h("form", { class: "search-form" }, h("div", { class: "line" },
    h("input", { type: "search", name: "q", required: true, maxlength: 8000, dir: "auto", ariaLabel: app.t("map.question"), placeholder: app.t("map.question") }),
    h("button", { class: "primary" }, app.t("map.go"))));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    running?.abort();
    const mine = running = new AbortController();
    const question = form.elements.q.value;
    try {
      const found = await app.api.send("POST", "/api/map/question", { question }, { signal: mine.signal });
      if (mine === running) hits(found);
    } catch (problem) {
      if (problem.code === "stopped") return;
      plane.question(null);
      clear(list).append(trouble(app, problem));
    }
  });

  function hits(found) {
    plane.question(found);
    const question = visible(found.question);
    if (!found.hits.length) return void clear(list).append(h("p", { class: "muted" }, app.t("map.hits.none", { question })));
    clear(list).append(h("h2", { dir: "auto" }, app.t("map.hits", { question })), h("ol", { class: "rows" }, found.hits.map((hit) => {
      const item = h("li", null, h("p", { class: "hit-head" }, h("span", { class: "rank" }, app.formatNumber(hit.rank)), placeButton(app, hit)),
        h("p", { class: "quote small", dir: "auto" }, visible(beginning(hit.text))),
        hit.point === null && h("p", { class: "muted small" }, app.t("map.not-drawn")));
      for (const [on, rank] of [["pointerenter", hit.rank], ["focusin", hit.rank], ["pointerleave", 0], ["focusout", 0]]) item.addEventListener(on, () => plane.stress(rank));
      return item;
    })), h("button", { type: "button", class: "quiet", onclick: () => { plane.question(null); clear(list); form.reset(); form.elements.q.focus(); } }, app.t("map.clear")));
  }
  return form;
}

// ---- the drawing ---------------------------------------------------------------------------------------------------

function makePlane(canvas, map) {
  const { x, y, group } = map.points;
  const context = canvas.getContext("2d");
  const colours = [];
  let ink = "", paper = "", accent = "", font = "";
  let pointed = -1, only = -1, asked = null, stressed = 0, pending = 0;

  const side = () => Math.max(1, Math.min(canvas.clientWidth, canvas.clientHeight) - 2 * MARGIN);
  const at = (left, up) => [
    canvas.clientWidth / 2 + ((left - SIDE / 2) / SIDE) * side(),
    canvas.clientHeight / 2 - ((up - SIDE / 2) / SIDE) * side()];
  const isShown = (i) => only < 0 || group[i] === only;

  function recolour() {
    const style = getComputedStyle(canvas);
    const probe = h("span", { class: "unseen" });
    canvas.after(probe);
    const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
    for (let i = 0; i < 9; i += 1) colours[i] = colour(`--c${i}`);
    [ink, paper, accent] = ["--ink", "--paper", "--one"].map(colour);
    probe.remove();
    font = `600 11px ${style.fontFamily}`;
    redraw();
  }

  function redraw() {
    pending ||= requestAnimationFrame(() => { pending = 0; draw(); });
  }

  function disc(px, py, radius) {
    context.moveTo(px + radius, py);
    context.arc(px, py, radius, 0, 2 * Math.PI);
  }

  function draw() {
    const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const radius = Math.min(5, Math.max(1.6, (side() / 7) / Math.sqrt(x.length)));
    const last = map.others ? map.groups.length : -1;
    for (const which of [last, ...map.groups.keys()]) {
      if (which < 0) continue;
      context.globalAlpha = (only >= 0 && which !== only) || asked ? 0.22 : which === last ? 0.55 : 0.85;
      context.fillStyle = colours[which === last ? 8 : which];
      context.beginPath();
      for (let i = 0; i < x.length; i += 1) if (group[i] === which) disc(...at(x[i], y[i]), radius);
      context.fill();
    }
    context.globalAlpha = 1;
    if (asked) drawQuestion();
    if (pointed >= 0) {
      context.beginPath();
      disc(...at(x[pointed], y[pointed]), radius + 4);
      context.strokeStyle = ink;
      context.lineWidth = 2;
      context.stroke();
    }
  }

  function drawQuestion() {
    const [qx, qy] = at(asked.x, asked.y);
    context.font = font;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 1;
    context.strokeStyle = accent;
    for (const hit of asked.hits) {
      context.globalAlpha = 0.5;
      context.beginPath();
      context.moveTo(qx, qy);
      context.lineTo(...at(hit.x, hit.y));
      context.stroke();
    }
    context.globalAlpha = 1;
    for (const hit of [...asked.hits].reverse()) { // the best on top
      const [hx, hy] = at(hit.x, hit.y);
      context.beginPath();
      disc(hx, hy, hit.rank === stressed ? 13 : 9);
      context.fillStyle = hit.rank === stressed ? ink : accent;
      context.strokeStyle = paper;
      context.lineWidth = 2;
      context.fill();
      context.stroke();
      context.fillStyle = paper;
      context.fillText(String(hit.rank), hx, hy + 0.5);
    }
    context.lineWidth = 3;
    for (const [radius, colour] of [[8, paper], [6, ink]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(qx - radius, qy - radius);
      context.lineTo(qx + radius, qy + radius);
      context.moveTo(qx + radius, qy - radius);
      context.lineTo(qx - radius, qy + radius);
      context.stroke();
    }
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const resized = new ResizeObserver(redraw);
  const repainted = new MutationObserver(recolour);

  return {
    at,
    start() {
      recolour();
      resized.observe(canvas);
      dark.addEventListener("change", recolour);
      repainted.observe(document.documentElement, { attributeFilter: ["data-colours"] });
    },
    stop() {
      cancelAnimationFrame(pending);
      resized.disconnect();
      repainted.disconnect();
      dark.removeEventListener("change", recolour);
    },
    point(i) { pointed = i; redraw(); return i; },
    single(which) { only = which; redraw(); },
    question(found) { asked = found; stressed = 0; redraw(); },
    stress(rank) { stressed = rank; redraw(); },
    // The point within reach of a place on the screen, or -1.
    near(px, py) {
      let best = -1, least = REACH * REACH;
      for (let i = 0; i < x.length; i += 1) {
        if (!isShown(i)) continue;
        const [ix, iy] = at(x[i], y[i]);
        const far = (ix - px) ** 2 + (iy - py) ** 2;
        if (far < least) [best, least] = [i, far];
      }
      return best;
    },
    // The next point in a direction: near, and not far off the way. Without a point to go from, the one in the middle.
    beside(from, [right, down]) {
      const [fx, fy] = from < 0 ? [SIDE / 2, SIDE / 2] : [x[from], y[from]];
      let best = from, least = Infinity;
      for (let i = 0; i < x.length; i += 1) {
        if (i === from || !isShown(i)) continue;
        const dx = x[i] - fx, dy = fy - y[i];
        const along = dx * right + dy * down, off = Math.abs(dx * down) + Math.abs(dy * right);
        const far = from < 0 ? dx * dx + dy * dy : along > 0 ? along + 2 * off : Infinity;
        if (far < least) [best, least] = [i, far];
      }
      return best;
    },
  };
}
