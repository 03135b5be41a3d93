// What this browser keeps: the API key, choices, drafts.
//
// Knows: which of it ends with the tab (sessionStorage) and which stays (localStorage). Refuses to
// know what any of it is for. A browser that keeps nothing (private windows, blocked storage) is
// served all the same.

const memory = new Map();

function box(name) {
  const guarded = (use, otherwise) => {
    try {
      return use(globalThis[name]);
    } catch {
      return otherwise();
    }
  };
  return {
    get: (key) => guarded((store) => store.getItem(`ccapi.${key}`), () => memory.get(name + key) ?? null),
    set: (key, value) =>
      guarded((store) => store.setItem(`ccapi.${key}`, value), () => memory.set(name + key, value)),
    drop: (key) =>
      guarded((store) => store.removeItem(`ccapi.${key}`), () => memory.delete(name + key)),
  };
}

export const tab = box("sessionStorage");
export const lasting = box("localStorage");

export function apiKey() {
  return tab.get("key") ?? lasting.get("key");
}

// Why `key` cannot be one, in words; null where it may be. A header holds visible ASCII alone. (The
// key itself is not repeated: it may be shown on a screen that others see.)
export function keyError(key) {
  const at = [...key].findIndex((sign) => sign < "!" || sign > "~");
  if (at < 0) return null;
  const kind = /\s/.test([...key][at]) ? "a space or the end of a line" : /[\u0000-\u001f\u007f]/.test([...key][at]) ? "a control character" : `“${[...key][at]}”`;
  return `A key is made of plain letters, digits and signs (ASCII, no spaces). What was given has ${kind} as its character ${at + 1}: look at how it was copied.`;
}

export function setApiKey(key, remember) {
  forgetApiKey();
  (remember ? lasting : tab).set("key", key);
}

export function forgetApiKey() {
  tab.drop("key");
  lasting.drop("key");
}

// How a WebSocket shows the key: browsers let a page set no header there, but subprotocols.
export function socketProtocols() {
  const key = apiKey();
  if (!key) return ["ccapi.v1"];
  const bytes = String.fromCharCode(...new TextEncoder().encode(key));
  const coded = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return ["ccapi.v1", `ccapi-key.${coded}`];
}
