// The transcript on the page: final segments, the interim segment of each channel, and who speaks.

import { asJson, asSrt, asText, asVtt, space } from "./formats.js";
import { Names } from "./speakers.js";

export class Transcript {
  finals = [];
  #partials = new Map();
  #root;
  #announcer;
  #elements = new Map(); // channel → the element of its interim words
  #paragraph = null;
  #channel = null;
  #speaker = null; // of the open paragraph
  #broken = true; // the next words begin a paragraph
  #announced = ""; // who spoke the line announced last
  #detail;
  #names = new Names();

  constructor(root, announcer, detail) {
    this.#root = root;
    this.#announcer = announcer;
    this.#detail = detail;
    root.addEventListener("pointerover", ({ target }) => this.#tell(target));
    root.addEventListener("focusin", ({ target }) => this.#tell(target));
    root.addEventListener("keydown", (event) => this.#step(event));
  }

  clear() {
    this.#endRenaming();
    this.finals = [];
    this.#names.clear();
    this.#partials.clear();
    this.#announcer.replaceChildren();
    this.#announced = "";
    this.#blank();
  }

  get empty() {
    return !this.finals.some(({ words }) => words.length);
  }

  /** Show words that may still change; the first `stable` have settled. */
  partial(message) {
    this.#partials.set(message.channel, message);
    const element = this.#interim(message.channel);
    element.replaceChildren(...spans(message.words, (_, index) => (index < message.stable ? "word stable" : "word interim")));
    this.#follow();
  }

  final(message) {
    this.finals.push(message);
    this.#partials.delete(message.channel);
    this.#elements.get(message.channel)?.remove();
    this.#elements.delete(message.channel);
    this.#show(message);
    if (message.words.length) this.#announce(message);
    this.#follow();
  }

  /** Relabel the last words of a channel, as a `speakers` message tells. Names that were given stay with the people. */
  relabel({ channel, words: labels }) {
    this.#endRenaming();
    const words = this.finals.filter((final) => final.channel === channel).flatMap((final) => final.words);
    const last = words.slice(-labels.length || words.length);
    const now = labels.slice(labels.length - last.length);
    this.#names.follow(channel, words.map((word, index) => {
      const at = index - (words.length - last.length);
      return [word.speaker ?? null, at < 0 ? (word.speaker ?? null) : now[at]];
    }));
    last.forEach((word, index) => (word.speaker = now[index]));
    this.#blank();
    for (const final of this.finals) this.#show(final);
    this.#follow();
  }

  /** Remove the interim words that will not become final. */
  settle() {
    for (const element of this.#elements.values()) element.remove();
    this.#elements.clear();
    this.#partials.clear();
  }

  #blank() {
    this.#root.replaceChildren();
    this.#elements.clear();
    this.#paragraph = this.#channel = this.#speaker = null;
    this.#broken = true;
  }

