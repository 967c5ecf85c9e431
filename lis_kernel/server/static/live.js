// What happened and happens in one live run: a short record fed by server-sent events.

import { api, ofRun } from "./server.js";
import { make, plain } from "./words.js";

const ENTRIES = 300;
const LETTERS = 4000;
const OUTPUTS = 200;
const AT_ONCE = 3; // a browser opens six connections to a server, and the page needs some itself
const PAUSED = "paused: the sandbox is yours";
const BEFORE = { thought: "thought", said: "said", done: "done", failed: "done bad", note: "hint" };
const followed = [];

export class Live {
  constructor(id) {
    this.element = make("div", { class: "log", tabindex: "0", "aria-label": "What happens" });
    this.last = null;
    this.forget();
    this.hint = this.add("hint", "waiting for what happens next …");
    this.events = new EventSource(api(ofRun(id, "events")));
    this.events.onmessage = (message) => this.hear(JSON.parse(message.data));
    if (followed.push(this) > AT_ONCE) {
      followed[0].add("hint", "no longer followed: close and open it again");
      followed[0].close();
    }
  }

  close() {
    this.events.close();
    if (followed.includes(this)) followed.splice(followed.indexOf(this), 1);
  }

  hear(event) {
    switch (event.event) {
      case "status": return this.tell(event);
      case "text_streamed": return this.grow(event.channel === "text" ? "said" : "thought", event.text);
      case "call_started": return this.begin("code", event.source);
      case "human_started": return this.begin("code human", event.source);
      case "call_output": return this.show(event.kind, event.content);
      case "call_finished":
      case "human_finished": return this.finished(event.result);
      case "note": return this.add("hint", plain(event.text));
      case "said": return this.add("hint", `told: ${plain(event.text)}`);
      case "paused": return this.add("hint", PAUSED);
      case "resumed": return this.add("hint", "the model goes on");
      case "run_ended": return this.add("hint", `ended: ${event.stop_reason.replaceAll("_", " ")}`);
      case "end": return this.close();
    }
  }

  // what happened before; of a cell that still runs the last entry is its code or its output
  tell({ recap, state }) {
    this.forget();
    if (recap.length) this.element.replaceChildren(); // a browser that lost the server asks again
    for (const { kind, text } of recap) {
      if (kind in BEFORE) this.add(BEFORE[kind], plain(text));
      else if (kind === "output") {
        this.outputs = [{ text }];
        this.printed = this.add("output", plain(text));
      } else this.begin(kind === "human" ? "code human" : "code", text);
    }
    if (state === "paused") this.add("hint", PAUSED);
  }

  begin(style, source) {
    this.forget();
    return this.add(style, plain(source));
  }

  forget() {
    this.outputs = [];
    this.clears = false;
    this.printed = null;
  }

  // one message of the running cell: what it shows is one entry, kept as a notebook would
  show(kind, content) {
    if (kind === "clear_output" && content.wait) {
      this.clears = true;
      return;
    }
    if (kind === "clear_output" || this.clears) this.outputs = [];
    this.clears = false;
    const id = content.transient?.display_id;
    if (kind === "update_display_data") {
      for (const one of this.outputs) if (one.id === id) one.text = shown(kind, content);
    } else if (kind !== "clear_output") {
      const last = this.outputs.at(-1);
      const joins = kind === "stream" && last?.stream === content.name;
      if (joins) last.text = clip(last.text + shown(kind, content));
      else if (this.outputs.length < OUTPUTS)
        this.outputs.push({ id, stream: content.name, text: shown(kind, content) });
    }
    const text = this.outputs.map((one) => one.text).join("");
    if (this.printed) this.write(this.printed, plain(text));
    else if (text) this.printed = this.add("output", plain(text));
  }

  finished(result) {
    const seconds = `${result.seconds.toFixed(2)} s`;
    this.add(result.status === "ok" ? "done" : "done bad", `${result.status} ${seconds}`);
  }

  add(style, text) {
    this.hint?.remove();
    this.hint = null;
    const { element } = this;
    const down = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    this.last = make("div", { class: style }, clip(text));
    element.append(this.last);
    while (element.childElementCount > ENTRIES) element.firstChild.remove();
    if (down) element.scrollTop = element.scrollHeight;
    return this.last;
  }

  // text that comes in pieces stays one entry
  grow(style, piece) {
    if (this.last?.className !== style) return this.add(style, plain(piece));
    return this.write(this.last, plain(this.last.textContent + piece));
  }

  write(entry, text) {
    const { element } = this;
    const down = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    entry.textContent = clip(text);
    if (down) element.scrollTop = element.scrollHeight;
    return entry;
  }
}

function shown(kind, output) {
  const whole = (text) => (Array.isArray(text) ? text.join("") : String(text ?? ""));
  if (kind === "stream") return whole(output.text);
  if (kind === "error") return `${output.ename}: ${output.evalue}\n`;
  const other = Object.keys(output.data || {}).filter((type) => type !== "text/plain");
  const text = whole(output.data?.["text/plain"]);
  return `${text}${other.length ? ` [${other.join(", ")}]` : ""}\n`;
}

function clip(text) {
  return text.length > LETTERS ? `… ${text.slice(-LETTERS)}` : text;
}
