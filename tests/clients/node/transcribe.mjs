// Has the AI SDK transcribe a file as told by a JSON object on standard input; prints the result, or its error, as JSON.
import { readFileSync } from "node:fs";
import { createDeepgram } from "@ai-sdk/deepgram";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_transcribe as transcribe } from "ai";

const job = JSON.parse(readFileSync(0, "utf8"));
const say = (result) => process.stdout.write(JSON.stringify(result) + "\n");
// The Deepgram provider takes no base address: what it sends to Deepgram goes to the server instead.
const here = (url, how) => fetch(String(url).replace("https://api.deepgram.com", job.url), how);
const provider =
  job.provider === "openai"
    ? createOpenAI({ apiKey: job.key, baseURL: `${job.url}/v1` })
    : createDeepgram({ apiKey: job.key, fetch: here });

try {
  const { text, segments, language, durationInSeconds } = await transcribe({
    model: provider.transcription(job.model),
    audio: readFileSync(job.audio),
    providerOptions: job.options ? { [job.provider]: job.options } : undefined,
    maxRetries: 0,
  });
  say({ text, segments, language, durationInSeconds });
} catch (error) {
  say({ error: error.message, status: error.statusCode });
}
