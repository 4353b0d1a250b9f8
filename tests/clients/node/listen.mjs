// Drives the official SDK as told by a JSON object on standard input; prints what happened, a JSON object a line.
import { readFileSync } from "node:fs";
import { DeepgramClient } from "@deepgram/sdk";
import WebSocket from "ws";

const job = JSON.parse(readFileSync(0, "utf8"));
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const socketUrl = job.url.replace("http", "ws");

async function once() {
  const client = new DeepgramClient({
    ...job.credentials,
    environment: { base: job.url, production: socketUrl, agent: socketUrl, agentRest: job.url },
  });
  const connection = await client.listen.v1.connect({ reconnectAttempts: job.reconnectAttempts ?? 30, ...job.options });
  const finalized = [];
  let interim;
  const interims = new Promise((resolve) => (interim = resolve));
  const closed = new Promise((resolve) => {
    connection.on("open", () => say({ event: "open" }));
    connection.on("message", (message) => {
      say({ event: "message", message });
      if (message.from_finalize) finalized.shift()?.();
      if (message.is_final === false) interim();
    });
    connection.on("error", (error) => {
      say({ event: "error", error: error.message });
      if (job.endOnError) resolve();
    });
    connection.on("close", (close) => {
      say({ event: "close", code: close.code, reason: close.reason });
      resolve();
    });
  });
  connection.connect();
  if (!job.endOnError) {
    await connection.waitForOpen();
    for (const path of job.audio) {
      if (path === "finalize") {
        const answered = new Promise((resolve) => finalized.push(resolve));
        connection.sendFinalize({ type: "Finalize" });
        await answered;
      } else if (path === "interim") {
        await interims;
      } else if (path === "keepalive") {
        connection.sendKeepAlive({ type: "KeepAlive" });
        await new Promise((resolve) => setTimeout(resolve, 400));
      } else {
        const audio = readFileSync(path);
        for (let start = 0; start < audio.length; start += job.chunk ?? 6400) {
          connection.sendMedia(audio.subarray(start, start + (job.chunk ?? 6400)));
        }
      }
    }
    connection.sendCloseStream({ type: "CloseStream" });
  }
  await closed;
  await new Promise((resolve) => setTimeout(resolve, job.lingerMs ?? 0)); // a reconnect would come now
}

// As a browser does: no headers, the key among the sub-protocols.
function browser() {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${socketUrl}/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000`, job.protocols);
    socket.on("open", () => {
      say({ event: "open", protocol: socket.protocol });
      socket.send(JSON.stringify({ type: "CloseStream" }));
    });
    socket.on("message", (data) => say({ event: "message", message: JSON.parse(data) }));
    socket.on("error", (error) => say({ event: "error", error: error.message }));
    socket.on("close", (code) => {
      say({ event: "close", code });
      resolve();
    });
  });
}

for (let round = 0; round < (job.rounds ?? 1); round++) await (job.protocols ? browser() : once());
process.exit(0);
