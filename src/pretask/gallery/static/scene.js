/* Points in space on a canvas: clouds that turn, skeletons that move, tracks that are walked. */
import { bytes, colour, h } from "./dom.js";
import { animate, isMoving } from "./motion.js";

const GONE = -32768, SPEED = 12, TRAIL = 8; // a place that is not known; frames a second; moments that fade
const NAMES = { points: "Point cloud", pose: "Skeleton", track: "Tracks" };

/** A canvas of a scene. `view` is shared by the panels of one sample, so that they turn as one. */
export function scene(panel, view, interactive) {
  const places = new Int16Array(bytes(panel.places).buffer), paint = panel.colours && bytes(panel.colours);
  const lines = panel.lines && new Int16Array(bytes(panel.lines).buffer);
  const turns = panel.dim === 3, keys = turns ? " Arrow keys turn it." : "";
  const what = `${NAMES[panel.scene]}: ${panel.caption}. ${panel.count} ${panel.scene === "track" ? "agents" : "points"}.${interactive ? keys : ""}`;
  const canvas = h("canvas", { class: `scene of-${panel.scene}`, role: "img", "aria-label": what, tabindex: interactive && turns ? 0 : undefined });
  const pen = canvas.getContext("2d");
  const order = Uint16Array.from({ length: panel.count }, (_, i) => i), depth = new Float32Array(panel.count);
  const spot = new Float32Array(2 * panel.count);

  const angle = (time) => {
    if (!turns) return 0;
    return view.yaw + (isMoving() && !view.held ? (panel.scene === "pose" ? 0.5 * Math.sin(time * 0.6) : time * 0.45) : 0);
  };

  function project(at, base, yaw, side) {
    const [x, y, z] = [at[base] / 32767, at[base + 1] / 32767, panel.dim === 3 ? at[base + 2] / 32767 : 0];
    const across = x * Math.cos(yaw) + z * Math.sin(yaw), away = z * Math.cos(yaw) - x * Math.sin(yaw);
    const up = y * Math.cos(view.pitch) - away * Math.sin(view.pitch), near = away * Math.cos(view.pitch) + y * Math.sin(view.pitch);
    const flat = panel.dim === 3, zoom = side * (flat ? 0.38 : 0.44);
    return [side / 2 + zoom * across, side / 2 - zoom * (flat ? up : y), near];
  }

  function track(time, side) {
    const [first, others] = [colour("--accent"), colour("--soft")];
    const walked = isMoving() ? Math.floor(time * 6) % (panel.steps + 8) : panel.steps - 1;
    for (let agent = panel.count - 1; agent >= 0; agent--) {
      pen.strokeStyle = pen.fillStyle = agent ? others : first;
      const way = [];
      for (let step = 0; step < panel.steps; step++) {
        const base = (step * panel.count + agent) * panel.dim;
        if (places[base] !== GONE) way.push(project(places, base, 0, side));
      }
      const upTo = Math.min(walked, way.length - 1);
      for (const [alpha, end] of [[0.3, way.length - 1], [1, upTo]]) {
        pen.globalAlpha = alpha; pen.lineWidth = 2; pen.beginPath();
        way.slice(0, end + 1).forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
        pen.stroke();
      }
      if (way.length) { pen.beginPath(); pen.arc(...way[Math.max(0, upTo)].slice(0, 2), 4.5, 0, 7); pen.fill(); }
    }
  }

  /** Where joints were just before. */
  function trail(step, yaw, side) {
    pen.fillStyle = colour("--soft");
    for (let back = Math.min(TRAIL, step); back > 0; back--) {
      pen.globalAlpha = 0.3 * (1 - back / (TRAIL + 1));
      for (let i = 0; i < panel.count; i++) {
        const base = ((step - back) * panel.count + i) * panel.dim;
        if (places[base] === GONE) continue;
        const [x, y] = project(places, base, yaw, side);
        pen.fillRect(x - 1.5, y - 1.5, 3, 3);
      }
    }
  }

  function dots(time, side) {
    const step = panel.steps > 1 ? Math.floor(isMoving() ? time * SPEED : 0) % panel.steps : 0, yaw = angle(time);
    if (panel.steps > 1) trail(step, yaw, side);
    const start = step * panel.count * panel.dim, ink = colour("--accent"), size = panel.scene === "pose" ? 4 : Math.max(1.6, 60 / Math.sqrt(panel.count));
    for (let i = 0; i < panel.count; i++) {
      const [x, y, z] = project(places, start + i * panel.dim, yaw, side);
      spot[2 * i] = x; spot[2 * i + 1] = y; depth[i] = places[start + i * panel.dim] === GONE ? NaN : z;
    }
    order.sort((a, b) => depth[a] - depth[b]);
    if (lines) {
      pen.strokeStyle = colour("--bad"); pen.lineWidth = 1.6; pen.globalAlpha = 0.9; pen.beginPath();
      for (const i of order) {
        const base = start + i * panel.dim;
        if (Number.isNaN(depth[i])) continue;
        const end = [0, 1, 2].map((axis) => (axis < panel.dim ? places[base + axis] + lines[base + axis] : 0));
        pen.moveTo(spot[2 * i], spot[2 * i + 1]); pen.lineTo(...project(end, 0, yaw, side).slice(0, 2));
      }
      pen.stroke();
    }
    for (const i of order) {
      if (Number.isNaN(depth[i])) continue;
      const close = Math.max(0, Math.min(1, (depth[i] + 1) / 2));
      pen.globalAlpha = 0.35 + 0.65 * close;
      pen.fillStyle = paint ? `rgb(${paint[3 * i]} ${paint[3 * i + 1]} ${paint[3 * i + 2]})` : panel.scene === "pose" ? `hsl(${(i * 290) / panel.count} 70% 52%)` : ink;
      const wide = size * (0.7 + 0.5 * close);
      if (panel.scene === "pose") { pen.beginPath(); pen.arc(spot[2 * i], spot[2 * i + 1], wide, 0, 7); pen.fill(); }
      else pen.fillRect(spot[2 * i] - wide / 2, spot[2 * i + 1] - wide / 2, wide, wide);
    }
  }

  const draw = (time) => {
    const side = canvas.clientWidth, ratio = devicePixelRatio || 1, pixels = Math.round(side * ratio);
    if (!side) return;
    if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, side, side);
    pen.globalAlpha = 1; pen.lineCap = pen.lineJoin = "round";
    (panel.scene === "track" ? track : dots)(time, side);
    pen.globalAlpha = 1;
  };
  animate(canvas, draw);
  view.draws.push(() => draw(view.time ?? 0));
  if (interactive && turns) handle(canvas, view);
  return canvas;
}

/** Turning by hand: drag, or arrow keys. What was turned stays as it is. */
function handle(canvas, view) {
  let from = null;
  const turn = (yaw, pitch) => {
    view.held = true;
    view.yaw += yaw;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + pitch));
    view.draws.forEach((draw) => draw());
  };
  canvas.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    turn((event.clientX - from[0]) / 90, (event.clientY - from[1]) / 90);
    from = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (from = null));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
    if (by) { event.preventDefault(); turn(...by); }
  });
}

export const newView = () => ({ yaw: 0.6, pitch: 0.3, held: false, draws: [] });
