// What a page shows for the choices of its reader: curves, heat maps, measures of one model, the table of runs.

const read = new Map();
const enough = 4000; // points of the runs of a figure; of more, every n-th is drawn
const narrower = { run: "a reference or a measure", runs: "a reference, a measure or a site", comparison: "models or a measure" };

// Return the first of some items; a line in a place says where these are not all, and what shows the others.
function firstOf(items, count, place, others = `choose ${narrower[page.kind]} to see the others`) {
  if (items.length > count) {
    place.append(make("p", `The first ${count} of ${number(items.length)}; ${others}.`, { className: "soft cut" }));
  }
  return items.slice(0, count);
}

// The columns of one reference and one measure, parsed when they are first shown; null if there are none.
function panel(reference, measure) {
  const id = `panel-${reference}-${measure}`;
  if (!read.has(id)) read.set(id, $(id) ? json(id) : null);
  return read.get(id);
}

// ---- what the reader has chosen

const choice = (id) => ($(id) && $(id).value !== "" ? Number($(id).value) : null);
const chosen = (id, items) => (choice(id) === null ? items.map((_, index) => index) : [choice(id)]);
const isLog = () => !$("steps") || $("steps").value === "log";
const shown = new Set(page.runs.map((_, index) => index)); // runs that the search leaves
let pair = null; // reference, measure, a, b: the cell whose curve is drawn
let drawn = []; // the series of the curves, in the order of their colors

// ---- curves

const alerts = new Map(page.alerts.map(([...place]) => [JSON.stringify(place.slice(0, 4)), place[4]]));
const members = new Map(); // runs of each group
page.groups.forEach((group) => members.set(group, 1 + (members.get(group) ?? 0)));
function alertAt(reference, measure, site, step) {
  if (!alerts.size) return null;
  return alerts.get(JSON.stringify([page.references[reference], page.measures[measure], site, step])) ?? null;
}

function rowsOf(reference, measure, sites) {
  const data = panel(reference, measure), rows = [];
  if (!data) return rows;
  const row = (curve, i, step, series, kind, id) => ({
    series, step, b: curve.b ?? "", d: curve.d[i], low: sum(curve.d[i], curve.h && curve.h[i] !== null ? -curve.h[i] : null),
    high: sum(curve.d[i], curve.h ? curve.h[i] : null), n: curve.n ? curve.n[i] : null, c: curve.c ? curve.c[i] : null,
    kind, id, alert: alertAt(reference, measure, curve.site, step),
  });
  const names = new Set(sites === "last" ? [] : sites.map((index) => page.sites[index]));
  const isShown = (curve, curves) => (sites === "last" ? curve === last(curves) : names.has(curve.site));
  data.runs.forEach((run, index) => {
    if (!run || !shown.has(index)) return;
    const name = page.kind === "run" ? null : page.groups[index];
    const alone = name === null || members.get(name) === 1;
    const stride = Math.max(1, Math.ceil((run.steps.length * shown.size) / enough));
    for (const curve of run.curves) {
      if (!isShown(curve, run.curves)) continue;
      run.steps.forEach((step, i) => {
        if (i % stride && i !== run.steps.length - 1) return;
        const line = row(curve, i, step, name ?? page.labels[curve.site], alone ? "curve" : "run", page.runs[index]);
        if (page.kind !== "run") line.low = line.high = line.n = null;
        rows.push(line);
      });
    }
  });
  const groups = Object.keys(data.means).filter((group) => page.groups.every((name, i) => name !== group || shown.has(i)));
  for (const group of groups) {
    const curves = data.means[group];
    for (const curve of curves) {
      if (!isShown(curve, curves)) continue;
      const stride = Math.ceil((curve.steps.length * groups.length) / enough);
      curve.steps.forEach((step, i) => {
        if (i % stride === 0 || i === curve.steps.length - 1) rows.push(row(curve, i, step, group, "mean", group));
      });
    }
  }
  return rows;
}

// Return the upper end of the axis: intervals and nulls that are far above the curves do not flatten them.
function topOf(rows) {
  const most = (values) => values.reduce((a, b) => (b !== null && b > a ? b : a), 1e-6);
  const curve = most(rows.map((row) => row.d)), nulls = rows.map((row) => row.n ?? null).filter((n) => n !== null);
  const high = Math.min(most(rows.map((row) => row.high)), 1.5 * curve), lowest = Math.min(...nulls, Infinity);
  return 1.05 * Math.max(curve, high, lowest <= 3 * curve ? most(nulls) : 0);
}

