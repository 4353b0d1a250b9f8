// The transcript: final segments and the interim segment of each channel, shown on the page and exported in several formats.

export class Transcript {
  finals = [];
  #partials = new Map();
  #root;
  #announcer;
  #elements = new Map(); // channel → the element of its interim words
  #paragraph = null;
  #channel = null;
  #broken = true; // the next words begin a paragraph
  #detail;

  constructor(root, announcer, detail) {
    this.#root = root;
    this.#announcer = announcer;
    this.#detail = detail;
    root.addEventListener("pointerover", ({ target }) => this.#tell(target));
    root.addEventListener("focusin", ({ target }) => this.#tell(target));
    root.addEventListener("keydown", (event) => this.#step(event));
  }

  clear() {
    this.finals = [];
    this.#partials.clear();
    this.#elements.clear();
    this.#root.replaceChildren();
    this.#announcer.replaceChildren();
    this.#broken = true;
    this.#channel = null;
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
    if (message.words.length) {
      const paragraph = this.#open(message);
      paragraph.append(...spans(message.words, () => "word final"));
      const line = document.createElement("p");
      line.textContent = message.text;
      this.#announcer.append(line);
      while (this.#announcer.childElementCount > 20) this.#announcer.firstChild.remove();
    }
    if (message.cause === "endpoint") this.#broken = true;
    this.#follow();
  }

  /** Remove the interim words that will not become final. */
  settle() {
    for (const element of this.#elements.values()) element.remove();
    this.#elements.clear();
    this.#partials.clear();
  }

  #open(message) {
    if (this.#broken || !this.#paragraph || this.#channel !== message.channel) {
      const block = document.createElement("div");
      block.className = "utterance";
      const time = document.createElement("span");
      time.className = "time";
      time.textContent = clock(message.words[0].start);
      block.append(time);
      if (message.channel > 0 || this.finals.some(({ channel }) => channel > 0)) {
        const label = document.createElement("span");
        label.className = `channel channel-${message.channel % 4}`;
        label.textContent = `Channel ${message.channel + 1}`;
        block.append(label);
      }
      this.#paragraph = document.createElement("p");
      block.append(this.#paragraph);
      this.#root.append(block);
      this.#channel = message.channel;
      this.#broken = false;
    }
    return this.#paragraph;
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
    return this.#lines().map(({ channel, text }) => (this.#several ? `Channel ${channel + 1}: ${text}` : text)).join("\n");
  }

  get json() {
    return JSON.stringify({ segments: this.finals }, null, 1);
  }

  get srt() {
    return this.#lines().map((line, index) => `${index + 1}\n${stamp(line.start, ",")} --> ${stamp(line.end, ",")}\n${line.text}\n`).join("\n");
  }

  get vtt() {
    const voice = (line) => (this.#several ? `<v Channel ${line.channel + 1}>${escaped(line.text)}` : escaped(line.text));
    return `WEBVTT\n\n${this.#lines().map((line) => `${stamp(line.start, ".")} --> ${stamp(line.end, ".")}\n${voice(line)}\n`).join("\n")}`;
  }

  get #several() {
    return this.finals.some(({ channel }) => channel > 0);
  }

  /** Return the words as subtitle lines of about 80 characters at most, without a pause inside. */
  #lines() {
    const lines = [];
    for (const { channel, words } of this.finals) {
      let line = null;
      for (const word of words) {
        const written = word.punctuated_word;
        const full = line && (line.text.length + written.length > 80 || word.start - line.end > 1);
        if (!line || full) lines.push((line = { channel, start: word.start, end: word.end, text: written }));
        else {
          line.text += space(line.text, written) + written;
          line.end = word.end;
        }
      }
    }
    return lines.sort((one, other) => one.start - other.start);
  }
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

const UNSPACED = "[\\p{sc=Han}\\p{sc=Hira}\\p{sc=Kana}\\p{sc=Bopo}\\p{sc=Thai}\\p{sc=Laoo}\\p{sc=Tibt}\\p{sc=Mymr}\\p{sc=Khmr}\\u3000-\\u303f\\uff00-\\uff9f]";
const ENDS = new RegExp(`${UNSPACED}$`, "u"), BEGINS = new RegExp(`^${UNSPACED}`, "u");

/** Return what stands between two words: nothing if both are written in a script without spaces. */
function space(before, after) {
  return ENDS.test(before) && BEGINS.test(after) ? "" : " ";
}

/** Return seconds as minutes and seconds. */
export function clock(s) {
  return `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
}

function stamp(s, point) {
  const ms = Math.round(1000 * s);
  const part = (value, digits) => String(Math.floor(value)).padStart(digits, "0");
  return `${part(ms / 3_600_000, 2)}:${part((ms / 60_000) % 60, 2)}:${part((ms / 1000) % 60, 2)}${point}${part(ms % 1000, 3)}`;
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
