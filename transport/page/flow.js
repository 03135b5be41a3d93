// Markdown on the page: blocks as elements, and text that is still being written.
//
// Knows: which element shows which block, and how to add to what is shown without making it anew.
// Refuses to know: where the text comes from.

import { colour } from "./colours.js";
import { copyButton, h } from "./dom.js";
import { parse } from "./markdown.js";

export function renderMarkdown(text) {
  return parse(text).map(blockElement);
}

// Text that grows. Each call of `write` parses from the start of the last block alone and replaces
// that block; those before it stay untouched, and an open block of code only gets what is new.
export class Flow {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.from = 0; // where the first block begins that may still change
    this.shown = []; // blocks and their elements, of the whole text
    this.settled = 0; // how many of them are behind `from`
  }

  write(more) {
    this.text += more.replace(/\r\n?/g, "\n");
    const offset = this.from;
    const blocks = parse(this.text.slice(offset)).map((b) => ({ ...b, at: b.at + offset }));
    this.show(blocks, this.settled);
    if (blocks.length > 1) {
      this.settled += blocks.length - 1;
      this.from = blocks[blocks.length - 1].at;
    }
  }

  // The text is whole. What a later line made of an earlier block (a heading's underline) is seen
  // only now.
  end() {
    this.from = 0;
    this.settled = 0;
    this.show(parse(this.text), 0);
  }

  show(blocks, first) {
    blocks.forEach((block, index) => {
      const before = this.shown[first + index];
      if (before && grow(before, block)) return;
      const element = blockElement(block);
      if (before) before.element.replaceWith(element);
      else this.element.append(element);
      this.shown[first + index] = { block, key: JSON.stringify({ ...block, at: 0 }), element };
    });
    for (const { element } of this.shown.splice(first + blocks.length)) element.remove();
  }
}

// Bring what is shown up to `block` in place; false where it needs another element.
function grow(before, block) {
  const key = JSON.stringify({ ...block, at: 0 });
  if (before.key === key) return true;
  const { block: old, element } = before;
  const both = old.t === "code" && block.t === "code" && old.open && block.open;
  if (!both || old.lang !== block.lang || !block.text.startsWith(old.text)) return false;
  element.querySelector("code").append(block.text.slice(old.text.length));
  Object.assign(before, { block, key });
  return true;
}

function blockElement(block) {
  switch (block.t) {
    case "p": return h("p", {}, inline(block.c));
    case "h": {
      // The page's own headings come first; an answer's stand below them.
      const level = Math.min(block.level + 3, 6);
      return h(`h${level}`, { class: `h${block.level}` }, inline(block.c));
    }
    case "hr": return h("hr");
    case "quote": return h("blockquote", {}, block.c.map(blockElement));
    case "math": return h("div", { class: "math" }, block.text);
    case "code": return codeElement(block);
    case "list": return listElement(block);
    case "table": return tableElement(block);
    default: throw new Error(`no block: ${block.t}`);
  }
}

export function codeElement({ lang, text, open = false }) {
  const code = h("code", {});
  // Colours wait until the code is whole: a string that is not closed yet would colour the rest.
  if (open) code.append(text);
  else for (const [kind, t] of colour(lang, text)) code.append(kind ? h("span", { class: `c-${kind}` }, t) : t);
  return h(
    "div",
    { class: "code" },
    h(
      "div",
      { class: "code-head" },
      h("span", { class: "code-lang" }, lang || "text"),
      copyButton(() => code.textContent, `Copy the ${lang || "text"} block`, { class: "quiet" }),
    ),
    h("pre", { tabindex: "0" }, code),
  );
}

function listElement({ ordered, start, loose, items }) {
  const attributes = { class: loose ? "loose" : "tight" };
  if (ordered && start !== 1) attributes.start = start;
  return h(
    ordered ? "ol" : "ul",
    attributes,
    items.map(({ checked, c }) => {
      const children = c.flatMap((block) =>
        !loose && block.t === "p" ? inline(block.c) : [blockElement(block)],
      );
      if (checked === null) return h("li", {}, children);
      const box = h("span", { class: "box", role: "img", "aria-label": checked ? "Done:" : "To do:" });
      return h("li", { class: "task", data: { checked } }, box, children);
    }),
  );
}

function tableElement({ align, head, rows }) {
  const cell = (tag, content, column) =>
    h(tag, { class: align[column], scope: tag === "th" ? "col" : null }, inline(content));
  return h(
    "div",
    { class: "table", tabindex: "0", role: "group", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map((content, at) => cell("th", content, at)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((c, at) => cell("td", c, at))))),
    ),
  );
}

function inline(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return node;
    switch (node.t) {
      case "em": case "strong": case "del": return h(node.t, {}, inline(node.c));
      case "code": return h("code", {}, node.text);
      case "br": return h("br");
      // An image would be fetched from wherever an answer says; it is a link that a person follows.
      case "link": return h(
        "a",
        { href: node.href, target: "_blank", rel: "noopener noreferrer", class: node.image ? "picture" : null },
        inline(node.c),
      );
      default: throw new Error(`no inline: ${node.t}`);
    }
  });
}
