// What the page works out without a browser: Markdown, the story of a conversation, the outbox, the
// plan of the house. Run by `node --test` beside a copy of the page's modules.

import assert from "node:assert/strict";
import { test } from "node:test";
import { colour } from "./page/colours.js";
import { plan, sessionPlaces, windowLights } from "./page/house_plan.js";
import { safeAddress } from "./page/inline.js";
import { parse } from "./page/markdown.js";
import { Outbox, fingerprint } from "./page/outbox.js";
import { Story, answerText } from "./page/story.js";

const bare = (text) => parse(text).map(({ at: _, ...block }) => block);
const p = (...c) => ({ t: "p", c });

// -- Markdown ----------------------------------------------------------------------------------------

test("blocks of every kind", () => {
  assert.deepEqual(bare("# One\n\ntwo\nthree\n\n---\n> four\n\n```js\nfive()\n```"), [
    { t: "h", level: 1, c: ["One"] },
    p("two\nthree"),
    { t: "hr" },
    { t: "quote", c: [p("four")] },
    { t: "code", lang: "js", text: "five()", open: false },
  ]);
  assert.deepEqual(bare("Title\n===\nunder"), [{ t: "h", level: 1, c: ["Title"] }, p("under")]);
});

test("lists nest, number from where they begin, and hold code and tasks", () => {
  const [list] = bare("3. one\n   ```py\n\tx = 1\n   ```\n4. two\n   - [x] done\n   - [ ] open");
  assert.deepEqual([list.ordered, list.start, list.items.length], [true, 3, 2]);
  assert.deepEqual(list.items[0].c[1], { t: "code", lang: "py", text: " x = 1", open: false });
  assert.deepEqual(list.items[1].c[1].items.map((item) => item.checked), [true, false]);
  const [nested] = bare("- a\n  - b\n    - c");
  assert.deepEqual(nested.items[0].c[1].items[0].c[1].items[0].c, [p("c")]);
  assert.equal(bare("In\n1970. It was a good year.").length, 1, "a year begins no list");
});

test("code keeps its tabs and its blank lines", () => {
  assert.equal(bare("```make\nall:\n\tcc x.c\n\n\techo\n```")[0].text, "all:\n\tcc x.c\n\n\techo");
});

test("tables have cells, alignment, and bars in code that are none", () => {
  const [table] = bare("| a | b |\n|:-:|--:|\n| `x|y` | 2 |\n| only |");
  assert.deepEqual(table.align, ["center", "right"]);
  assert.deepEqual(table.rows, [[[{ t: "code", text: "x|y" }], ["2"]], [["only"], []]]);
});

test("emphasis, and what only looks like it", () => {
  const inline = (text) => bare(text)[0].c;
  assert.deepEqual(inline("*a* **b** ~~c~~ `d`"), [{ t: "em", c: ["a"] }, " ", { t: "strong", c: ["b"] }, " ", { t: "del", c: ["c"] }, " ", { t: "code", text: "d" }]);
  assert.deepEqual(inline("***both***"), [{ t: "em", c: [{ t: "strong", c: ["both"] }] }]);
  for (const plain of ["snake_case_name", "2 * 3 * 4", "a `b", "5 < 6 & 7"]) assert.deepEqual(inline(plain), [plain]);
  assert.deepEqual(inline("\\*no\\*"), ["*no*"]);
  assert.deepEqual(inline("&lt;b&gt; &#65;&amp;"), ["<b> A&"]);
});

test("HTML is text", () => {
  assert.deepEqual(bare("<script>alert(1)</script>"), [p("<script>alert(1)</script>")]);
  assert.deepEqual(bare('<img src=x onerror="alert(1)">'), [p('<img src=x onerror="alert(1)">')]);
});

