// The dialogs: each gathers words, sends them, and closes once the server took them.

import { ask, ofRun } from "./server.js";
import { oneLine } from "./words.js";

const known = {};

export function prepare(name, send) {
  const dialog = document.getElementById(name);
  const form = dialog.querySelector("form");
  const refused = dialog.querySelector(".refused");
  const main = dialog.querySelector(".main");
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (main.disabled) return;
    main.disabled = true;
    refused.hidden = true;
    try {
      await send(new FormData(form), known[name].run);
      form.reset();
      dialog.close();
    } catch (trouble) {
      refused.textContent = trouble.message;
      refused.hidden = false;
    }
    main.disabled = false;
  });
  known[name] = { dialog, refused, run: null };
}

export function show(name, run = null) {
  const { dialog, refused } = known[name];
  known[name].run = run;
  refused.hidden = true;
  const about = dialog.querySelector(".about");
  if (about && run) about.textContent = oneLine(run.task) || run.id;
  dialog.showModal();
}

export async function start(form) {
  const words = { task: form.get("task") };
  const files = form.get("files").split("\n").map((line) => line.trim()).filter(Boolean);
  if (files.length) words.files = files;
  for (const name of ["model", "backend", "network"]) {
    const value = form.get(name).trim();
    if (value) words[name] = value;
  }
  for (const name of ["max_turns", "max_cost", "timeout"]) {
    if (form.get(name)) words[name] = Number(form.get(name));
  }
  return ask("runs", words);
}

export const say = (form, run) => ask(ofRun(run.id, "say"), { text: form.get("text") });
export const stop = (form, run) => ask(ofRun(run.id, "stop"), {});
