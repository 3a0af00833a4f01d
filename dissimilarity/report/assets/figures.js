"use strict";
// Figures: Vega-Lite specifications become drawings with a caption, their numbers, and files to save.
// Text from data is only ever set as text; in tooltips, which are HTML, it is escaped.

const $ = (id) => document.getElementById(id);
const json = (id) => JSON.parse($(id).textContent);
const page = json("page");
const few = 3000; // rows up to which a figure is drawn as SVG, and each of its points can be hovered

function make(tag, text = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text) element.textContent = text;
  return element;
}

const number = (x) => x.toLocaleString("en");
const isCount = (x) => Number.isInteger(x) && Math.abs(x) < 1e15; // every larger number is whole
const digits = (x) => (x === null || x === undefined ? "–" : isCount(x) ? number(x + 0) : Number(x.toPrecision(4)).toString());
const last = (list) => list[list.length - 1];
const sum = (a, b) => (a === null || b === null || a === undefined || b === undefined ? null : a + b);

// ---- colors

const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function colors(names, dark) {
  const [blue, ...others] = page.palette, sky = last(others);
  const palette = dark ? [sky, ...others.slice(0, -1), blue] : page.palette;
  if (page.kind === "runs" && names.length <= palette.length) return palette.slice(0, names.length);
  const scheme = vega.scheme("viridis"); // without its end that is hard to see
  const [from, to] = dark ? [0.25, 1] : [0, 0.88];
  return names.map((_, i) => scheme(from + ((to - from) * i) / Math.max(1, names.length - 1)));
}

function config(dark) {
  const ink = dark ? "#d6d6d2" : "#333333", faint = dark ? "#4a4a4a" : "#dddddd";
  const text = { labelColor: ink, titleColor: ink, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11 };
  return {
    background: "transparent", font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: { ...text, gridColor: faint, domainColor: faint, tickColor: faint, gridOpacity: 0.6 },
    legend: text, title: { color: ink, fontWeight: "normal", fontSize: 12 },
  };
}

// ---- figures

function frame(title) {
  const figure = make("figure", "", { className: "plot", title });
  figure.removeAttribute("title");
  figure.plot = make("div", "", { className: "view" });
  figure.caption = make("figcaption");
  const table = make("details"), actions = make("p", "", { className: "actions" });
  table.append(make("summary", "numbers"));
  table.addEventListener("toggle", () => table.open && fill(table, figure.rows));
  const svg = make("button", "SVG", { type: "button" }), csv = make("button", "CSV", { type: "button" });
  svg.setAttribute("aria-label", `save as SVG: ${title}`);
  csv.setAttribute("aria-label", `save as CSV: ${title}`);
  svg.onclick = () => saveSvg(figure, title);
  csv.onclick = () => save(new Blob([asCsv(figure.rows)], { type: "text/csv" }), `${title}.csv`);
  actions.append(svg, csv);
  figure.append(make("h3", title), figure.plot, figure.caption, actions, table);
  return figure;
}

function fill(details, rows) {
  const table = make("table"), names = Object.keys(rows[0] || {}).filter((name) => name !== "chosen");
  const head = make("tr");
  names.forEach((name) => head.append(make("th", page.columns[name] || name)));
  table.append(head);
  for (const row of rows.slice(0, 500)) {
    const line = make("tr");
    names.forEach((name) => line.append(make("td", typeof row[name] === "string" ? row[name] : digits(row[name]))));
    table.append(line);
  }
  const note = rows.length > 500 ? `the first 500 of ${number(rows.length)} rows; CSV has all` : "";
  details.replaceChildren(details.firstChild, table, make("p", note));
}

// Return the Vega specification of a figure for the choices of the reader.
function compiled(name, { series = [], dark = isDark(), steps = [], height = null, legend = false, many = false, measure = null, exported = false, title = "", named = series }) {
  const ticks = [0];
  for (let tick = 1; tick <= Math.max(1, ...steps); tick *= 10) ticks.push(tick);
  const spec = JSON.parse(JSON.stringify(page.specs[name]), (key, value) => {
    if (value && key === "scale" && value.type === "symlog" && !isLog()) return { type: "linear", nice: false };
    if (value && key === "axis" && value.labelExpr && isLog()) return { ...value, values: ticks };
    if (key === "title" && value === "dissimilarity" && measure !== null) return page.titles[measure];
    if (value && key === "color" && value.field === "series") {
      const shown = { orient: "top", columns: 4, title: null, symbolType: "stroke", symbolOpacity: 1, symbolStrokeWidth: 2, labelLimit: 200 };
      return { ...value, scale: { domain: series, range: colors(series, dark) }, legend: legend || exported ? { ...shown, values: named } : null };
    }
    return value;
  });
  // Every channel of every row is interpreted, so many rows get by with bands and lines.
  if (many) {
    spec.layer = spec.layer.filter(({ mark, params }) => !params && ["area", "line"].includes(mark.type) && !mark.strokeDash);
    for (const { encoding } of spec.layer) delete encoding.strokeDash;
  }
  if (height !== null) spec.height = height;
  if (exported) Object.assign(spec, { width: 420, title, autosize: "pad" });
  return vegaLite.compile(spec, { config: config(dark) }).spec;
}