test("links lead to the web or to a letter, or they are none", () => {
  for (const bad of ["javascript:alert(1)", "JaVa\tScript:alert(1)", "data:text/html,x", "vbscript:x", "//evil.example", "/etc/passwd", "file:///etc/passwd", "https:/x"]) {
    assert.equal(safeAddress(bad), null, bad);
    assert.doesNotMatch(JSON.stringify(parse(`[x](${bad}) <${bad}> ![y](${bad})`)), /"href":"(?!https?:\/\/|mailto:)/);
  }
  assert.deepEqual(bare("[a](https://x.org/b_(c) \"t\")")[0].c, [{ t: "link", href: "https://x.org/b_(c)", image: false, c: ["a"] }]);
  assert.deepEqual(bare("See https://x.org/a_b, now")[0].c[1], { t: "link", href: "https://x.org/a_b", c: ["https://x.org/a_b"] });
  assert.equal(bare("![cat](https://x.org/c.png)")[0].c[0].image, true);
});

test("what was written to be slow is not", () => {
  const begun = performance.now();
  for (const text of ["*a ".repeat(20_000), "[".repeat(50_000), "`a ``b ".repeat(10_000), "> ".repeat(5_000), "- ".repeat(5_000), "[a](".repeat(10_000), "![".repeat(20_000) + "](x)".repeat(20_000), "*".repeat(40_000) + "a" + "*".repeat(40_000), "|a".repeat(10_000) + "\n" + "|-".repeat(10_000)]) parse(text);
  assert.ok(performance.now() - begun < 3_000);
});

test("blocks say where they begin, so that the last can be read again", () => {
  const text = "# a\n\nsome words\n\n- one\n- two\n\n```js\nx";
  for (const { at, ...block } of parse(text)) assert.deepEqual(bare(text.slice(at))[0], block);
});

test("coloured code is the same code", () => {
  for (const [lang, code] of [["python", "def f(x):  # hi\n    return 'a' + 1"], ["json", '{"a": [1, true]}'], ["sql", "SELECT 1 -- x"], ["what", "is <this>"], ["ts", "const a = `b${c}` // d"]]) {
    assert.equal(colour(lang, code).map(([, text]) => text).join(""), code);
  }
  assert.deepEqual(colour("json", '{"a": 1}').map(([kind]) => kind), [null, "name", null, "number", null]);
});

// -- a conversation ----------------------------------------------------------------------------------

const said = (id, role, text) => ({ id, type: "message", role, content: [{ type: role === "user" ? "input_text" : "output_text", text }] });
const joined = (more) => ({ type: "conversation.joined", conversation: { id: "c", phase: "idle" }, last_event_id: 0, resumed: false, reason: null, items: [], has_more: false, turn: null, permissions: [], watchers: 1, ...more });
const begins = (event_id, turn_id, text) => ({ type: "turn.started", event_id, turn_id, model: "m", created_at: 0, items: [said(`q_${turn_id}`, "user", text)] });
const says = (event_id, turn_id, text) => ({ type: "text.delta", event_id, turn_id, text });

function story(...messages) {
  const made = new Story();
  const changes = messages.flatMap((message) => made.receive(message));
  return [made, changes.map((change) => change.kind)];
}

test("events come once, in order, and a gap is told", () => {
  const [made] = story(joined(), begins(1, "t", "hi"), says(2, "t", "a"), says(2, "t", "a"), says(1, "t", "a"), says(3, "t", "b"));
  assert.equal(answerText(made.turns[0]), "ab");
  assert.deepEqual(made.receive(says(7, "t", "z")), [{ kind: "gap" }]);
  assert.equal(made.last, 3);
});

test("resumed, a story goes on; behind, it takes what it is given", () => {
  const [made] = story(joined(), begins(1, "t", "hi"), says(2, "t", "a"));
  made.receive(joined({ resumed: true, items: null, last_event_id: 3 }));
  made.receive(says(3, "t", "b"));
  assert.equal(answerText(made.turns[0]), "ab");
  made.receive(joined({ reason: "behind", last_event_id: 9, items: [said("1", "user", "x"), said("2", "assistant", "y")] }));
  assert.deepEqual([made.turns.length, answerText(made.turns[0]), made.last], [1, "y", 9]);
});

test("who joins in the middle of an answer gets the rest of it", () => {
  const turn = { turn_id: "t", model: "m", created_at: 0, items: [said("q", "user", "hi")], output: [said("a", "assistant", "so ")] };
  const [made] = story(joined({ turn }), says(1, "t", "far"));
  assert.equal(answerText(made.turns[0]), "so far");
  assert.equal(made.turns[0].parts.length, 1);
});

test("tools stand between the words they came between", () => {
  const [made, kinds] = story(joined(), begins(1, "t", "go"), says(2, "t", "first"),
    { type: "activity.started", event_id: 3, turn_id: "t", call_id: "c", name: "Bash" },
    { type: "activity.delta", event_id: 4, turn_id: "t", call_id: "c", arguments: '{"command":"ls"}' },
    { type: "activity.ended", event_id: 5, turn_id: "t", call_id: "c", output: "x", is_error: true },
    says(6, "t", "then"));
  assert.deepEqual(made.turns[0].parts.map((part) => [part.kind, part.text ?? part.arguments]), [["text", "first"], ["activity", '{"command":"ls"}'], ["text", "then"]]);
  assert.equal(made.turns[0].parts[1].failed, true);
  assert.deepEqual(kinds.slice(3), ["turn", "part", "part", "changed", "changed", "part"]);
});

test("a permission that was answered elsewhere meanwhile is settled on return", () => {
  const permission = { request_id: "r", turn_id: "t", tool: "Bash", input: {}, suggestions: [], expires_at: 0 };
  const [made, kinds] = story(joined({ permissions: [permission] }), joined({ resumed: true, items: null }));
  assert.deepEqual(kinds.filter((kind) => ["permission", "settled"].includes(kind)), ["permission", "settled"]);
  assert.equal(made.permissions.size, 0);
});

// -- what is on its way ------------------------------------------------------------------------------

function outbox(kept = "") {
  const store = { text: kept, get: () => store.text, set: (text) => (store.text = text) };
  const wire = [];
  return { box: new Outbox({ store }), store, wire, send: (message) => wire.push(message) > 0 };
}

test("a message goes on the wire once", () => {
  const { box, wire, send } = outbox();
  box.add({ input: "hi", options: {} });
  box.flush(() => false);
  assert.equal(box.messages[0].state, "queued");
  box.flush(send);
  box.flush(send);
  assert.equal(wire.length, 1);
  box.began("t", [said("q", "user", "hi")]);
  assert.equal(box.messages.length, 0);
});

test("one whose fate is not known is not sent again by itself, and what follows waits", () => {
  const { box, wire, send } = outbox();
  box.add({ input: "hi", options: {} });
  box.flush(send);
  box.disconnected();
  box.add({ input: "and", options: {} });
  box.flush(send);
  assert.deepEqual([wire.length, box.messages.map(({ state }) => state)], [1, ["unsure", "queued"]]);
  box.caughtUp({ running: true });
  box.caughtUp({ running: false });
  assert.equal(box.messages[0].state, "unsure", "its turn may be about to begin");
  box.caughtUp({ running: false });
  assert.equal(box.messages[0].state, "lost");
  box.again(box.messages[0].ref);
  box.flush(send);
  assert.deepEqual(wire.map(({ input }) => input), ["hi", "hi", "and"]);
});

test("one that is found in what was missed has arrived", () => {
  const { box, wire, send } = outbox();
  box.add({ input: "hi", options: {} });
  box.flush(send);
  box.disconnected();
  box.began("t", [said("q", "user", "hi")]);
  box.caughtUp({ running: false });
  assert.deepEqual([box.messages, wire.length], [[], 1]);
});

test("what was never on the wire outlives a reload, and nothing else does", () => {
  const { box, store, send } = outbox();
  box.add({ input: "one", options: {} });
  box.flush(send);
  box.add({ input: "two", options: { model: "m" } });
  const again = outbox(store.text).box;
  assert.deepEqual(again.messages.map(({ input, options, state }) => [input, options, state]), [["two", { model: "m" }, "queued"]]);
});

test("input and the items it became have one fingerprint", () => {
  assert.equal(fingerprint("hi"), fingerprint([said("q", "user", "hi")]));
  assert.notEqual(fingerprint("hi"), fingerprint([said("q", "user", "ho")]));
});

// -- the house ---------------------------------------------------------------------------------------

test("light comes from the left, and every child has a window", () => {
  assert.deepEqual(windowLights({ live: 4, warm: 1, idle: 1 }, 6), ["busy", "busy", "idle", "warm", "free", "free"]);
});

test("a house of any width has its rooms inside, and its sessions in them", () => {
  for (const width of [300, 360, 700, 1200]) {
    const made = plan(width, 64);
    assert.ok(made.windows.places.every((place) => place.x >= made.left && place.x + place.width <= made.right), `${width}`);
    const sessions = Array.from({ length: 300 }, (_, at) => ({ id: at % 2 ? `c${at}` : null, phase: ["busy", "idle", "asleep"][at % 3] }));
    const { placed, more } = sessionPlaces(made.rooms, sessions, { busy: 100, idle: 100, asleep: 500 });
    for (const { session, x, y } of placed) {
      const room = made.rooms.find(({ phases }) => phases.includes(session.phase));
      assert.ok(x >= room.x && x + 13 <= room.x + room.width && y >= room.y && y + 13 <= room.y + room.height);
    }
    assert.equal(new Set(placed.map(({ key }) => key)).size, placed.length);
    const cellar = more.get("cellar");
    assert.equal(cellar.hidden + placed.filter(({ session }) => session.phase === "asleep").length, 500);
  }
});
