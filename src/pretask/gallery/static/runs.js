/* Runs: how far each is, and several side by side. */
import { ask, fragment, h, problem } from "./dom.js";

const EVERY = 3000; // ms between looks at runs that train
const choices = new Map(); // runs that a reader put into the comparison, or took out

export const address = (run) => `#/run/${encodeURIComponent(run.name)}`;

/** What a run is doing. */
export function state(run) {
  if (run.state === "broken") return { word: "cannot be read", tone: "bad" };
  const where = run.steps ? `step ${run.step.toLocaleString("en")} of ${run.steps.toLocaleString("en")}` : `step ${run.step.toLocaleString("en")}`;
  if (run.state === "finished") return { word: "finished", tone: "good" };
  if (run.alive) return { word: `training, ${where}`, tone: "live" };
  const last = new Date(Number(run.stamp) / 1e6).toLocaleString("en", { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
  return { word: `no sign since ${last}, ${where}`, tone: "mixed" };
}

export const pill = ({ word, tone }) => h("span", { class: `pill ${tone}` }, word);

function spark(values) {
  if (!values || values.length < 2) return null;
  const low = Math.min(...values), high = Math.max(...values), wide = 160, tall = 40;
  const points = values.map((value, i) => `${((i / (values.length - 1)) * wide).toFixed(1)},${(tall - 3 - ((value - low) / (high - low || 1)) * (tall - 6)).toFixed(1)}`);
  const holder = h("div", { class: "spark", role: "img", "aria-label": `Loss from ${values[0]} to ${values.at(-1)}` });
  holder.innerHTML = `<svg viewBox="0 0 ${wide} ${tall}" preserveAspectRatio="none" aria-hidden="true"><polyline points="${points.join(" ")}"/></svg>`;
  return holder;
}

/** Whether a run is compared; where nobody says, those are that learned from the same data, the latest that are not alone. */
function isChosen(run, all) {
  const company = (one) => all.some((other) => other !== one && other.data === one.data);
  return choices.get(run.name) ?? (run.state !== "broken" && run.data === all.find((one) => one.state !== "broken" && company(one))?.data);
}

function entry(run, all, redraw) {
  const box = h("input", { type: "checkbox", checked: isChosen(run, all), onchange: () => { choices.set(run.name, box.checked); redraw(); } });
  const broken = run.state === "broken";
  return h("article", { class: "card run", "data-run": run.name },
    h("div", { class: "tags" }, pill(state(run)), !broken && h("label", { class: "compare" }, box, " compare", h("span", { class: "sr" }, ` ${run.name}`))),
    h("h2", {}, h("a", { href: address(run) }, run.title), " ", h("span", { class: "soft" }, run.name)),
    run.state === "training" && run.steps && h("progress", { max: run.steps, value: run.step, "aria-label": "Steps done" }),
    broken ? problem(run.problem) : h("div", { class: "facts-row" }, spark(run.loss), h("div", {}, h("p", { class: `tone-${run.level}` }, run.headline), run.score && h("p", { class: "score" }, run.score), h("p", { class: "soft small" }, `learned from ${run.data}`))),
    !broken && run.problem && problem(run.problem));
}

export async function show(page, signal) {
  const list = h("div", { class: "runs" }), board = h("div", { class: "board-of", "aria-live": "off" }), lede = h("p", { class: "lede" });
  page.replaceChildren(h("header", { class: "hero" }, h("h1", { tabindex: -1 }, "Runs"), lede), list, board);
  let seen = "", compared = "", latest = [];
  async function compare() {
    const names = latest.filter((run) => run.state !== "broken" && isChosen(run, latest));
    const now = JSON.stringify(names.map((run) => [run.name, run.stamp]));
    if (now === compared) return;
    compared = now;
    if (names.length < 2) return board.replaceChildren(latest.length > 1 ? h("p", { class: "empty" }, "Choose two runs or more to see them side by side.") : "");
    board.ariaBusy = "true";
    try {
      const found = await ask(`/api/compare?${new URLSearchParams(names.map((run) => ["run", run.name]))}`, undefined, signal);
      board.replaceChildren(fragment(found.html));
      const title = board.querySelector("h1"); // the page has one already
      title?.replaceWith(h("h2", { class: "big" }, title.textContent));
      mountCurves(board);
    } catch (error) {
      if (error.name !== "AbortError") board.replaceChildren(problem(error.message));
    }
    board.ariaBusy = "false";
  }
  async function look() {
    try {
      const found = await ask("/api/runs", undefined, signal), now = JSON.stringify(found);
      latest = found.runs;
      if (now !== seen) {
        const focused = document.activeElement?.closest?.(".run")?.dataset.run, within = document.activeElement?.type;
        seen = now;
        lede.textContent = latest.length ? `${latest.length} below ${found.root}, the latest first. Those that train are looked at again and again.` : "";
        list.replaceChildren(...(found.problem ? [h("p", { class: "empty" }, found.problem)] : latest.map((run) => entry(run, latest, compare))));
        if (focused) list.querySelector(`[data-run="${CSS.escape(focused)}"] ${within === "checkbox" ? "input" : "a"}`)?.focus();
        compare();
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      seen = "";
      list.replaceChildren(problem(error.message));
    }
  }
  list.append(h("p", { class: "empty" }, "Reading the runs; the first look takes some seconds …"));
  look();
  const timer = setInterval(() => document.hidden || look(), EVERY);
  return { title: "Runs", leave: () => clearInterval(timer) };
}
