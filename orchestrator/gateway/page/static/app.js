// The page as a whole: tabs, messages, colours, keys, and what the server can do.

import { key } from "./api.js";
import { LiveView } from "./live.js";
import { RecordingView } from "./recording.js";
import { ServerView } from "./server.js";

const $ = (id) => document.getElementById(id);
const TABS = ["live", "recording", "server"];
const MOST_SPEAKERS = 8;

function told(problem) {
  $("notice").hidden = !problem;
  if (!problem) return;
  $("notice-what").textContent = problem.message;
  $("notice-fix").textContent = problem.fix;
  if (problem.code === "key") askForKey();
}

function askForKey() {
  if ($("key-dialog").open) return;
  $("key-input").value = key.get();
  $("key-dialog").showModal();
}

function select(tab, focus = false) {
  for (const name of TABS) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
    $(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
  }
  if (focus) $(`tab-${tab}`).focus();
  history.replaceState(null, "", `#${tab}`);
  scrollTo(0, 0);
}

const shown = () => TABS.find((name) => !$(name).hidden);

// What is chosen, and what the server can do

function fill(element, options) {
  const wanted = JSON.stringify(options);
  if (element.dataset.options === wanted) return;
  const before = element.value;
  element.dataset.options = wanted;
  element.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) element.value = before;
}

function languages(element, models) {
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  const tags = [...new Set(models.flatMap((model) => model.languages))].sort();
  element.closest(".field").hidden = tags.length < 2;
  fill(element, [["", "Any language"], ...tags.map((tag) => [tag, names.of(tag)])]);
}

function news(status) {
  const ready = status.models.filter((model) => model.ready);
  const able = (task) => ready.filter((model) => model.task === task);
  languages($("live-language"), able("stream"));
  languages($("file-language"), able("recognize"));
  const counts = Array.from({ length: MOST_SPEAKERS }, (_, at) => [String(at + 1), String(at + 1)]);
  fill($("file-speakers"), [["auto", "As many as there are"], ...counts, ["none", "Not named"]]);
  $("file-speakers").closest(".field").hidden = !status.speakers;
  $("live-speakers").disabled = !status.speakers;
  $("live-speakers").closest(".check").hidden = !status.speakers;
  const hours = status.limits.max_duration_s / 3600;
  const size = status.limits.max_upload_bytes / 1e6;
  $("limits").textContent = `Up to ${hours >= 1 ? `${+hours.toFixed(1)} h` : `${Math.round(hours * 60)} min`} and ${size >= 1000 ? `${+(size / 1000).toFixed(1)} GB` : `${Math.round(size)} MB`}.`;
  const missing = status.ready && !able("stream").length;
  $("live-hero").querySelector(".sub").dataset.first ??= $("live-hero").querySelector(".sub").textContent;
  $("live-hero").querySelector(".sub").textContent = missing
    ? "This server has no model for live captions. Build a release with “--model parakeet_streaming=…” and start the server again; recordings work."
    : $("live-hero").querySelector(".sub").dataset.first;
  if (live.state === "idle") $("record").disabled = missing;
}

// Colours

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function theme(wanted) {
  const root = document.documentElement;
  if (wanted === "system") {
    delete root.dataset.theme;
    sessionStorage.removeItem("spark-speech.theme");
  } else {
    root.dataset.theme = wanted;
    sessionStorage.setItem("spark-speech.theme", wanted);
  }
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[wanted]}`);
}

function otherTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  theme(next === (dark ? "dark" : "light") ? "system" : next);
}

// Keys

const player = () => ({ live: live.player, recording: recording.player })[shown()];
const SHORTCUTS = {
  1: () => select("live", true),
  2: () => select("recording", true),
  3: () => select("server", true),
  c: () => (select("live"), $("record").disabled || live.toggle()),
  o: () => (select("recording"), recording.open()),
  " ": () => player()?.toggle(),
  j: () => player()?.skip(-5),
  k: () => player()?.skip(5),
  t: () => $({ live: "live-script", recording: "reader-script", server: "models" }[shown()])?.focus(),
  d: otherTheme,
  "?": () => $("help-dialog").showModal(),
};

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (target.matches("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
  if (event.key === " " && target.matches("button, input, a, summary, label")) return;
  const act = SHORTCUTS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) select(TABS[(TABS.indexOf(shown()) + step + TABS.length) % TABS.length], true);
});

for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => select(name));
$("notice-close").addEventListener("click", () => told(null));
$("theme").addEventListener("click", otherTheme);
$("help").addEventListener("click", () => $("help-dialog").showModal());
$("key-open").addEventListener("click", askForKey);
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-form").addEventListener("submit", () => {
  key.set($("key-input").value.trim());
  told(null);
  server.again();
});

const live = new LiveView(told);
const recording = new RecordingView(told, () => server.status);
theme(document.documentElement.dataset.theme ?? "system");
select(TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "live");
const server = new ServerView(told, news);
