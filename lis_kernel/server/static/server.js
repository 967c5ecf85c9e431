// Asking the server. Every answer is JSON; an error's `message` is for the reader.

const { base, xsrf } = document.body.dataset;

export const api = (path) => `${base}lis/api/${path}`;
export const ofRun = (id, what) => `runs/${encodeURIComponent(id)}${what ? `/${what}` : ""}`;

export class Trouble extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no answer at all
  }
}

export async function ask(path, words) {
  const request = { headers: { Accept: "application/json" }, credentials: "same-origin" };
  if (words !== undefined) {
    request.method = "POST";
    request.body = JSON.stringify(words);
    request.headers["Content-Type"] = "application/json";
    request.headers["X-XSRFToken"] = xsrf;
  }
  let answer;
  try {
    answer = await fetch(api(path), request);
  } catch {
    throw new Trouble(0, "The server does not answer.");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Trouble(answer.status, said.message || answer.statusText);
  return said;
}
