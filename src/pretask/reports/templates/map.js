/* The map of embeddings: point to see, click (or Enter) for neighbours, arrow keys to walk, drag to move. */
function mountMap(root, data) {
  const map = root.querySelector(".map"), canvas = map.querySelector("canvas"), tip = map.querySelector(".tip");
  const aside = map.querySelector("aside"), spoken = map.querySelector(".sr"), pen = canvas.getContext("2d");
  const total = data.x.length, off = new Set(), PAD = 26;
  let view = { zoom: 1, x: 0.5, y: 0.5 }, hover = -1, chosen = -1, pictures = false, colours = [], sprite = null, drag = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hue = (label) => (label < 8 ? css("--s" + label) : `hsl(${(label * 137.5) % 360} 55% ${css("color-scheme") === "dark" ? 66 : 46}%)`);
  const readColours = () => { colours = (data.classes.length ? data.classes : [""]).map((_, i) => hue(i)); };
  const label = (i) => (data.labels ? data.classes[data.labels[i]] : "");
  const visible = (i) => !data.labels || !off.has(data.labels[i]);
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const place = (i) => {
    const [w, h] = size(), side = Math.min(w, h) - 2 * PAD;
    return [w / 2 + (data.x[i] - view.x) * side * view.zoom, h / 2 - (data.y[i] - view.y) * side * view.zoom];
  };

  function thumb(i, pixels) {
    const span = document.createElement("span");
    span.className = "thumb";
    span.style.cssText = `--size:${pixels}px;--c:${i % data.columns};--r:${Math.floor(i / data.columns)}`;
    return span;
  }
  function said(i) {
    const words = document.createElement("div");
    words.className = "soft"; words.textContent = data.words[i];
    return words;
  }
  function stamp(i, x, y, side) {
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sprite, (i % data.columns) * data.side, Math.floor(i / data.columns) * data.side, data.side, data.side, x - side / 2, y - side / 2, side, side);
  }
  function draw() {
    const [w, h] = size(), ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) { canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio); }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    const near = chosen >= 0 ? new Set(data.neighbours[chosen]) : null;
    const radius = Math.min(9, (total > 400 ? 3.6 : 5) * Math.sqrt(view.zoom));
    const side = Math.min(44, 15 * Math.sqrt(view.zoom) * (total > 500 ? 1 : 1.4));
    for (let i = 0; i < total; i++) {
      if (!visible(i)) continue;
      const [x, y] = place(i);
      pen.globalAlpha = near && i !== chosen && !near.has(i) ? 0.28 : 0.9;
      const colour = colours[data.labels ? data.labels[i] : 0];
      if (pictures && sprite) {
        stamp(i, x, y, side);
        if (data.labels) { pen.strokeStyle = colour; pen.lineWidth = 1.5; pen.strokeRect(x - side / 2, y - side / 2, side, side); }
      } else { pen.fillStyle = colour; pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.fill(); }
    }
    pen.globalAlpha = 1;
    const ring = (i, width, r) => { const [x, y] = place(i); pen.strokeStyle = css("--ink"); pen.lineWidth = width; pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.stroke(); };
    if (near) { for (const i of near) if (visible(i)) ring(i, 1.4, radius + 3); ring(chosen, 3, radius + 5); }
    if (hover >= 0 && hover !== chosen) ring(hover, 2, radius + 4);
  }
  function under(x, y) {
    let best = -1, least = 18 * 18;
    for (let i = 0; i < total; i++) {
      if (!visible(i)) continue;
      const [a, b] = place(i), d = (a - x) ** 2 + (b - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  function showTip(i) {
    hover = i; tip.hidden = i < 0;
    if (i >= 0) {
      tip.textContent = "";
      if (sprite) tip.append(thumb(i, 96));
      const line = document.createElement("div");
      line.textContent = [label(i), "sample " + i].filter(Boolean).join(" · ");
      tip.append(line);
      if (data.words) tip.append(said(i));
      const [x, y] = place(i), [w] = size();
      tip.style.left = Math.max(4, Math.min(x + 14, w - 130)) + "px"; tip.style.top = Math.max(4, y > 170 ? y - 150 : y + 14) + "px";
    }
    draw();
  }
  function choose(i) {
    chosen = i;
    aside.querySelector(".idle").hidden = i >= 0;
    const found = aside.querySelector(".about");
    found.textContent = "";
    if (i >= 0) {
      const head = document.createElement("h3"); head.textContent = label(i) || "Sample " + i; found.append(head);
      if (sprite) { const big = thumb(i, 128); big.style.margin = "10px 0"; found.append(big); }
      if (data.words) found.append(said(i));
      const text = document.createElement("p"); text.textContent = "Most alike, with their cosine:"; text.style.margin = "6px 0 0"; found.append(text);
      const grid = document.createElement("div"); grid.className = sprite ? "found" : "found wide";
      data.neighbours[i].forEach((other, rank) => {
        const button = document.createElement("button");
        button.type = "button"; button.title = button.ariaLabel = `${label(other) || "sample " + other}, cosine ${data.cosines[i][rank]}`;
        if (sprite) button.append(thumb(other, 52));
        const note = document.createElement("div"); note.textContent = sprite ? data.cosines[i][rank].toFixed(2) : [button.title, data.words?.[other]].filter(Boolean).join(": "); button.append(note);
        button.addEventListener("click", () => { choose(other); canvas.focus(); });
        grid.append(button);
      });
      found.append(grid);
      spoken.textContent = `${label(i)} sample ${i}; neighbours: ${data.neighbours[i].map((n) => label(n) || n).join(", ")}`;
    }
    draw();
  }
  function zoom(factor, x, y) {
    const [w, h] = size(), side = Math.min(w, h) - 2 * PAD, next = Math.max(1, Math.min(24, view.zoom * factor));
    const dx = (x ?? w / 2) - w / 2, dy = (y ?? h / 2) - h / 2;
    view = { zoom: next, x: view.x + (dx / side) * (1 / view.zoom - 1 / next), y: view.y - (dy / side) * (1 / view.zoom - 1 / next) };
    if (next === 1) view = { zoom: 1, x: 0.5, y: 0.5 };
    canvas.style.touchAction = next > 1 ? "none" : "pan-y";
    draw();
  }
  function walk(dx, dy) {
    const from = hover >= 0 ? hover : chosen;
    if (from < 0) return showTip([...Array(total).keys()].find(visible) ?? -1);
    const [x, y] = place(from);
    let best = -1, least = Infinity;
    for (let i = 0; i < total; i++) {
      if (i === from || !visible(i)) continue;
      const [a, b] = place(i), along = (a - x) * dx + (b - y) * dy, across = Math.abs((a - x) * dy - (b - y) * dx);
      if (along > 0.5 && along + 2.5 * across < least) { least = along + 2.5 * across; best = i; }
    }
    if (best >= 0) { showTip(best); spoken.textContent = `${label(best)} sample ${best}`; }
  }

  const spot = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => { drag = { at: spot(event), view: { ...view }, moved: false }; if (view.zoom > 1) canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = spot(event);
    if (drag && view.zoom > 1) {
      const [w, h] = size(), side = (Math.min(w, h) - 2 * PAD) * view.zoom, dx = x - drag.at[0], dy = y - drag.at[1];
      drag.moved ||= Math.hypot(dx, dy) > 4;
      if (drag.moved) { view = { zoom: view.zoom, x: drag.view.x - dx / side, y: drag.view.y + dy / side }; return draw(); }
    }
    showTip(under(x, y));
  });
  canvas.addEventListener("pointerup", (event) => { if (drag && !drag.moved) choose(under(...spot(event))); drag = null; });
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", () => showTip(-1));
  canvas.addEventListener("blur", () => showTip(-1));
  canvas.addEventListener("wheel", (event) => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(-event.deltaY / 200), ...spot(event)); } }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...spot(event)));
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (steps) { event.preventDefault(); walk(...steps); }
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); if (hover >= 0) choose(hover); }
    else if (event.key === "Escape") { choose(-1); showTip(-1); }
    else if (event.key === "+" || event.key === "=") zoom(1.6);
    else if (event.key === "-") zoom(1 / 1.6);
  });
  const tool = (name, act) => map.querySelector(`[data-do=${name}]`)?.addEventListener("click", act);
  tool("in", () => zoom(1.6)); tool("out", () => zoom(1 / 1.6)); tool("all", () => { choose(-1); zoom(1e-9); });
  tool("pictures", (event) => { pictures = !pictures; event.currentTarget.setAttribute("aria-pressed", pictures); draw(); });
  for (const button of root.querySelectorAll(".classes button")) {
    button.addEventListener("click", () => {
      const n = +button.dataset.label, hidden = off.has(n);
      hidden ? off.delete(n) : off.add(n);
      button.setAttribute("aria-pressed", hidden);
      draw();
    });
  }
  const paint = () => {
    if (!canvas.isConnected) return removeEventListener("themechange", paint); // the page shows something else by now
    readColours();
    root.querySelectorAll(".classes .swatch").forEach((e, i) => (e.style.background = colours[i]));
    draw();
  };
  if (data.columns) {
    const uri = getComputedStyle(map).getPropertyValue("--sprite").trim().replace(/^url\(["']?|["']?\)$/g, ""), image = new Image();
    image.onload = () => { sprite = image; draw(); };
    image.src = uri;
  }
  new ResizeObserver(draw).observe(canvas);
  addEventListener("themechange", paint);
  paint();
}
