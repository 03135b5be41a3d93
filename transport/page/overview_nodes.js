// The gateways that work together, as rows of a table.
//
// Knows: which of a gateway's numbers are shown, and in which words. Refuses to know: where. One that
// is alone is not shown.

import { whole } from "./figures.js";

export const COLUMNS = ["Gateway", "Turns running", "Children", "Conversations", "Up for", "Database"];

// One row for each: the texts of `COLUMNS`. `now` in seconds; `span` writes a length of time.
export function nodeRows(nodes, now, span) {
  if (!nodes || nodes.length < 2) return [];
  return nodes.map((node) => [
    `${place(node.url)}${node.draining ? ", draining" : ""}`,
    whole.format(node.turns_running),
    `${whole.format(node.children)} of ${whole.format(node.children_limit)}`,
    whole.format(node.conversations),
    node.since ? span(Math.max(0, now - node.since)) : "–",
    node.store_ms ? `${node.store_ms < 10 ? node.store_ms.toFixed(1) : Math.round(node.store_ms)} ms` : "–",
  ]);
}

function place(url) {
  return URL.canParse(url) ? new URL(url).host : url;
}
