// The gateway over HTTP.
//
// Knows: its routes, the error envelope, the key. Refuses to know: the page. Addresses are relative
// to the page's own, so that a gateway mounted below a path is served from there.

import { apiKey, keyError } from "./keys.js";

export const address = (path) => new URL(path, document.baseURI);

export function socketAddress(path) {
  const url = address(path);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

let askForKey = null;

// `ask(reason)` gets a key from the person and resolves once there is one to try.
export function onKeyNeeded(ask) {
  askForKey = ask;
}

async function once(method, path, body) {
  const headers = {};
  const key = apiKey();
  const error = key && keyError(key);
  if (error) throw new ApiError(error, { status: 401, code: "invalid_api_key" }); // kept from before
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new ApiError("The gateway cannot be reached.");
  }
  const text = await response.text().catch(() => "");
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) throw new ApiError("The gateway's answer could not be read.", response);
  }
  if (response.ok) return value;
  const { message = `The gateway answered ${response.status}.`, code, param } = value?.error ?? {};
  throw new ApiError(message, { status: response.status, code, param });
}

// One request, asked again with a key where one is needed. Raises ApiError.
export async function request(method, path, body) {
  for (;;) {
    const shown = apiKey();
    try {
      return await once(method, path, body);
    } catch (error) {
      if (error.status !== 401 || !askForKey) throw error;
      // A call made meanwhile may have another key by now, which is then tried first.
      if (apiKey() === shown) await askForKey(shown ? error.message : null);
    }
  }
}

// Every turn asks for what the model thought; where there is any, it is shown folded.
export const THOUGHTS = { reasoning: { summary: "auto" } };

const part = encodeURIComponent;
const conversation = (id) => `v1/conversations/${part(id)}`;

export const api = {
  usage: (start) => request("GET", `v1/usage?start=${part(start)}`),
  models: async () => (await request("GET", "v1/models")).data,
  conversations: (after, words) =>
    request("GET", `v1/conversations?limit=100${after ? `&after=${part(after)}` : ""}${words ? `&q=${part(words)}` : ""}`),
  conversation: (id) => request("GET", conversation(id)),
  create: (body) => request("POST", "v1/conversations", body),
  remove: (id) => request("DELETE", conversation(id)),
  addItems: (id, items) => request("POST", `${conversation(id)}/items`, { items }),
  earlier: (id, before) =>
    request("GET", `${conversation(id)}/items?limit=100&order=desc&after=${part(before)}`),
};
