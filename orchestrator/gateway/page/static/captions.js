// Live captions: samples go to the realtime endpoint, partial and final words come back.
//
// The sound is kept until the captions are cleared: so it can be heard afterwards, and when the connection
// breaks, what was not final yet is sent again on the next one.

import { Problem, post, problemOf } from "./api.js";
import { RATE } from "./microphone.js";

const EVENT = "conversation.item.input_audio_transcription.";
const PIECE_S = 0.08;
const WAITS_S = [0.3, 1, 2, 4, 8, 8, 8];
const STATUS = { overloaded: 429, invalid_api_key: 401, model_not_ready: 503, server_unavailable: 503, timeout: 504 };
const PASSING = ["broken", "unreachable", "overloaded", "model_not_ready", "server_unavailable"];
const LAST_WORDS_S = 20;
const LONGEST_S = 2 * 3600; // of sound kept: 230 MB
const ENCODED = 8192; // arguments of one String.fromCharCode

function base64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += ENCODED) text += String.fromCharCode(...bytes.subarray(at, at + ENCODED));
  return btoa(text);
}

export class Captions {
  /**
   * `language` may be empty; `told` has partial(text), final(words), state(text) and failed(problem).
   * A word: {text, start, end, confidence, speaker}; times in seconds since the first sample.
   */
  constructor({ language, speakers, told }) {
    this.language = language;
    this.speakers = speakers;
    this.told = told;
    this.pieces = [];
    this.samples = 0;
    this.settled = 0; // seconds: everything before is final
    this.tries = 0;
    this.round = 0; // connections so far
    this.over = false; // nothing more is wanted
    this.ending = false; // no more sound comes
    this.finished = new Promise((resolve) => (this.finish = resolve));
  }

  get seconds() {
    return this.samples / RATE;
  }

  /** No more is kept: time to stop. */
  get full() {
    return this.seconds >= LONGEST_S;
  }

  async start() {
    await this.connect();
  }

  hear(samples) {
    this.pieces.push(samples);
    this.samples += samples.length;
    this.flush();
  }

  /** No more sound: wait for the last words. */
  async stop() {
    this.ending = true;
    this.flush();
    await Promise.race([this.finished, new Promise((resolve) => setTimeout(resolve, LAST_WORDS_S * 1000))]);
    this.over = true;
    this.socket?.close();
  }

  async connect() {
    const session = await post("v1/realtime/transcription_sessions", {});
    const secret = session.client_secret?.value;
    const url = new URL("v1/realtime?intent=transcription", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, secret ? ["realtime", `realtime-token.${secret}`] : []);
    this.socket = socket;
    this.open = false;
    this.from = this.next = Math.floor(this.settled / PIECE_S);
    const settings = {
      ...session,
      input_audio_format: "pcm16",
      input_audio_params: { sample_rate_hz: RATE, num_channels: 1 },
      recognition_config: { ...session.recognition_config, enable_word_time_offsets: true, enable_automatic_punctuation: true, enable_verbatim_transcripts: true },
      speaker_diarization: { ...session.speaker_diarization, enable_speaker_diarization: this.speakers },
    };
    delete settings.client_secret;
    if (this.language) settings.input_audio_transcription = { ...session.input_audio_transcription, language: this.language };
    let greeted = false;
    await new Promise((resolve, reject) => {
      const broken = (problem) => {
        if (this.socket !== socket || this.over) return;
        if (!greeted) reject(problem);
        else this.again(problem);
        this.socket = null;
      };
      socket.addEventListener("message", ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "conversation.created") this.send({ type: "transcription_session.update", session: settings });
        else if (event.type === "transcription_session.updated") {
          greeted = this.open = true;
          this.tries = 0;
          this.round++;
          this.told.state("");
          this.flush();
          resolve();
        } else if (event.type.includes("error")) broken(problemOf(STATUS[event.error?.code] ?? 400, data));
        else this.take(event);
      });
      socket.addEventListener("close", ({ code, reason }) => {
        const why = reason || `It gave the reason ${code}; the gateway's log may say more.`;
        broken(new Problem("The server closed the connection.", why, "broken"));
      });
    });
  }

  send(event) {
    this.socket.send(JSON.stringify(event));
  }

  flush() {
    if (!this.open || this.over) return;
    for (; this.next < this.pieces.length; this.next++) {
      this.send({ type: "input_audio_buffer.append", audio: base64(this.pieces[this.next]) });
      this.send({ type: "input_audio_buffer.commit" });
    }
    if (!this.ending) return;
    this.open = false;
    this.send({ type: "input_audio_buffer.done" });
  }

  take(event) {
    if (event.type === `${EVENT}delta`) this.told.partial(event.delta);
    if (event.type !== `${EVENT}completed`) return;
    const offset = this.from * PIECE_S;
    const words = (event.words_info?.words ?? []).map((word) => ({
      text: word.word,
      start: offset + word.start_time / 1000,
      end: offset + word.end_time / 1000,
      confidence: word.confidence,
      // Tags begin anew with each connection, and nobody knows then who was who before.
      speaker: word.speaker_tag ? `${this.round}.${word.speaker_tag}` : "",
    }));
    if (words.length) {
      this.settled = words.at(-1).end + 0.1;
      this.told.final(words);
    }
    this.told.partial("");
    if (event.is_last_result) {
      this.over = true;
      this.finish();
      this.socket.close();
    }
  }

  /** The connection broke: begin again where the last final ended, a few times. */
  async again(problem) {
    this.open = false;
    if (this.over) return;
    if (!PASSING.includes(problem.code) || this.tries >= WAITS_S.length) {
      this.failed(problem);
      return;
    }
    this.told.state("Connecting again");
    await new Promise((resolve) => setTimeout(resolve, WAITS_S[this.tries++] * 1000));
    if (!this.over) this.connect().catch((next) => this.again(next));
  }

  failed(problem) {
    this.over = true;
    this.finish();
    this.told.failed(problem);
  }
}
