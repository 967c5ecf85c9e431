// One run of the list: its row, and below it, once opened, its details.

import { Live } from "./live.js";
import { ask, ofRun } from "./server.js";
import { ago, count, duration, kind, make, model, money, named, oneLine, plain, set } from "./words.js";

export class Row {
  constructor(acts) {
    this.acts = acts;
    this.opened = false;
    this.live = null;
    this.pill = make("span", { class: "pill" });
    this.toggle = make("button", { type: "button", class: "toggle", "aria-expanded": "false",
      "aria-label": "Details", onclick: () => this.open(!this.opened) });
    this.task = make("a", { class: "task" });
    this.answer = make("div", { class: "answer" });
    this.cells = {};
    for (const name of ["model", "turns", "tokens"]) this.cells[name] = make("td", { class: name });
    this.tokens = make("span");
    this.cost = make("small");
    this.cells.tokens.append(this.tokens, this.cost);
    this.model = make("span");
    this.provider = make("small");
    this.cells.model.append(this.model, this.provider);
    this.spent = make("span");
    this.when = make("small");
    this.buttons = make("td", { class: "acts" });
    const what = make("td", { class: "what", onclick: (event) => this.clicked(event) }, this.task, this.answer);
    this.details = make("td", { colspan: "7" });
    this.below = make("tr", { class: "details", hidden: true }, this.details);
    this.element = make("tbody", {},
      make("tr", { class: "run" },
        make("td", { class: "state" }, this.toggle, this.pill), what, ...Object.values(this.cells),
        make("td", { class: "time" }, this.spent, this.when), this.buttons),
      this.below);
  }

  clicked(event) {
    if (!event.target.closest("a[href]") && !String(getSelection())) this.open(!this.opened);
  }

  update(run) {
    const before = this.run;
    this.run = run;
    this.heard = performance.now();
    this.element.dataset.kind = kind(run.state);
    set(this.pill, named(run.state));
    set(this.task, oneLine(run.task) || run.id);
    if (run.url) Object.assign(this.task, { href: run.url, target: "_blank", title: "Open the trajectory" });
    this.answer.className = run.answer == null ? "answer detail" : "answer";
    set(this.answer, oneLine(run.answer ?? run.detail));
    const damaged = run.state === "damaged";
    const [provider, name] = model(run.model);
    set(this.model, name);
    set(this.provider, provider);
    this.cells.model.title = run.model;
    set(this.cells.turns, damaged ? "" : run.max_turns ? `${run.turns}/${run.max_turns}` : `${run.turns}`);
    this.cells.turns.dataset.unit = run.turns === 1 && !run.max_turns ? "turn" : "turns";
    set(this.tokens, damaged ? "" : count(run.tokens));
    set(this.cost, money(run.cost_usd));
    this.element.toggleAttribute("data-live", run.live);
    this.when.title = new Date(run.created * 1000).toLocaleString();
    this.tick();
    if (before?.state !== run.state) this.offer();
    const changed = before?.state !== run.state || before.files.length !== run.files.length;
    if (this.opened && changed) this.show();
  }

  tick() {
    const { run } = this;
    const since = run.live && run.state !== "silent" ? (performance.now() - this.heard) / 1000 : 0;
    set(this.spent, run.state === "damaged" ? "" : duration(run.seconds + since));
    set(this.when, ago(run.created));
  }

  offer() {
    const { run } = this;
    const button = (label, act, style = "") =>
      make("button", { type: "button", class: style, onclick: (event) => this.acts[act](this.run, event.target) }, label);
    const held = run.state === "paused" || run.state === "pausing";
    const offered = run.live
      ? [held ? button("Resume", "resume", "go") : button("Pause", "pause"),
        button("Say", "say"), button("Attach", "attach"), button("Stop", "stop", "danger")]
      : run.url ? [make("a", { class: "button", href: run.url, target: "_blank" }, "Open")] : [];
    this.buttons.replaceChildren(...offered);
  }

  open(wanted) {
    this.opened = wanted;
    this.below.hidden = !wanted;
    this.element.classList.toggle("open", wanted);
    this.toggle.setAttribute("aria-expanded", String(wanted));
    this.close();
    this.details.replaceChildren();
    if (wanted) this.show();
  }

  close() {
    this.live?.close();
    this.live = null;
  }

  async show() {
    let run;
    try {
      run = await ask(ofRun(this.run.id));
    } catch (trouble) {
      this.details.replaceChildren(make("p", { class: "refused" }, trouble.message));
      return;
    }
    if (!this.opened) return;
    const facts = make("dl");
    const fact = (name, ...values) => facts.append(make("dt", {}, name), make("dd", {}, ...values));
    fact("Task", plain(run.task) || "not known");
    if (run.answer != null) fact("Answer", plain(run.answer));
    if (run.detail) fact(run.state === "damaged" ? "Damage" : "Detail", plain(run.detail));
    if (run.files.length) fact("Files", ...run.files.map(file));
    fact("Notebook", make("code", {}, run.path));
    fact("Started", new Date(run.created * 1000).toLocaleString() + (run.pid ? `, process ${run.pid}` : ""));
    if (run.live && !this.live) this.live = new Live(run.id);
    if (!run.live) this.live?.close();
    const before = this.details.querySelector("dl");
    if (before && this.live) before.replaceWith(facts); // the record beside it stays where it is read
    else this.details.replaceChildren(make("div", {}, facts, this.live?.element));
  }
}

function file({ name, url }) {
  return url ? make("a", { class: "file", href: url, target: "_blank" }, name) : make("span", { class: "file" }, name);
}
