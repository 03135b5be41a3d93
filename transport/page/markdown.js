// Markdown as a tree of blocks.
//
// Pure: text in, blocks out. A block is {t, …}: p and h (`level`) with inline children `c`, code
// (`lang`, `text`, `open` while its fence is not closed), list (`ordered`, `start`, `loose`, `items`
// of {checked, c}), quote with blocks `c`, table (`align`, `head`, `rows`), hr, math (`text`, as it
// was written). Blocks of the top also say where they begin (`at`), so that what is still being
// written can be read on from its last block. HTML is text.
//
// Any text costs time in proportion to its length, and nests `DEEPEST` deep at most. So no
// expression here has two parts in a row that take the same characters, and whatever is sought
// ahead in vain is not sought again.

import { parseInline } from "./inline.js";

const DEEPEST = 12;

const MOST_PADDING = 5_000; // cells that rows of tables lack, in one text

const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^ {0,3}(=+|-{2,})[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const MARKER = /^([ \t]*)([-*+]|\d{1,9}[.)])(?![^ \t])/;
const TASK = /^\[([ xX])\][ \t]+/;
const MATH = /^ {0,3}(\$\$|\\\[)/;
const MATH_ENDS = { "$$": "$$", "\\[": "\\]" };

const isBlank = (line) => !/[^ \t]/.test(line);
const TAB = 4;

// The columns of white space that `line` begins with.
function indentOf(line) {
  let columns = 0;
  for (const sign of line) {
    if (sign === "\t") columns += TAB - (columns % TAB);
    else if (sign === " ") columns += 1;
    else break;
  }
  return columns;
}

// `line` without its first `by` columns of white space, or as many as it has.
function dedent(line, by) {
  let columns = 0;
  let at = 0;
  while (columns < by && (line[at] === " " || line[at] === "\t")) {
    columns += line[at] === "\t" ? TAB - (columns % TAB) : 1;
    at += 1;
  }
  return " ".repeat(Math.max(0, columns - by)) + line.slice(at);
}

// How often `sign` stands in a row from `at` on.
function countRun(line, sign, at) {
  let end = at;
  while (line[end] === sign) end += 1;
  return end - at;
}

function skipSpace(line, at) {
  let end = at;
  while (line[end] === " " || line[end] === "\t") end += 1;
  return end;
}

// {level, text} of a line like "## Title ##", else null.
function headingOf(line) {
  const at = countRun(line, " ", 0);
  const level = at > 3 ? 0 : countRun(line, "#", at);
  const begin = at + level;
  if (level < 1 || level > 6 || (begin < line.length && line[begin] !== " " && line[begin] !== "\t")) return null;
  const text = line.slice(begin).trim();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  const closed = end === 0 || text[end - 1] === " " || text[end - 1] === "\t";
  return { level, text: closed ? text.slice(0, end).trim() : text };
}

// {indent, sign, size, info} of a line that opens a block of code, else null.
function fenceOf(line) {
  const indent = countRun(line, " ", 0);
  const sign = line[indent];
  if (indent > 3 || (sign !== "`" && sign !== "~")) return null;
  const size = countRun(line, sign, indent);
  const info = line.slice(indent + size);
  return size < 3 || info.includes("`") ? null : { indent, sign, size, info: info.trim() };
}

function closesFence(line, { sign, size }) {
  const indent = countRun(line, " ", 0);
  const run = countRun(line, sign, indent);
  return indent <= 3 && run >= size && skipSpace(line, indent + run) === line.length;
}

// Whether `line` is the second one of a table: dashes between bars, colons at their ends.
function isTableRule(line) {
  let at = skipSpace(line, 0);
  if (line[at] === "|") at += 1;
  for (let cells = 0; ; cells += 1) {
    at = skipSpace(line, at);
    if (at === line.length) return cells > 0;
    if (line[at] === ":") at += 1;
    const dashes = countRun(line, "-", at);
    if (!dashes) return false;
    at += dashes;
    if (line[at] === ":") at += 1;
    at = skipSpace(line, at);
    if (at === line.length) return true;
    if (line[at] !== "|") return false;
    at += 1;
  }
}

// The blocks of `text`, in order.
export function parse(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  return new Blocks(lines, 0, { padding: MOST_PADDING }).run();
}

class Blocks {
  // `left` is what the whole text may still take of something.
  constructor(lines, depth, left) {
    this.lines = lines;
    this.depth = depth;
    this.left = left;
    this.unclosed = {}; // by the mark that opens maths: the row before which none is closed
    this.row = 0;
    this.out = [];
  }

  run() {
    let at = 0;
    let counted = 0;
    while (this.row < this.lines.length) {
      if (isBlank(this.lines[this.row])) {
        this.row += 1;
        continue;
      }
      for (; counted < this.row; counted += 1) at += this.lines[counted].length + 1;
      const block = this.block();
      this.out.push(this.depth === 0 ? { ...block, at } : block);
    }
    return this.out;
  }

  block() {
    const line = this.lines[this.row];
    const heading = headingOf(line);
    if (heading) {
      this.row += 1;
      return { t: "h", level: heading.level, c: parseInline(heading.text) };
    }
    const fence = fenceOf(line);
    if (fence) return this.fenced(fence);
    const mathEnd = this.mathEnd();
    if (mathEnd) return this.math(mathEnd);
    if (RULE.test(line)) {
      this.row += 1;
      return { t: "hr" };
    }
    if (this.depth < DEEPEST) {
      if (QUOTE.test(line)) return this.quote();
      if (itemOf(line, 3)) return this.list();
    }
    if (indentOf(line) >= 4) return this.indented();
    return this.table() ?? this.paragraph();
  }

  fenced(fence) {
    const text = [];
    this.row += 1;
    let open = true;
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      this.row += 1;
      if (closesFence(line, fence)) {
        open = false;
        break;
      }
      text.push(dedent(line, fence.indent));
    }
    return { t: "code", lang: fence.info.split(/[\s{,]/, 1)[0] ?? "", text: text.join("\n"), open };
  }

  // The row behind the maths that begins in this row, or 0 where none does. It ends with a line, and
  // no blank line is in it; while it is being written, it ends with the text.
  mathEnd() {
    const mark = MATH.exec(this.lines[this.row])?.[1];
    if (!mark || this.row < (this.unclosed[mark] ?? 0)) return 0;
    const end = MATH_ENDS[mark];
    for (let row = this.row; row < this.lines.length; row += 1) {
      const line = this.lines[row];
      const at = line.indexOf(end, row === this.row ? line.indexOf(mark) + 2 : 0);
      if (at >= 0) {
        if (skipSpace(line, at + 2) === line.length) return row + 1;
        this.unclosed[mark] = row; // more words come behind it: it is a part of a paragraph
        return 0;
      }
      if (isBlank(line)) {
        this.unclosed[mark] = row;
        return 0;
      }
    }
    return this.lines.length;
  }

  math(end) {
    const text = this.lines.slice(this.row, end).join("\n").trim();
    this.row = end;
    return { t: "math", text };
  }

  indented() {
    const text = [];
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      if (!isBlank(line) && indentOf(line) < 4) break;
      text.push(dedent(line, 4));
      this.row += 1;
    }
    return { t: "code", lang: "", text: text.join("\n").trimEnd(), open: false };
  }

  quote() {
    const inside = [];
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      if (QUOTE.test(line)) inside.push(line.replace(QUOTE, ""));
      else if (!isBlank(line) && !isBlank(inside[inside.length - 1]) && !startsBlock(line)) {
        inside.push(line); // a paragraph goes on without its mark
      } else break;
      this.row += 1;
    }
    return { t: "quote", c: new Blocks(inside, this.depth + 1, this.left).run() };
  }

  list() {
    const first = itemOf(this.lines[this.row], 3);
    const items = [];
    let loose = false;
    while (this.row < this.lines.length) {
      const item = itemOf(this.lines[this.row], first.indent + 3);
      if (!item || item.kind !== first.kind || RULE.test(this.lines[this.row])) break;
      const { lines, parted } = this.item(item);
      items.push(this.asItem(lines));
      loose ||= parted;
      let next = this.row;
      while (next < this.lines.length && isBlank(this.lines[next])) next += 1;
      const another = next < this.lines.length && itemOf(this.lines[next], first.indent + 3);
      if (!another || another.kind !== first.kind) break;
      loose ||= next > this.row;
      this.row = next;
    }
    return { t: "list", ordered: first.ordered, start: first.start, loose, items };
  }

  // The lines of one item, without their indent. `parted`: a blank line is between two of them.
  item(item) {
    const lines = [item.rest];
    const least = Math.min(item.width, item.indent + 2); // two spaces are taken for a nested list
    let parted = false;
    this.row += 1;
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      if (isBlank(line)) {
        let next = this.row;
        while (next < this.lines.length && isBlank(this.lines[next])) next += 1;
        if (next === this.lines.length || indentOf(this.lines[next]) < least) break;
        for (; this.row < next; this.row += 1) lines.push("");
        parted = true;
        continue;
      }
      const inside = indentOf(line) >= least;
      if (!inside && !continues(lines[lines.length - 1], line)) break;
      lines.push(inside ? dedent(line, item.width) : line.trimStart());
      this.row += 1;
    }
    return { lines, parted };
  }

  asItem(lines) {
    const task = TASK.exec(lines[0]);
    const rest = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
    const checked = task ? task[1] !== " " : null;
    return { checked, c: new Blocks(rest, this.depth + 1, this.left).run() };
  }

  table() {
    const [head, rule] = [this.lines[this.row], this.lines[this.row + 1]];
    if (rule === undefined || !head.includes("|") || !isTableRule(rule)) return null;
    const names = cells(head);
    const align = cells(rule).map((cell) => {
      const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
      return left && right ? "center" : right ? "right" : null;
    });
    if (names.length !== align.length) return null;
    const rows = [];
    this.row += 2;
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      if (isBlank(line) || (startsBlock(line) && !line.includes("|"))) break;
      const row = cells(line);
      rows.push(this.padded(row.slice(0, names.length), names.length).map((cell) => parseInline(cell)));
      this.row += 1;
    }
    return { t: "table", align, head: names.map((cell) => parseInline(cell)), rows };
  }

  // A row with as many cells as the head: few letters could otherwise ask for millions of cells.
  padded(row, columns) {
    const lacking = columns - row.length;
    if (lacking > this.left.padding) return row;
    this.left.padding -= lacking;
    return [...row, ...Array(lacking).fill("")];
  }

  paragraph() {
    const text = [];
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      if (isBlank(line)) break;
      const underline = text.length ? UNDERLINE.exec(line) : null;
      if (underline) {
        this.row += 1;
        const level = underline[1][0] === "=" ? 1 : 2;
        return { t: "h", level, c: parseInline(text.join("\n").trim()) };
      }
      if (text.length && (startsBlock(line) || this.beginsTable() || this.mathEnd())) break;
      text.push(line.trimStart());
      this.row += 1;
    }
    return { t: "p", c: parseInline(text.join("\n").trimEnd()) };
  }

  beginsTable() {
    const [line, rule] = [this.lines[this.row], this.lines[this.row + 1]];
    return line.includes("|") && rule !== undefined && rule.includes("|") && isTableRule(rule);
  }
}

