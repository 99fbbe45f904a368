/* What sets an option, made from what the server says of its type. */
import { h, ticked, words } from "./dom.js";

let number = 0;

/** A field for an option: its element, `get` (undefined while at the default) and `set`. */
export function field(option, changed) {
  const id = `option-${number++}`, help = `${id}-help`;
  const inner = make(option.control, id, words(option.name), changed, option.default);
  const back = h("button", { type: "button", class: "back", title: "Back to the default", "aria-label": `${words(option.name)}: back to the default`, onclick: () => { set(undefined); changed(); } }, "↺");
  const mark = () => { back.hidden = same(inner.get(), option.default); };
  const set = (value) => { inner.set(value === undefined ? option.default : value); mark(); };
  const element = h("div", { class: "field", oninput: mark, onclick: mark },
    h("div", { class: "name" }, h("label", { for: id, id: `${id}-name` }, words(option.name)), back),
    inner.element, option.help && h("p", { class: "help", id: help }, ticked(option.help)));
  inner.element.setAttribute("aria-describedby", help);
  set(undefined);
  return { element, name: option.name, set, get: () => (same(inner.get(), option.default) ? undefined : inner.get()) };
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function make(control, id, name, changed, start) {
  if (control.optional) return optional(control, id, name, changed, start);
  return { switch: toggle, choice, number: amount, parts, text }[control.kind](control, id, name, changed, start);
}

function toggle(control, id, name, changed) {
  const box = h("input", { type: "checkbox", id, class: "switch", onchange: changed });
  return { element: box, get: () => box.checked, set: (value) => (box.checked = Boolean(value)) };
}

function choice(control, id, name, changed) {
  if (control.choices.length > 4) {
    const list = h("select", { id, onchange: changed }, control.choices.map((value) => h("option", {}, value)));
    return { element: list, get: () => list.value, set: (value) => (list.value = String(value)) };
  }
  const boxes = control.choices.map((value, i) => h("input", { type: "radio", name: id, id: i ? `${id}-${i}` : id, value, onchange: changed }));
  const element = h("div", { class: "segments", role: "radiogroup", "aria-labelledby": `${id}-name` },
    boxes.map((box) => h("label", {}, box, h("span", {}, words(box.value)))));
  return { element, get: () => boxes.find((box) => box.checked)?.value, set: (value) => boxes.forEach((box) => (box.checked = box.value === String(value))) };
}

function amount(control, id, name, changed) {
  const box = h("input", { type: "number", id, step: control.whole ? 1 : "any", "aria-label": name, onchange: changed });
  const read = () => (box.value === "" ? "" : Number(box.value));
  if (control.high === undefined) return { element: h("div", { class: "amount" }, box), get: read, set: (value) => (box.value = value ?? "") };
  const slider = h("input", { type: "range", min: control.low, max: control.high, step: control.step, "aria-label": `${name}, slider` });
  slider.addEventListener("input", () => { box.value = +Number(slider.value).toPrecision(6); changed(); });
  box.addEventListener("input", () => (slider.value = box.value));
  return { element: h("div", { class: "amount" }, slider, box), get: read, set: (value) => { box.value = value ?? ""; slider.value = value ?? 0; } };
}

function parts(control, id, name, changed, start) {
  const each = control.parts.map((part, i) => make(part, i ? `${id}-${i}` : id, `${name}, ${i + 1} of ${control.parts.length}`, changed, start?.[i]));
  const element = h("div", { class: "parts", role: "group", "aria-labelledby": `${id}-name` }, each.map((part) => part.element));
  return { element, get: () => each.map((part) => part.get()), set: (value) => each.forEach((part, i) => part.set(value?.[i])) };
}

function text(control, id, name, changed, start) {
  const list = Array.isArray(start), box = h("input", { type: "text", id, spellcheck: "false", onchange: changed });
  const read = () => (list ? box.value.split(",").map((part) => part.trim()).filter(Boolean) : box.value);
  return { element: box, get: read, set: (value) => (box.value = list ? (value ?? []).join(", ") : (value ?? "")) };
}

/** A value that may be left to the method. */
function optional(control, id, name, changed, start) {
  const inner = make({ ...control, optional: false }, id, name, () => { auto.checked = false; changed(); }, start);
  const auto = h("input", { type: "checkbox", id: `${id}-auto`, onchange: () => { hide(); changed(); } });
  const hide = () => { inner.element.hidden = auto.checked; };
  const element = h("div", { class: "optional" }, h("label", { class: "auto" }, auto, " by the method's own rule"), inner.element);
  return {
    element,
    get: () => (auto.checked || inner.get() === "" ? null : inner.get()),
    set: (value) => { auto.checked = value === null || value === undefined; if (!auto.checked) inner.set(value); hide(); },
  };
}
