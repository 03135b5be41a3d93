// Elements made by hand.
//
// Knows: how to make and fill elements, icons among them. Refuses to know: HTML as text. Nothing on
// this page is ever parsed as markup; whatever a model says reaches the document as text nodes.

const SVG = "http://www.w3.org/2000/svg";

// An element with its attributes and children. `on` holds listeners, `data` the dataset; a value of
// null, undefined or false leaves its attribute out, true sets it empty.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for a drawing.
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else if (name === "data") {
      for (const [key, text] of Object.entries(value)) {
        if (text !== null && text !== undefined) element.dataset[key] = text;
      }
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  // One by one: a call takes some ten thousand arguments, and an answer may have more children.
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

// One of the drawings that index.html defines.
export function icon(name) {
  return s(
    "svg",
    { class: "icon", "aria-hidden": "true", focusable: "false" },
    s("use", { href: `#i-${name}` }),
  );
}

export function button(label, { icon: name, ...attributes } = {}, ...children) {
  const shown = name ? [icon(name), ...children] : children.length ? children : [label];
  const labelled = name && !children.length ? { "aria-label": label, title: label } : {};
  return h("button", { type: "button", ...labelled, ...attributes }, ...shown);
}

export const byId = (id) => document.getElementById(id);

// Says something to those who listen to the page rather than look at it.
export function announce(text) {
  const voice = byId("voice");
  // A new element, so that the same words twice in a row are two announcements.
  voice.replaceChildren(h("p", {}, text.length > 1500 ? `${text.slice(0, 1500)} …` : text));
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // a page from plain http on another machine has no clipboard
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const area = h("textarea", { class: "vh", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus?.();
  return copied;
}

// A button that copies what `text()` gives and says so for a moment.
export function copyButton(text, label, attributes = {}) {
  const words = h("span", {}, "Copy");
  const made = button(label, { ...attributes, icon: "copy", "aria-label": label }, words);
  made.addEventListener("click", async () => {
    words.textContent = (await copyText(text())) ? "Copied" : "Could not copy";
    announce(words.textContent);
    setTimeout(() => (words.textContent = "Copy"), 1600);
  });
  return made;
}