  #show(message) {
    for (const words of speeches(message.words)) {
      this.#open(message.channel, words).append(...spans(words, () => "word final"));
    }
    if (message.cause === "endpoint") this.#broken = true;
  }

  /** Return the paragraph for the next words, which have one speaker. */
  #open(channel, words) {
    const speaker = words.find((word) => typeof word.speaker === "number")?.speaker ?? null;
    const another = speaker !== null && this.#speaker !== null && speaker !== this.#speaker;
    if (this.#broken || !this.#paragraph || this.#channel !== channel || another) {
      const block = document.createElement("div");
      block.className = "utterance";
      const time = document.createElement("span");
      time.className = "time";
      time.textContent = clock(words[0].start);
      block.append(time);
      if (channel > 0 || this.#several) {
        const label = document.createElement("span");
        label.className = `channel channel-${channel % 4}`;
        label.textContent = `Channel ${channel + 1}`;
        block.append(label);
      }
      if (speaker !== null) block.append(this.#names.button(channel, speaker, (name) => this.#rename(channel, speaker, name)));
      this.#paragraph = document.createElement("p");
      block.append(this.#paragraph);
      this.#root.append(block);
      this.#channel = channel;
      this.#speaker = speaker;
      this.#broken = false;
    } else if (speaker !== null && this.#speaker === null) {
      const button = this.#names.button(channel, speaker, (name) => this.#rename(channel, speaker, name));
      this.#paragraph.before(button);
      this.#speaker = speaker;
    }
    return this.#paragraph;
  }

  #rename(channel, speaker, name) {
    this.#names.give(channel, speaker, name);
    this.#names.rewrite(this.#root);
  }

  /** Take the name that is being typed before its speaker's number may change. */
  #endRenaming() {
    this.#root.querySelector(".speaker-name")?.blur();
  }

  #announce(message) {
    for (const words of speeches(message.words)) {
      const speaker = words.find((word) => typeof word.speaker === "number")?.speaker ?? null;
      const who = speaker === null ? "" : this.#who(message.channel, speaker);
      const line = document.createElement("p");
      line.textContent = (who && who !== this.#announced ? `${who}: ` : "") + written(words);
      this.#announced = who || this.#announced;
      this.#announcer.append(line);
    }
    while (this.#announcer.childElementCount > 20) this.#announcer.firstChild.remove();
  }

  #interim(channel) {
    let element = this.#elements.get(channel);
    if (!element) {
      element = document.createElement("p");
      element.className = "open";
      element.setAttribute("aria-hidden", "true");
      this.#elements.set(channel, element);
    }
    this.#root.append(element); // below everything that is final
    return element;
  }

  #follow() {
    const box = this.#root.parentElement;
    if (box.scrollHeight - box.scrollTop - box.clientHeight < 200) box.scrollTop = box.scrollHeight;
  }

  #tell(target) {
    if (target.classList?.contains("word")) this.#detail.textContent = target.title;
  }

  #step(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const words = [...this.#root.querySelectorAll(".word.final")];
    if (!step || !words.length) return;
    const now = words.indexOf(document.activeElement);
    const next = words[Math.max(0, Math.min(words.length - 1, now < 0 ? 0 : now + step))];
    next.focus();
    event.preventDefault();
  }

  get text() {
    return asText(this.finals, this.#who);
  }

  get json() {
    return asJson(this.finals, (channel, speaker) => this.#names.of(channel, speaker));
  }

  get srt() {
    return asSrt(this.finals, this.#who);
  }

  get vtt() {
    return asVtt(this.finals, this.#who);
  }

  get #several() {
    return this.finals.some(({ channel }) => channel > 0);
  }

  /** Return who says a line: its channel, if there are several, and its speaker, if known. */
  #who = (channel, speaker) =>
    [this.#several ? `Channel ${channel + 1}` : "", speaker === null ? "" : this.#names.of(channel, speaker)].filter(Boolean).join(", ");
}

/** Return the words of one speaker after another; a word without a speaker belongs to the one before it. */
function speeches(words) {
  const found = [];
  let speaker = null;
  for (const word of words) {
    const another = typeof word.speaker === "number" && speaker !== null && word.speaker !== speaker;
    if (!found.length || another) found.push([]);
    speaker = word.speaker ?? (another ? null : speaker);
    found.at(-1).push(word);
  }
  return found;
}

function written(words) {
  return words.reduce((text, { punctuated_word: next }) => (text ? text + space(text, next) : "") + next, "");
}

function spans(words, kind) {
  return words.flatMap((word, index) => {
    const span = document.createElement("span");
    span.className = kind(word, index);
    span.textContent = word.punctuated_word;
    span.title = `${word.punctuated_word}: ${word.start.toFixed(2)} to ${word.end.toFixed(2)} s, confidence ${Math.round(100 * word.confidence)} %`;
    span.tabIndex = -1;
    if (word.confidence < 0.5) span.classList.add("unsure");
    const next = words[index + 1]?.punctuated_word;
    return [span, next === undefined ? " " : space(word.punctuated_word, next)];
  });
}

/** Return seconds as minutes and seconds. */
export function clock(s) {
  return `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
}
