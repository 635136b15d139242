// Transcripts as files. A transcript: {name, duration, language, segments: [{speaker, start, end, text, words}]}.

const LINE = 42; // characters a line, two lines a caption: what subtitle guides ask for
const LONGEST_S = 7;

const two = (value) => String(Math.floor(value)).padStart(2, "0");

/** 0:05, 1:02:03 */
export function clock(seconds) {
  const whole = Math.floor(Math.max(seconds, 0));
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function stamp(seconds, point) {
  const ms = Math.round(seconds * 1000);
  return `${two(ms / 3600000)}:${two((ms / 60000) % 60)}:${two((ms / 1000) % 60)}${point}${String(ms % 1000).padStart(3, "0")}`;
}

function lines(words) {
  const written = [""];
  for (const word of words) {
    const last = written.at(-1);
    if (last && last.length + 1 + word.length > LINE) written.push(word);
    else written[written.length - 1] = last ? `${last} ${word}` : word;
  }
  return written;
}

/** Captions of at most two lines and seven seconds; a segment without words is one caption. */
function cues(transcript) {
  const all = [];
  for (const segment of transcript.segments) {
    let cue = null;
    for (const word of segment.words.length ? segment.words : [{ ...segment }]) {
      const full = cue && (word.end - cue.start > LONGEST_S || lines([...cue.words, word.text]).length > 2);
      if (!cue || full) all.push((cue = { speaker: segment.speaker, start: word.start, end: word.end, words: [] }));
      cue.words.push(word.text);
      cue.end = Math.max(word.end, cue.start + 0.001);
    }
  }
  return all;
}

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function srt(transcript) {
  const written = cues(transcript).map((cue, at) => {
    const said = lines(cue.words);
    if (cue.speaker) said[0] = `${cue.speaker}: ${said[0]}`;
    return `${at + 1}\n${stamp(cue.start, ",")} --> ${stamp(cue.end, ",")}\n${said.join("\n")}\n`;
  });
  return written.join("\n");
}

function vtt(transcript) {
  const written = cues(transcript).map((cue) => {
    const said = escaped(lines(cue.words).join("\n"));
    const voiced = cue.speaker ? `<v ${escaped(cue.speaker)}>${said}</v>` : said;
    return `${stamp(cue.start, ".")} --> ${stamp(cue.end, ".")}\n${voiced}\n`;
  });
  return `WEBVTT\n\n${written.join("\n")}`;
}

function txt(transcript) {
  const written = transcript.segments.map(
    (segment) => `[${clock(segment.start)}] ${segment.speaker ? `${segment.speaker}: ` : ""}${segment.text}\n`,
  );
  return written.join("");
}

const json = (transcript) => `${JSON.stringify(transcript, null, 2)}\n`;

export const FORMATS = {
  srt: { write: srt, type: "application/x-subrip" },
  vtt: { write: vtt, type: "text/vtt" },
  txt: { write: txt, type: "text/plain" },
  json: { write: json, type: "application/json" },
};

/** Hand a file to the user. */
export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
