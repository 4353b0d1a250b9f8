// Sends the microphone's samples out of the audio thread: int16 in pieces of 50 ms, with the level of each.

class Capture extends AudioWorkletProcessor {
  #piece = new Int16Array(Math.round(sampleRate / 20));
  #filled = 0;
  #sum = 0;
  #peak = 0;

  process([input]) {
    const samples = input[0];
    if (!samples) return true;
    for (const sample of samples) {
      const clipped = Math.max(-1, Math.min(1, sample));
      this.#piece[this.#filled++] = Math.round(clipped * 32767);
      this.#sum += clipped * clipped;
      this.#peak = Math.max(this.#peak, Math.abs(clipped));
      if (this.#filled === this.#piece.length) this.#send();
    }
    return true;
  }

  #send() {
    const level = Math.sqrt(this.#sum / this.#filled);
    const piece = this.#piece;
    this.port.postMessage({ samples: piece, level, peak: this.#peak }, [piece.buffer]);
    this.#piece = new Int16Array(Math.round(sampleRate / 20));
    this.#filled = this.#sum = this.#peak = 0;
  }
}

registerProcessor("capture", Capture);
