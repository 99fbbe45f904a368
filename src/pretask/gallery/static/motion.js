/* One clock for all that moves. Nothing moves off the screen, nor for a reader who asked for stillness. */
import { kept } from "./dom.js";

const moving = new Map(); // canvas: its function of the time in seconds
const seen = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) seen.add(entry.target); else seen.delete(entry.target);
    if (entry.isIntersecting) moving.get(entry.target)?.(clock);
  }
});

const still = matchMedia("(prefers-reduced-motion: reduce)");
let wanted = kept.get("motion") ? kept.get("motion") === "on" : !still.matches;
let clock = 0, last = 0;

export const isMoving = () => wanted;

/** Let `draw(seconds)` draw a canvas now, when it comes into view, when colours change, and while things move. */
export function animate(canvas, draw) {
  moving.set(canvas, draw);
  watcher.observe(canvas);
  new ResizeObserver(() => draw(clock)).observe(canvas);
}

function tick(now) {
  const passed = now - last;
  if (passed >= 33) {
    last = now;
    if (wanted && !document.hidden) {
      clock += Math.min(passed, 100) / 1000;
      for (const canvas of seen) moving.get(canvas)?.(clock);
    }
    for (const canvas of moving.keys()) {
      if (!canvas.isConnected && canvas.dataset.was) { moving.delete(canvas); seen.delete(canvas); watcher.unobserve(canvas); }
      else if (canvas.isConnected) canvas.dataset.was = "1";
    }
  }
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);

const redraw = () => { for (const [canvas, draw] of moving) if (canvas.isConnected) draw(clock); };
addEventListener("themechange", redraw);

const button = document.getElementById("motion");
const show = () => button.setAttribute("aria-pressed", wanted);
button.addEventListener("click", () => {
  wanted = !wanted;
  kept.set("motion", wanted ? "on" : "off");
  show();
  redraw();
});
show();
