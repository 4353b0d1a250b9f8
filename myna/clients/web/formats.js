// A transcript as text, subtitles or JSON. `who` returns the name of a line's speaker or channel; "" if there is one only.

/** Return the words as lines of about 80 characters at most, each of one speaker and without a pause inside. */
function lines(finals, who) {
  const found = [];
  for (const { channel, words } of finals) {
    let line = null;
    for (const word of words) {
      const written = word.punctuated_word;
      const speaker = word.speaker ?? line?.speaker ?? null;
      const another = line && line.speaker !== null && line.speaker !== speaker;
      if (!line || another || line.text.length + written.length > 80 || word.start - line.end > 1) {
        found.push((line = { channel, speaker, start: word.start, end: word.end, text: written }));
      } else {
        line.speaker = speaker;
        line.text += space(line.text, written) + written;
        line.end = word.end;
      }
    }
  }
  found.sort((one, other) => one.start - other.start);
  let before = "";
  for (const line of found) {
    line.who = who(line.channel, line.speaker);
    line.prefix = line.who && line.who !== before ? `${line.who}: ` : "";
    before = line.who;
  }
  return found;
}

export function asText(finals, who) {
  return lines(finals, who).map(({ prefix, text }) => prefix + text).join("\n");
}

export function asSrt(finals, who) {
  return lines(finals, who)
    .map(({ start, end, prefix, text }, index) => `${index + 1}\n${stamp(start, ",")} --> ${stamp(end, ",")}\n${prefix}${text}\n`)
    .join("\n");
}

export function asVtt(finals, who) {
  const voice = ({ who, text }) => (who ? `<v ${escaped(who)}>` : "") + escaped(text);
  return `WEBVTT\n\n${lines(finals, who).map((line) => `${stamp(line.start, ".")} --> ${stamp(line.end, ".")}\n${voice(line)}\n`).join("\n")}`;
}

/** `name` returns the name of a speaker of a channel. */
export function asJson(finals, name) {
  const known = new Map();
  for (const { channel, words } of finals) {
    for (const { speaker } of words) {
      if (typeof speaker === "number") known.set(`${channel}/${speaker}`, { channel, speaker, name: name(channel, speaker) });
    }
  }
  return JSON.stringify({ segments: finals, ...(known.size ? { speakers: [...known.values()] } : {}) }, null, 1);
}

const UNSPACED = "[\\p{sc=Han}\\p{sc=Hira}\\p{sc=Kana}\\p{sc=Bopo}\\p{sc=Thai}\\p{sc=Laoo}\\p{sc=Tibt}\\p{sc=Mymr}\\p{sc=Khmr}\\u3000-\\u303f\\uff00-\\uff9f]";
const ENDS = new RegExp(`${UNSPACED}$`, "u"), BEGINS = new RegExp(`^${UNSPACED}`, "u");

/** Return what stands between two words: nothing if both are written in a script without spaces. */
export function space(before, after) {
  return ENDS.test(before) && BEGINS.test(after) ? "" : " ";
}

function stamp(s, point) {
  const ms = Math.round(1000 * s);
  const part = (value, digits) => String(Math.floor(value)).padStart(digits, "0");
  return `${part(ms / 3_600_000, 2)}:${part((ms / 60_000) % 60, 2)}:${part((ms / 1000) % 60, 2)}${point}${part(ms % 1000, 3)}`;
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
