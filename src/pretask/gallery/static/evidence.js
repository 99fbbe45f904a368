/* The evidence: what each method's claim came to. */
import { ask, fragment, h, problem } from "./dom.js";

const TONES = { holds: "good", "does not hold at this scale": "bad", inconclusive: "mixed" };

function entry(found) {
  const metrics = [...new Set(Object.values(found.arms).flatMap((arm) => Object.keys(arm)))];
  const plot = h("div", { class: "forest", role: "img", "aria-label": `${found.verdict}: ${found.comparisons.map((part) => `${part.what}: ${part.effect}`).join("; ")}` });
  plot.append(fragment(found.plot));
  return h("article", { class: "card claim" },
    h("div", { class: "tags" }, h("span", { class: `pill ${TONES[found.verdict] ?? ""}` }, found.verdict), found.stale && h("span", { class: "pill mixed" }, "stale"), h("span", { class: "soft small" }, `${found.seconds.toFixed(0)} s · ${found.data}`)),
    h("h2", {}, found.known ? h("a", { href: `#/method/${found.slug}` }, found.title) : found.title),
    h("p", {}, found.statement), plot,
    h("details", {}, h("summary", {}, "In numbers"),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Comparison", "Effect and 95 % interval", "Verdict"].map((word) => h("th", { scope: "col" }, word)))), h("tbody", {}, found.comparisons.map((part) => h("tr", {}, h("td", {}, part.what), h("td", {}, part.effect), h("td", {}, part.verdict)))))),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Arm (a value a seed)", ...metrics].map((word) => h("th", { scope: "col" }, word)))), h("tbody", {}, Object.entries(found.arms).map(([arm, values]) => h("tr", {}, h("th", { scope: "row" }, arm), metrics.map((metric) => h("td", {}, (values[metric] ?? []).map((one) => (typeof one === "number" ? +one.toFixed(4) : "?")).join(" / ")))))))),
      h("p", { class: "soft small" }, found.rule), h("p", { class: "soft small" }, h("code", {}, found.command), ` · ${found.fresh}`)));
}

export async function show(page, signal) {
  page.replaceChildren(h("header", { class: "hero" }, h("h1", { tabindex: -1 }, "Evidence"), h("p", { class: "lede" }, "Every method carries its paper's central statement as a small experiment, kept whichever way it falls. In the plots the line is the margin and the claimed side is shaded; each row has its own scale.")), h("p", { class: "empty" }, "Reading the evidence …"));
  const found = await ask("/api/evidence", undefined, signal);
  page.lastChild.remove();
  const count = (verdict) => found.rows.filter((row) => row.verdict === verdict).length;
  page.append(
    ...found.problems.map((message) => problem(message)),
    h("div", { class: "tiles" }, Object.entries(TONES).map(([verdict, tone]) => h("div", { class: "card tile" }, h("p", { class: "what" }, verdict), h("p", { class: `value tone-${tone}` }, String(count(verdict)))))),
    h("div", { class: "claims" }, found.rows.map(entry)),
    found.waiting.length ? h("p", { class: "soft" }, `Not run yet: ${found.waiting.join(", ")}.`) : "");
  return { title: "Evidence" };
}
