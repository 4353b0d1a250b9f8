// The page: connects the microphone or a file to a live client, and its messages to the transcript.

import { MynaClient, MynaError, models } from "./myna.js";
import { Transcript, clock } from "./transcript.js";

const FILE_PIECE = 64 * 1024;
const KEY = "myna-key";
const part = (id) => document.getElementById(id);
const transcript = new Transcript(part("transcript"), part("announcer"), part("detail"));
let client = null;
let stopAudio = null;
let beganAt = null; // wall time at which the first sample was spoken
let known = [];

function status(text) {
  part("status").textContent = text;
}

function problem(error) {
  const shown = part("problem");
  shown.hidden = !error;
  const refused = part("key").value ? "The server does not know this API key." : "The server requires an API key.";
  shown.textContent = !error ? "" : error.status === 401 ? refused : error.message;
}

async function loadModels() {
  try {
    known = await models({ key: part("key").value });
    problem(null);
  } catch (error) {
    known = [];
    problem(error);
  }
  const chosen = part("model").value;
  part("model").replaceChildren(...known.map(({ id }) => new Option(id, id)));
  const first = known.find(({ id }) => id === chosen) ?? known.find((model) => model.default);
  if (first) part("model").value = first.id;
  loadLanguages();
}

function loadLanguages() {
  const model = known.find(({ id }) => id === part("model").value);
  const names = new Intl.DisplayNames(["en"], { type: "language" });
  const languages = (model?.languages ?? []).map((code) => new Option(names.of(code) ?? code, code));
  part("language").replaceChildren(...(languages.length === 1 ? [] : [new Option("Automatic", "")]), ...languages);
}

function options(more) {
  return { key: part("key").value, model: part("model").value, language: part("language").value, diarize: part("speakers").checked, ...more };
}

/** Open a stream and show its messages on the page. Throws `MynaError`. */
async function begin(more) {
  problem(null);
  transcript.clear();
  part("hint").hidden = true;
  beganAt = null;
  const opened = new MynaClient(options(more));
  const on = (kind, act) => opened.addEventListener(kind, ({ detail }) => act(detail));
  on("speech_started", () => speaking(true));
  on("utterance_end", () => speaking(false));
  on("partial", (message) => {
    transcript.partial(message);
    late("partial-latency", message.end);
  });
  on("final", (message) => {
    transcript.final(message);
    if (message.cause === "endpoint" && message.words.length) late("final-latency", message.end);
    if (message.cause === "endpoint") speaking(false);
    for (const button of document.querySelectorAll("[data-form]")) button.disabled = transcript.empty;
  });
  on("speakers", (message) => transcript.relabel(message));
  on("reconnecting", () => status("The connection was lost; reconnecting…"));
  on("reconnected", () => status("Listening"));
  on("restarted", () => {
    transcript.settle();
    status("Listening, to a server that was restarted");
  });
  on("error", problem);
  on("closed", () => finished(opened));
  client = opened;
  status("Connecting…");
  await opened.open();
  return opened;
}

function finished(ended) {
  if (client !== ended) return;
  client = null;
  stopAudio?.();
  stopAudio = null;
  transcript.settle();
  speaking(false);
  part("level").value = 0;
  part("microphone").textContent = "Start microphone";
  part("microphone").setAttribute("aria-pressed", "false");
  part("microphone").disabled = false;
  status(transcript.empty ? "No speech was found" : "Done");
}

function failed(error) {
  problem(error instanceof MynaError ? error : new MynaError("audio", error.message));
  if (client) finished(client);
  status("Not listening");
}

async function listen() {
  const media = navigator.mediaDevices;
  if (!media) throw new MynaError("audio", "The browser gives pages a microphone only over HTTPS or on the server's machine.");
  const stream = await media.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: false } });
  let context = new AudioContext({ sampleRate: 16_000 });
  let source;
  try {
    source = context.createMediaStreamSource(stream);
  } catch {
    await context.close(); // some browsers do not resample a microphone: the server does
    context = new AudioContext();
    source = context.createMediaStreamSource(stream);
  }
  stopAudio = () => {
    for (const track of stream.getTracks()) track.stop();
    context.close();
  };
  await context.audioWorklet.addModule("web/capture.js");
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  const opened = await begin({ encoding: "linear16", sampleRate: context.sampleRate });
  capture.port.onmessage = ({ data: { samples, level, peak } }) => {
    if (client !== opened) return;
    opened.send(samples);
    const began = performance.now() - 1000 * opened.position;
    beganAt = beganAt === null ? began : Math.min(beganAt, began);
    part("level").value = Math.min(1, 4 * level);
    part("level").textContent = `${Math.round(100 * peak)} %`;
    part("heard").textContent = clock(opened.position);
  };
  source.connect(capture);
  part("microphone").textContent = "Stop";
  part("microphone").setAttribute("aria-pressed", "true");
  status("Listening");
}

async function stop() {
  part("microphone").disabled = true;
  status("Waiting for the last words…");
  stopAudio?.();
  stopAudio = null;
  await client?.close();
}

async function transcribe(file) {
  const opened = await begin({ multichannel: true });
  status(`Transcribing ${file.name}`);
  for (let start = 0; start < file.size && client === opened; start += FILE_PIECE) {
    opened.send(await file.slice(start, start + FILE_PIECE).arrayBuffer());
    await opened.drained();
  }
  await opened.close();
}

async function replace(act) {
  try {
    if (client) {
      const before = client;
      before.abort();
      finished(before);
    }
    await act();
  } catch (error) {
    stopAudio?.();
    stopAudio = null;
    failed(error);
  }
}

function speaking(now) {
  part("voice").classList.toggle("active", now);
  part("voice").setAttribute("aria-label", now ? "speech" : "no speech");
}

function late(id, endS) {
  if (beganAt === null) return;
  part(id).textContent = `${Math.max(0, Math.round(performance.now() - beganAt - 1000 * endS))} ms`;
}

function download(form) {
  const [kind, ending] = { text: ["text/plain", "txt"], srt: ["application/x-subrip", "srt"], vtt: ["text/vtt", "vtt"], json: ["application/json", "json"] }[form];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([transcript[form]], { type: kind }));
  link.download = `transcript.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

part("microphone").addEventListener("click", () => (client && stopAudio ? stop() : replace(listen)));
part("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) replace(() => transcribe(file));
});
part("clear").addEventListener("click", () => {
  transcript.clear();
  part("hint").hidden = client !== null;
  for (const button of document.querySelectorAll("[data-form]")) button.disabled = true;
});
part("key").value = sessionStorage.getItem(KEY) ?? "";
part("key").addEventListener("change", ({ target }) => {
  sessionStorage.setItem(KEY, target.value);
  loadModels();
});
part("model").addEventListener("change", loadLanguages);
part("controls").addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-form]")) button.addEventListener("click", () => download(button.dataset.form));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part("paper").classList.add("dropping");
  });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => part("paper").classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) replace(() => transcribe(file));
});
loadModels();
