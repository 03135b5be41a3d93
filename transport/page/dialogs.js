// What the page asks a person in a window of its own: a key, a confirmation; and what it explains.
//
// Knows: the dialogs and how each is answered. Refuses to know: what becomes of the answer.

import { button, byId, h } from "./dom.js";
import { keyError, forgetApiKey, setApiKey } from "./keys.js";

function show(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    dialog.remove();
    // The browser gives the focus back, unless the element that had it has gone meanwhile. Chromium sometimes
    // gives it without a caret, and then nothing can be written: it is given once more.
    const { activeElement } = document;
    activeElement?.blur();
    (activeElement === document.body ? byId("ask") : activeElement)?.focus();
  });
  dialog.showModal();
  return dialog;
}

export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "confirm-title" }, h("h2", { id: "confirm-title" }, title), h("p", {}, text));
    const done = (answer) => {
      resolve(answer);
      dialog.close();
    };
    const go = button(yes, { class: "do", on: { click: () => done(true) } });
    dialog.append(h("form", { method: "dialog" }, h("div", { class: "row" }, button("Cancel", { class: "also", on: { click: () => done(false) } }), go)));
    dialog.addEventListener("cancel", () => resolve(false));
    show(dialog);
    go.focus();
  });
}

let asking = null;

// Ask for the key that the gateway wants; resolves once there is one to try.
export function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const field = h("input", { type: "password", name: "key", required: true, autocomplete: "current-password", spellcheck: "false" });
    const keep = h("input", { type: "checkbox", name: "keep" });
    const form = h(
      "form",
      { method: "dialog" },
      reason ? h("p", { class: "wrong", role: "alert" }, reason) : null,
      h("label", { class: "field" }, h("span", {}, "API key"), field),
      h("label", { class: "check" }, keep, h("span", {}, "Remember it in this browser")),
      h("div", { class: "row" }, h("button", { type: "submit", class: "do" }, "Use this key")),
    );
    const dialog = h("dialog", { "aria-labelledby": "key-title" }, h("h2", { id: "key-title" }, "This gateway asks for a key"), h("p", {}, "It is one of those in the setting auth.api_keys. It stays in this browser."), form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", (event) => {
      const error = keyError(field.value.trim());
      if (error) {
        event.preventDefault();
        form.querySelector(".wrong")?.remove();
        form.prepend(h("p", { class: "wrong", role: "alert" }, error));
        field.focus();
        return;
      }
      setApiKey(field.value.trim(), keep.checked);
      asking = null;
      resolve();
    });
    show(dialog);
    field.focus();
  });
  return asking;
}

// The key that is used now can be changed, or forgotten.
export function changeKey(done) {
  const dialog = h("dialog", { "aria-labelledby": "key-title" }, h("h2", { id: "key-title" }, "API key"), h("p", {}, "The key this page shows to the gateway."));
  const forget = button("Forget it", { class: "also", on: { click: () => {
    forgetApiKey();
    dialog.close();
    done();
  } } });
  const another = button("Use another", { class: "do", on: { click: () => {
    dialog.close();
    askForKey(null).then(done);
  } } });
  dialog.append(h("form", { method: "dialog" }, h("div", { class: "row" }, h("button", { class: "also" }, "Close"), forget, another)));
  show(dialog);
}

const KEYS = [
  [["Enter"], "send the message"],
  [["Shift", "Enter"], "a new line"],
  [["Esc"], "stop the answer"],
  [["/"], "to the message box"],
  [["Alt", "N"], "a new conversation"],
  [["Alt", "L"], "to the list of conversations"],
  [["Alt", "H"], "overview"],
  [["?"], "this list"],
];

export function showHelp() {
  const rows = KEYS.flatMap(([keys, what]) => [h("dt", {}, ...keys.map((key) => h("kbd", {}, key))), h("dd", {}, what)]);
  const close = h("button", { class: "do" }, "Close");
  const dialog = h("dialog", { "aria-labelledby": "help-title" }, h("h2", { id: "help-title" }, "Keyboard"), h("dl", { class: "keys" }, ...rows), h("form", { method: "dialog" }, h("div", { class: "row" }, close)));
  show(dialog);
  close.focus();
}
