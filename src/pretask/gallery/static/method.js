/* One method: its puzzle, redrawn at once when an option is changed. */
import { ask, code, h, problem, quoted, say } from "./dom.js";
import { field } from "./controls.js";
import { puzzle } from "./panels.js";

const WAIT = 120; // ms without a change before a puzzle is drawn

export async function show(page, signal, slug, query) {
  const [method, { data, methods }, { runs }] = await Promise.all([ask(`/api/method/${slug}`, undefined, signal), ask("/api/methods", undefined, signal), runsOf(signal)]);
  const own = runs.filter((run) => run.slugs.includes(slug));
  page.replaceChildren(head(method));
  if (method.kind === "study") {
    page.append(h("section", {}, h("h2", {}, "A theory, made executable"), h("p", { class: "lede" }, "There is nothing to train and nothing to draw: its statements are checked by counting."), code(`pretask study ${slug}`)));
    mountCode(page);
    return { title: method.title };
  }
  const first = methods.findIndex((one) => one.slug === slug); // the seed that the method's card has
  const state = { seed: query.has("seed") ? +query.get("seed") || 0 : first, guess: false, before: "", shown: null };
  const place = h("div", { class: "puzzle", "aria-busy": "true" }, h("p", { class: "empty" }, "Drawing the puzzle; the first takes some seconds …"));
  const note = h("p", { class: "soft small under", role: "status" }), lines = h("div", { class: "lines" });
  const fields = method.options.map((option) => field(option, () => { state.changed = option.name; later(); }));
  for (const one of fields) if (query.has(one.name)) { try { one.set(JSON.parse(query.get(one.name))); } catch { /* as it was */ } }
  const chosen = () => Object.fromEntries(fields.map((one) => [one.name, one.get()]).filter(([, value]) => value !== undefined));

  let timer, running = false, again = false;
  const later = () => { clearTimeout(timer); timer = setTimeout(draw, WAIT); };
  async function draw() {
    if (running) { again = true; return; }
    running = true;
    place.ariaBusy = "true";
    const options = chosen();
    remember(slug, options, state.seed === first ? null : state.seed);
    commands(lines, method, options, data, state.shown?.own);
    try {
      state.shown = await ask("/api/preview", { slug, options, seed: state.seed }, signal);
      paint();
      tell();
      commands(lines, method, options, data, state.shown.own);
    } catch (error) {
      if (error.name === "AbortError") return;
      note.replaceChildren(problem(error.message, state.shown && h("p", {}, "The puzzle is as it was before this change.")));
      if (!state.shown) place.replaceChildren();
    }
    place.ariaBusy = "false";
    running = false;
    if (again) { again = false; draw(); }
  }
  const paint = () => state.shown && place.replaceChildren(...puzzle(state.shown, { guess: state.guess }).filter(Boolean));
  function tell() {
    const now = JSON.stringify(state.shown.rows), { own: mine, data: from } = state.shown;
    const where = `Drawn on ${mine ? "your data, " : "the embedded set "}${from}.`;
    const unchanged = state.changed && now === state.before;
    note.textContent = unchanged ? `${where} “${state.changed.replaceAll("_", " ")}” does not change what is shown: it changes how it is learned.` : where;
    if (state.changed && !unchanged) say("The puzzle was redrawn.");
    state.before = now;
    state.changed = "";
  }
  const guess = h("button", { type: "button", "aria-pressed": "false", onclick: () => { state.guess = !state.guess; guess.setAttribute("aria-pressed", state.guess); paint(); } }, "Let me guess");
  const other = h("button", { type: "button", onclick: () => { state.seed = (state.seed + 1) % 2 ** 31; draw(); } }, "Other samples");
  const reset = h("button", { type: "button", onclick: () => { fields.forEach((one) => one.set(undefined)); draw(); } }, "All to default");
  page.append(
    h("div", { class: "workbench" },
      h("section", { class: "stage", "aria-label": "The puzzle" }, h("div", { class: "toolbar" }, other, guess), place, note),
      h("section", { class: "card options", "aria-label": "Options" }, h("div", { class: "name" }, h("h2", {}, "Options"), reset),
        fields.length ? fields.map((one) => one.element) : h("p", { class: "soft" }, "This method has none."))),
    h("section", {}, h("h2", {}, "On the command line"), lines),
    h("section", {}, h("h2", {}, "Runs of this method"),
      own.length ? h("ul", { class: "plain" }, own.map((run) => h("li", {}, h("a", { href: `#/run/${encodeURIComponent(run.name)}` }, run.name), " ", h("span", { class: "soft" }, [run.headline, run.score].filter(Boolean).join(" ")))))
        : h("p", { class: "empty" }, "None yet.")));
  draw();
  return { title: method.title, leave: () => clearTimeout(timer) };
}

/** Runs are not what this page is about: without them it still stands. */
const runsOf = (signal) => ask("/api/runs", undefined, signal).catch((error) => { if (error.name === "AbortError") throw error; return { runs: [] }; });

function head(method) {
  return h("header", { class: "hero" },
    h("p", { class: "eyebrow" }, h("a", { href: "#/" }, "All methods"), ` · ${method.modality} · `, h("code", {}, method.slug)),
    h("h1", { tabindex: -1 }, method.title),
    h("dl", { class: "asked" }, h("dt", {}, "Hidden"), h("dd", {}, method.hides), h("dt", {}, "Asked"), h("dd", {}, method.asks)),
    h("p", { class: "soft small" }, method.paper));
}

/** The address keeps what was chosen, so that it can be shared and gone back to. */
function remember(slug, options, seed) {
  const query = new URLSearchParams(Object.entries(options).map(([name, value]) => [name, JSON.stringify(value)]));
  if (seed !== null) query.set("seed", seed);
  history.replaceState(null, "", `#/method/${slug}${query.size ? "?" + query : ""}`);
}

const value = (given) => (Array.isArray(given) ? given.join(",") : given === null ? "none" : String(given));

function commands(place, method, options, data, own) {
  const set = Object.entries(options).map(([name, given]) => `--set ${quoted(`${name}=${value(given)}`)}`);
  const from = data && own ? [`--data ${quoted(data)}`] : [];
  place.replaceChildren(code(["pretask train", method.slug, ...from, ...set].join(" ")), code(["pretask shortcuts", method.slug, ...from, ...set].join(" ")));
  mountCode(place);
}
