/* The methods: a card each, its puzzle drawn when it comes into view. */
import { ask, h, say } from "./dom.js";
import { row } from "./panels.js";

const wanted = { text: "", kind: "" }; // what was searched for stays while other pages are looked at
const drawn = new Map(); // slug: the puzzle's answer
let queue = [], busy = false, warming = null;

/** Draw one puzzle after the other: the server draws one at a time, and what is in view comes first. */
async function next() {
  if (busy || !queue.length) return;
  busy = true;
  const { slug, seed, place } = queue.shift();
  try {
    if (place.isConnected) {
      if (!drawn.has(slug)) drawn.set(slug, await ask("/api/preview", { slug, options: {}, seed }));
      fill(place, drawn.get(slug));
    }
  } catch (error) {
    place.removeAttribute("aria-hidden");
    place.replaceChildren(h("p", { class: "soft small" }, error.message));
  }
  warming?.remove();
  place.removeAttribute("aria-busy");
  busy = false;
  next();
}

function fill(place, found) {
  place.replaceChildren(found.rows.length ? row((found.rows[1] ?? found.rows[0]).slice(0, 3), { interactive: false }) : h("p", { class: "soft" }, "Nothing to show."));
  place.parentElement.querySelector(".source").textContent = found.own ? "your data" : found.data;
}

function card(method, index) {
  const study = method.kind === "study";
  const place = h("div", { class: "strip", "aria-hidden": "true", "aria-busy": study ? undefined : "true" }, study && h("p", { class: "theory" }, "theory"));
  const element = h("article", { class: "card method" }, place,
    h("div", { class: "tags" }, h("span", { class: "tag" }, method.modality), method.labels && h("span", { class: "tag" }, "reads labels"), h("span", { class: "source soft" }, "")),
    h("h2", {}, h("a", { href: `#/method/${method.slug}` }, method.title)),
    h("dl", {}, h("dt", {}, "Hidden"), h("dd", {}, method.hides), h("dt", {}, "Asked"), h("dd", {}, method.asks)));
  return { element, place, method, seed: index, text: [method.slug, method.title, method.hides, method.asks, method.paper, method.modality].join(" ").toLowerCase() };
}

export async function show(page, signal) {
  const { methods, data } = await ask("/api/methods", undefined, signal);
  const all = methods.map(card), count = h("p", { class: "soft count", role: "status" });
  const kinds = ["all", ...new Set(methods.map((method) => method.modality).filter((kind) => kind !== "any"))];
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const found = all.find(({ place }) => place === target);
      queue = queue.filter(({ place }) => place !== target && place.isConnected);
      if (isIntersecting && target.ariaBusy === "true") queue.push({ slug: found.method.slug, seed: found.seed, place: target });
    }
    next();
  }, { rootMargin: "250px" });
  const filter = () => {
    const asked = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { element, method, text } of all) {
      const fits = (["", "all"].includes(wanted.kind) || [wanted.kind, "any"].includes(method.modality)) && asked.every((word) => text.includes(word));
      element.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === all.length ? `${shown} methods` : `${shown} of ${all.length} methods`;
    nothing.hidden = shown > 0;
  };
  const nothing = h("div", { class: "empty", hidden: true }, "No method fits. ", h("button", { type: "button", onclick: () => { wanted.text = search.value = ""; choose("all"); search.focus(); } }, "Show all"));
  const search = h("input", { type: "search", id: "search", placeholder: "mask, rotation, contrastive …", value: wanted.text, autocomplete: "off", oninput: () => { wanted.text = search.value; filter(); } });
  const buttons = kinds.map((kind) => h("button", { type: "button", class: "chip", "data-kind": kind, onclick: () => choose(kind) }, kind));
  const choose = (kind) => {
    wanted.kind = kind;
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.kind === (kind || "all"));
    filter();
  };
  warming = drawn.size ? null : h("p", { class: "soft small", role: "status" }, "The first puzzles take some seconds …");
  page.replaceChildren(
    h("header", { class: "hero" }, h("h1", { tabindex: -1 }, "Could you solve it?"),
      h("p", { class: "lede" }, "Every method hides something of the data and makes a network find it. Each puzzle below is drawn ", data ? h("span", {}, "on ", h("strong", {}, data), " where it is of the method's kind, else on an embedded set.") : h("span", {}, "on embedded data; ", h("code", {}, "pretask app --data PATH"), " draws it on yours."))),
    h("div", { class: "filters" }, h("label", { class: "sr", for: "search" }, "Search methods"), search, count, warming ?? "", h("div", { class: "chips", role: "group", "aria-label": "Kinds of data" }, buttons)),
    h("div", { class: "gallery" }, all.map(({ element }) => element)), nothing);
  choose(kinds.includes(wanted.kind) ? wanted.kind : "");
  if (data && !wanted.kind) toOwn(choose, kinds, signal);
  for (const { place, method } of all) if (method.kind !== "study") watcher.observe(place);
  say(count.textContent);
  return { title: "Methods", leave: () => { watcher.disconnect(); queue = []; } };
}

/** Begin with the methods for a reader's own kind of data, unless another was chosen by then. */
async function toOwn(choose, kinds, signal) {
  try {
    const { kind } = await ask("/api/data", undefined, signal);
    if (!wanted.kind && kinds.includes(kind)) choose(kind);
  } catch { /* all are shown */ }
}