function titleOf(measure, reference) {
  return `${page.measures[measure]}${page.kind === "comparison" ? ": " : " vs "}${page.references[reference]}`;
}

// The sites of each panel: one panel for all sites of a run, one per site for several runs.
function siteGroups() {
  if ($("site").value === "last") return ["last"];
  return page.kind === "run" ? [chosen("site", page.sites)] : chosen("site", page.sites).map((site) => [site]);
}

// Comparisons have layers in place of steps.
function drawLayers() {
  const grid = $("curves"), all = [];
  clear(grid);
  for (const measure of chosen("measure", page.measures)) {
    for (const reference of chosen("reference", page.references)) {
      const curves = panel(reference, measure)?.runs[0].curves ?? [];
      const rows = curves.map(({ site, b, d: [d], h: [h], n: [n], c: [c] }) => (
        { row: page.labels[site], a: site, b, d, low: sum(d, h === null ? null : -h), high: sum(d, h), n, c }));
      if (rows.length) all.push({ measure, title: titleOf(measure, reference), rows });
    }
  }
  for (const { measure, title, rows } of firstOf(all, 48, grid)) {
    const ends = [rows[0], last(rows)].map(({ row, d }) => `${row} ${digits(d)}`);
    const options = { measure, spec: () => compiled("layers", { measure }) };
    draw(grid, title, "layers", rows, { top: topOf(rows), blue: isDark() ? "#56b4e9" : "#0072b2" }, options, ends.join(" to "));
  }
  idle(drawRest);
}

function drawCurves() {
  const grid = $("curves");
  clear(grid);
  const panels = [];
  for (const measure of chosen("measure", page.measures)) {
    for (const reference of chosen("reference", page.references)) {
      for (const sites of siteGroups()) {
        const rows = rowsOf(reference, measure, sites);
        const where = page.kind === "run" ? "" : sites === "last" ? ", last site" : `, ${page.sites[sites[0]]}`;
        if (rows.length) panels.push({ measure, title: `${titleOf(measure, reference)}${where}`, rows });
      }
    }
  }
  const series = page.kind === "run" ? [...new Set(panels.flatMap(({ rows }) => rows.map((row) => row.series)))]
    : [...new Set(page.groups)];
  const steps = [...new Set(panels.flatMap(({ rows }) => rows.map((row) => row.step)))];
  if (page.losses.length && page.kind === "run") {
    const names = [...new Set(page.losses.map((row) => row.series))];
    const range = page.losses.map((row) => row.d).filter((d) => d !== null);
    const options = { series: names, steps, legend: true };
    options.spec = () => compiled("values", options);
    draw(grid, "loss", "values", page.losses, { top: Math.max(...range) }, options, sentence(page.losses));
  }
  const many = panels.some(({ rows }) => rows.length > few), specs = new Map();
  for (const { measure, title, rows } of firstOf(panels, 48, grid)) {
    const options = { series, steps, many, measure };
    options.spec = () => specs.get(measure) ?? specs.set(measure, compiled("lines", options)).get(measure);
    const top = topOf(panels.filter((one) => one.measure === measure).flatMap((one) => one.rows));
    const nulls = rows.map((row) => row.n).filter((n) => n !== null && n !== undefined);
    const above = nulls.length && Math.min(...nulls) > top ? `; the null is above, at ${digits(last(nulls))}` : "";
    draw(grid, title, "lines", rows, { top }, options, sentence(rows) + above);
  }
  if (!panels.length) grid.append(make("p", "No curves of this choice.", { className: "empty" }));
  legend(series);
  drawn = series;
  idle(drawRest);
}

function legend(series) {
  const swatches = colors(series, isDark());
  $("legend").replaceChildren();
  firstOf(series, 60, $("legend"), "the CSV of a figure names all").forEach((name, index) => {
    const entry = make("span", name), swatch = make("i");
    swatch.style.background = swatches[index];
    entry.prepend(swatch);
    $("legend").append(entry);
  });
}

// ---- heat maps

