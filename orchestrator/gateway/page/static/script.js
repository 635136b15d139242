// A transcript to read: turns in their speakers' colours, words that can be reached by mouse and keys.

import { clock } from "./formats.js";

const COLOURS = 8;
const UNSURE = 0.5; // words of less confidence are marked

const made = (name, className, text) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

export class Script {
  /** `chosen(seconds)` is called when a word or the time of a turn is. */
  constructor(element, chosen) {
    this.element = element;
    this.chosen = chosen;
    this.clear();
    element.addEventListener("click", (event) => this.clicked(event));
    element.addEventListener("keydown", (event) => this.pressed(event));
    element.addEventListener("focus", () => this.cursor < 0 && this.mark(Math.max(this.playing, 0)));
  }

  clear() {
    this.segments = [];
    this.words = []; // {start, end, span, turn}, of all segments
    this.names = new Map(); // the server's label -> {name, colour}
    this.playing = this.cursor = -1;
    this.element.replaceChildren();
  }

  /** Add {speaker, start, end, text, words} at the end. */
  add(segment) {
    const speaker = this.speaker(segment.speaker);
    const turn = made("div", "turn");
    turn.dataset.colour = speaker.colour;
    const same = this.segments.at(-1)?.speaker === segment.speaker && this.segments.length > 0;
    if (same) turn.classList.add("same");
    const who = made("div", "who");
    if (segment.speaker) {
      const name = made("button", "name", speaker.name);
      name.type = "button";
      name.title = "Give this speaker a name";
      name.dataset.speaker = segment.speaker;
      who.append(name);
    }
    const time = made("button", "time", clock(segment.start));
    time.type = "button";
    time.dataset.start = segment.start;
    time.setAttribute("aria-label", `Play from ${clock(segment.start)}`);
    who.append(time);
    const said = made("p", "said");
    for (const word of segment.words.length ? segment.words : [segment]) {
      const span = made("span", word.confidence < UNSURE ? "unsure" : "", word.text);
      span.dataset.at = this.words.length;
      this.words.push({ start: word.start, end: word.end, span, turn: this.segments.length });
      if (said.childNodes.length) said.append(" ");
      said.append(span);
    }
    turn.append(who, said);
    this.segments.push(segment);
    this.element.append(turn);
  }

  speaker(label) {
    if (!label) return { name: "", colour: 0 };
    if (!this.names.has(label)) {
      const at = this.names.size;
      this.names.set(label, { name: `Speaker ${at + 1}`, colour: (at % COLOURS) + 1 });
    }
    return this.names.get(label);
  }

  /** The segments with the speakers' names as they are shown. */
  named() {
    return this.segments.map((segment) => ({ ...segment, speaker: this.speaker(segment.speaker).name || null }));
  }

  /** Show which word is heard at this time; none where nobody speaks. */
  at(seconds) {
    let low = 0;
    let high = this.words.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].start <= seconds) low = middle + 1;
      else high = middle;
    }
    const word = low - 1;
    const heard = word >= 0 && seconds < this.words[word].end + 0.25 ? word : -1;
    if (heard === this.playing) return;
    this.words[this.playing]?.span.classList.remove("now");
    this.playing = heard;
    if (heard < 0) return;
    const { span } = this.words[heard];
    span.classList.add("now");
    this.show(span);
  }

  mark(at) {
    this.words[this.cursor]?.span.classList.remove("cursor");
    this.cursor = Math.max(0, Math.min(at, this.words.length - 1));
    this.words[this.cursor]?.span.classList.add("cursor");
  }

  move(to) {
    this.mark(to);
    if (this.words[this.cursor]) this.show(this.words[this.cursor].span);
  }

  show(span) {
    const { top, bottom } = span.getBoundingClientRect();
    if (top > 80 && bottom < innerHeight - 140) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    span.scrollIntoView({ block: "center", behavior: calm ? "instant" : "smooth" });
  }

  clicked({ target }) {
    if (target.dataset.start !== undefined) this.chosen(Number(target.dataset.start));
    else if (target.dataset.speaker !== undefined) this.rename(target);
    else if (target.dataset.at !== undefined && getSelection().isCollapsed) {
      this.mark(Number(target.dataset.at));
      this.chosen(this.words[this.cursor].start);
    }
  }

  pressed(event) {
    if (event.target !== this.element || !this.words.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = Math.max(this.cursor, 0);
    const turn = this.words[here].turn;
    const first = (wanted) => this.words.findIndex((word) => word.turn === wanted);
    const moves = {
      ArrowRight: () => here + 1,
      ArrowLeft: () => here - 1,
      ArrowDown: () => first(Math.min(turn + 1, this.segments.length - 1)),
      ArrowUp: () => (here > first(turn) ? first(turn) : first(Math.max(turn - 1, 0))),
      Home: () => 0,
      End: () => this.words.length - 1,
    };
    if (event.key in moves) this.move(moves[event.key]());
    else if (event.key === "Enter") this.chosen(this.words[here].start);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  rename(button) {
    const label = button.dataset.speaker;
    const field = made("input", "name");
    field.value = button.textContent;
    field.maxLength = 40;
    field.setAttribute("aria-label", "Name of this speaker");
    let over = false; // taking the field away blurs it, which would end it again
    const done = (keep) => {
      if (over) return;
      over = true;
      const name = field.value.trim();
      field.replaceWith(button);
      if (keep && name) this.names.get(label).name = name;
      for (const shown of this.element.querySelectorAll("button.name"))
        if (shown.dataset.speaker === label) shown.textContent = this.names.get(label).name;
      button.focus();
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault(); // or the button that gets the focus is pressed by the same key
      done(event.key === "Enter");
    });
    field.addEventListener("blur", () => done(true));
    button.replaceWith(field);
    field.select();
  }
}
