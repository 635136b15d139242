// The state of the server, asked again every few seconds while somebody looks.

import { get, key } from "./api.js";

const $ = (id) => document.getElementById(id);
const EVERY_MS = 5000;
const TASKS = { recognize: "Recordings", stream: "Live captions", diarize: "Speakers", detect: "Language" };

export class ServerView {
  /** `told(problem)` shows what went wrong; `news(status)` gets each answer. */
  constructor(told, news) {
    this.told = told;
    this.news = news;
    this.status = null;
    addEventListener("visibilitychange", () => this.ask());
    this.ask();
    setInterval(() => this.ask(), EVERY_MS);
  }

  /** Ask at once, with another key. */
  again() {
    this.refused = false;
    this.ask();
  }

  async ask() {
    if (document.hidden || this.asking) return;
    this.asking = true;
    const shown = key.get();
    try {
      this.status = await get("v1/status");
      this.refused = false;
      this.show(this.status);
      this.news(this.status);
    } catch (problem) {
      const refused = problem.code === "key" && shown === key.get(); // another may have been entered meanwhile
      if (refused && !this.refused) this.told(problem); // once: who says "not now" is left in peace
      this.refused = refused;
      this.pill("bad", problem.code === "key" ? "Key needed" : "Not reachable");
      $("server-lead").textContent = problem.message;
      $("server-sub").textContent = problem.fix;
    } finally {
      this.asking = false;
    }
  }

  pill(state, text) {
    $("pill").dataset.state = state;
    if ($("pill-text").textContent !== text) $("pill-text").textContent = text;
  }

  show(status) {
    this.pill(status.ready ? "good" : "bad", status.ready ? "Ready" : "Not ready");
    $("server-lead").textContent = status.ready ? "Ready." : "Not ready.";
    $("server-sub").textContent = status.ready ? "A recording sent now is recognised at once." : status.reason;
    const { requests, streams, latency } = status;
    const ms = (value) => (value === null ? "none yet" : `${Math.round(value * 1000)} ms`);
    const figures = [
      ["Live streams", `${streams.running} of ${streams.limit}`],
      ["Recordings in work", `${requests.running} of ${requests.limit}`],
      ["Live latency, median", ms(latency.stream_median_s)],
      ["Live latency, 95 of 100", ms(latency.stream_p95_s)],
      ["Speed of recordings", latency.speed === null ? "none yet" : `${Number(latency.speed.toPrecision(2))} × real time`],
      ["Recognised so far", `${(latency.audio_s / 60).toFixed(1)} min`],
    ];
    $("figures").replaceChildren(
      ...figures.map(([name, value]) => {
        const row = document.createElement("div");
        row.append(Object.assign(document.createElement("dt"), { textContent: name }));
        row.append(Object.assign(document.createElement("dd"), { textContent: value }));
        return row;
      }),
    );
    $("models").tBodies[0].replaceChildren(
      ...status.models.map((model) => {
        const row = document.createElement("tr");
        row.append(Object.assign(document.createElement("th"), { textContent: model.name, scope: "row" }));
        for (const text of [TASKS[model.task] ?? "", model.engine, model.languages.join(" "), model.ready ? "ready" : model.reason || model.state.toLowerCase()])
          row.insertCell().textContent = text;
        row.dataset.ready = model.ready;
        return row;
      }),
    );
    $("server-fine").textContent = `spark-speech ${status.version}. Latencies since the gateway started.`;
  }
}
