// The live client of Myna's native protocol for browsers: one file without dependencies. See docs/web.md.
//
//   import { MynaClient } from "./myna.js";
//   const client = new MynaClient({ url: "http://127.0.0.1:8000", encoding: "linear16", sampleRate: 16000 });
//   client.addEventListener("final", ({ detail }) => console.log(detail.text));
//   await client.open();
//   client.send(samples);          // Int16Array, or an ArrayBuffer of bytes
//   await client.close();

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 4000;
const GIVE_UP_MS = 60_000;
const KEPT_S = 60;
const MOST_BUFFERED = 1 << 20;
const KEEPALIVE_MS = 10_000;

/** An error with a `message` for people and a `code` for programs; `status` is the HTTP status, if there is one. */
export class MynaError extends Error {
  constructor(code, message, status = 0) {
    super(message);
    this.name = "MynaError";
    this.code = code;
    this.status = status;
  }
}

/** Return the models of a server: `[{id, languages, default, ...}]`. Throws `MynaError`. */
export async function models({ url = location.origin, key = "" } = {}) {
  const response = await ask(new URL("/v1/models", url), key);
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data;
}

/**
 * One live stream. Events carry the server's messages in `detail` (docs/protocol.md): `ready`, `speech_started`, `partial`,
 * `final`, `utterance_end`, `finalized`, `speakers`; the client adds `reconnecting`, `reconnected`, `restarted`, `error`,
 * `closed`.
 *
 * When the connection is lost, the client reconnects and resumes the stream. If the server was restarted meanwhile, raw
 * audio continues in a new stream from the last final on, with continuous times. Its speakers have numbers of their own.
 */
export class MynaClient extends EventTarget {
  #options;
  #socket = null;
  #ready = null;
  #state = "new"; // new, opening, open, closing, closed
  #number = 0; // of the last message received
  #accounted = 0; // messages that the server has acknowledged
  #count = 0; // messages sent in this stream, including `start`
  #kept = []; // {number, data, start, end}: messages that may have to be resent; start and end in seconds of audio
  #sentS = 0; // seconds of raw audio sent
  #finalS = 0; // end of the last final
  #offsetS = 0; // start of this stream in the times of the events
  #speakers = 0; // speakers of the streams so far
  #offsetSpeaker = 0; // number of this stream's first speaker in the events
  #pauseTimer = null;
  #spokeAt = 0;
  #waiting = [];

