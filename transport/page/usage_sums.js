// What the entries of GET /v1/usage come to: for today, this week and this month, and by key.
//
// Knows: days in UTC, weeks from Monday, as the gateway counts them for its limits. Refuses to know:
// where the entries come from, and how they are shown.

const DAY = 86_400_000;
const dayOf = (at) => new Date(at).toISOString().slice(0, 10);

// The first days of the spans that are summed: { day, week, month }, as in 2026-01-31.
export function beginnings(now = Date.now()) {
  const day = dayOf(now);
  return { day, week: dayOf(now - ((new Date(now).getUTCDay() + 6) % 7) * DAY), month: `${day.slice(0, 8)}01` };
}

// The day from which on entries are needed: a week may begin before its month.
export const firstDay = (now = Date.now()) => Object.values(beginnings(now)).sort()[0];

const sum = (entries) => entries.reduce(
  (all, { turns, total_tokens: tokens, cost_usd: cost }) => ({ turns: all.turns + turns, tokens: all.tokens + tokens, cost: all.cost + cost }),
  { turns: 0, tokens: 0, cost: 0 },
);

// { day, week, month }, each { turns, tokens, cost }.
export function sums(entries, now = Date.now()) {
  return Object.fromEntries(Object.entries(beginnings(now)).map(([span, first]) => [span, sum(entries.filter(({ day }) => day >= first))]));
}

// What a key is called. One that is deleted has no name any more.
export const keyName = ({ key_name: name, key_id: id }) => name ?? (id === "local" ? "No key" : id);

export const hasSeveralKeys = (entries) => new Set(entries.map(({ key_id: id }) => id)).size > 1;

// This month by key, the most expensive first: [{ name, turns, tokens, cost }]. Two keys may have the
// same name.
export function byKey(entries, now = Date.now()) {
  const { month } = beginnings(now);
  const keys = new Map();
  for (const entry of entries) if (entry.day >= month) keys.set(entry.key_id, [...(keys.get(entry.key_id) ?? []), entry]);
  return [...keys.values()].map((own) => ({ name: keyName(own[0]), ...sum(own) })).sort((one, other) => other.cost - one.cost || other.tokens - one.tokens);
}

// The newest day first, and within it by key and model.
export function newestFirst(entries) {
  const within = (entry) => `${keyName(entry)} ${entry.model ?? ""}`;
  return [...entries].sort((one, other) => other.day.localeCompare(one.day) || within(one).localeCompare(within(other)));
}
