// The names of speakers: "Speaker 1" and so on until somebody renames them.

const LONGEST_NAME = 60;
const COLOURS = 7;

export class Names {
  #given = new Map(); // channel and speaker → name

  clear() {
    this.#given.clear();
  }

  /** Return a speaker's name. Messages count speakers from 0, readers from 1. */
  of(channel, speaker) {
    return this.#given.get(key(channel, speaker)) ?? `Speaker ${speaker + 1}`;
  }

  /** Name a speaker; an empty name restores the first one. */
  give(channel, speaker, name) {
    const tidy = name.replace(/\s+/g, " ").trim().slice(0, LONGEST_NAME);
    if (tidy) this.#given.set(key(channel, speaker), tidy);
    else this.#given.delete(key(channel, speaker));
  }

  /** Keep the names of a channel with the people when its labels change: `pairs` are the old and the new label of each word. */
  follow(channel, pairs) {
    const shared = new Map();
    for (const [before, now] of pairs) {
      if (before === null || now === null) continue;
      const pair = `${before}/${now}`;
      shared.set(pair, (shared.get(pair) ?? 0) + 1);
    }
    const olds = new Set(), news = new Set(), moved = [];
    for (const [pair] of [...shared].sort(([, one], [, other]) => other - one)) {
      const [before, now] = pair.split("/");
      if (olds.has(before) || news.has(now)) continue;
      olds.add(before);
      news.add(now);
      const name = this.#given.get(key(channel, before));
      if (name !== undefined) moved.push([key(channel, now), name]);
    }
    for (const one of [...this.#given.keys()]) if (one.startsWith(`${channel}/`)) this.#given.delete(one);
    for (const [one, name] of moved) this.#given.set(one, name);
  }

  /** Return the button with a speaker's name; `renamed` is called with a new name. */
  button(channel, speaker, renamed) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `speaker speaker-${speaker % COLOURS}`;
    button.dataset.speaker = key(channel, speaker);
    this.#write(button, channel, speaker);
    button.addEventListener("click", () => this.#edit(button, channel, speaker, renamed));
    return button;
  }

  /** Write the present names on all buttons below an element. */
  rewrite(root) {
    for (const button of root.querySelectorAll("button.speaker")) {
      const [channel, speaker] = button.dataset.speaker.split("/").map(Number);
      this.#write(button, channel, speaker);
    }
  }

  #write(button, channel, speaker) {
    button.textContent = this.of(channel, speaker);
    button.setAttribute("aria-label", `${this.of(channel, speaker)}, rename`);
  }

  #edit(button, channel, speaker, renamed) {
    const field = document.createElement("input");
    field.className = "speaker-name";
    field.maxLength = LONGEST_NAME;
    field.value = this.of(channel, speaker);
    field.setAttribute("aria-label", `Name of ${this.of(channel, speaker)}`);
    let open = true;
    const end = (take) => {
      if (!open) return;
      open = false; // removing a focused field blurs it, which ends it again
      const focused = document.activeElement === field;
      field.replaceWith(button);
      if (focused) button.focus();
      if (take) renamed(field.value);
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation(); // the arrow keys move in the name, not among the words
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault(); // the key would press the button that has the focus next
      end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    button.replaceWith(field);
    field.focus();
    field.select();
  }
}

function key(channel, speaker) {
  return `${channel}/${speaker}`;
}
