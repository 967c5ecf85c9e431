// What happens in one live run, as it happens: a short record fed by server-sent events.

import { api, ofRun } from "./server.js";
import { make, plain } from "./words.js";

const ENTRIES = 300;
const LETTERS = 4000;
const AT_ONCE = 3; // a browser opens six connections to a server, and the page needs some itself
const followed = [];

export class Live {
  constructor(id) {
    this.element = make("div", { class: "log", tabindex: "0", "aria-label": "What happens" });
    this.last = null;
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
      case "text_streamed": return this.grow(event.channel === "text" ? "said" : "thought", event.text);
      case "call_started": return this.add("code", plain(event.source));
      case "human_started": return this.add("code human", plain(event.source));
      case "call_output": return this.grow("output", shown(event.output));
      case "call_finished":
      case "human_finished": return this.finished(event.result);
      case "note": return this.add("hint", plain(event.text));
      case "said": return this.add("hint", `told: ${plain(event.text)}`);
      case "paused": return this.add("hint", "paused: the sandbox is yours");
      case "resumed": return this.add("hint", "the model goes on");
      case "run_ended": return this.add("hint", `ended: ${event.stop_reason.replaceAll("_", " ")}`);
      case "end": return this.close();
    }
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
    const { element } = this;
    const down = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    this.last.textContent = clip(plain(this.last.textContent + piece));
    if (down) element.scrollTop = element.scrollHeight;
    return this.last;
  }
}

function shown(output) {
  const whole = (text) => (Array.isArray(text) ? text.join("") : String(text ?? ""));
  if (output.output_type === "stream") return whole(output.text);
  if (output.output_type === "error") return `${output.ename}: ${output.evalue}\n`;
  const other = Object.keys(output.data || {}).filter((type) => type !== "text/plain");
  const text = whole(output.data?.["text/plain"]);
  return `${text}${other.length ? ` [${other.join(", ")}]` : ""}\n`;
}

function clip(text) {
  return text.length > LETTERS ? `… ${text.slice(-LETTERS)}` : text;
}
