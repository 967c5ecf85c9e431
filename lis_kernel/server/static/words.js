// Values as words, and elements. Text only ever goes into text nodes: it is a model's or a sandbox's.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// without escape sequences and control characters, as tools/terminal.py makes it
export function plain(text) {
  return String(text)
    .replace(/\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]/g, "")
    .replace(/[^\n]*\r(?!\n)/g, "")
    .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "");
}

export const oneLine = (text) => plain(text).replace(/\s+/g, " ").trim();

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)} min`;
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)} h`;
}

export function ago(created) {
  const seconds = Math.max(0, Date.now() / 1000 - created);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 86400 * 14) return `${many(Math.floor(seconds / 86400), "day")} ago`;
  return new Date(created * 1000).toLocaleDateString("en-CA");
}

export const count = (number) => number.toLocaleString("en-US");
export const many = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
export const money = (usd) => (usd ? `$${usd < 0.1 ? usd.toFixed(4) : usd.toFixed(2)}` : "");

// a model's provider and name; of a scripted one's path the end says more than the beginning
export function model(full) {
  const [, provider, name] = full.match(/^([a-z]+)[/:](.*)$/s) || [full, "", full];
  return [provider, provider === "scripted" ? name.split("/").pop() : name];
}

const KINDS = {
  submitted: "good",
  starting: "moving", running: "moving",
  pausing: "waiting", paused: "waiting",
  interrupted: "quiet", unfinished: "quiet",
  max_turns: "short", max_tokens: "short", max_cost: "short", timeout: "short",
  context_window: "short", silent: "short",
};
export const kind = (state) => KINDS[state] || "bad";
export const named = (state) => state.replaceAll("_", " ");
