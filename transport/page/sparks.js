// A number with its last minutes as a line.
//
// Knows: how a line is drawn from what was seen when, and that it runs. Refuses to know: what the
// number is.

import { h, s } from "./dom.js";
import { PAST } from "./watch.js";

const WIDTH = 200;
const HEIGHT = 36;
const SHORTEST = 15; // seconds

export class Spark {
  // `read(overview)` gives the value that is shown, `format` words it. `rate`: the line shows how fast
  // the value grows, not the value.
  constructor({ name, read, format = String, rate = false }) {
    Object.assign(this, { read, format, rate });
    this.value = h("dd", {});
    this.area = s("path", { class: "area" });
    this.line = s("path", { class: "stroke" });
    this.element = h(
      "div",
      { class: "spark" },
      h("dt", {}, name),
      this.value,
      s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" }, this.area, this.line),
    );
  }

  show(past, now) {
    if (!past.length) return;
    const last = this.read(past[past.length - 1].overview);
    const text = last === null ? "–" : this.format(last);
    if (this.value.textContent !== text) this.value.textContent = text;
    const path = linePath(this.points(past, now));
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", path ? `${path}V${HEIGHT}H${path.slice(1).split(" ")[0]}Z` : "");
  }

  // [x, value] from left to right; each value holds until the next.
  points(past, now) {
    const span = Math.min(PAST, Math.max(SHORTEST, now - past[0].seen)); // a young line fills its card
    const x = (seen) => WIDTH * (1 - (now - seen) / span);
    const values = past.map(({ seen, overview }) => [x(seen), this.read(overview) ?? 0]);
    const shown = this.rate
      ? values.map(([at, value], index) => {
          const [before, old] = values[Math.max(0, index - 1)];
          return [at, at > before ? Math.max(0, value - old) / (at - before) : 0];
        })
      : values;
    if (shown.length) shown.push([WIDTH, this.rate ? 0 : shown[shown.length - 1][1]]);
    return shown;
  }
}

// Steps: what was true stays true until another value arrives.
export function linePath(points) {
  if (!points.length) return "";
  const most = Math.max(1e-9, ...points.map(([, value]) => value));
  const y = (value) => (HEIGHT - 3 - (value / most) * (HEIGHT - 7)).toFixed(1);
  const [[x, first], ...rest] = points;
  return `M${x.toFixed(1)} ${y(first)}${rest.map(([at, value]) => `H${at.toFixed(1)}V${y(value)}`).join("")}`;
}
