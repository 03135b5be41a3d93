// Markdown as a tree of blocks.
//
// Pure: text in, blocks out. A block is {t, …}: p and h (`level`) with inline children `c`, code
// (`lang`, `text`, `open` while its fence is not closed), list (`ordered`, `start`, `loose`, `items`
// of {checked, c}), quote with blocks `c`, table (`align`, `head`, `rows`), hr. Blocks of the top
// also say where they begin (`at`), so that what is still being written can be read on from its
// last block. HTML is text.

import { parseInline } from "./inline.js";

const DEEPEST = 12;

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^ {0,3}(=+|-{2,})[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|)$/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const TASK = /^\[([ xX])\][ \t]+/;

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

// The blocks of `text`, in order.
export function parse(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  return new Blocks(lines, 0).run();
}

class Blocks {
  constructor(lines, depth) {
    this.lines = lines;
    this.depth = depth;
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
    const heading = HEADING.exec(line);
    if (heading) {
      this.row += 1;
      return { t: "h", level: heading[1].length, c: parseInline((heading[2] ?? "").trim()) };
    }
    const fence = FENCE.exec(line);
    if (fence) return this.fenced(fence);
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

  fenced([, indent, fence, info]) {
    const closing = new RegExp(`^ {0,3}${fence[0] === "~" ? "~" : "`"}{${fence.length},}[ ]*$`);
    const text = [];
    this.row += 1;
    let open = true;
    while (this.row < this.lines.length) {
      const line = this.lines[this.row];
      this.row += 1;
      if (closing.test(line)) {
        open = false;
        break;
      }
      text.push(dedent(line, indent.length));
    }
    return { t: "code", lang: info.trim().split(/[\s{,]/)[0] ?? "", text: text.join("\n"), open };
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
    return { t: "quote", c: new Blocks(inside, this.depth + 1).run() };
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
    return { checked, c: new Blocks(rest, this.depth + 1).run() };
  }

  table() {
    const [head, rule] = [this.lines[this.row], this.lines[this.row + 1]];
    if (rule === undefined || !head.includes("|") || !TABLE_RULE.test(rule)) return null;
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
      rows.push(names.map((_, column) => parseInline(row[column] ?? "")));
      this.row += 1;
    }
    return { t: "table", align, head: names.map((cell) => parseInline(cell)), rows };
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
      if (text.length && (startsBlock(line) || this.beginsTable())) break;
      text.push(line.trimStart());
      this.row += 1;
    }
    return { t: "p", c: parseInline(text.join("\n").trimEnd()) };
  }

  beginsTable() {
    const [line, rule] = [this.lines[this.row], this.lines[this.row + 1]];
    return line.includes("|") && rule !== undefined && rule.includes("|") && TABLE_RULE.test(rule);
  }
}

// Whether `line` may end a paragraph by itself. A number only where it is 1: "In 1969.\n1970. …".
function startsBlock(line) {
  if (HEADING.test(line) || FENCE.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = itemOf(line, 3);
  return Boolean(item && item.rest.trim() && (!item.ordered || item.start === 1));
}

// Whether `line`, not indented, goes on with the paragraph that `before` in an item belongs to.
function continues(before, line) {
  if (isBlank(before) || HEADING.test(before) || FENCE.test(before)) return false;
  return !startsBlock(line) && !itemOf(line, 3);
}

// A line that begins an item of a list, at most `indent` spaces in; else null.
function itemOf(line, indent) {
  const found = ITEM.exec(line);
  if (!found || indentOf(found[1]) > indent) return null;
  const [, before, marker, space = " ", rest = ""] = found;
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
  for (let at = trimmed.startsWith("|") ? 1 : 0; at < trimmed.length; at += 1) {
    const sign = trimmed[at];
    if (sign === "\\" && trimmed[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (sign === "|" && !(code && trimmed.indexOf("`", at) > 0)) {
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
