// Requests to this gateway, and its errors in words with what can be done about them.

const KEY = "spark-speech.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Something that went wrong, for people: what it was, and the fix. */
export class Problem extends Error {
  constructor(what, fix = "", code = "") {
    super(what);
    this.fix = fix;
    this.code = code;
  }
}

export const stopped = () => new Problem("Stopped.", "", "stopped");

const unreachable = () =>
  new Problem("The gateway does not answer.", `Check that “spark-speech gateway” still runs at ${location.host}.`, "unreachable");

const FIXES = {
  401: "Enter the API key that whoever runs this server gave you.",
  404: "Choose another model or language.",
  408: "The connection is too slow for this file: send it from nearer by, or make it smaller.",
  413: "Cut it into shorter pieces, or raise gateway.max_duration_s or gateway.max_upload_bytes on the server.",
  500: "The gateway's log says why.",
  502: "Look into the log of the tritonserver with “spark-speech status”.",
  503: "Wait until the models are loaded; “spark-speech status” on the server shows them.",
  504: "The server is too busy. Try again later, or send a shorter recording.",
};

export function problemOf(status, body, retryAfter) {
  let told = null;
  try {
    told = JSON.parse(body).error;
  } catch {
    // Not from the gateway: a proxy in between.
  }
  const [what, own] = (told?.message ?? `The server answered ${status}.`).split(" Fix: ");
  const code = told?.code ?? "";
  if (status === 429) return new Problem(what, `Try again in ${retryAfter || 5} seconds.`, code);
  return new Problem(what, own ? own[0].toUpperCase() + own.slice(1) : (FIXES[status] ?? ""), status === 401 ? "key" : code);
}

export function headers() {
  return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options, headers: { ...headers(), ...options?.headers } });
  } catch {
    throw unreachable();
  }
  const text = await answer.text();
  if (!answer.ok) throw problemOf(answer.status, text, answer.headers.get("Retry-After"));
  return JSON.parse(text);
}

export const get = (path) => ask(path);

export const post = (path, body) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

/** POST a form; fetch cannot tell how much has been sent, XMLHttpRequest can. */
export function upload(path, form, { sent, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && sent(event.loaded / event.total));
    request.upload.addEventListener("load", () => sent(1));
    request.addEventListener("load", () => {
      if (request.status === 200) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(stopped()));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
