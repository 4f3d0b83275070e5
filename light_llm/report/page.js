"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const live = JSON.parse(at("live").textContent);
  const LEVELS = { good: ["●", "good"], watch: ["▲", "watch"], bad: ["■", "bad"], info: ["○", "note"] };
  const HEAT = {
    light: ["#f7f5ef", "#d3e2e6", "#94bfcd", "#4d8fae", "#235f86", "#0c2f4f"],
    dark: ["#161a20", "#1c3448", "#265d7f", "#4791b0", "#93c6d3", "#eef6f4"],
  };
  const NAMES = { nats: "nats/token", bits: "bits/byte" }; // of options, where they are not the option itself
  const PLOT = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
  const picked = {}; // figure and axis -> the option that was chosen
  const cards = new Map(); // run and figure -> its elements on the page
  const parts = new WeakMap(); // element -> the data it shows, as JSON
  let state = JSON.parse(at("state").textContent);
  let chosen = 0; // index of the run that is shown
  let waiting = []; // cards still to be drawn

  // ---- elements: every text of a run becomes a text node, never HTML

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child != null));
    return node;
  }

  // Fill an element, unless its data is unchanged: replacing it would lose a focus or a selection in it.
  function fill(node, from, build) {
    const key = JSON.stringify(from);
    if (parts.get(node) === key) return;
    parts.set(node, key);
    node.replaceChildren(...[build(from)].flat().filter((child) => child != null));
  }

  const shown = (value) => (value == null ? "" : typeof value === "number" ? +value.toPrecision(5) : value);

  function tableOf({ heads, rows }) {
    const cell = (value) => el("td", typeof value === "number" ? { class: "number" } : {}, String(shown(value)));
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "table" },
      el("table", {},
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell))))));
  }

  // A single choice, as radio buttons that look like segments.
  function segments(name, label, options, value, choose) {
    return el("fieldset", { class: "segments" }, el("legend", {}, label), options.map(([key, text]) =>
      el("label", {},
        el("input", { type: "radio", name, value: key, checked: key === value, onchange: () => choose(key) }),
        el("span", {}, text))));
  }

  // ---- the theme

  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("light-llm-theme"); } catch { return null; } };
  const theme = () => document.documentElement.dataset.theme || (system.matches ? "dark" : "light");

  function setTheme(name) {
    if (name) document.documentElement.dataset.theme = name;
    at("theme").textContent = theme() === "dark" ? "Light" : "Dark";
    at("theme").setAttribute("aria-label", `Switch to ${theme() === "dark" ? "light" : "dark"} colours`);
    redraw();
  }

  const probe = document.body.appendChild(el("span", { hidden: true }));
  function color(name) {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  }

  // The colour at a place from 0 to 1 on the scale of the heat maps, as plotly interpolates it: [red, green, blue].
  function heat(at) {
    const stops = HEAT[theme()];
    const place = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(place), stops.length - 2);
    const part = (hex, c) => parseInt(hex.slice(2 * c + 1, 2 * c + 3), 16);
    return [0, 1, 2].map((c) => Math.round(part(stops[i], c) + (place - i) * (part(stops[i + 1], c) - part(stops[i], c))));
  }

  // Names that begin with @ become colours of the theme; lists of numbers are passed on as they are.
  function themed(value, key = "") {
    if (typeof value === "string") {
      if (value[0] !== "@" || !/color/i.test(key)) return value;
      if (value === "@heat") return HEAT[theme()].map((c, i, all) => [i / (all.length - 1), c]);
      // The faint half of the scale could not be seen as a line.
      if (value.startsWith("@shade/")) return `rgb(${heat(0.5 + value.slice(7) / 2)})`;
      return color(value.slice(1));
    }
    if (Array.isArray(value)) {
      return typeof value[0] === "object" || /color/i.test(key) ? value.map((v) => themed(v, key)) : value;
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, k)]));
  }

  // ---- one figure

  const pickOf = (figure, axis) => {
    const known = figure.toggles.find((s) => s.axis === axis);
    const name = picked[`${figure.id} ${axis}`];
    return known && (known.options.find(([key]) => key === name) || known.options[0]);
  };

  function traceOf(figure, trace) {
    const { choices, ...rest } = trace;
    if (!choices) return rest;
    const [x, y] = ["x", "y"].map((axis) => (pickOf(figure, axis) || [])[0]);
    if (x) rest.x = choices.x[x] || [];
    if (y) rest.y = choices.y[y] || [];
    if (y && choices.error) rest.error_y = { ...rest.error_y, array: choices.error[y] };
    return rest;
  }

  // The numbers in the cells of a heat map, each in black or white, whichever has more contrast (4.58 or more).
  function labelsOf(trace) {
    const linear = (v) => (v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const light = (rgb) => 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2]);
    const labels = { type: "scatter", mode: "text", hoverinfo: "skip", showlegend: false, x: [], y: [], text: [], textfont: { size: 12, color: [] } };
    trace.z.forEach((row, i) => row.forEach((z, j) => {
      if (z == null) return;
      const place = (z - trace.zmin) / (trace.zmax - trace.zmin);
      const ground = light(heat(trace.reversescale ? 1 - place : place));
      labels.x.push(trace.x[j]);
      labels.y.push(trace.y[i]);
      labels.text.push(trace.text[i][j]);
      labels.textfont.color.push(ground > 0.179 ? "#000000" : "#ffffff");
    }));
    return labels;
  }

  function tracesOf(figure) {
    const traces = figure.traces.map((trace) => traceOf(figure, trace));
    return traces.flatMap(({ texttemplate, ...rest }) =>
      (texttemplate && rest.type === "heatmap" ? [rest, labelsOf(rest)] : [texttemplate ? { texttemplate, ...rest } : rest]));
  }

  function layoutOf(figure, width) {
    const axis = {
      automargin: true, zeroline: false, gridcolor: "@grid", linecolor: "@rule", tickcolor: "@rule", ticks: "outside",
      ticklen: 4, exponentformat: "SI", tickfont: { size: 11 },
    };
    const layout = {
      height: figure.wide ? (width < 600 ? 360 : 440) : 300,
      margin: { l: 50, r: 14, t: 12, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "@ink" },
      hoverlabel: { bgcolor: "@card", bordercolor: "@rule", font: { color: "@ink" } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "@rule", activecolor: "@accent" },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // scrolling with a finger must not zoom
      hovermode: "closest",
      uirevision: figure.toggles.map((s) => pickOf(figure, s.axis)[0]).join() || "same", // keeps the zoom when new numbers arrive
      ...figure.layout,
    };
    for (const name of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d/.test(key))]) {
      layout[name] = { ...axis, ...layout[name] };
      layout[name].title = { ...layout[name].title, font: { size: 12 }, standoff: 8 };
    }
    for (const s of figure.toggles) {
      const [key, title] = pickOf(figure, s.axis);
      layout[`${s.axis}axis`].title.text = title;
      if (key === "FLOPs") layout.xaxis.exponentformat = "power";
    }
    return layout;
  }

  function draw(card) {
    if (!card.plot.isConnected || !card.plot.clientWidth) return;
    Plotly.react(card.plot, themed(tracesOf(card.figure)), themed(layoutOf(card.figure, card.plot.clientWidth)), PLOT);
    card.plot.dataset.drawn = "yes";
  }

  // Figures are drawn one after the other, in the order of the page, so that it can be read and scrolled meanwhile.
  function enqueue(card) {
    if (!waiting.includes(card)) waiting.push(card);
    if (waiting.length === 1) setTimeout(drawNext, 0);
  }
  function drawNext() {
    const card = waiting[0];
    try {
      if (card) draw(card);
    } finally {
      waiting.shift();
      if (waiting.length) setTimeout(drawNext, 0);
    }
  }
  function redraw(part = document) {
    for (const card of cards.values()) if (part.contains(card.plot)) enqueue(card);
  }

  function remark([level, words]) {
    const [sign, name] = LEVELS[level];
    return el("p", { class: `remark ${level}` }, el("span", { class: "badge" }, `${sign} ${name}`), " ", words);
  }

  function makeCard(figure, key) {
    const plot = el("div", { class: "plot", id: `plot-${key}`, role: "img" });
    const words = el("div", { class: "words" });
    const numbers = el("div");
    const details = el("details", { ontoggle: () => update(cards.get(key)) }, el("summary", {}, "The numbers"), numbers);
    const toggles = el("div", { class: "toggles" });
    const title = el("h3", { id: `title-${key}` });
    const node = el("article", { class: "card", id: `figure-${key}`, "aria-labelledby": `title-${key}` },
      el("div", { class: "card-head" }, title, toggles), plot, words, details);
    return { figure, key, node, plot, words, numbers, details, toggles, title, fresh: "" };
  }

  function update(card) {
    const { figure, key } = card;
    card.node.className = `card ${figure.level}${figure.wide ? " wide" : ""}`;
    card.title.textContent = figure.title;
    card.plot.setAttribute("aria-label", `${figure.title}. ${figure.sentence} The numbers are in the table below.`);
    fill(card.toggles, figure.toggles, (all) => all.map((s) =>
      segments(`${key}-${s.axis}`, s.label, s.options.map(([name]) => [name, NAMES[name] || name]), pickOf(figure, s.axis)[0], (name) => {
        picked[`${figure.id} ${s.axis}`] = name;
        draw(card);
      })));
    fill(card.words, [figure.sentence, figure.remarks], ([sentence, remarks]) =>
      [el("p", {}, sentence), ...remarks.map(remark)]);
    if (card.details.open) fill(card.numbers, figure.table, tableOf);
    const fresh = JSON.stringify([figure.traces, figure.layout]);
    if (fresh !== card.fresh || !card.plot.dataset.drawn) enqueue(card);
    card.fresh = fresh;
  }

  function cardOf(figure, run) {
    const key = run == null ? figure.id : `${figure.id}-${run}`;
    if (!cards.has(key)) cards.set(key, makeCard(figure, key));
    const card = cards.get(key);
    card.figure = figure;
    return card;
  }

  // ---- a run

  const block = (id, title, ...children) =>
    el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);

  // A section that is closed at first. Its figures are drawn when it is opened: a hidden one has no width.
  const foldedBlock = (id, title, count, ...children) =>
    el("section", { id, "aria-labelledby": `${id}-title` },
      el("details", { class: "fold", ontoggle: (event) => { if (event.target.open) redraw(event.target); } },
        el("summary", {}, el("h2", { id: `${id}-title` }, title), el("small", {}, count)), ...children));

  const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
  const isUrgent = (note) => note.level === "bad" || note.level === "watch";

  // Words about the checks, of those that are not urgent or of all.
  function verdict(notes) {
    const [urgent, good] = [notes.filter(isUrgent).length, notes.filter((v) => v.level === "good").length];
    const others = notes.length - urgent - good;
    const passed = urgent ? `${plural(good, "other check")} passed` : `All ${plural(good, "check")} passed`;
    return [good || !others ? passed : null, others ? plural(others, "note") : null].filter(Boolean).join(", ");
  }

  // "917 MB": the number is large, and its unit small beside it.
  const amount = (text) => text.split(/(\d[\d.,:]*)/).map((part) => (/^\d/.test(part) ? part : el("small", {}, part)));

  function head(run) {
    const facts = el("dl", { class: "facts" }, Object.entries(run.facts).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    const urgent = run.notes.filter(isUrgent);
    if (run.notes.length) {
      const words = urgent.length ? `${urgent.length} of ${run.notes.length} need attention` : verdict(run.notes);
      const level = urgent.some((v) => v.level === "bad") ? "bad" : urgent.length ? "watch" : "good";
      facts.append(el("div", {}, el("dt", {}, "checks"), el("dd", { class: level }, el("a", { class: "badge", href: "#checks" }, `${LEVELS[level][0]} ${words}`))));
    }
    const numbers = el("dl", { class: "numbers", style: `--tiles: ${run.numbers.length}` }, run.numbers.map(({ label, value, note }) =>
      el("div", {}, el("dt", {}, label), el("dd", {}, el("b", {}, amount(value)), el("small", {}, note)))));
    return [el("h1", {}, run.name), facts, numbers];
  }

  function noteList(notes) {
    if (!notes.length) return [];
    const item = (v) => {
      const [sign, name] = LEVELS[v.level];
      const target = at(`figure-${v.figure}-${chosen}`);
      const words = [el("b", {}, v.message), v.advice ? ` ${v.advice}` : ""];
      return el("li", { class: v.level }, el("span", { class: "badge" }, `${sign} ${name}`),
        target ? el("a", { href: `#figure-${v.figure}-${chosen}` }, words) : el("span", {}, words));
    };
    const [urgent, calm] = [notes.filter(isUrgent), notes.filter((v) => !isUrgent(v))];
    const list = (of) => el("ul", { class: "notes" }, of.map(item));
    return block("checks", "Checks",
      urgent.length ? list(urgent) : null,
      calm.length ? el("details", {}, el("summary", {}, verdict(notes)), list(calm)) : null);
  }

  function samplesOf(samples) {
    if (!samples.length) return [];
    const step = el("output", { for: "sample" });
    const text = el("pre", { class: "sample", tabindex: "0" });
    const stepOf = (sample) => `step ${sample.step.toLocaleString("en")}`;
    const show = () => {
      const sample = samples[slider.value];
      step.textContent = stepOf(sample);
      slider.setAttribute("aria-valuetext", step.textContent);
      text.textContent = sample.text;
    };
    const slider = el("input", { type: "range", id: "sample", min: 0, max: samples.length - 1, value: samples.length - 1, oninput: show });
    show();
    const pane = (title, words) => el("div", {}, title, words);
    // The first sample stays beside the one that is chosen, to show what was learned between them.
    const first = samples.length > 1 ? pane(el("p", { class: "slider" }, stepOf(samples[0])), el("pre", { class: "sample" }, samples[0].text)) : null;
    const choice = el("p", { class: "slider" }, el("label", { for: "sample" }, "generated at"), slider, step);
    return block("samples", "Samples", el("div", { class: "card pair" }, first, pane(first ? choice : step, text)));
  }

  function repeatOf({ command, tables }) {
    const copied = el("span", { role: "status", class: "small" });
    const copy = async () => {
      try {
        await navigator.clipboard.writeText(command);
        copied.textContent = " copied";
      } catch {
        copied.textContent = " not copied: select the command and copy it yourself";
      }
    };
    const long = (t) => t.rows.length > 12;
    return block("repeat", "Repeat this run",
      el("div", { class: "command" }, el("code", { tabindex: "0", role: "region", "aria-label": "command" }, command), el("button", { type: "button", onclick: copy }, "Copy"), copied),
      tables.filter((t) => t.rows.length).map((t) => el("details", { open: !long(t) }, el("summary", {}, t.title), tableOf(t))));
  }

  // ---- the page

  const main = at("main");
  const spots = {};
  for (const name of ["together", "choice", "head", "loss", "notes", "figures", "samples", "plan", "repeat"]) {
    spots[name] = main.appendChild(el("div", { class: `spot-${name}` }));
  }

  // The loss comes first, below the key numbers; the other figures follow by section.
  const lossOf = (run) => run.sections.flatMap((s) => s.figures).find((f) => f.id === "loss");
  const sectionsOf = (run) => run.sections
    .map((s) => ({ ...s, figures: s.figures.filter((f) => f.id !== "loss") })).filter((s) => s.figures.length);

  function figures(sections) {
    return sections.map((s) => {
      const parts = [s.sentence ? el("p", { class: "lead" }, s.sentence) : null,
        el("div", { class: `grid ${s.id}` }, s.figures.map((f) => cardOf(f, chosen).node))];
      const id = `${s.id}-${chosen}`;
      return s.folded ? foldedBlock(id, s.title, plural(s.figures.length, "figure"), ...parts) : block(id, s.title, ...parts);
    });
  }

  function contents(run) {
    const links = [
      ...(state.together ? [["together", "Runs"]] : []),
      ...(lossOf(run) ? [["loss", "Loss"]] : []), ...(run.notes.length ? [["checks", "Checks"]] : []),
      ...sectionsOf(run).map((s) => [`${s.id}-${chosen}`, s.title]),
      ...(run.samples.length ? [["samples", "Samples"]] : []), ["plan", "Plan"], ["repeat", "Repeat"],
    ];
    return el("ul", {}, links.map(([id, title]) => el("li", {}, el("a", { href: `#${id}` }, title))));
  }

  // Mark the section at the top of the window in the bar, and show that the bar scrolls where it is cut.
  function mark() {
    const bar = at("contents").firstElementChild;
    if (!bar) return;
    const links = [...bar.querySelectorAll("a")];
    const edge = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) + 8;
    const passed = links.filter((link) => (at(link.hash.slice(1))?.getBoundingClientRect().top ?? Infinity) <= edge);
    const ended = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const current = ended ? links.at(-1) : passed.at(-1);
    for (const link of links) {
      if (link === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (current) {
      const hidden = current.offsetLeft < bar.scrollLeft || current.offsetLeft + current.offsetWidth > bar.scrollLeft + bar.clientWidth - 40;
      if (hidden) bar.scrollLeft = current.offsetLeft - 40;
    }
    bar.classList.toggle("cut", bar.scrollLeft + bar.clientWidth < bar.scrollWidth - 4);
  }

  // A closed part of the page that is the target of a link is opened.
  function reveal(hash) {
    const target = hash.length > 1 && at(decodeURIComponent(hash.slice(1)));
    if (!target) return;
    const inside = target.querySelector(":scope > details.fold");
    if (inside) inside.open = true;
    for (let d = target.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
    target.scrollIntoView();
  }

  function show() {
    const { runs, together } = state;
    if (!runs.length) {
      fill(spots.head, "none", () => el("p", { class: "lead" }, `Waiting for a run to start${live && live.folders.length ? ` in ${live.folders.join(", ")}` : ""}. This page updates by itself.`));
      return;
    }
    chosen = Math.min(chosen, runs.length - 1);
    const run = runs[chosen];
    fill(spots.together, together && together.id, () => (together ? block("together", "Side by side", el("div", { class: "grid" }, cardOf(together, null).node)) : null));
    fill(spots.choice, runs.length > 1 ? runs.map((r) => r.name) : [], (names) => (names.length ? segments("run", "Run", names.map((n, i) => [String(i), n]), String(chosen), choose) : null));
    fill(spots.head, [run.name, run.facts, run.numbers, run.notes], () => head(run));
    const loss = lossOf(run);
    fill(spots.loss, loss ? chosen : null, () => (loss ? el("section", { id: "loss", "aria-label": "Loss" }, cardOf(loss, chosen).node) : null));
    fill(spots.figures, [chosen, sectionsOf(run).map((s) => [s.id, s.folded, s.figures.map((f) => f.id)])], () => figures(sectionsOf(run)));
    fill(spots.notes, [chosen, run.notes], () => noteList(run.notes));
    fill(spots.samples, run.samples, samplesOf);
    fill(spots.plan, run.plan, (t) => block("plan", "Predicted and measured", tableOf(t)));
    fill(spots.repeat, run.repeat, repeatOf);
    fill(at("contents"), [chosen, runs.length > 1, !loss, run.notes.length > 0, sectionsOf(run).map((s) => s.id), run.samples.length > 0], () => contents(run));
    if (together) update(cardOf(together, null));
    for (const section of run.sections) for (const figure of section.figures) update(cardOf(figure, chosen));
    mark();
  }

  function choose(index) {
    chosen = Number(index);
    show();
  }

  // ---- live

  async function poll() {
    try {
      const answer = await fetch("/data.json");
      if (!answer.ok) throw new Error(answer.statusText);
      state = await answer.json();
      document.body.classList.remove("lost");
      show();
      at("pulse").textContent = state.runs.length ? state.runs[chosen].facts.status : "waiting";
    } catch {
      at("pulse").textContent = "the server does not answer; these are its last numbers";
      document.body.classList.add("lost");
    }
    setTimeout(poll, live.poll * 1000);
  }

  at("theme").addEventListener("click", () => {
    const name = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("light-llm-theme", name); } catch { /* it is then not remembered */ }
    setTheme(name);
  });
  system.addEventListener("change", () => setTheme());
  setTheme(["light", "dark"].includes(remembered()) ? remembered() : "");
  show();
  reveal(location.hash);
  addEventListener("hashchange", () => reveal(location.hash));
  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (link && link.hash === location.hash) reveal(link.hash); // the same target again changes no hash
  });
  addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  addEventListener("resize", () => requestAnimationFrame(mark));
  if (live) poll();
})();