// Return what a tooltip shows: a line per value that there is.
function hover(values, escape) {
  const lines = Object.entries(values).filter(([, text]) => text !== "null" && text !== "");
  const cells = ([name, text]) => `<td class="key">${escape(name)}</td><td class="value">${escape(text)}</td>`;
  return `<table>${lines.map((line) => `<tr>${cells(line)}</tr>`).join("")}</table>`;
}

async function embed(host, spec, rows, signals, options = {}) {
  const own = structuredClone(spec);
  own.data.find((data) => data.name === "rows").values = rows;
  for (const [name, value] of Object.entries(signals)) {
    const signal = own.signals.find((one) => one.name === name);
    if (signal) Object.assign(signal, { value, update: undefined });
  }
  const renderer = rows.length > few ? "canvas" : "svg";
  return (await vegaEmbed(host, own, {
    mode: "vega", ast: true, actions: false, renderer, logLevel: vega.Error,
    tooltip: { theme: isDark() ? "dark" : "light", formatTooltip: hover }, ...options,
  })).view;
}

const waiting = new Set();
let drawing = Promise.resolve(); // one figure after the other, so that the page answers in between
const whenSeen = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => show(entry.target)),
  { rootMargin: "150px" },
);

function show(figure) {
  if (!waiting.delete(figure)) return;
  whenSeen.unobserve(figure);
  const draw = () => figure.draw().catch((error) => { figure.caption.textContent = String(error); });
  drawing = drawing.then(() => new Promise((resolve) => setTimeout(() => resolve(figure.isConnected && draw()))));
}

// What is not on the screen is drawn when there is time, so that it can be printed.
const idle = window.requestIdleCallback || ((call) => setTimeout(call, 50));
function drawRest() {
  for (const figure of waiting) { show(figure); break; }
  if (waiting.size) idle(drawRest);
}

// Put a figure into a grid. Everything that it shows is in `rows`.
function draw(grid, title, name, rows, signals, options, text) {
  const figure = frame(title);
  Object.assign(figure, { rows, name, signals, options });
  figure.caption.textContent = text;
  figure.plot.setAttribute("role", "img");
  figure.plot.setAttribute("aria-label", `${title}. ${text}`);
  figure.draw = async () => {
    figure.view = await embed(figure.plot, options.spec(), rows, signals);
    if (options.click) figure.view.addEventListener("click", (_, item) => item && item.datum && options.click(item.datum));
  };
  grid.append(figure);
  waiting.add(figure);
  whenSeen.observe(figure);
  return figure;
}

function clear(grid) {
  for (const figure of grid.querySelectorAll("figure.plot")) {
    whenSeen.unobserve(figure);
    waiting.delete(figure);
    if (figure.view) figure.view.finalize();
  }
  grid.replaceChildren();
}

function sentence(rows) {
  const ends = new Map(), known = rows.filter((row) => row.d !== null);
  const means = known.filter((row) => row.kind !== "run");
  for (const row of means.length ? means : known) {
    const key = row.kind === "reference" ? `${row.series} (${row.id})` : row.series;
    if (!ends.has(key)) ends.set(key, [row, row]);
    ends.get(key)[1] = row;
  }
  const at = ({ d, step }) => `${digits(d)} at step ${number(step)}`;
  const parts = [...ends].map(([name, [first, end]]) => (first === end ? `${name}: ${at(end)}` : `${name} from ${at(first)} to ${at(end)}`));
  if (!parts.length) return "no values";
  return parts.length > 2 ? `${parts[0]}; …; ${last(parts)}` : parts.join("; ");
}

// ---- files to save

function save(blob, name) {
  const link = make("a", "", { href: URL.createObjectURL(blob), download: name.replace(/[^\w.=@+-]+/g, "_") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function asCsv(rows) {
  const names = Object.keys(rows[0] || {}).filter((name) => name !== "chosen");
  const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => names.map((name) => cell(String(row[name] ?? ""))).join(","));
  return [names.map((name) => page.columns[name] || name).join(","), ...lines].join("\n") + "\n";
}

// Save a figure for print: light, with a title and its legend, whatever the page looks like.
async function saveSvg(figure, title) {
  const place = make("div");
  const spec = compiled(figure.name, { ...figure.options, dark: false, exported: true, title });
  const view = await embed(place, spec, figure.rows, figure.signals, { renderer: "svg" });
  save(new Blob([await view.toSVG()], { type: "image/svg+xml" }), `${title}.svg`);
  view.finalize();
}
