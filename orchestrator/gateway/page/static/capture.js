// AudioWorklet: whatever the microphone's rate is, out come pieces of 16-bit samples at 16 kHz.

const RATE = 16000;
const PIECE = 1280; // 80 ms, the recogniser's own frame
const ZEROS = 16; // zero crossings of the filter on each side
const PHASES = 512; // of the tabulated filter; between two of them it is interpolated

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ratio = sampleRate / RATE;
    this.cutoff = Math.min(1, RATE / sampleRate); // of the input's Nyquist frequency
    this.half = Math.ceil(ZEROS / this.cutoff);
    this.table = new Float32Array((this.half + 1) * PHASES + 2);
    for (let at = 0; at < this.table.length; at++) {
      const x = at / PHASES;
      const inside = Math.min(x / this.half, 1);
      const window = 0.5 + 0.5 * Math.cos(Math.PI * inside);
      const y = Math.PI * x * this.cutoff;
      this.table[at] = this.cutoff * window * (y ? Math.sin(y) / y : 1);
    }
    this.held = new Float32Array(8192);
    this.count = this.half; // silence before the first sample
    this.next = this.half; // where in `held` the next output sample is
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
    this.peak = 0;
    this.running = true;
    this.port.onmessage = () => {
      this.running = false;
      if (this.filled) this.port.postMessage({ samples: this.piece.slice(0, this.filled), peak: this.peak });
      this.port.postMessage({ ended: true });
    };
  }

  process([input]) {
    if (!this.running) return false;
    const channels = input.length;
    if (!channels) return true;
    const length = input[0].length;
    for (let at = 0; at < length; at++) {
      let sum = 0;
      for (const channel of input) sum += channel[at];
      this.held[this.count + at] = sum / channels;
    }
    this.count += length;
    while (this.next + this.half < this.count) {
      this.put(this.filtered(this.next));
      this.next += this.ratio;
    }
    const done = Math.floor(this.next) - this.half;
    this.held.copyWithin(0, done, this.count);
    this.count -= done;
    this.next -= done;
    return true;
  }

  filtered(position) {
    let sum = 0;
    const first = Math.ceil(position - this.half);
    const last = Math.floor(position + this.half);
    for (let at = first; at <= last; at++) {
      const x = Math.abs(at - position) * PHASES;
      const whole = Math.floor(x);
      sum += this.held[at] * (this.table[whole] + (x - whole) * (this.table[whole + 1] - this.table[whole]));
    }
    return sum;
  }

  put(value) {
    const clipped = Math.max(-1, Math.min(1, value));
    this.peak = Math.max(this.peak, Math.abs(clipped));
    this.piece[this.filled++] = Math.round(clipped * 32767);
    if (this.filled < PIECE) return;
    this.port.postMessage({ samples: this.piece.slice(), peak: this.peak });
    this.filled = 0;
    this.peak = 0;
  }
}

registerProcessor("capture", Capture);
