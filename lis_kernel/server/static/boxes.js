// The sandboxes, while their part of the page is open.

import { ask } from "./server.js";
import { duration, make } from "./words.js";

const part = document.getElementById("boxes");
const place = part.querySelector("div");

export async function refresh(say) {
  if (!part.open) return;
  try {
    const { sandboxes } = await ask("sandboxes");
    place.replaceChildren(sandboxes.length ? table(sandboxes, say) : make("p", { class: "dim" }, "no sandboxes"));
  } catch (trouble) {
    place.replaceChildren(make("p", { class: "refused" }, trouble.message));
  }
}

export function prepare(say) {
  part.addEventListener("toggle", () => refresh(say));
}

function table(rows, say) {
  const heads = ["Sandbox", "Backend", "Owner", "Age", "Processes", ""];
  const body = rows.map((row) => {
    const owner = `${row.run ?? `process ${row.owner}`}${row.alive ? "" : " (dead)"}`;
    const remove = () =>
      ask(`sandboxes/${encodeURIComponent(row.id)}/stop`, {}).then(
        () => refresh(say),
        (trouble) => say(trouble.message, "bad"),
      );
    return make("tr", {},
      make("td", {}, make("code", {}, row.id)), make("td", {}, row.backend), make("td", {}, owner),
      make("td", {}, row.age == null ? "?" : duration(row.age)), make("td", {}, String(row.processes)),
      make("td", {}, row.alive ? null : make("button", { type: "button", onclick: remove }, "Remove")));
  });
  return make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...body));
}
