// The insides of a line of Markdown: emphasis, code, links.
//
// Pure: text in, a tree out. A node is a string or {t, …}: em, strong and del with children `c`,
// code with `text`, link with `href` and `c`, br. HTML is text like any other. A link leads to the
// web or to a letter, or it is no link. Maths ($…$, $$…$$, \(…\), \[…\]) is text as it was written.
//
// Any text costs time in proportion to its length, and nests `DEEPEST` deep at most. So no
// expression here has two parts in a row that take the same characters, what is sought ahead is
// sought once, and a mark of emphasis that was passed over in vain is not looked at again.

const DEEPEST = 12;
const MOST_BRACKETS = 100; // that are open at once

const ESCAPABLE = /[!-/:-@[-`{-~]/;
const PLAIN = /[^\\`<![\]*_~\n&h$]+/y;
const ADDRESS = /https?:\/\/[^\s<>"'`\]]+/iy;
const ANGLED = /<(https?:\/\/[^\s<>]+|mailto:[^\s<>]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>/iy;
const BREAK = /<br\s*\/?>/iy;
const ENTITY = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|(amp|lt|gt|quot|apos|nbsp|hellip|mdash|ndash|copy|rarr|larr|times));/iy;
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

export function parseInline(text) {
  return text ? new Scanner(text).run() : [];
}

const isSpace = (sign) => sign === " " || sign === "\t" || sign === "\n";
const CLOSERS = { '"': '"', "'": "'" };

function skipSpace(text, at) {
  let end = at;
  while (isSpace(text[end])) end += 1;
  return end;
}

// Where the text that `sign` closes ends (behind it), from `at` on, or -1. A backslash guards the
// sign behind it.
function skipTo(text, sign, at) {
  for (let end = at; end < text.length; end += 1) {
    if (text[end] === "\\") end += 1;
    else if (text[end] === sign) return end + 1;
  }
  return -1;
}

// The (target "title") of a link that begins at `at`, as {raw, end}; else null.
function targetAt(text, at) {
  if (text[at] !== "(") return null;
  const begin = skipSpace(text, at + 1);
  return (text[begin] === "<" && targetEnd(text, begin + 1, angledEnd(text, begin + 1), 1))
    || targetEnd(text, begin, bareEnd(text, begin), 0);
}

function angledEnd(text, at) {
  let end = at;
  while (end < text.length && !"<>\n".includes(text[end])) end += 1;
  return text[end] === ">" ? end : -1;
}

// A target without angle brackets ends with white space or the bracket that closes the link.
function bareEnd(text, at) {
  let inside = false; // a pair of brackets in the target itself
  let opened = at;
  let end = at;
  for (; end < text.length && !isSpace(text[end]); end += 1) {
    if (text[end] === "\\" && end + 1 < text.length && text[end + 1] !== "\n") end += 1;
    else if (text[end] === "(" && inside) return opened;
    else if (text[end] === "(") [inside, opened] = [true, end];
    else if (text[end] === ")" && !inside) return end;
    else if (text[end] === ")") inside = false;
  }
  return inside ? opened : end;
}

function targetEnd(text, begin, end, behind) {
  if (end < 0) return null;
  let at = skipSpace(text, end + behind);
  if (at > end + behind && CLOSERS[text[at]]) {
    const titled = skipTo(text, text[at], at + 1);
    if (titled < 0) return null;
    at = skipSpace(text, titled);
  }
  return text[at] === ")" ? { raw: text.slice(begin, end), end: at + 1 } : null;
}

// Where the next dollar sign stands that maths may end with, or -1.
function dollarThatCloses(text, from) {
  for (let at = text.indexOf("$", from); at >= 0; at = text.indexOf("$", at + 1)) {
    if (!/[\s\\$]/.test(text[at - 1]) && !/[\d$]/.test(text[at + 1] ?? " ")) return at;
  }
  return -1;
}

// Where in `text` each run of backticks begins, by its length.
function tickRuns(text) {
  const runs = new Map();
  for (let at = text.indexOf("`"); at >= 0; at = text.indexOf("`", at)) {
    const start = at;
    while (text[at] === "`") at += 1;
    const size = at - start;
    if (!runs.has(size)) runs.set(size, { starts: [], passed: 0 });
    runs.get(size).starts.push(start);
  }
  return runs;
}

class Scanner {
  constructor(text) {
    this.text = text;
    this.out = [];
    this.brackets = []; // of those still open: where in `out`, whether an image
    this.ticks = null; // where runs of backticks begin, by their length
    this.found = new Map(); // what was sought ahead: where it stands, text.length where nowhere
  }

  // Where `sign` stands next, from `from` on; what is sought only ever moves on.
  next(sign, from) {
    const known = this.found.get(sign);
    if (known !== undefined && known >= from) return known;
    const at = sign === "$" ? dollarThatCloses(this.text, from) : this.text.indexOf(sign, from);
    const found = at < 0 ? Infinity : at;
    this.found.set(sign, found);
    return found;
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
      case "$": return this.dollar(at);
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
    if (next === "(" || next === "[") {
      const end = this.next(next === "(" ? "\\)" : "\\]", at + 2);
      if (end < Infinity) return this.say(this.text.slice(at, end + 2), end + 2);
    }
    return next && ESCAPABLE.test(next) ? this.say(next, at + 2) : this.say("\\", at + 1);
  }

  // Maths, unless it is money: what opens it stands before a sign, what closes it behind one, and
  // not before a digit.
  dollar(at) {
    const { text } = this;
    if (text[at + 1] === "$") {
      const end = this.next("$$", at + 2);
      return end < Infinity ? this.say(text.slice(at, end + 2), end + 2) : this.say("$$", at + 2);
    }
    if (!/\s/.test(text[at + 1] ?? " ")) {
      const end = this.next("$", at + 2);
      if (end < this.next("\n", at)) return this.say(text.slice(at, end + 1), end + 1);
    }
    return this.say("$", at + 1);
  }

  code(at) {
    const { text } = this;
    this.ticks ??= tickRuns(text);
    let end = at;
    while (text[end] === "`") end += 1;
    const runs = this.ticks.get(end - at);
    while (runs && runs.starts[runs.passed] < end) runs.passed += 1;
    const start = runs?.starts[runs.passed];
    if (start === undefined) return this.say(text.slice(at, end), end);
    let inside = text.slice(end, start).replace(/\n/g, " ");
    if (inside.startsWith(" ") && inside.endsWith(" ") && /[^ ]/.test(inside)) inside = inside.slice(1, -1);
    return this.say({ t: "code", text: inside }, start + end - at);
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
    const shown = withoutTail(found[0]);
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
    if (mark === "~" && size !== 2) {
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
    if (this.brackets.length > MOST_BRACKETS) this.brackets.shift();
    return this.say(text, at + size);
  }

  close(at) {
    const bracket = this.brackets.pop();
    const target = bracket?.active ? targetAt(this.text, at + 1) : null;
    if (!target) return this.say("]", at + 1);
    const href = safeAddress(target.raw.replace(/\\([!-/:-@[-`{-~])/g, "$1"));
    this.out[bracket.index] = ""; // what stands behind it stays, be it a link's or not
    const inside = href ? emphasised(this.out.slice(bracket.index)) : [];
    const deep = href !== null && depthOf(inside) >= DEEPEST;
    if (href && !deep) {
      this.out.length = bracket.index;
      this.out.push({ t: "link", href, image: bracket.image, c: inside.length ? inside : [href] });
    }
    if (!bracket.image || deep) for (const outer of this.brackets) outer.active &&= outer.image && !deep;
    return target.end;
  }
}

// An address that was found in text, without the signs behind it that belong to the sentence.
function withoutTail(found) {
  let end = found.length;
  while (".,:;!?*_~".includes(found[end - 1])) end -= 1;
  let open = 0; // brackets that are closed and were not opened
  for (let at = 0; at < end; at += 1) open += found[at] === ")" ? 1 : found[at] === "(" ? -1 : 0;
  for (; found[end - 1] === ")" && open > 0; open -= 1) end -= 1;
  return found.slice(0, end);
}

// How deep a list of nodes nests. Each node knows its own depth once it was asked for.
const depths = new WeakMap();

function depthOf(nodes) {
  let deepest = 0;
  for (const node of nodes) {
    if (!node.c) continue;
    if (!depths.has(node)) depths.set(node, 1 + depthOf(node.c));
    deepest = Math.max(deepest, depths.get(node));
  }
  return deepest;
}

// Pair the marks of emphasis, and turn those that stay alone into text (CommonMark 0.31, "An
// algorithm for parsing nested emphasis and links").
function emphasised(nodes) {
  const out = [];
  const openers = []; // {index in `out`, length of the run as it was written, depth of what follows}
  const bottoms = new Map(); // by kind of closer: below which none of `openers` suits it

  const push = (node, depth) => {
    if (openers.length) openers[openers.length - 1].depth = Math.max(openers[openers.length - 1].depth, depth);
    out.push(node);
  };
  const depthFrom = (place) => openers.slice(place).reduce((most, { depth }) => Math.max(most, depth), 0);
  const dropTo = (height) => {
    openers.length = Math.min(openers.length, height);
    for (const [kind, bottom] of bottoms) bottoms.set(kind, Math.min(bottom, height));
  };

  for (const node of nodes) {
    if (node.t !== "mark") {
      push(node, depthOf([node]));
      continue;
    }
    let { size } = node;
    const kind = `${node.mark}${node.opens}${node.size % 3}`;
    while (size > 0 && node.closes) {
      const bottom = bottoms.get(kind) ?? 0;
      let place = openers.length - 1;
      while (place >= bottom && !pairs(out[openers[place].index], openers[place].length, node)) place -= 1;
      if (place < bottom) {
        bottoms.set(kind, openers.length);
        break;
      }
      const { index } = openers[place];
      const opener = out[index];
      const depth = depthFrom(place);
      if (depth >= DEEPEST) { // as deep as it gets: these marks stay text
        dropTo(place);
        if (place) openers[place - 1].depth = Math.max(openers[place - 1].depth, depth);
        continue;
      }
      const c = settled(out.slice(index + 1));
      out.length = index + 1;
      const used = node.mark === "~" ? 2 : size >= 2 && opener.size >= 2 ? 2 : 1;
      opener.size -= used;
      size -= used;
      if (opener.size === 0) out.pop();
      dropTo(opener.size === 0 ? place : place + 1);
      push({ t: node.mark === "~" ? "del" : used === 2 ? "strong" : "em", c }, depth + 1);
    }
    if (size > 0) {
      if (node.opens) openers.push({ index: out.length, length: node.size, depth: 0 });
      out.push({ ...node, size });
    }
  }
  return settled(out);
}

function pairs(opener, length, closer) {
  if (opener.mark !== closer.mark) return false;
  const both = opener.closes || closer.opens;
  return !(both && (length + closer.size) % 3 === 0 && (length % 3 || closer.size % 3));
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
