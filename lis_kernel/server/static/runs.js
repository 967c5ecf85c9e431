// The list of runs: asked for again and again, rows kept in place while their content changes.

import * as boxes from "./boxes.js";
import * as dialogs from "./dialogs.js";
import { Row } from "./row.js";
import { ask, ofRun } from "./server.js";
import { make, many } from "./words.js";

const QUICK = 1500; // ms between two questions while a run lives
const SLOW = 6000;
const FIRST = 100; // rows, unless all are asked for

const $ = (name) => document.getElementById(name);
const rows = new Map(); // by the notebook's path
let runs = [];
let show = "all";
let every = false;
let timer = 0;
let asked = 0;

const acts = {
  pause: (run, button) => act(run, "pause", button),
  resume: (run, button) => act(run, "resume", button),
  say: (run) => dialogs.show("say", run),
  stop: (run) => dialogs.show("stop", run),
  attach: async (run, button) => {
    const answer = await act(run, "attach", button);
    if (!answer) return;
    if (answer.url) {
      const link = make("a", { href: answer.url, target: "_blank" }, "Open it");
      note(`${answer.notebook} is connected to the run. `, "", link);
      link.click(); // as a person would: JupyterLab opens links of its tab beside it
    } else note(`Join in a terminal: jupyter console --existing ${answer.connection_file}`);
  },
};

async function act(run, what, button) {
  button.disabled = true;
  try {
    return await ask(ofRun(run.id, what), {});
  } catch (trouble) {
    note(trouble.message, "bad");
    return null;
  } finally {
    button.disabled = false;
    refresh();
  }
}

function note(text, style = "", ...more) {
  const close = make("button", { type: "button", class: "toggle close", "aria-label": "Close", onclick: () => element.remove() });
  const element = make("p", { class: style }, make("span", {}, text, ...more), close);
  $("notes").append(element);
  setTimeout(() => element.remove(), 15000);
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++asked;
  try {
    const answer = await ask("runs");
    if (mine !== asked) return; // a later question was quicker
    runs = answer.runs;
    $("trouble").hidden = true;
    draw();
  } catch (trouble) {
    if (mine !== asked) return;
    const out = trouble.status === 401 || trouble.status === 403;
    $("trouble").textContent = out ? `${trouble.message}. Log in again: reload this page.` : `${trouble.message} Trying again …`;
    $("trouble").hidden = false;
  }
  boxes.refresh(note);
  const lively = runs.some((run) => run.live);
  if (!document.hidden) timer = setTimeout(refresh, lively ? QUICK : SLOW);
}

function draw() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (run) => {
    if (show !== "all" && run.live !== (show === "live")) return false;
    const text = [run.id, run.task, run.answer, run.detail, run.model, run.state].join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const fitting = runs.filter(fits);
  const shown = every ? fitting : fitting.slice(0, FIRST);
  const table = $("runs");
  const gone = new Set(rows.keys());
  let before = table.tHead;
  for (const run of shown) {
    gone.delete(run.path);
    let row = rows.get(run.path);
    if (!row) rows.set(run.path, (row = new Row(acts)));
    row.update(run);
    if (before.nextSibling !== row.element) before.after(row.element);
    before = row.element;
  }
  for (const path of gone) {
    rows.get(path).close();
    rows.get(path).element.remove();
    rows.delete(path);
  }
  table.hidden = shown.length === 0;
  $("more").hidden = shown.length === fitting.length;
  $("more").firstElementChild.textContent = `Show all ${fitting.length}`;
  $("none").hidden = runs.length > 0;
  $("nothing").hidden = runs.length === 0 || shown.length > 0;
  const live = runs.filter((run) => run.live).length;
  $("counts").textContent = runs.length ? `${many(runs.length, "run")}${live ? `, ${live} live` : ""}` : "";
  document.title = live ? `(${live}) Runs` : "Runs";
  suggest();
}

// models that were used before are offered for the next run
function suggest() {
  const list = $("models");
  const names = new Set([...list.options].map((option) => option.value));
  for (const { model } of runs) {
    if (model && !names.has(model)) {
      names.add(model);
      list.append(make("option", { value: model }));
    }
  }
}

dialogs.prepare("start", async (form) => {
  const { id } = await dialogs.start(form);
  refresh();
  if (!id) note("The run is slow to start; it will appear here.");
});
for (const name of ["say", "stop"]) {
  dialogs.prepare(name, (form, run) => dialogs[name](form, run).then(refresh));
}
boxes.prepare(note);
$("new").addEventListener("click", () => dialogs.show("start"));
$("none").querySelector("button").addEventListener("click", () => dialogs.show("start"));
$("find").addEventListener("input", draw);
$("more").addEventListener("click", () => {
  every = true;
  draw();
});
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    show = button.dataset.show;
    for (const other of document.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", other === button);
    draw();
  });
}
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => {
  if (!document.hidden) for (const row of rows.values()) row.tick();
}, 1000);
refresh();
