/* A puzzle's panels: what goes in, what is hidden, what is asked, answered and true. */
import { h, ticked } from "./dom.js";
import { clip } from "./clip.js";
import { newView, scene } from "./scene.js";

const ROLES = { input: "goes in", hidden: "hidden", asked: "asked", answer: "answered", truth: "true" };

const LOOKS = {
  image: (panel) => {
    const sharp = Math.max(panel.width, panel.height) <= 64;
    return h("img", { src: panel.uri, alt: panel.caption, width: panel.width, height: panel.height, class: sharp ? "sharp" : "smooth" });
  },
  text: (panel) => h("p", { class: "said" }, panel.text),
  clip: (panel, view, interactive) => clip(panel, interactive),
  scene,
  sound: (panel, view, interactive) => {
    const picture = h("img", { src: panel.uri, alt: `Waveform and spectrogram: ${panel.caption}`, width: panel.width, height: panel.height });
    if (!interactive) return picture;
    const head = h("i", { class: "head", hidden: true }), player = h("audio", { controls: true, preload: "metadata", src: panel.wav, "aria-label": panel.caption });
    player.addEventListener("timeupdate", () => { head.hidden = false; head.style.left = `${(100 * player.currentTime) / (player.duration || 1)}%`; });
    return h("div", { class: "sound" }, h("div", { class: "wave" }, picture, head), player);
  },
};

/** One sample's panels. */
export function row(panels, { interactive = true, guess = false } = {}) {
  const view = newView();
  return h("div", { class: "row" }, panels.map((panel) => {
    const look = () => LOOKS[panel.look](panel, view, interactive);
    if (guess && panel.role === "truth") return hiddenTruth(panel, look);
    return figure(panel, look());
  }));
}

const figure = (panel, look) => h("figure", { class: `panel ${panel.role} ${panel.look}` }, h("span", { class: "role" }, ROLES[panel.role]), h("div", { class: "look" }, look), h("figcaption", {}, panel.caption));

/** What is true, behind a button: a reader tries first. */
function hiddenTruth(panel, look) {
  const button = h("button", { type: "button", class: "reveal", onclick: () => { const shown = figure(panel, look()); place.replaceWith(shown); shown.tabIndex = -1; shown.focus(); } }, "Show what is true");
  const place = h("figure", { class: `panel truth ${panel.look}` }, h("span", { class: "role" }, ROLES.truth), h("div", { class: "look" }, button));
  return place;
}

/** How much room a sample takes: short rows stand side by side. */
function breadth(rows) {
  const most = Math.max(...rows.map((panels) => panels.length)), wide = rows.flat().some(({ look }) => look === "text" || look === "sound");
  return wide || most > 3 ? "" : most > 2 ? "medium" : "narrow";
}

/** All of a puzzle: what is asked, and a row a sample. */
export const puzzle = (found, options) => [
  found.note && h("p", { class: "note" }, ticked(found.note)),
  h("div", { class: `rows-of ${breadth(found.rows)}` }, found.rows.map((panels, i) => h("div", { class: "sample", role: "group", "aria-label": `Sample ${i + 1}` }, row(panels, options)))),
];
