/* Pictures one after the other: a film that plays, or slices of a block that one goes through. */
import { h } from "./dom.js";
import { animate, isMoving } from "./motion.js";

const SPEED = 8; // frames a second

/** A clip; with `interactive` it has a slider, and a button if it plays by itself. */
export function clip(panel, interactive) {
  const canvas = h("canvas", { class: "clip", role: "img", "aria-label": `${panel.caption}: ${panel.count} ${panel.unit}s` });
  canvas.width = panel.width; canvas.height = panel.height;
  canvas.style.setProperty("--wide", panel.width);
  const pen = canvas.getContext("2d"), sheet = new Image();
  let at = panel.plays ? 0 : Math.floor(panel.count / 2), held = !panel.plays, shown = -1;
  const slider = h("input", { type: "range", min: 0, max: panel.count - 1, step: 1, value: at, "aria-label": `${panel.caption}: ${panel.unit}` });
  const number = h("output", {});
  const draw = () => {
    if (!sheet.complete || !sheet.naturalWidth || at === shown) return;
    shown = at;
    pen.drawImage(sheet, 0, at * panel.height, panel.width, panel.height, 0, 0, panel.width, panel.height);
    slider.value = at;
    number.textContent = slider.ariaValueText = `${panel.unit} ${at + 1} of ${panel.count}`;
  };
  sheet.onload = draw;
  sheet.src = panel.uri;
  animate(canvas, (time) => {
    if (!held && isMoving()) at = Math.floor(time * SPEED) % panel.count;
    draw();
  });
  if (!interactive || panel.count < 2) return canvas;
  const button = h("button", { type: "button", class: "play", onclick: () => hold(!held) });
  const hold = (value) => {
    held = value;
    button.textContent = held ? "▶" : "❚❚";
    button.ariaLabel = `${held ? "Play" : "Pause"}: ${panel.caption}`;
  };
  hold(held);
  slider.addEventListener("input", () => { hold(true); at = +slider.value; draw(); });
  return h("div", { class: "player" }, canvas, h("div", { class: "bar" }, panel.plays && button, slider), number);
}