// Whether `line` may end a paragraph by itself. A number only where it is 1: "In 1969.\n1970. …".
function startsBlock(line) {
  if (headingOf(line) || fenceOf(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = itemOf(line, 3);
  return Boolean(item && item.rest.trim() && (!item.ordered || item.start === 1));
}

// Whether `line`, not indented, goes on with the paragraph that `before` in an item belongs to.
function continues(before, line) {
  if (isBlank(before) || headingOf(before) || fenceOf(before)) return false;
  return !startsBlock(line) && !itemOf(line, 3);
}

// A line that begins an item of a list, at most `indent` spaces in; else null.
function itemOf(line, indent) {
  const found = MARKER.exec(line);
  if (!found || indentOf(found[1]) > indent) return null;
  const [whole, before, marker] = found;
  const behind = skipSpace(line, whole.length);
  const space = line.slice(whole.length, behind) || " ";
  const rest = line.slice(behind);
  const ordered = /\d/.test(marker);
  const gap = space.length > 4 || space.includes("\t") ? 1 : space.length;
  return {
    indent: indentOf(before),
    kind: ordered ? marker[marker.length - 1] : marker,
    ordered,
    start: ordered ? parseInt(marker, 10) : null,
    width: indentOf(before) + marker.length + gap,
    rest: space.slice(gap) + rest,
  };
}

// The cells of one row. A bar inside code or after a backslash is none.
function cells(line) {
  const out = [];
  let cell = "";
  let code = false;
  const trimmed = line.trim();
  const lastTick = trimmed.lastIndexOf("`");
  for (let at = trimmed.startsWith("|") ? 1 : 0; at < trimmed.length; at += 1) {
    const sign = trimmed[at];
    if (sign === "\\" && trimmed[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (sign === "|" && !(code && lastTick > at)) {
      out.push(cell.trim());
      cell = "";
      code = false;
    } else {
      if (sign === "`") code = !code;
      cell += sign;
    }
  }
  if (cell.trim() || !trimmed.endsWith("|")) out.push(cell.trim());
  return out;
}
