// Has an official SDK tell who speaks in a file, as told by a JSON object on standard input; prints its answers, one a line.
import { createReadStream, readFileSync } from "node:fs";
import { DeepgramClient } from "@deepgram/sdk";
import OpenAI from "openai";

const job = JSON.parse(readFileSync(0, "utf8"));
const say = (result) => process.stdout.write(JSON.stringify(result) + "\n");

async function deepgram() {
  const environment = { base: job.url, production: job.url, agent: job.url, agentRest: job.url };
  const client = new DeepgramClient({ apiKey: job.key, environment });
  say(await client.listen.v1.media.transcribeFile(createReadStream(job.audio), job.options));
}

async function openai() {
  const client = new OpenAI({ apiKey: job.key, baseURL: `${job.url}/v1`, maxRetries: 0 });
  const answer = await client.audio.transcriptions.create({ file: createReadStream(job.audio), ...job.options });
  if (!job.options.stream) return say(answer);
  for await (const event of answer) say(event);
}

await { deepgram, openai }[job.sdk]();
