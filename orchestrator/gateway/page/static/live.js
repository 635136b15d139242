// The view of live captions.

import { Problem } from "./api.js";
import { Captions } from "./captions.js";
import { clock } from "./formats.js";
import { Microphone, RATE } from "./microphone.js";
import { Player } from "./player.js";
import { Script } from "./script.js";
import { wave } from "./wave.js";

const $ = (id) => document.getElementById(id);
const NEAR_END_PX = 240;
const said = (words) => words.map((word) => word.text).join(" ");

/** Words in order as segments: a new one where the speaker changes. */
function segments(words) {
  const all = [];
  for (const word of words) {
    const { speaker, ...rest } = word;
    if (all.at(-1)?.speaker !== speaker) all.push({ speaker, start: word.start, words: [] });
    all.at(-1).words.push(rest);
  }
  return all.map((segment) => ({ ...segment, end: segment.words.at(-1).end, text: said(segment.words) }));
}

export class LiveView {
  /** `told(problem)` shows what went wrong. */
  constructor(told) {
    this.told = told;
    this.state = "idle"; // idle, starting, on, stopping
    this.script = new Script($("live-script"), (seconds) => this.hear(seconds));
    this.player = new Player($("live-player"), this.script, () => this.transcript());
    $("record").addEventListener("click", () => this.toggle());
    $("again-dialog").addEventListener("close", () => {
      if ($("again-dialog").returnValue === "again") this.start();
      $("again-dialog").returnValue = "";
    });
    addEventListener("beforeunload", (event) => this.state === "on" && event.preventDefault());
  }

  transcript() {
    return {
      name: `captions-${this.began.toISOString().slice(0, 16).replace(/[:T]/g, "-")}.wav`,
      duration: this.captions.seconds,
      language: this.captions.language || null,
      segments: this.script.named(),
    };
  }

  toggle() {
    if (this.state === "idle" && this.script.segments.length && !this.player.saved) $("again-dialog").showModal();
    else if (this.state === "idle") this.start();
    else if (this.state === "on") this.stop();
  }

  async start() {
    this.set("starting");
    this.told(null);
    this.player.unload();
    this.script.clear();
    this.began = new Date();
    this.captions = new Captions({
      language: $("live-language").value,
      speakers: $("live-speakers").checked && !$("live-speakers").disabled,
      told: {
        partial: (text) => this.partial(text),
        final: (words) => this.final(words),
        state: (text) => this.state === "on" && ($("record-text").textContent = text || "Stop"),
        failed: (problem) => this.failed(problem),
      },
    });
    try {
      this.microphone = await Microphone.open(
        (samples, peak) => this.heard(samples, peak),
        () => this.stop(),
      );
      await this.captions.start();
      this.set("on");
      this.awake = await navigator.wakeLock?.request("screen").catch(() => null);
    } catch (problem) {
      this.failed(problem);
    }
  }

  async stop() {
    if (this.state !== "on") return;
    this.set("stopping");
    await this.microphone.close();
    await this.captions.stop();
    this.idle();
  }

  failed(problem) {
    this.told(problem);
    this.microphone?.release();
    this.captions.over = true;
    this.captions.socket?.close();
    this.idle();
  }

  idle() {
    this.set("idle");
    this.partial("");
    this.meter(0);
    this.awake?.release();
    if (this.script.segments.length) this.player.load(wave(this.captions.pieces, RATE), this.captions.seconds);
    this.shown();
  }

  set(state) {
    this.state = state;
    const button = $("record");
    button.dataset.state = state;
    button.setAttribute("aria-pressed", String(state === "on"));
    button.disabled = state === "starting" || state === "stopping";
    $("record-text").textContent = { idle: "Start captions", starting: "Starting", on: "Stop", stopping: "Last words" }[state];
    for (const id of ["live-language", "live-speakers"]) $(id).toggleAttribute("data-locked", state !== "idle");
    this.shown();
  }

  shown() {
    const any = this.script.segments.length > 0;
    const busy = this.state !== "idle";
    $("live-hero").hidden = any || $("live-partial").textContent !== "";
    $("live-hero").querySelector(".lead").textContent = busy ? "Listening." : "Say something.";
    $("live-script").hidden = !any;
    $("live-partial").hidden = $("live-partial").textContent === "";
    $("live-player").hidden = busy || !any;
  }

  heard(samples, peak) {
    this.captions.hear(samples);
    this.meter(peak);
    $("live-clock").textContent = clock(this.captions.seconds);
    if (!this.captions.full || this.state !== "on") return;
    this.told(new Problem("Two hours are the most that the page keeps.", "Save these captions and start again."));
    this.stop();
  }

  meter(peak) {
    const level = peak > 0 ? Math.max(0, 1 + Math.log10(peak) / 2.5) : 0; // -50 dB to 0 dB
    $("meter").firstElementChild.style.transform = `scaleX(${level.toFixed(3)})`;
  }

  partial(text) {
    const follow = this.nearEnd();
    $("live-partial").textContent = text.trim();
    this.shown();
    if (follow) this.toEnd();
  }

  final(words) {
    const follow = this.nearEnd();
    for (const segment of segments(words)) this.script.add(segment);
    $("said").textContent = said(words);
    this.shown();
    if (follow) this.toEnd();
  }

  nearEnd() {
    return document.documentElement.scrollHeight - scrollY - innerHeight < NEAR_END_PX;
  }

  toEnd() {
    if (!$("live").hidden) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }

  hear(seconds) {
    if (!this.player.loaded) return;
    this.player.seek(seconds);
    this.player.play();
  }
}
