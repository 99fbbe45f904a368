/* One run: its report as it stands now, questions to its network, and its map. */
import { ask, fragment, h, problem } from "./dom.js";
import { puzzle } from "./panels.js";
import { pill, state } from "./runs.js";

const EVERY = 2000; // ms between looks at a run that trains
const PARTS = [["scores", "Worth"], ["curves", "Training"], ["sheets", "Sheets"], ["ask", "Ask it"], ["map", "Map"], ["use", "Use it"], ["config", "Configuration"]];

export async function show(page, signal, name) {
  const found = await ask(`/api/run/${encodeURIComponent(name)}`, undefined, signal);
  const status = h("span", {}, pill(state(found))), top = h("div", {}), map = h("div", {}, h("section", { id: "map" }, h("h2", {}, "Map of the embeddings"), h("p", { class: "empty" }, "Laying out the map …"))), rest = h("div", {});
  const jump = (id) => (event) => { event.preventDefault(); const target = page.querySelector(`#${id}`); target?.scrollIntoView(); target?.querySelector("h2")?.setAttribute("tabindex", -1); target?.querySelector("h2")?.focus({ preventScroll: true }); };
  page.replaceChildren(h("p", { class: "eyebrow crumbs" }, h("a", { href: "#/runs" }, "All runs"), " · ", status, found.slugs.map((slug) => [" · ", h("a", { href: `#/method/${slug}` }, "the method")])),
    h("nav", { class: "subnav", "aria-label": "Parts of this run" }, PARTS.map(([id, word]) => h("a", { href: `#/run/${encodeURIComponent(name)}`, onclick: jump(id) }, word))), top, questions(name, signal), map, rest);
  const written = new Map();
  /** Replace the parts that changed; where a reader is stays as it is. */
  function update(holder, html, mount) {
    for (const part of [...fragment(html).children]) {
      const key = part.id || part.className, before = [...holder.children].find((child) => (child.id || child.className) === key);
      if (before && written.get(key) === part.outerHTML) continue;
      written.set(key, part.outerHTML);
      const slider = before?.querySelector(".scrubber input"), atEnd = !slider || slider.value === slider.max;
      before ? before.replaceWith(part) : holder.append(part);
      mount(part);
      const now = part.querySelector(".scrubber input");
      if (now && !atEnd) { now.value = slider.value; now.dispatchEvent(new Event("input")); }
    }
  }
  const mount = (part) => [mountCurves, mountSheets, mountCode].forEach((one) => one(part));
  const fill = (run) => {
    update(top, run.top, mount);
    update(rest, run.rest, mount);
    status.replaceChildren(pill(state(run)));
    top.querySelector("h1")?.setAttribute("tabindex", -1);
  };
  fill(found);
  let stamp = found.stamp, alive = found.alive;
  const drawMap = () => mapOf(map, name, signal);
  drawMap();
  const timer = setInterval(async () => {
    if (document.hidden || !page.contains(top)) return;
    try {
      const { runs } = await ask("/api/runs", undefined, signal), now = runs.find((run) => run.name === name);
      if (!now || (now.stamp === stamp && now.alive === alive)) return;
      const ended = now.state === "finished" && map.querySelector(".map") === null;
      [stamp, alive] = [now.stamp, now.alive];
      fill(await ask(`/api/run/${encodeURIComponent(name)}`, undefined, signal));
      if (ended) drawMap();
    } catch { /* the next look may succeed */ }
  }, EVERY);
  return { title: found.title, leave: () => clearInterval(timer) };
}

async function mapOf(place, name, signal) {
  try {
    const { html, data } = await ask(`/api/map/${encodeURIComponent(name)}`, undefined, signal);
    place.replaceChildren(fragment(html));
    if (!data) return;
    if (data.sprite) { place.style.setProperty("--sprite", `url("${data.sprite}")`); place.style.setProperty("--columns", data.columns); }
    mountMap(place, data);
  } catch (error) {
    if (error.name !== "AbortError") place.replaceChildren(h("section", { id: "map" }, h("h2", {}, "Map of the embeddings"), problem(error.message)));
  }
}

/** Other samples than those of the contact sheets, answered now. */
function questions(name, signal) {
  const place = h("div", { class: "puzzle" });
  let seed = 0;
  const button = h("button", { type: "button", onclick: draw }, "Ask it");
  async function draw() {
    button.disabled = true;
    place.ariaBusy = "true";
    try {
      place.replaceChildren(...puzzle(await ask("/api/preview", { run: name, seed: seed++ }, signal)).filter(Boolean));
      button.textContent = "Other samples";
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(problem(error.message));
    }
    place.ariaBusy = "false";
    button.disabled = false;
    button.focus();
  }
  return h("section", { id: "ask" }, h("h2", {}, "Ask it yourself"), h("p", { class: "lede" }, "Samples drawn now, with what the network of the last checkpoint answers."), h("div", { class: "toolbar" }, button), place);
}
