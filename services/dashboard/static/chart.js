// Draws every experiment as a point, and the best version so far as a staircase. A canvas stays fluid with thousands.
"use strict";

(() => {
  const canvas = document.getElementById("chart");
  if (!canvas) return;
  const tip = document.getElementById("tip");
  const spoken = document.getElementById("point");
  const legend = document.getElementById("legend");
  const paint = canvas.getContext("2d");
  const NUMBER = 0, KIND = 1, VALUE = 2, CHANGE = 3, TITLE = 4;
  const REACH_PX = 28; // a finger is wide
  const SHAPES = {
    start: ["dot", "--ink"], confirmed: ["dot", "--keep"], keep: ["ring", "--keep"], rolled_back: ["ring", "--lost"],
    discard: ["small", "--faint"], stopped_early: ["bar", "--faint"], failed: ["cross", "--lost"],
    rejected: ["dash", "--faint"], running: ["ring", "--link"],
  };
  let chart = null, kinds = [], view = null, picked = -1, held = false, asked = false;
  let pad = { left: 62, right: 54, top: 14, bottom: 46 };
  let width = 0, height = 0;

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const addressOf = (point) => `${canvas.dataset.experiments}${point[NUMBER]}`;
  const lastNumber = () => chart.points[chart.points.length - 1][NUMBER];
  const whole = () => ({ from: -0.6, to: Math.max(lastNumber() + 1.2, 4) });
  const x = (number) => pad.left + ((number - view.from) / (view.to - view.from)) * (width - pad.left - pad.right);
  const strip = () => height - pad.bottom - 12; // where experiments without a score lie
  const floor = () => strip() - 16;
  const y = (value) => {
    const [low, high] = chart.scale;
    const share = (value - low) / (high - low);
    return floor() - Math.min(1.02, Math.max(-0.02, share)) * (floor() - pad.top);
  };
  const place = (point) => [x(point[NUMBER]), point[VALUE] === null ? strip() : y(point[VALUE])];

  async function load() {
    const inFile = document.getElementById("chart-data"); // a report is one file, and holds its data
    const answer = inFile ? null : await fetch("/chart.json");
    if (answer && !answer.ok) return;
    const fresh = inFile ? JSON.parse(inFile.textContent) : await answer.json();
    if (!fresh.scale) return;
    const follows = !view || (chart && view.to >= lastNumber() + 0.9);
    const number = picked >= 0 && chart ? chart.points[picked][NUMBER] : null;
    chart = fresh;
    kinds = Object.keys(chart.kinds);
    if (follows) view = { ...whole(), from: view && view.from > 0 ? view.from : whole().from };
    picked = number === null ? -1 : chart.points.findIndex((point) => point[NUMBER] === number);
    writeLegend();
    draw();
  }

  function draw() {
    asked = false;
    if (!chart) return;
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    pad.left = width < 520 ? 50 : 66;
    pad.right = width < 520 ? 54 : 60;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, height);
    axes();
    paint.save();
    paint.beginPath();
    paint.rect(pad.left - 6, 0, width - pad.left - pad.right + 12, height - pad.bottom + 4);
    paint.clip();
    staircase();
    points();
    claims();
    paint.restore();
  }

  const redraw = () => {
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  };

  function steps(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(at);
    return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  }

  function axes() {
    const [low, high] = chart.scale;
    paint.font = "12px system-ui, sans-serif";
    paint.lineWidth = 1;
    paint.textBaseline = "middle";
    const [levels, digits] = steps(low, high, 5);
    for (const level of levels) {
      paint.strokeStyle = color("--line");
      line(pad.left, y(level), width - pad.right, y(level));
      paint.fillStyle = color("--soft");
      paint.textAlign = "right";
      paint.fillText(level.toFixed(digits), pad.left - 9, y(level));
      if (chart.percent) {
        const gain = 100 * chart.percent * (chart.lower ? chart.start - level : level - chart.start);
        paint.textAlign = "left";
        const words = Math.abs(gain) < 0.05 ? "start" : `${gain > 0 ? "+" : "−"}${Math.abs(gain).toFixed(1)} %`;
        paint.fillText(words, width - pad.right + 9, y(level));
      }
    }
    paint.textAlign = "center";
    const [numbers] = steps(Math.max(0, view.from), view.to, Math.max(2, Math.floor(width / 110)));
    for (const number of numbers.filter(Number.isInteger)) {
      paint.fillText(String(number), x(number), height - pad.bottom + 18);
    }
    paint.strokeStyle = color("--line");
    line(pad.left, strip() + 12, width - pad.right, strip() + 12);
    paint.fillText("experiment", (pad.left + width - pad.right) / 2, height - 10);
  }

  function line(fromX, fromY, toX, toY) {
    paint.beginPath();
    paint.moveTo(fromX, Math.round(fromY) + 0.5);
    paint.lineTo(toX, Math.round(toY) + 0.5);
    paint.stroke();
  }

  function staircase() {
    const trace = (shift) => chart.corners.map(([at, value]) => [x(at), y(value + shift)]);
    paint.globalAlpha = 0.13;
    paint.fillStyle = color("--keep");
    paint.beginPath();
    for (const [px, py] of trace(chart.band)) paint.lineTo(px, py);
    for (const [px, py] of trace(-chart.band).reverse()) paint.lineTo(px, py);
    paint.fill();
    paint.globalAlpha = 1;
    paint.strokeStyle = color("--keep");
    paint.lineWidth = 2;
    paint.lineJoin = "round";
    paint.beginPath();
    for (const [px, py] of trace(0)) paint.lineTo(px, py);
    paint.stroke();
    paint.setLineDash([2, 4]);
    paint.lineWidth = 1;
    paint.strokeStyle = color("--faint");
    line(pad.left, y(chart.start), width - pad.right, y(chart.start));
    paint.setLineDash([]);
  }

  function points() {
    const shown = (width - pad.left - pad.right) / Math.max(1, view.to - view.from);
    const size = Math.max(shown < 1 ? 1.6 : 2.8, Math.min(5, shown * 0.42));
    const colors = Object.fromEntries(Object.values(SHAPES).map(([, name]) => [name, color(name)]));
    const rank = (point) => (SHAPES[kinds[point[KIND]]][1] === "--faint" ? 0 : 1);
    const visible = chart.points.filter((point) => point[NUMBER] >= view.from - 1 && point[NUMBER] <= view.to + 1);
    for (const point of [...visible].sort((a, b) => rank(a) - rank(b))) {
      const [usual, name] = SHAPES[kinds[point[KIND]]];
      const [low, high] = chart.scale;
      const shape = point[VALUE] === null ? usual : point[VALUE] > high ? "up" : point[VALUE] < low ? "down" : usual;
      const [px, py] = place(point);
      symbol(paint, shape, px, py, shape === "small" ? Math.max(1.4, size * 0.62) : size, colors[name], color("--surface"));
    }
    if (picked >= 0) {
      const [px, py] = place(chart.points[picked]);
      paint.strokeStyle = color("--ink");
      paint.lineWidth = 1.5;
      paint.beginPath();
      paint.arc(px, py, size + 5, 0, 2 * Math.PI);
      paint.stroke();
    }
  }

  function symbol(on, shape, px, py, size, stroke, fill) {
    on.beginPath();
    on.lineWidth = 1.7;
    on.strokeStyle = on.fillStyle = stroke;
    if (shape === "cross") {
      const arm = Math.max(2.2, size * 0.8);
      on.moveTo(px - arm, py - arm); on.lineTo(px + arm, py + arm);
      on.moveTo(px - arm, py + arm); on.lineTo(px + arm, py - arm);
      on.stroke();
    } else if (shape === "up" || shape === "down") {
      const tall = (shape === "up" ? -1 : 1) * Math.max(3, size);
      on.moveTo(px - size, py - tall / 2); on.lineTo(px + size, py - tall / 2); on.lineTo(px, py + tall); on.fill();
    } else if (shape === "dash") {
      on.moveTo(px - size, py); on.lineTo(px + size, py); on.stroke();
    } else if (shape === "bar") {
      on.moveTo(px, py - size); on.lineTo(px, py + size); on.stroke();
    } else {
      on.arc(px, py, size, 0, 2 * Math.PI);
      if (shape === "ring") { on.fillStyle = fill; on.fill(); on.stroke(); } else on.fill();
    }
  }

  function claims() {
    for (const [at, value, needed, verdict] of chart.claims) {
      const px = x(at), name = verdict === "confirmed" ? "--claim" : "--lost";
      paint.strokeStyle = paint.fillStyle = color(name);
      paint.lineWidth = 1.5;
      line(px, y(value - needed), px, y(value + needed));
      paint.beginPath();
      paint.moveTo(px, y(value) - 5); paint.lineTo(px + 5, y(value)); paint.lineTo(px, y(value) + 5); paint.lineTo(px - 5, y(value));
      paint.fill();
    }
  }

  function writeLegend() {
    const there = new Set(chart.points.map((point) => kinds[point[KIND]]));
    const entry = (shape, name, words) => {
      const item = document.createElement("li");
      const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      mark.setAttribute("viewBox", "0 0 14 14");
      mark.setAttribute("aria-hidden", "true");
      const part = document.createElementNS("http://www.w3.org/2000/svg", shape === "dot" || shape === "small" || shape === "ring" ? "circle" : "path");
      const forms = { cross: "M3 3L11 11M3 11L11 3", dash: "M2 7H12", bar: "M7 2V12", claim: "M7 2L12 7L7 12L2 7Z", line: "M0 7H14" };
      if (part.tagName === "circle") {
        for (const [key, value] of [["cx", 7], ["cy", 7], ["r", shape === "small" ? 3 : 4.2]]) part.setAttribute(key, value);
      } else part.setAttribute("d", forms[shape]);
      const filled = shape === "dot" || shape === "small" || shape === "claim";
      part.setAttribute("fill", filled ? color(name) : "none");
      part.setAttribute("stroke", filled ? "none" : color(name));
      part.setAttribute("stroke-width", "1.8");
      mark.append(part);
      item.append(mark, words);
      return item;
    };
    const entries = kinds.filter((kind) => there.has(kind)).map((kind) => entry(...SHAPES[kind], chart.kinds[kind]));
    entries.push(entry("line", "--keep", "best so far, with the noise of one score"));
    if (chart.claims.length) entries.push(entry("claim", "--claim", "mean of fresh seeds, with the gain needed"));
    legend.replaceChildren(...entries);
  }

  function nearest(px, py) {
    let best = -1, distance = REACH_PX ** 2;
    chart.points.forEach((point, index) => {
      const [cx, cy] = place(point);
      const away = (cx - px) ** 2 + (cy - py) ** 2;
      if (away < distance) [best, distance] = [index, away];
    });
    return best;
  }

  function pick(index, keep) {
    picked = index;
    held = keep && index >= 0;
    tip.classList.toggle("held", held);
    tip.hidden = index < 0;
    if (index >= 0) describe(chart.points[index]);
    redraw();
  }

  function describe(point) {
    const words = chart.kinds[kinds[point[KIND]]];
    const value = point[VALUE] === null ? "no score" : `${chart.metric} ${point[VALUE].toFixed(6)}`;
    const change = point[CHANGE] === null ? "" : `${point[CHANGE] > 0 ? "+" : ""}${point[CHANGE].toFixed(4)} against the best of then`;
    const head = document.createElement("strong");
    head.textContent = `${point[NUMBER]} · ${point[TITLE]}`;
    const lines = [words, value, change].filter(Boolean).map((text) => {
      const part = document.createElement("span");
      part.textContent = text;
      return part;
    });
    const link = document.createElement("a");
    link.href = addressOf(point);
    link.textContent = "Everything about it";
    tip.replaceChildren(head, ...lines, ...(held ? [link] : []));
    spoken.textContent = `${head.textContent}: ${[words, value, change].filter(Boolean).join(", ")}`;
    const [px, py] = place(point);
    const left = Math.min(Math.max(4, px + 14), width - tip.offsetWidth - 4);
    const covers = px + 14 > width - tip.offsetWidth - 4;
    const above = py - tip.offsetHeight - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${covers || py > height / 2 ? Math.max(0, above) : py + 14}px`;
  }

  function zoom(factor, around) {
    const all = whole(), at = around ?? (view.from + view.to) / 2;
    const span = Math.min(all.to - all.from, Math.max(6, (view.to - view.from) * factor));
    const share = (at - view.from) / (view.to - view.from);
    moveTo(at - share * span, span);
  }

  function moveTo(from, span) {
    const all = whole(), start = Math.min(Math.max(all.from, from), all.to - span);
    view = { from: start, to: start + span };
    if (picked >= 0) describe(chart.points[picked]);
    redraw();
  }

  const within = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const numberAt = (px) => view.from + ((px - pad.left) / (width - pad.left - pad.right)) * (view.to - view.from);

  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (!chart) return;
    grip = { px: within(event)[0], from: view.from, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!chart) return;
    const [px, py] = within(event);
    if (grip && (grip.moved || Math.abs(px - grip.px) > 6)) {
      grip.moved = true;
      const span = view.to - view.from;
      moveTo(grip.from - ((px - grip.px) / (width - pad.left - pad.right)) * span, span);
    } else if (!held && event.pointerType === "mouse") pick(nearest(px, py), false);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (chart && grip && !grip.moved) pick(nearest(...within(event)), true);
    grip = null;
  });
  canvas.addEventListener("pointercancel", () => { grip = null; });
  canvas.addEventListener("pointerleave", () => { if (chart && !held) pick(-1, false); });
  canvas.addEventListener("wheel", (event) => {
    if (!chart || !(event.ctrlKey || document.activeElement === canvas)) return; // else the page scrolls
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.2 : 1 / 1.2, numberAt(within(event)[0]));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (!chart) return;
    const last = chart.points.length - 1, from = picked < 0 ? last + 1 : picked;
    const goTo = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (goTo !== undefined) {
      const index = Math.min(last, Math.max(0, goTo)), number = chart.points[index][NUMBER];
      if (number < view.from || number > view.to) moveTo(number - (view.to - view.from) / 2, view.to - view.from);
      pick(index, true);
    } else if (event.key === "Enter" && picked >= 0) location.href = addressOf(chart.points[picked]);
    else if (event.key === "Escape") pick(-1, false);
    else if (event.key === "+") zoom(1 / 1.5);
    else if (event.key === "-") zoom(1.5);
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      if (!chart) return;
      const factor = { in: 1 / 1.7, out: 1.7 }[button.dataset.zoom];
      if (factor) zoom(factor);
      else moveTo(whole().from, whole().to - whole().from);
    });
  }
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (chart) { writeLegend(); redraw(); } });
  document.addEventListener("experiments-changed", load);
  load();
})();
