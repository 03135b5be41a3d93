// The limits of the gateway's logins, as rows of the overview's tables.
//
// Knows: what a login's report says, in words and in the reader's own time. Refuses to know: where it
// is shown. What was not reported has no row, and no number.

const WINDOWS = {
  five_hour: "Five hours", seven_day: "Week", seven_day_opus: "Week, Opus", seven_day_sonnet: "Week, Sonnet",
  seven_day_overage_included: "Week, with overage", overage: "Overage",
};
const OVERAGE = { allowed: "Allowed", allowed_warning: "Nearly used up", rejected: "Not allowed" };
const DAY = 86_400_000;

// A table for each login of which anything is known: its caption, and rows of a name, a part between
// 0 and 1 (null: none) and words. `zone` is for tests; the reader's own is the rule.
export function limitTables(logins, now = Date.now(), zone = undefined) {
  const several = (logins ?? []).length > 1;
  return (logins ?? []).filter((login) => several || login.reported_at !== null).map((login) => ({
    caption: several ? `Limits of the login “${login.name}”` : "Limits of the login",
    rows: rowsOf(login, now, zone),
  }));
}

function rowsOf(login, now, zone) {
  const rows = [];
  if (login.limited_until !== null) rows.push({ name: "Used up", part: null, words: `until ${clock(login.limited_until, now, zone)}` });
  for (const [name, { utilization, resets_at: resets, status }] of Object.entries(login.windows)) {
    const words = [
      utilization === null ? (status === "rejected" ? "used up" : null) : `${Math.round(utilization * 100)} %`,
      resets === null ? null : `resets at ${clock(resets, now, zone)}`,
    ];
    rows.push({ name: WINDOWS[name] ?? name, part: utilization === null ? null : Math.min(1, utilization), words: words.filter(Boolean).join(", ") });
  }
  if (login.overage) rows.push({ name: "Overage", part: null, words: login.overage.in_use ? "In use" : (OVERAGE[login.overage.status] ?? login.overage.status) });
  return rows.length ? rows : [{ name: "State", part: null, words: "Not known" }];
}

// The hour, with the day where it is another one than today.
function clock(seconds, now, zone) {
  const at = new Date(seconds * 1000);
  const day = new Intl.DateTimeFormat("en-CA", { timeZone: zone, dateStyle: "short" });
  const hour = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone };
  if (day.format(at) === day.format(now)) return format(at, hour);
  const near = Math.abs(at - now) < 6 * DAY;
  return format(at, near ? { ...hour, weekday: "short" } : { ...hour, day: "numeric", month: "short" });
}

const format = (at, how) => new Intl.DateTimeFormat("en-GB", how).format(at);
