// The insides of a line of Markdown: emphasis, code, links.
//
// Pure: text in, a tree out. A node is a string or {t, …}: em, strong and del with children `c`,
// code with `text`, link with `href` and `c`, br. HTML is text like any other. A link leads to the
// web or to a letter, or it is no link.

const DEEPEST = 12;
const MOST_DELIMITERS = 2000; // in one paragraph; beyond that, somebody is playing

const ESCAPABLE = /[!-/:-@[-`{-~]/;
const PLAIN = /[^\\`<![\]*_~\n&h]+/y;
const ADDRESS = /https?:\/\/[^\s<>"'`\]]+/iy;
const ANGLED = /<(https?:\/\/[^\s<>]+|mailto:[^\s<>]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>/iy;
const BREAK = /<br\s*\/?>/iy;
const ENTITY = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|(amp|lt|gt|quot|apos|nbsp|hellip|mdash|ndash|copy|rarr|larr|times));/iy;
const TARGET = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'))?\s*\)/y;
const NAMED = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", mdash: "—",
  ndash: "–", copy: "©", rarr: "→", larr: "←", times: "×",
};

// Where a link may lead: the address, or null.
export function safeAddress(raw) {
  const address = raw.replace(/[\u0000-\u0020\u007f]/g, "");
  return /^(?:https?:\/\/[^/]|mailto:[^/])/i.test(address) ? address : null;
}

function match(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

export function parseInline(text, depth = 0) {
  return depth > DEEPEST ? [text] : new Scanner(text, depth).run();
}

class Scanner {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.out = [];
    this.brackets = []; // of those still open: where in `out`, whether an image
    this.missing = new Set(); // lengths of backtick runs that are known not to be closed
    this.delimiters = 0;
  }

  run() {
    const { text } = this;
    let at = 0;
    while (at < text.length) at = this.step(at);
    return emphasised(this.out);
  }

  // Take what is at `at`; return where it ends.
  step(at) {
    const { text } = this;
    const plain = match(PLAIN, text, at);
    if (plain) return this.say(plain[0], at + plain[0].length);
    switch (text[at]) {
      case "\\": return this.escape(at);
      case "`": return this.code(at);
      case "<": return this.angled(at);
      case "&": return this.entity(at);
      case "\n": return this.newline(at);
      case "*": case "_": case "~": return this.delimiter(at);
      case "[": return this.open(at, 1, false);
      case "!": return text[at + 1] === "[" ? this.open(at, 2, true) : this.say("!", at + 1);
      case "]": return this.close(at);
      default: return this.address(at);
    }
  }

  say(text, end) {
    this.out.push(text);
    return end;
  }

  escape(at) {
    const next = this.text[at + 1];
    if (next === "\n") return this.say({ t: "br" }, at + 2);
    return next && ESCAPABLE.test(next) ? this.say(next, at + 2) : this.say("\\", at + 1);
  }

  code(at) {
    const { text } = this;
    let end = at;
    while (text[end] === "`") end += 1;
    const size = end - at;
    for (let from = end; !this.missing.has(size); ) {
      const start = text.indexOf("`", from);
      if (start < 0) break;
      from = start;
      while (text[from] === "`") from += 1;
      if (from - start !== size) continue;
      let inside = text.slice(end, start).replace(/\n/g, " ");
      if (/^ .*[^ ].* $/.test(inside)) inside = inside.slice(1, -1);
      return this.say({ t: "code", text: inside }, from);
    }
    this.missing.add(size);
    return this.say("`".repeat(size), end);
  }

  angled(at) {
    const found = match(ANGLED, this.text, at);
    if (found) {
      const named = found[1];
      const href = safeAddress(/^(https?|mailto):/i.test(named) ? named : `mailto:${named}`);
      if (href) return this.say({ t: "link", href, c: [named] }, at + found[0].length);
    }
    const broken = match(BREAK, this.text, at);
    return broken ? this.say({ t: "br" }, at + broken[0].length) : this.say("<", at + 1);
  }

  entity(at) {
    const found = match(ENTITY, this.text, at);
    if (!found) return this.say("&", at + 1);
    const [whole, decimal, hex, name] = found;
    const point = decimal ? Number(decimal) : parseInt(hex, 16);
    const sound = point > 0 && point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff);
    const said = name ? NAMED[name.toLowerCase()] : sound ? String.fromCodePoint(point) : "\ufffd";
    return this.say(said, at + whole.length);
  }

  newline(at) {
    const last = this.out[this.out.length - 1];
    if (typeof last === "string" && last.endsWith("  ")) {
      this.out[this.out.length - 1] = last.trimEnd();
      return this.say({ t: "br" }, at + 1);
    }
    return this.say("\n", at + 1);
  }

  address(at) {
    const found = /\w/.test(this.text[at - 1] ?? " ") ? null : match(ADDRESS, this.text, at);
    if (!found) return this.say(this.text[at], at + 1);
    let [shown] = found;
    shown = shown.replace(/[.,:;!?*_~]+$/, "");
    while (shown.endsWith(")") && shown.split("(").length < shown.split(")").length) {
      shown = shown.slice(0, -1);
    }
    const href = safeAddress(shown);
    const inLink = this.brackets.some((bracket) => bracket.active);
    const node = href && !inLink ? { t: "link", href, c: [shown] } : shown;
    return this.say(node, at + shown.length);
  }

  // Emphasis opens before a word and closes after one; an underscore never inside one
  // (CommonMark 0.31, 6.2).
  delimiter(at) {
    const { text } = this;
    const mark = text[at];
    let end = at;
    while (text[end] === mark) end += 1;
    const size = end - at;
    this.delimiters += 1;
    if (this.delimiters > MOST_DELIMITERS || (mark === "~" && size !== 2)) {
      return this.say(text.slice(at, end), end);
    }
    const before = text[at - 1] ?? " ";
    const after = text[end] ?? " ";
    const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
    const [signBefore, signAfter] = [/[\p{P}\p{S}]/u.test(before), /[\p{P}\p{S}]/u.test(after)];
    const left = !spaceAfter && (!signAfter || spaceBefore || signBefore);
    const right = !spaceBefore && (!signBefore || spaceAfter || signAfter);
    const word = mark === "_";
    const opens = left && (!word || !right || signBefore);
    const closes = right && (!word || !left || signAfter);
    return this.say({ t: "mark", mark, size, opens, closes }, end);
  }

  open(at, size, image) {
    const text = this.text.slice(at, at + size);
    this.brackets.push({ index: this.out.length, image, active: true });
    if (this.brackets.length > 200) this.brackets.shift();
    return this.say(text, at + size);
  }

  close(at) {
    const bracket = this.brackets.pop();
    const target = bracket?.active ? match(TARGET, this.text, at + 1) : null;
    if (!target) return this.say("]", at + 1);
    const inside = emphasised(this.out.splice(bracket.index).slice(1));
    const raw = (target[1] ?? target[2] ?? "").replace(/\\([!-/:-@[-`{-~])/g, "$1");
    const href = safeAddress(raw);
    const shown = inside.length || !href ? inside : [href];
    if (href) this.out.push({ t: "link", href, image: bracket.image, c: shown });
    else this.out.push(...shown);
    if (!bracket.image) for (const outer of this.brackets) outer.active &&= outer.image;
    return at + 1 + target[0].length;
  }
}

// Pair the marks of emphasis, and turn those that stay alone into text.
function emphasised(nodes) {
  const out = [];
  let openers = []; // indices into `out`
  for (const node of nodes) {
    if (node.t !== "mark") {
      out.push(node);
      continue;
    }
    let { size } = node;
    while (size > 0 && node.closes) {
      const found = openers.findLastIndex((index) => pairs(out[index], node, size));
      if (found < 0) break;
      const index = openers[found];
      const opener = out[index];
      const used = node.mark === "~" ? 2 : size >= 2 && opener.size >= 2 ? 2 : 1;
      const t = node.mark === "~" ? "del" : used === 2 ? "strong" : "em";
      const c = settled(out.splice(index + 1));
      openers = openers.slice(0, found + 1);
      opener.size -= used;
      size -= used;
      if (opener.size === 0) {
        out.pop();
        openers.pop();
      }
      out.push({ t, c });
    }
    if (size > 0) {
      if (node.opens) openers.push(out.length);
      out.push({ ...node, size });
    }
  }
  return settled(out);
}

function pairs(opener, closer, size) {
  if (opener.mark !== closer.mark) return false;
  const both = opener.closes || closer.opens;
  const sum = opener.size + size;
  return !(both && sum % 3 === 0 && (opener.size % 3 || size % 3));
}

function settled(nodes) {
  const out = [];
  for (const node of nodes) {
    const text = node.t === "mark" ? node.mark.repeat(node.size) : node;
    if (typeof text === "string" && typeof out[out.length - 1] === "string") {
      out[out.length - 1] += text;
    } else if (text !== "") {
      out.push(text);
    }
  }
  return out;
}
