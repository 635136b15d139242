// The microphone, as pieces of 16-bit samples at 16 kHz.

import { Problem } from "./api.js";

export const RATE = 16000;

const REFUSALS = {
  NotAllowedError: ["The microphone is blocked.", "Allow it for this page, beside the address, and start again."],
  NotFoundError: ["There is no microphone.", "Connect one and start again."],
  NotReadableError: ["The microphone cannot be used.", "Close the program that uses it and start again."],
};

function refusal(error) {
  const [what, fix] = REFUSALS[error.name] ?? [`The microphone cannot be used (${error.name}).`, "Try another browser."];
  return new Problem(what, fix, "microphone");
}

export class Microphone {
  /** `heard(samples, peak)` gets each piece: an Int16Array, and its peak in 0..1. */
  static async open(heard, lost) {
    if (!navigator.mediaDevices?.getUserMedia)
      throw new Problem(
        "Browsers give the microphone only to pages from https or from this machine.",
        `Set gateway.tls_certfile on the server, or tunnel with “ssh -L ${location.port || 9000}:localhost:${location.port || 9000} ${location.hostname}” and open http://localhost:${location.port || 9000}.`,
        "microphone",
      );
    const opened = new Microphone();
    try {
      opened.stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
      });
      opened.context = new AudioContext();
      await opened.context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
      opened.node = new AudioWorkletNode(opened.context, "capture", { numberOfOutputs: 0 });
      opened.ended = new Promise((resolve) => {
        opened.node.port.onmessage = ({ data }) => (data.ended ? resolve() : heard(data.samples, data.peak));
      });
      opened.context.createMediaStreamSource(opened.stream).connect(opened.node);
      await opened.context.resume();
    } catch (error) {
      opened.release();
      throw refusal(error);
    }
    opened.stream.getAudioTracks()[0].addEventListener("ended", lost);
    return opened;
  }

  /** Give it back, after the last piece was heard. */
  async close() {
    this.node.port.postMessage("end");
    await Promise.race([this.ended, new Promise((resolve) => setTimeout(resolve, 500))]);
    this.release();
  }

  release() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}