const tick = { step: Infinity, timer: null }; // the last map, until the reader moves the slider
const mapsOf = (reference, measure) => panel(reference, measure)?.runs[0]?.maps ?? null;
const mapPanels = () => chosen("measure", page.measures).flatMap((measure) => chosen("reference", page.references)
  .map((reference) => ({ reference, measure, maps: mapsOf(reference, measure) }))).filter(({ maps }) => maps);

function mapSteps() {
  return [...new Set(mapPanels().flatMap(({ maps }) => maps.steps))].sort((x, y) => x - y);
}

const indexAt = (steps) => Math.max(0, steps.findLastIndex((step) => step <= tick.step));

// Return the cells of a heat map at the newest of its steps up to a step.
function cellsOf(maps, step, isChosen) {
  const at = maps.steps.findLastIndex((one) => one <= step);
  return maps.a.flatMap((a, i) => maps.b.map((b, j) => {
    const place = i * maps.b.length + j, value = (name) => (at < 0 ? null : maps[name][at][place]);
    return { a, b, row: page.labels[a], column: page.labels[b], step: at < 0 ? null : maps.steps[at], d: value("d"), h: value("h"), n: value("n"), chosen: isChosen(a, b) };
  }));
}

function drawMaps() {
  const steps = mapSteps(), panels = mapPanels(), grid = $("maps");
  $("heatmaps").hidden = !steps.length;
  $("heatmaps").classList.toggle("still", steps.length < 2);
  clear(grid);
  if (!steps.length) return;
  Object.assign($("tick"), { max: steps.length - 1, value: indexAt(steps) });
  for (const { reference, measure, maps } of firstOf(panels, 24, grid)) {
    const isChosen = (a, b) => Boolean(pair) && pair.reference === reference && pair.a === a && pair.b === b;
    const rows = cellsOf(maps, steps[indexAt(steps)], isChosen);
    const height = Math.max(100, Math.min(360, 30 * maps.a.length));
    const [low, top] = maps.limits;
    const signals = { low, top, ink: isDark() ? "#ffffff" : "#d55e00" };
    const options = {
      height,
      measure,
      spec: () => compiled("maps", { height, measure }),
      click: (cell) => choosePair({ reference, measure, a: cell.a, b: cell.b }),
    };
    const title = titleOf(measure, reference);
    const figure = draw(grid, title, "maps", rows, signals, options, "");
    figure.update = () => {
      figure.rows = cellsOf(maps, steps[indexAt(steps)], isChosen);
      const values = figure.rows.map((row) => row.d).filter((d) => d !== null);
      figure.caption.textContent = values.length
        ? `${page.kind === "comparison" ? "" : `step ${number(figure.rows[0].step)}: `}from ${digits(Math.min(...values))} to ${digits(Math.max(...values))}` : "no values";
      figure.plot.setAttribute("aria-label", `${title}, ${figure.caption.textContent}`);
      if (figure.view) figure.view.data("rows", figure.rows).runAsync();
    };
    figure.update();
  }
  showTick();
  keepPair(panels);
}

function showTick() {
  const steps = mapSteps(), index = indexAt(steps);
  $("tick").value = index;
  $("tick").setAttribute("aria-valuetext", `step ${number(steps[index])}`);
  $("at").textContent = `step ${number(steps[index])} (${index + 1} of ${steps.length})`;
  for (const figure of $("maps").querySelectorAll("figure.plot")) figure.update?.();
}

function play() {
  const isPlaying = tick.timer !== null;
  clearInterval(tick.timer);
  tick.timer = null;
  if (!isPlaying) {
    if (tick.step >= last(mapSteps())) tick.step = -Infinity;
    const next = () => {
      const steps = mapSteps();
      tick.step = steps.find((step) => step > tick.step) ?? last(steps);
      showTick();
      if (tick.step === last(steps)) play();
    };
    tick.timer = setInterval(next, 500);
    next();
  }
  $("play").textContent = tick.timer === null ? "play" : "pause";
}

// Choose the pair that was chosen before, or the last one of the first map.
function keepPair(panels) {
  const isShown = panels.some(({ reference, measure }) => pair?.reference === reference && pair.measure === measure);
  const [{ maps }] = panels;
  choosePair(isShown ? pair : { ...panels[0], a: last(maps.a), b: last(maps.b) });
}

