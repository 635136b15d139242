// The view of a recording: send it, read it, hear it.

import { Problem, upload } from "./api.js";
import { clock } from "./formats.js";
import { Player } from "./player.js";
import { Script } from "./script.js";

const $ = (id) => document.getElementById(id);

/** The gateway's answer as segments with words; without speakers, the words come beside the segments. */
function segments(answer) {
  const plain = (word) => ({ text: word.word, start: word.start, end: word.end, confidence: word.confidence });
  const all = answer.segments.map(({ start, end, text, speaker, words }) => ({
    speaker: !speaker || speaker === "unknown" ? "" : speaker,
    start,
    end,
    text,
    words: (words ?? []).map(plain),
  }));
  let at = 0;
  for (const word of answer.words ?? []) {
    while (at + 1 < all.length && word.start >= all[at + 1].start) at++;
    all[at]?.words.push(plain(word));
  }
  return all;
}

const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

export class RecordingView {
  /** `told(problem)` shows what went wrong; `server()` is the last status. */
  constructor(told, server) {
    this.told = told;
    this.server = server;
    this.script = new Script($("reader-script"), (seconds) => this.hear(seconds));
    this.player = new Player($("reader-player"), this.script, () => ({ ...this.facts, segments: this.script.named() }));
    $("file").addEventListener("change", () => this.picked($("file").files));
    $("drop").addEventListener("submit", (event) => event.preventDefault());
    $("work-stop").addEventListener("click", () => this.work?.abort());
    const section = $("recording");
    for (const name of ["dragenter", "dragover"])
      addEventListener(name, (event) => {
        event.preventDefault();
        section.classList.toggle("over", !section.hidden);
      });
    addEventListener("dragleave", (event) => event.relatedTarget || section.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      section.classList.remove("over");
      if (event.dataTransfer.files.length) this.picked(event.dataTransfer.files);
    });
  }

  open() {
    $("file").click();
  }

  picked([file]) {
    $("file").value = "";
    if (!file || this.work) return;
    const limit = this.server()?.limits.max_upload_bytes;
    if (limit && file.size > limit)
      this.told(new Problem(`${file.name} has ${size(file.size)}; this server takes ${size(limit)}.`, "Compress it (FLAC, Opus), cut it, or raise gateway.max_upload_bytes."));
    else this.send(file);
  }

  form(file) {
    const speakers = $("file-speakers").value;
    const named = this.server()?.speakers && speakers !== "none";
    const form = new FormData();
    form.append("model", "auto");
    if ($("file-language").value) form.append("language", $("file-language").value);
    form.append("response_format", named ? "diarized_json" : "verbose_json");
    form.append("timestamp_granularities[]", "word");
    form.append("timestamp_granularities[]", "segment");
    if (named && speakers !== "auto") form.append("num_speakers", speakers);
    form.append("file", file);
    return form;
  }

  async send(file) {
    this.told(null);
    this.work = new AbortController();
    this.player.unload();
    this.script.clear();
    this.show("work");
    const began = performance.now();
    $("work-what").textContent = "Sending.";
    $("work-more").textContent = `${file.name}, ${size(file.size)}`;
    $("work-bar").value = 0;
    const sent = (part) => {
      if (part < 1) $("work-bar").value = part;
      else {
        $("work-what").textContent = "Listening.";
        $("work-bar").removeAttribute("value");
      }
    };
    const ticking = setInterval(() => {
      $("work-more").textContent = `${file.name}, ${size(file.size)}, ${clock((performance.now() - began) / 1000)}`;
    }, 1000);
    try {
      const answer = await upload("v1/audio/transcriptions", this.form(file), { sent, signal: this.work.signal });
      this.read(file, answer, (performance.now() - began) / 1000);
    } catch (problem) {
      if (problem.code !== "stopped") this.told(problem);
      this.show("drop");
    } finally {
      clearInterval(ticking);
      this.work = null;
    }
  }

  read(file, answer, took) {
    this.facts = { name: file.name, duration: answer.duration, language: answer.language || null };
    for (const segment of segments(answer)) this.script.add(segment);
    const words = this.script.words.length;
    const speakers = this.script.names.size;
    $("reader-name").textContent = file.name;
    $("reader-facts").textContent = [
      clock(answer.duration),
      `${words} ${words === 1 ? "word" : "words"}`,
      speakers ? `${speakers} ${speakers === 1 ? "speaker" : "speakers"}` : "",
      `recognised in ${took < 10 ? took.toFixed(1) : Math.round(took)} s`,
    ].filter(Boolean).join(", ");
    if (!words) {
      this.told(new Problem("Nobody says anything in it.", "Was it the right file, and the right language?"));
      this.show("drop");
      return;
    }
    this.player.load(file, answer.duration);
    this.show("reader");
    $("reader-script").focus({ preventScroll: true });
  }

  show(part) {
    for (const id of ["work", "reader"]) $(id).hidden = id !== part;
    $("drop").hidden = part === "work";
    $("drop").classList.toggle("brief", part === "reader");
  }

  hear(seconds) {
    this.player.seek(seconds);
    this.player.play();
  }
}
