// Drives turns through the official SDK as told by a JSON object on standard input; prints what happened, a JSON object a line.
import { readFileSync } from "node:fs";
import { DeepgramClient } from "@deepgram/sdk";

const job = JSON.parse(readFileSync(0, "utf8"));
const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const socketUrl = job.url.replace("http", "ws");
const client = new DeepgramClient({
  ...job.credentials,
  environment: { base: job.url, production: socketUrl, agent: socketUrl, agentRest: job.url },
});
const connection = await client.listen.v2.connect({ reconnectAttempts: 0, ...job.options });
let ended;
const closed = new Promise((resolve) => {
  connection.on("open", () => say({ event: "open" }));
  connection.on("message", (message) => {
    say({ event: "message", message });
    if (message.event === "EndOfTurn") ended();
  });
  connection.on("error", (error) => say({ event: "error", error: error.message }));
  connection.on("close", (close) => {
    say({ event: "close", code: close.code });
    resolve();
  });
});
connection.connect();
await connection.waitForOpen();
for (const { audio, configure, force } of job.steps) {
  const end = new Promise((resolve) => (ended = resolve));
  if (audio) {
    const pcm = readFileSync(audio);
    for (let start = 0; start < pcm.length; start += 2560) connection.sendMedia(pcm.subarray(start, start + 2560));
  }
  if (force) connection.sendForceEndTurn({ type: "ForceEndTurn" });
  if (configure) connection.sendConfigure({ type: "Configure", ...configure });
  else await end;
}
connection.sendCloseStream({ type: "CloseStream" });
await closed;
process.exit(0);