  constructor(options = {}) {
    super();
    this.#options = { url: globalThis.location?.origin, key: "", interim: true, channels: 1, ...options };
    if (this.#options.encoding && !this.#options.sampleRate) throw new MynaError("usage", "encoding needs a sampleRate");
  }

  /** The server's `ready`, once the stream is open. */
  get ready() {
    return this.#ready;
  }

  /** Seconds of raw audio sent. */
  get position() {
    return this.#sentS;
  }

  /** Bytes that the browser has not sent yet. */
  get buffered() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** Connect and start the stream; resolves to the server's `ready`. Throws `MynaError`. */
  async open() {
    if (this.#state !== "new") throw new MynaError("usage", "a client can be opened once");
    this.#state = "opening";
    try {
      await this.#connect();
    } catch (error) {
      this.#state = "closed";
      throw error;
    }
    this.#state = "open";
    this.#pauseTimer = setInterval(() => this.#keepAlive(), KEEPALIVE_MS);
    return this.#ready;
  }

  /** Send audio: an Int16Array, or bytes in the format of the options. */
  send(audio) {
    if (this.#state !== "open") return;
    const data = ArrayBuffer.isView(audio) ? audio.buffer.slice(audio.byteOffset, audio.byteOffset + audio.byteLength) : audio;
    const start = this.#sentS;
    this.#sentS += this.#seconds(data.byteLength);
    this.#put(data, start, this.#sentS);
  }

  /** Wait until the browser's buffer is small enough to send more. */
  async drained() {
    while (this.buffered > MOST_BUFFERED && this.#state === "open") await new Promise((done) => setTimeout(done, 20));
  }

  /** Make all audio sent so far final; the server answers with a `finalized` of this id. */
  finalize(id = null) {
    this.#put(JSON.stringify({ type: "finalize", id }));
  }

  /** End the audio; resolves after the last final. */
  async close() {
    if (this.#state === "closed" || this.#state === "new") return;
    this.#put(JSON.stringify({ type: "close" }));
    this.#state = "closing";
    await new Promise((done) => this.#waiting.push(done));
  }

  /** Close the connection at once. */
  abort() {
    this.#end();
    this.#socket?.close();
  }

  get #raw() {
    return Boolean(this.#options.encoding);
  }

  #seconds(bytes) {
    if (!this.#raw) return 0;
    const sample = { linear16: 2, float32: 4, mulaw: 1, alaw: 1 }[this.#options.encoding] ?? 2;
    return bytes / sample / this.#options.channels / this.#options.sampleRate;
  }

  #put(data, start = null, end = null) {
    this.#kept.push({ number: this.#count++, data, start, end });
    this.#spokeAt = Date.now();
    if (this.#socket?.readyState === WebSocket.OPEN && this.#ready) this.#socket.send(data);
    this.#forget();
  }

  /** Drop kept messages that are acknowledged and whose audio is final. */
  #forget() {
    const oldest = this.#sentS - KEPT_S;
    const needed = (one) =>
      one.number >= this.#accounted || (one.end !== null && this.#raw && one.end > this.#finalS && one.end > oldest);
    const first = this.#kept.findIndex(needed);
    this.#kept.splice(0, first < 0 ? this.#kept.length : first);
  }

  #keepAlive() {
    if (this.#state === "open" && Date.now() - this.#spokeAt >= KEEPALIVE_MS) this.#put('{"type":"keepalive"}');
  }

  #address(resume) {
    const address = new URL("/v1/stream", this.#options.url);
    const { model, diarize, numSpeakers, minSpeakers, maxSpeakers } = this.#options;
    const asked = { diarize, num_speakers: numSpeakers, min_speakers: minSpeakers, max_speakers: maxSpeakers };
    if (model) address.searchParams.set("model", model);
    for (const [name, value] of Object.entries(diarize ? asked : {})) if (value !== undefined) address.searchParams.set(name, value);
    if (resume) {
      address.searchParams.set("resume", this.#ready.resume);
      address.searchParams.set("after", this.#number);
    }
    return address;
  }

  #start() {
    const { encoding, sampleRate, channels, multichannel, language, interim, endpointingMs } = this.#options;
    const start = { type: "start", interim, resume: true };
    if (encoding) Object.assign(start, { encoding, sample_rate: sampleRate, channels });
    if (multichannel) start.multichannel = true;
    if (language) start.language = language;
    if (endpointingMs !== undefined) start.endpointing_ms = endpointingMs;
    return JSON.stringify(start);
  }

  /** Open a socket and wait for `ready`; with `resume`, for the same stream. Throws `MynaError`. */
  async #connect(resume = false) {
    const address = this.#address(resume);
    const socketAddress = new URL(address);
    socketAddress.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(socketAddress, this.#options.key ? ["token", this.#options.key] : []);
    socket.binaryType = "arraybuffer";
    const said = new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "ready") resolve(message);
        else if (message.type === "error") reject(new MynaError(message.code, message.message));
      };
      socket.onclose = () => reject(new MynaError("disconnected", "the connection was lost"));
      socket.onopen = () => {
        if (resume) return;
        this.#count = 1;
        this.#accounted = this.#number = 0;
        socket.send(this.#start());
      };
    });
    try {
      const ready = await said;
      this.#account(ready);
      this.#ready = ready;
    } catch (error) {
      socket.onclose = socket.onmessage = null;
      socket.close();
      throw error.code === "disconnected" ? await this.#reason(address) : error;
    }
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = () => this.#lost(socket);
    this.#emit("ready", this.#ready);
  }

  /** Repeat the request over HTTP, because a browser hides the reason of a refused WebSocket. */
  async #reason(address) {
    const response = await ask(address, this.#options.key);
    return response.status === 426 ? new MynaError("disconnected", "the connection was lost") : await refusal(response);
  }

  #account(message) {
    if (message.number === undefined) return;
    this.#number = Math.max(this.#number, message.number);
    this.#accounted = Math.max(this.#accounted, message.received);
  }

  #take(message) {
    this.#account(message);
    if (message.type === "final") this.#finalS = Math.max(this.#finalS, message.end + this.#offsetS);
    this.#forget();
    switch (message.type) {
      case "progress":
        return;
      case "closed":
        this.#end();
        break;
      case "error":
        this.#emit("error", new MynaError(message.code, message.message));
        return;
      default:
        shift(message, this.#offsetS, this.#offsetSpeaker);
        for (const one of message.turns ?? message.words ?? []) this.#speakers = Math.max(this.#speakers, (one.speaker ?? -1) + 1);
    }
    this.#emit(message.type, message);
  }

  async #lost(socket) {
    if (socket !== this.#socket || this.#state === "closed") return;
    this.#emit("reconnecting", {});
    const until = Date.now() + GIVE_UP_MS;
    let pause = FIRST_PAUSE_MS;
    let resume = Boolean(this.#ready.resume);
    for (;;) {
      if (this.#state === "closed") return;
      try {
        if (resume) {
          await this.#connect(true);
          for (const one of this.#kept) if (one.number >= this.#accounted) this.#socket.send(one.data);
          this.#emit("reconnected", {});
          return;
        }
        await this.#restart();
        return;
      } catch (error) {
        const gone = error.status === 404 || error.status === 410;
        if (gone && resume && this.#raw) {
          resume = false; // the server does not know the stream any more: another one
          continue;
        }
        if ((error.status >= 400 && error.status < 500 && error.status !== 429) || Date.now() + pause > until) {
          this.#emit("error", error);
          this.#end();
          this.#emit("closed", { reason: error.code, seconds: this.#sentS });
          return;
        }
      }
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
  }

  /** Start another stream at the end of the last final, with the kept audio. */
  async #restart() {
    const again = this.#kept.filter((one) => one.end === null ? false : one.end > this.#finalS);
    const closing = this.#state === "closing";
    await this.#connect(false);
    this.#offsetS = again.length ? again[0].start : this.#sentS;
    this.#offsetSpeaker = this.#speakers;
    this.#kept = [];
    for (const one of again) this.#put(one.data, one.start, one.end);
    if (closing) this.#put(JSON.stringify({ type: "close" }));
    this.#emit("restarted", { from: this.#offsetS });
  }

  #end() {
    if (this.#state === "closed") return;
    this.#state = "closed";
    clearInterval(this.#pauseTimer);
    this.#kept = [];
    for (const done of this.#waiting.splice(0)) done();
  }

  #emit(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

/** Shift the times and the speakers of a message of a later stream. */
function shift(message, offsetS, offsetSpeaker) {
  if (!offsetS && !offsetSpeaker) return;
  for (const name of ["start", "end", "time", "last_word_end", "since"]) if (name in message) message[name] += offsetS;
  const labels = message.type === "speakers";
  for (const one of (labels ? message.turns : message.words) ?? []) {
    one.start += offsetS;
    one.end += offsetS;
    if (typeof one.speaker === "number") one.speaker += offsetSpeaker;
  }
  if (labels) message.words = message.words.map((speaker) => (speaker === null ? null : speaker + offsetSpeaker));
}

async function ask(address, key) {
  try {
    return await fetch(address, { headers: key ? { Authorization: `Token ${key}` } : {}, cache: "no-store" });
  } catch {
    throw new MynaError("unreachable", `No Myna server answers at ${new URL(address).origin}.`);
  }
}

async function refusal(response) {
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // not JSON: the answer is a proxy's
  }
  return new MynaError(told.code ?? "refused", told.message ?? `The server answered with HTTP ${response.status}.`, response.status);
}