function choosePair({ reference, measure, a, b }) {
  if (mapSteps().length < 2) return;
  pair = { reference, measure, a, b };
  for (const figure of $("maps").querySelectorAll("figure.plot")) figure.update?.();
  const maps = mapsOf(reference, measure), place = maps.a.indexOf(a) * maps.b.length + maps.b.indexOf(b);
  for (const [id, sites, site] of [["row", maps.a, a], ["column", maps.b, b]]) { // by which the keyboard chooses a cell
    $(id).replaceChildren(...sites.map((one) => new Option(one, one, false, one === site)));
    $(id).onchange = () => choosePair({ ...pair, a: $("row").value, b: $("column").value });
  }
  const name = a === b ? a : `${a} ~ ${b}`, label = page.labels[a];
  const rows = maps.steps.map((step, i) => {
    const [d, h, n, c] = ["d", "h", "n", "c"].map((column) => maps[column][i][place]);
    return { series: label, step, b, d, low: sum(d, h === null ? null : -h), high: sum(d, h), n, c, kind: "curve", id: name };
  });
  const options = { series: drawn.includes(label) ? drawn : [label], named: [label], steps: maps.steps, measure };
  clear($("pair"));
  draw($("pair"), `${titleOf(measure, reference)}: ${name}`, "lines", rows, { top: topOf(rows) },
    { ...options, spec: () => compiled("lines", options) }, sentence(rows));
}

// ---- measures of one model alone, penalties, reference groups

function drawSeries(id) {
  if (!$(id)) return;
  clear($(id));
  const reference = page.references[choice("reference") ?? 0];
  if (id === "intrinsic" && reference) {
    $("dashed").textContent = reference + (chosen("reference", page.references).length > 1 ? ", the first reference" : "");
  }
  for (const [name, all] of Object.entries(page.series[id])) {
    const rows = id === "intrinsic" ? all.filter((row) => row.kind === "curve" || row.id === reference) : all;
    const series = [...new Set(rows.map((row) => row.series))], steps = rows.map((row) => row.step);
    const high = Math.max(...rows.map((row) => row.high ?? row.d ?? 0));
    const options = { series, steps, legend: id === "drift" };
    draw($(id), name, "values", rows, { top: 1.02 * high },
      { ...options, spec: () => compiled("values", options) }, sentence(rows));
  }
}

// ---- tables

function sortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead button").forEach((button, column) => {
    button.onclick = () => {
      const head = button.closest("th"), rising = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const text = (cell) => (cell.textContent === "–" ? "" : cell.textContent);
      const value = (row) => row.cells[column].dataset.value ?? text(row.cells[column]);
      // an interval is sorted by its lower end
      const isNumber = [...body.rows].every((row) => value(row) === "" || !Number.isNaN(parseFloat(value(row))));
      const byText = (x, y) => x.localeCompare(y, "en", { numeric: true });
      const compare = (x, y) => (isNumber && parseFloat(x) - parseFloat(y)) || byText(x, y);
      const rows = [...body.rows].sort((x, y) => {
        const [a, b] = [value(x), value(y)];
        if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last
        return rising ? compare(a, b) : compare(b, a);
      });
      body.append(...rows);
    };
  });
}

function searchable(input, table) {
  let redraw = null;
  input.oninput = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += !row.hidden;
      if (row.dataset.run !== undefined) shown[row.hidden ? "delete" : "add"](Number(row.dataset.run));
    }
    $(input.dataset.count).textContent = `${number(count)} of ${number(table.tBodies[0].rows.length)}`;
    clearTimeout(redraw);
    if (page.kind === "runs") redraw = setTimeout(drawCurves, 150);
  };
}

// ---- the page

function drawAll() {
  document.documentElement.dataset.drawn = isDark() ? "dark" : "light";
  if ($("curves")) (page.kind === "comparison" ? drawLayers : drawCurves)();
  if ($("maps")) drawMaps();
  Object.keys(page.series).forEach(drawSeries);
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input[type=search]").forEach((input) => searchable(input, $(input.getAttribute("aria-controls"))));
document.querySelectorAll("#choices select").forEach((select) => { select.onchange = drawAll; });
if ($("tick")) {
  $("tick").oninput = () => { tick.step = mapSteps()[Number($("tick").value)]; showTick(); };
  $("play").onclick = play;
}
$("theme").onclick = () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  drawAll();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
window.addEventListener("beforeprint", () => [...waiting].forEach(show));
drawAll();
