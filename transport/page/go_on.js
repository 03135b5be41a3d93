// A conversation that its gateway does not have any more, begun again from what the page shows.
//
// Knows: what of a story another conversation can receive, and in which portions. Refuses to know:
// elements, and what becomes of messages that were not sent yet.

import { api } from "./api.js";
import { tab } from "./keys.js";
import { answerText } from "./story.js";

const MOST = 20; // items that one request may bring
const HEAVIEST = 8 * 1024 * 1024; // characters of them, pictures included

// The system prompt and the workspace are sent to the gateway once, and it does not send them back.
export function rememberWanted(id, wanted) {
  tab.set(`wanted.${id}`, JSON.stringify(wanted));
}

function wantedOf(id) {
  try {
    return JSON.parse(tab.get(`wanted.${id}`) ?? "{}");
  } catch {
    return {};
  }
}

// What was asked and answered, as items without ids. Tools and thoughts are left out: what a tool
// gave is in the answer, and a call cannot be sent without its result.
export function itemsOf(turns) {
  return turns.flatMap((turn) => {
    const answer = answerText(turn);
    if (turn.state === "failed" || (turn.state === "running" && !answer)) return [];
    const asked = turn.question
      .filter((item) => item.type === "message" && item.content?.length)
      .map(({ role, content }) => ({ type: "message", role, content }));
    const said = { type: "message", role: "assistant", content: [{ type: "output_text", text: answer }] };
    return answer ? [...asked, said] : asked;
  });
}

export function portionsOf(items) {
  const portions = [];
  let weight = Infinity;
  for (const item of items) {
    const more = JSON.stringify(item).length;
    if (weight + more > HEAVIEST || portions[portions.length - 1].length >= MOST) {
      portions.push([]);
      weight = 0;
    }
    portions[portions.length - 1].push(item);
    weight += more;
  }
  return portions;
}

// Make the conversation; returns it. Raises ApiError.
export async function continueElsewhere({ id, story }) {
  const { model, workspace } = story.conversation ?? {};
  const wanted = { ...(model ? { model } : {}), ...(workspace ? { workspace } : {}), ...wantedOf(id) };
  if (model) wanted.model = model;
  const [first, ...rest] = portionsOf(itemsOf(story.turns));
  const made = await api.create(first ? { ...wanted, items: first } : wanted);
  try {
    for (const portion of rest) await api.addItems(made.id, portion);
  } catch (error) {
    await api.remove(made.id).catch(() => {}); // half a history is none
    throw error;
  }
  rememberWanted(made.id, wanted);
  return made;
}
