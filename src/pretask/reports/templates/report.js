"use strict";
const root = document.documentElement;
const asked = new URLSearchParams(location.search).get("theme");
if (asked === "dark" || asked === "light") root.dataset.theme = asked;
const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  dispatchEvent(new Event("themechange"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));

/* Curves: read values off with the pointer or the arrow keys. */
function mountCurves(root) {
  for (const chart of root.querySelectorAll("svg.chart[data-chart]")) {
    const series = JSON.parse(chart.dataset.chart), long = series.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    const box = document.createElement("div");
    box.className = "readout"; box.hidden = true; box.setAttribute("role", "status");
    chart.parentNode.append(box);
    const make = (name) => chart.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
    const line = make("line"), dots = series.map((s) => make("circle"));
    line.setAttribute("class", "cursor"); line.setAttribute("y1", 12); line.setAttribute("y2", 202);
    dots.forEach((dot, i) => { dot.setAttribute("class", "dot s" + series[i].color); dot.setAttribute("r", 4); });
    let at = -1;
    const hide = () => { box.hidden = true; [line, ...dots].forEach((e) => (e.style.display = "none")); };
    const show = (index) => {
      at = Math.max(0, Math.min(long.x.length - 1, index));
      const px = long.px[at];
      [line, ...dots].forEach((e) => (e.style.display = ""));
      line.setAttribute("x1", px); line.setAttribute("x2", px);
      box.hidden = false; box.textContent = "";
      const head = document.createElement("div"); head.textContent = "step " + Math.round(long.x[at]).toLocaleString("en"); box.append(head);
      series.forEach((s, i) => {
        const near = s.px.reduce((best, v, k) => (Math.abs(v - px) < Math.abs(s.px[best] - px) ? k : best), 0);
        dots[i].setAttribute("cx", s.px[near]); dots[i].setAttribute("cy", s.py[near]);
        const row = document.createElement("div"); row.textContent = (series.length > 1 ? s.name + " " : "") + s.y[near]; box.append(row);
      });
      box.style.right = px > 260 ? "auto" : "16px"; box.style.left = px > 260 ? "60px" : "auto";
    };
    hide();
    chart.addEventListener("pointermove", (event) => {
      const x = ((event.clientX - chart.getBoundingClientRect().left) / chart.clientWidth) * chart.viewBox.baseVal.width;
      show(long.px.reduce((best, v, k) => (Math.abs(v - x) < Math.abs(long.px[best] - x) ? k : best), 0));
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
      if (by !== undefined) { event.preventDefault(); show(at < 0 ? (by > 0 ? 0 : 1e9) : at + by * Math.max(1, Math.round(long.x.length / 60))); }
    });
  }
}

/* Contact sheets through training: one at a time. */
function mountSheets(root) {
  for (const sheets of root.querySelectorAll(".sheets")) {
    const figures = [...sheets.querySelectorAll("figure")], scrubber = sheets.querySelector(".scrubber");
    if (!scrubber || figures.length < 2) continue;
    const slider = scrubber.querySelector("input"), output = scrubber.querySelector("output");
    const show = () => {
      figures.forEach((figure, i) => figure.classList.toggle("on", i === +slider.value));
      output.textContent = slider.ariaValueText = "step " + (+figures[slider.value].dataset.step).toLocaleString("en");
    };
    scrubber.hidden = false; sheets.classList.add("scrub");
    slider.addEventListener("input", show); show();
  }
}

/* Code that can be copied. */
function mountCode(root) {
  for (const block of root.querySelectorAll(".code")) {
    const button = document.createElement("button");
    button.textContent = "Copy"; button.type = "button";
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(block.querySelector("pre").textContent); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(block.querySelector("pre")); button.textContent = "Selected"; }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    block.append(button);
  }
}

for (const mount of [mountCurves, mountSheets, mountCode]) mount(document);
