/* The pages and their addresses. */
import { h, kept, problem } from "./dom.js";
import * as cards from "./cards.js";
import * as evidence from "./evidence.js";
import * as method from "./method.js";
import * as run from "./run.js";
import * as runs from "./runs.js";

const PAGES = { "": cards, method, runs, run, evidence };
const content = document.getElementById("content"), root = document.documentElement;
let leave = () => {}, stop = null, first = true;

async function open() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place within the page
  const [path, query] = location.hash.slice(2).split("?"), [name, ...more] = path.split("/");
  leave();
  stop?.abort();
  stop = new AbortController();
  const mine = stop.signal;
  leave = () => {};
  for (const link of document.querySelectorAll(".bar-top nav a")) {
    const here = link.hash.slice(2) === { method: "", run: "runs" }[name] || link.hash.slice(2) === name;
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  content.replaceChildren(h("p", { class: "empty" }, "Loading …"));
  content.ariaBusy = "true";
  try {
    const page = PAGES[name];
    if (!page) throw new Error("There is no such page here.");
    const shown = await page.show(content, mine, decodeURIComponent(more.join("/")), new URLSearchParams(query));
    if (mine.aborted) return shown.leave?.();
    leave = shown.leave ?? leave;
    document.title = `${shown.title} · pretask`;
  } catch (error) {
    if (error.name === "AbortError") return;
    content.replaceChildren(h("header", { class: "hero" }, h("h1", { tabindex: -1 }, "That did not work")), problem(error.message), h("p", {}, h("a", { href: "#/" }, "All methods"), " · ", h("a", { href: "#/runs" }, "all runs")));
  }
  content.ariaBusy = "false";
  scrollTo(0, 0);
  if (!first) content.querySelector("h1")?.focus({ preventScroll: true });
  first = false;
}

const chosen = kept.get("theme");
if (chosen && !root.dataset.theme) root.dataset.theme = chosen;
addEventListener("themechange", () => root.dataset.theme && kept.set("theme", root.dataset.theme));
addEventListener("hashchange", open);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); content.focus(); });
open();
