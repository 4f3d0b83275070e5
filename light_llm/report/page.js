"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const live = JSON.parse(at("live").textContent);
  const LEVELS = { good: ["●", "good"], watch: ["▲", "watch"], bad: ["■", "bad"], info: ["○", "note"] };
  const HEAT = {
    light: ["#f7f5ef", "#d3e2e6", "#94bfcd", "#4d8fae", "#235f86", "#0c2f4f"],
    dark: ["#161a20", "#1c3448", "#265d7f", "#4791b0", "#93c6d3", "#eef6f4"],
  };
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

  // Names that begin with @ become colours of the theme; lists of numbers are passed on as they are.
  function themed(value, key = "") {
    if (typeof value === "string") {
      if (value[0] !== "@" || !/color/i.test(key)) return value;
      return value === "@heat" ? HEAT[theme()].map((c, i, all) => [i / (all.length - 1), c]) : color(value.slice(1));
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
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
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
    const data = card.figure.traces.map((trace) => traceOf(card.figure, trace));
    Plotly.react(card.plot, themed(data), themed(layoutOf(card.figure, card.plot.clientWidth)), PLOT);
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
  function redraw() {
    for (const card of cards.values()) if (card.plot.isConnected) enqueue(card);
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
      segments(`${key}-${s.axis}`, s.label, s.options.map(([name]) => [name, name]), pickOf(figure, s.axis)[0], (name) => {
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

  function head(run) {
    const facts = el("dl", { class: "facts" }, Object.entries(run.facts).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    const numbers = el("dl", { class: "numbers" }, run.numbers.map(({ label, value, note }) =>
      el("div", {}, el("dt", {}, label), el("dd", {}, el("b", {}, value), el("small", {}, note)))));
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
    const calm = notes.filter((v) => v.level !== "bad" && v.level !== "watch");
    const urgent = notes.filter((v) => !calm.includes(v));
    const list = (of) => el("ul", { class: "notes" }, of.map(item));
    return [
      el("h2", {}, "At a glance"),
      urgent.length ? list(urgent) : el("p", { class: "lead" }, "Nothing here asks for attention."),
      calm.length ? el("details", { open: !urgent.length }, el("summary", {}, `${calm.length} more, in order`), list(calm)) : null,
    ];
  }

  function samplesOf(samples) {
    if (!samples.length) return [];
    const step = el("output", { for: "sample" });
    const text = el("pre", { class: "sample", tabindex: "0" });
    const show = () => {
      const { step: number, text: words } = samples[slider.value];
      step.textContent = `step ${number.toLocaleString("en")}`;
      slider.setAttribute("aria-valuetext", step.textContent);
      text.textContent = words;
    };
    const slider = el("input", { type: "range", id: "sample", min: 0, max: samples.length - 1, value: samples.length - 1, oninput: show });
    show();
    const choice = el("p", { class: "slider" }, el("label", { for: "sample" }, "written at"), slider, step);
    return [block("samples", "Samples through the run", el("div", { class: "card wide" }, samples.length > 1 ? choice : step, text))];
  }

  function repeatOf({ command, tables }) {
    const copied = el("span", { role: "status", class: "small" });
    const copy = async () => {
      try {
        await navigator.clipboard.writeText(command);
        copied.textContent = " copied";
      } catch {
        copied.textContent = " not copied: select it by hand";
      }
    };
    const long = (t) => t.rows.length > 12;
    return block("repeat", "To repeat this run",
      el("div", { class: "command" }, el("code", { tabindex: "0" }, command), el("button", { type: "button", onclick: copy }, "Copy"), copied),
      tables.filter((t) => t.rows.length).map((t) => el("details", { open: !long(t) }, el("summary", {}, t.title), tableOf(t))));
  }

  // ---- the page

  const main = at("main");
  const spots = {};
  for (const name of ["together", "choice", "head", "notes", "figures", "samples", "plan", "repeat"]) {
    spots[name] = main.appendChild(el("div", { class: `spot-${name}` }));
  }

  function figures(sections) {
    return sections.map((s) => block(`${s.id}-${chosen}`, s.title, el("div", { class: "grid" }, s.figures.map((f) => cardOf(f, chosen).node))));
  }

  function contents(run) {
    const links = [
      ...run.sections.map((s) => [`${s.id}-${chosen}`, s.title]),
      ...(run.samples.length ? [["samples", "Samples"]] : []), ["plan", "Plan"], ["repeat", "Repeat"],
    ];
    return el("ul", {}, links.map(([id, title]) => el("li", {}, el("a", { href: `#${id}` }, title))));
  }

  function show() {
    const { runs, together } = state;
    if (!runs.length) {
      fill(spots.head, "none", () => el("p", { class: "lead" }, "No run has begun here yet. This page goes on looking."));
      return;
    }
    chosen = Math.min(chosen, runs.length - 1);
    const run = runs[chosen];
    fill(spots.together, together && together.id, () => (together ? block("together", "Side by side", el("div", { class: "grid" }, cardOf(together, null).node)) : null));
    fill(spots.choice, runs.length > 1 ? runs.map((r) => r.name) : [], (names) => (names.length ? segments("run", "Run", names.map((n, i) => [String(i), n]), String(chosen), choose) : null));
    fill(spots.head, [run.name, run.facts, run.numbers], () => head(run));
    fill(spots.figures, [chosen, run.sections.map((s) => [s.id, s.figures.map((f) => f.id)])], () => figures(run.sections));
    fill(spots.notes, [chosen, run.notes], () => noteList(run.notes));
    fill(spots.samples, run.samples, samplesOf);
    fill(spots.plan, run.plan, (t) => block("plan", "The plan and what happened", tableOf(t)));
    fill(spots.repeat, run.repeat, repeatOf);
    fill(at("contents"), [chosen, run.sections.map((s) => s.id), run.samples.length > 0], () => contents(run));
    if (together) update(cardOf(together, null));
    for (const section of run.sections) for (const figure of section.figures) update(cardOf(figure, chosen));
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
      at("pulse").textContent = `live: ${state.runs.length === 1 ? state.runs[0].facts.status : `${state.runs.length} runs`}`;
      document.body.classList.remove("lost");
      show();
    } catch {
      at("pulse").textContent = "the server does not answer; the last numbers are shown";
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
  if (live) poll();
})();
