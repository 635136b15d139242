// The sound of a transcript: play, seek, and take the transcript away as a file.

import { FORMATS, clock, save } from "./formats.js";

const ICONS = { play: "M6.5 4v12l10-6z", pause: "M5.5 4h3v12h-3zM11.5 4h3v12h-3z" };
const SPEEDS = [0.75, 1, 1.25, 1.5, 2];

export class Player {
  /** Fills `element`; `script` shows the words, `transcript()` is what is saved. */
  constructor(element, script, transcript) {
    this.element = element;
    this.script = script;
    this.transcript = transcript;
    this.audio = new Audio();
    this.audio.preload = "auto";
    this.duration = 0;
    element.innerHTML = `
      <button type="button" class="play" aria-label="Play"><svg viewBox="0 0 20 20" aria-hidden="true"><path/></svg></button>
      <span class="clock now" aria-hidden="true">0:00</span>
      <input type="range" class="seek" min="0" max="1" step="0.01" value="0" aria-label="Where in the recording">
      <span class="clock whole" aria-hidden="true">0:00</span>
      <label class="field"><span class="hidden">Speed</span><select class="speed">${SPEEDS.map((speed) => `<option value="${speed}"${speed === 1 ? " selected" : ""}>${speed} ×</option>`).join("")}</select></label>
      <span class="mute fine" hidden>This browser cannot play this file; WAV, MP3, FLAC and Ogg it can.</span>
      <span class="grow"></span>
      <span class="save" role="group" aria-label="Save as"></span>`;
    const find = (selector) => element.querySelector(selector);
    this.button = find(".play");
    this.seeker = find(".seek");
    this.button.addEventListener("click", () => this.toggle());
    this.seeker.addEventListener("input", () => this.seek(Number(this.seeker.value)));
    find(".speed").addEventListener("change", (event) => (this.audio.playbackRate = Number(event.target.value)));
    for (const name of Object.keys(FORMATS)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = name;
      button.dataset.format = name;
      button.setAttribute("aria-label", `Save as ${name}`);
      button.addEventListener("click", () => this.save(name));
      find(".save").append(button);
    }
    for (const event of ["play", "pause", "ended"]) this.audio.addEventListener(event, () => this.changed());
    this.audio.addEventListener("error", () => this.playable(!this.audio.getAttribute("src")));
    this.changed();
  }

  load(blob, duration) {
    this.unload();
    this.saved = false;
    this.url = URL.createObjectURL(blob);
    this.audio.src = this.url;
    this.duration = duration;
    this.seeker.max = duration;
    this.element.querySelector(".whole").textContent = clock(duration);
    this.playable(true);
    this.moved();
  }

  unload() {
    this.audio.pause();
    this.audio.removeAttribute("src");
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
  }

  playable(can) {
    for (const part of this.element.querySelectorAll(".play, .seek, .clock, .field")) part.hidden = !can;
    this.element.querySelector(".mute").hidden = can;
  }

  get loaded() {
    return Boolean(this.url);
  }

  toggle() {
    if (this.audio.paused) this.play();
    else this.audio.pause();
  }

  play() {
    if (this.loaded) this.audio.play().catch(() => {}); // the error event tells what is wrong
  }

  seek(seconds) {
    if (!this.loaded) return;
    this.audio.currentTime = Math.max(0, Math.min(seconds, this.duration));
    this.moved(this.audio.currentTime);
  }

  skip(seconds) {
    this.seek(this.audio.currentTime + seconds);
  }

  changed() {
    const name = this.audio.paused ? "play" : "pause";
    this.button.setAttribute("aria-label", name === "play" ? "Play" : "Pause");
    this.button.querySelector("path").setAttribute("d", ICONS[name]);
    if (!this.audio.paused) this.follow();
  }

  follow() {
    this.moved();
    if (!this.audio.paused) requestAnimationFrame(() => this.follow());
  }

  moved(seconds = this.audio.currentTime) {
    this.seeker.value = seconds;
    this.seeker.style.setProperty("--done", `${this.duration ? (100 * seconds) / this.duration : 0}%`);
    this.seeker.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(this.duration)}`);
    this.element.querySelector(".now").textContent = clock(seconds);
    this.script.at(seconds);
  }

  save(name) {
    const { write, type } = FORMATS[name];
    const transcript = this.transcript();
    this.saved = true;
    save(`${transcript.name.replace(/\.[^.]*$/, "")}.${name}`, new Blob([write(transcript)], { type }));
  }
}
