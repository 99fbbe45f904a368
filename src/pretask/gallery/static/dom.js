/* Small tools: elements, requests, words. */

/** An element: properties that begin with `on` are listeners, children may be texts, elements, lists or nothing. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["value", "checked", "disabled", "hidden", "open"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** What the server answers; its refusals are errors with a message for the reader. */
export async function ask(address, body, signal) {
  const how = body === undefined ? { signal } : { signal, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer, found;
  try {
    answer = await fetch(address, how);
    found = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gallery's server does not answer. Is `pretask app` still running?");
  }
  if (!answer.ok) throw new Error(found.error || `The server refused (${answer.status}).`);
  return found;
}

/** Text whose `back-ticked` parts are set as code. */
export const ticked = (text) => String(text).split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

export const problem = (message, ...more) => h("div", { class: "problem", role: "alert" }, ticked(message), more.filter(Boolean));

/** HTML that the server's templates made (they escape what comes from files; scripts in it never run). */
export function fragment(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  return holder.content;
}

export const say = (text) => (document.getElementById("spoken").textContent = text);

export const words = (name) => name.replaceAll("_", " ");

/** A command line that can be copied; `mountCode` adds the button. */
export const code = (text) => h("div", { class: "code" }, h("pre", { tabindex: 0 }, text));

/** A text as one word of a shell. */
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replaceAll("'", `'\\''`)}'`);

export const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** What was kept in the browser; some forbid it. */
export const kept = {
  get(name) { try { return localStorage.getItem("pretask " + name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem("pretask " + name, value); } catch { /* it is forgotten */ } },
};
