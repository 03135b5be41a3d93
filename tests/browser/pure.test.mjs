// What the page works out without a browser: Markdown, the story of a conversation, the outbox, the
// plan of the overview. Run by `node --test` beside a copy of the page's modules.

import assert from "node:assert/strict";
import { test } from "node:test";
import { colour } from "./page/colours.js";
import { limitTables } from "./page/overview_limits.js";
import { nodeRows } from "./page/overview_nodes.js";
import { plan, sessionPlaces, windowLights } from "./page/overview_plan.js";
import { itemsOf, portionsOf } from "./page/go_on.js";
import { safeAddress } from "./page/inline.js";
import { keyError } from "./page/keys.js";
import { parse } from "./page/markdown.js";
import { Outbox, fingerprint } from "./page/outbox.js";
import { LOST, Story, answerText } from "./page/story.js";
import { beginnings, byKey, firstDay, hasSeveralKeys, newestFirst, sums } from "./page/usage_sums.js";

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

// What is costly in some texts: every sign that means something, alone and in twos.
const SIGNS = ["*", "_", "~~", "`", "``", "[", "](", "](x)", "[a](", "![", "[](b \"", "<", "<br", "http://", "&", "\\", "\\(", "\\[", "$", "$$", "$a", "a$", "|", "|-", "# ", "> ", "- ", "-", "1. ", " ", "\t", "\n", "=", "a", "a*", "\n- ", "\n> ", "\n|a|", "\n\\[ ", "\n```", "(", ")", ".", "\u2028", "😀"];

function* hostile() {
  for (const one of SIGNS) {
    for (const other of ["*", "_", "`", "[", "](", "<", "http://", "\\", "$", "|", "> ", "- ", " ", "\n", "a", "(", ")"]) {
      yield [`${one}${other}, again and again`, (size) => (one + other).repeat(size / (one.length + other.length))];
      yield [`${one}, then ${other} alone`, (size) => one + other.repeat(size / other.length) + "x"];
    }
    yield [`half ${one}, half a`, (size) => one.repeat(size / 2 / one.length) + "a".repeat(size / 2)];
    yield [`${one} and its mirror`, (size) => one.repeat(size / 2 / one.length) + "a" + [...one].reverse().join("").repeat(size / 2 / one.length)];
    yield [`a table rule with ${one}`, (size) => `|a|\n|-${one.repeat(size / one.length)}x`];
    yield [`a table of ${one}`, (size) => `${`|${one}`.repeat(size / 4)}\n${"|-".repeat(size / 4)}\n${"|\n".repeat(size / 4)}`];
    yield [`a fence of ${one}`, (size) => `${"`".repeat(size / 2)}${one.repeat(size / 2 / one.length)}\``];
  }
  yield ["rows that lack cells", (size) => `${"|a".repeat(size / 8)}\n${"|-".repeat(size / 8)}\n${"x\n".repeat(size / 4)}`];
  yield ["runs of backticks, each longer", (size) => Array.from({ length: Math.sqrt(size * 2) }, (_, at) => `${"`".repeat(at)}a`).join("")];
  yield ["code between a space and none", (size) => `\` ${"a".repeat(size)}\``];
  yield ["an address and its tail", (size) => `https://a${".".repeat(size)}x)`];
  yield ["an address in brackets", (size) => `https://a${"(".repeat(size / 2)}${")".repeat(size / 2)}`];
  yield ["pictures in pictures", (size) => "![".repeat(size / 15) + "](https://a.b)".repeat(size / 15)];
  yield ["emphasis in emphasis", (size) => "*a _b ".repeat(size / 12) + "b_ a* ".repeat(size / 12)];
  yield ["deep ones, then openers that find no way in", (size) => `${"*a ".repeat(40)}${"a* ".repeat(40)}${"*a ".repeat(size / 6)}${"a* ".repeat(size / 6)}`];
}

// The CPU's time, in ms: what else the machine does counts for nothing.
function costOf(text, times = 3) {
  return Math.min(...Array.from({ length: times }, () => {
    const before = process.cpuUsage();
    parse(text);
    return process.cpuUsage(before).user / 1000;
  }));
}

test("a text costs what its length does, whatever it is", () => {
  for (const [name, make] of hostile()) {
    if (costOf(make(16_000), 1) < 60) continue; // one that grew with the square would take longer
    const [once, eightfold] = [costOf(make(32_000)), costOf(make(256_000))];
    assert.ok(eightfold < 25 * once + 200, `${name}: ${once} ms, and ${eightfold} ms for eight times that`);
  }
});

function depthOf(value) {
  let deepest = 0;
  for (const left = [[value, 0]]; left.length; ) {
    const [one, depth] = left.pop();
    deepest = Math.max(deepest, depth);
    if (one && typeof one === "object") for (const inner of Object.values(one)) left.push([inner, depth + 1]);
  }
  return deepest;
}

test("a tree is never so deep that the page could not show it", () => {
  for (const [name, make] of hostile()) {
    const depth = depthOf(parse(make(1_200)));
    assert.ok(depth < 120, `${name}: ${depth}`);
  }
});

test("maths is text as it was written", () => {
  const inline = (text) => bare(text)[0].c;
  for (const maths of ["$a_1 * b_2 * c_3$", "$$x_{i}*y_{j}$$", "\\(a_b_c \\\\ *d*\\)", "\\[ \\frac{a}{b} _x_ \\]", "$\\{x\\}$", "$[a](b)$"]) {
    assert.deepEqual(inline(`So ${maths} is *it*`), [`So ${maths} is `, { t: "em", c: ["it"] }], maths);
  }
  for (const block of ["$$\n\\begin{aligned}\n- a_1 &= *b* \\\\\n+ c\n\\end{aligned}\n$$", "\\[\nx\n=\ny_1\n\\]"]) {
    assert.deepEqual(bare(`It is\n${block}\nand *so*`), [p("It is"), { t: "math", text: block }, p("and ", { t: "em", c: ["so"] })]);
    assert.deepEqual(bare(block.slice(0, -3))[0].t, "math", "while it is being written");
  }
  assert.deepEqual(bare("- so\n  $$\n  a_1\n  $$")[0].items[0].c, [p("so"), { t: "math", text: "$$\na_1\n$$" }]);
});

test("money, variables and brackets are no maths", () => {
  const inline = (text) => bare(text)[0].c;
  const em = { t: "em", c: ["or"] };
  assert.deepEqual(inline("$5 *or* $10"), ["$5 ", em, " $10"]);
  assert.deepEqual(inline("$HOME *or* $PATH"), ["$HOME ", em, " $PATH"]);
  assert.deepEqual(inline("$ *or* $"), ["$ ", em, " $"]);
  assert.deepEqual(inline("\\$a *or* b$"), ["$a ", em, " b$"]);
  assert.deepEqual(inline("`$a` *or* `$b`").map((one) => one.t ?? one), ["code", " ", "em", " ", "code"]);
  assert.deepEqual(inline("\\(a *or*"), ["(a ", em]);
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

test("events come once, in order, and a gap is reported", () => {
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
  made.receive(joined({ reason: "behind", last_event_id: 9, items: [said("q_t", "user", "x"), said("a_t", "assistant", "y")] }));
  assert.deepEqual([made.turns.length, answerText(made.turns[0]), made.last], [1, "y", 9]);
});

test("a turn that was lost stays where it was, as failed, and says why", () => {
  const [made] = story(joined(), begins(1, "aa", "hi"), says(2, "aa", "x"), { type: "turn.finished", event_id: 3, turn_id: "aa", finish_reason: "stop", items: [said("a_aa", "assistant", "x")] }, begins(4, "bb", "more"), says(5, "bb", "half"));
  const items = [said("q_aa", "user", "hi"), said("a_aa", "assistant", "x"), said("q_cc", "user", "on"), said("a_cc", "assistant", "z")];
  made.receive(joined({ reason: "behind", last_event_id: 900, lost_turn: "bb", items }));
  assert.deepEqual(made.turns.map(answerText), ["x", "half", "z"]);
  assert.deepEqual(made.turns.map((turn) => turn.state), ["done", "failed", "done"]);
  assert.equal(made.turns[1].error.message, LOST);
});

test("who joins in the middle of an answer gets the rest of it", () => {
  const turn = { turn_id: "t", model: "m", created_at: 0, items: [said("q", "user", "hi")], output: [said("a", "assistant", "so ")] };
  const [made] = story(joined({ turn }), says(1, "t", "far"));
  assert.equal(answerText(made.turns[0]), "so far");
  assert.equal(made.turns[0].parts.length, 1);
});

test("a search is shown as it came, and as it is kept", () => {
  const sources = [{ type: "url", url: "https://a.example/" }, { type: "url", url: "https://b.example/" }];
  const kept = { id: "ws_1", type: "web_search_call", status: "completed", action: { type: "search", query: "plums", sources } };
  const [made, kinds] = story(joined(), begins(1, "t", "go"),
    { type: "search.started", event_id: 2, turn_id: "t", call_id: "s", arguments: '{"query":"plums"}' },
    { type: "search.ended", event_id: 3, turn_id: "t", call_id: "s", sources, error: null },
    { type: "search.started", event_id: 4, turn_id: "t", call_id: "x", arguments: "[" },
    { type: "search.ended", event_id: 5, turn_id: "t", call_id: "x", sources: [], error: "unavailable" },
    { type: "turn.finished", event_id: 6, turn_id: "t", finish_reason: "stop", usage: {}, items: [
      kept, { ...kept, id: "ws_2", status: "failed", action: { type: "search", query: "", sources: [] } }] });
  const shown = made.turns[0].parts.map((part) => [part.kind, part.name, part.arguments, part.output, part.failed]);
  assert.deepEqual(shown, [
    ["activity", "web_search", "plums", "https://a.example/\nhttps://b.example/", false],
    ["activity", "web_search", "", "", true],
  ]);
  assert.ok(kinds.length > 0);
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

test("a stopped answer stays, and is marked", () => {
  const items = [{ ...said("a", "assistant", "so fa"), status: "incomplete" }];
  const [made, kinds] = story(joined(), begins(1, "t", "hi"), says(2, "t", "so fa"),
    { type: "turn.failed", event_id: 3, turn_id: "t", error: { code: "turn_interrupted" }, finish_reason: "interrupted", usage: null, items });
  assert.deepEqual([made.turns[0].state, made.turns[0].reason, answerText(made.turns[0]), kinds.at(-1)], ["done", "interrupted", "so fa", "ended"]);
  const [again] = story(joined({ items: [said("q", "user", "hi"), ...items, said("r", "user", "and")] }));
  assert.deepEqual(again.turns.map((turn) => turn.reason), ["incomplete", null]);
});

test("a permission that was answered elsewhere meanwhile is settled on return", () => {
  const permission = { request_id: "r", turn_id: "t", tool: "Bash", input: {}, suggestions: [], expires_at: 0 };
  const [made, kinds] = story(joined({ permissions: [permission] }), joined({ resumed: true, items: null }));
  assert.deepEqual(kinds.filter((kind) => ["permission", "settled"].includes(kind)), ["permission", "settled"]);
  assert.equal(made.permissions.size, 0);
});

test("what another conversation can take over from this one", () => {
  const call = { id: "f", type: "function_call", call_id: "c", name: "look", arguments: "{}" };
  const given = { id: "o", type: "function_call_output", call_id: "c", output: "x" };
  const [made] = story(joined({ items: [said("1", "user", "a"), call, given, said("2", "assistant", "b")] }), begins(1, "t", "c"), says(2, "t", "par"));
  made.receive({ type: "turn.failed", event_id: 3, turn_id: "t", error: { code: "x" } });
  made.receive(begins(4, "u", "d"));
  made.receive(says(5, "u", "half"));
  assert.deepEqual(made.stopRunning().map(({ kind }) => kind), ["ended"]);
  assert.deepEqual(itemsOf(made.turns).map(({ role, content, id }) => [role, content[0].text, id]), [["user", "a", undefined], ["assistant", "b", undefined], ["user", "d", undefined], ["assistant", "half", undefined]]);
});

test("a long history goes in portions that a request may have", () => {
  const items = Array.from({ length: 45 }, (_, at) => ({ at, text: at > 40 ? "x".repeat(5 * 1024 * 1024) : "" }));
  assert.deepEqual(portionsOf(items).map((portion) => portion.length), [20, 20, 2, 1, 1, 1]);
  assert.deepEqual(portionsOf(items).flat(), items);
  assert.deepEqual(portionsOf([]), []);
});

test("a key is what a header can hold", () => {
  for (const sound of ["sk-1", "a/b+c=!~\"'"]) assert.equal(keyError(sound), null);
  for (const bad of ["é", "a b", "a\nb", "a\u0000", "–", "😀"]) assert.match(keyError(bad), /A key is made of/);
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

test("a message that a stopping gateway refused waits for the next one", () => {
  const box = new Outbox({ store: { get: () => "", set: () => {} } });
  box.add({ input: "hi" });
  const wire = [];
  const send = (message) => wire.push(message);
  box.flush(send);
  box.refused({ ref: wire[0].ref, error: { code: "draining", message: "It is stopping." } });
  assert.deepEqual(box.messages.map(({ state, error }) => [state, error]), [["queued", null]]);
  box.flush(send);
  assert.equal(wire.length, 2);
});

test("what has no answer when the conversation moves waits for the next gateway, what was accepted does not", () => {
  const { box, wire, send } = outbox();
  box.add({ input: "first", options: {} });
  box.add({ input: "second", options: {} });
  box.flush(send);
  box.accepted({ ref: wire[0].ref, turn_id: "t" });
  box.moved();
  box.disconnected();
  box.flush(send);
  assert.deepEqual(wire.map(({ input }) => input), ["first", "second", "second"]);
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

// -- the overview ------------------------------------------------------------------------------------

test("light comes from the left, and every child has a window", () => {
  assert.deepEqual(windowLights({ live: 4, warm: 1, idle: 1 }, 6), ["busy", "busy", "idle", "warm", "free", "free"]);
});

test("a picture of any width has its rooms inside, and its sessions in them", () => {
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

// -- the limits of the logins ------------------------------------------------------------------------

const NOON = Date.UTC(2026, 10, 29, 12);
const at = (hours) => NOON / 1000 + hours * 3600;
const unknown = { name: "default", status: null, limited_until: null, windows: {}, overage: null, reported_at: null };
const shown = (login, zone = "UTC") => limitTables([{ ...unknown, reported_at: at(0), ...login }], NOON, zone).flatMap(({ rows }) => rows.map(({ name, part, words }) => [name, part, words]));

test("a login's windows say how much is used, and when they count anew in the reader's own time", () => {
  const windows = { five_hour: { utilization: 0.934, resets_at: at(2), status: "allowed_warning" }, seven_day: { utilization: 1.2, resets_at: at(40), status: "rejected" } };
  assert.deepEqual(shown({ windows }), [["Five hours", 0.934, "93 %, resets at 14:00"], ["Week", 1, "120 %, resets at Tue 04:00"]]);
  assert.deepEqual(shown({ windows }, "Asia/Tokyo")[0][2], "93 %, resets at 23:00");
  assert.deepEqual(shown({ windows: { new_one: { utilization: 0, resets_at: at(240), status: null } } }), [["new_one", 0, "0 %, resets at 9 Dec, 12:00"]]);
});

test("what a login did not report has no number", () => {
  assert.deepEqual(limitTables([unknown], NOON), [], "one login of which nothing is known is not shown");
  assert.deepEqual(limitTables(undefined, NOON), []);
  assert.deepEqual(limitTables([unknown, { ...unknown, name: "b" }], NOON).map(({ caption, rows }) => [caption, rows[0].words]), [["Limits of the login “default”", "Not known"], ["Limits of the login “b”", "Not known"]]);
  const windows = { five_hour: { utilization: null, resets_at: null, status: "rejected" } };
  assert.deepEqual(shown({ windows }), [["Five hours", null, "used up"]]);
});

test("a login that is used up says until when, and whether overage pays", () => {
  assert.deepEqual(shown({ limited_until: at(2) }), [["Used up", null, "until 14:00"]]);
  assert.deepEqual(shown({ overage: { status: "allowed", resets_at: null, in_use: true } }), [["Overage", null, "In use"]]);
  assert.deepEqual(shown({ overage: { status: "rejected", resets_at: null, in_use: false } }), [["Overage", null, "Not allowed"]]);
});

// -- usage -------------------------------------------------------------------------------------------

const used = (day, tokens, cost, more = {}) => ({ key_id: "aa", key_name: "ann", day, model: "haiku", turns: 1, total_tokens: tokens, cost_usd: cost, ...more });
const THURSDAY = Date.UTC(2026, 0, 1, 23, 59); // its week began in another month, and another year

test("usage is summed for the day, the week from Monday and the month, in UTC", () => {
  assert.deepEqual(beginnings(THURSDAY), { day: "2026-01-01", week: "2025-12-29", month: "2026-01-01" });
  assert.equal(firstDay(THURSDAY), "2025-12-29");
  assert.equal(beginnings(Date.UTC(2026, 2, 1)).week, "2026-02-23", "a Sunday ends its week");
  assert.equal(beginnings(Date.UTC(2026, 2, 2)).week, "2026-03-02", "a Monday begins one");
  assert.equal(firstDay(Date.UTC(2026, 2, 20)), "2026-03-01");
  const entries = [used("2025-12-28", 1000, 8), used("2025-12-29", 100, 4), used("2026-01-01", 10, 2), used("2026-01-01", 1, 1, { model: "opus", turns: 2 })];
  assert.deepEqual(sums(entries, THURSDAY), {
    day: { turns: 3, tokens: 11, cost: 3 },
    week: { turns: 4, tokens: 111, cost: 7 },
    month: { turns: 3, tokens: 11, cost: 3 },
  });
  assert.deepEqual(sums([], THURSDAY).month, { turns: 0, tokens: 0, cost: 0 });
});

test("an admin sees keys by name, the most expensive first, and the newest day first", () => {
  const bob = { key_id: "bb", key_name: "bob" };
  const entries = [used("2026-01-01", 1, 1), used("2026-01-02", 5, 1, { model: null }), used("2026-01-02", 9, 3, bob), used("2025-12-31", 7, 9), used("2026-01-01", 2, 0, { key_id: "cc", key_name: null }), used("2026-01-01", 3, 0, { key_id: "local", key_name: null })];
  assert.deepEqual(byKey(entries, Date.UTC(2026, 0, 3)).map(({ name, tokens, cost }) => [name, tokens, cost]), [["bob", 9, 3], ["ann", 6, 2], ["No key", 3, 0], ["cc", 2, 0]]);
  assert.deepEqual(newestFirst(entries).slice(0, 3).map(({ day, key_name: name }) => [day, name]), [["2026-01-02", "ann"], ["2026-01-02", "bob"], ["2026-01-01", "ann"]]);
  assert.deepEqual([hasSeveralKeys(entries), hasSeveralKeys([used("2026-01-01", 1, 1)])], [true, false]);
});

// -- several gateways --------------------------------------------------------------------------------

test("each of several gateways has a row, and one that is alone has none", () => {
  const node = { url: "http://10.0.0.5:8080", since: 940, draining: false, store_ms: 0.84, turns_running: 1200, children: 3, children_limit: 8, conversations: 12 };
  const span = (seconds) => `${seconds} s`;
  assert.deepEqual(nodeRows(undefined, 1000, span), []);
  assert.deepEqual(nodeRows([node], 1000, span), []);
  assert.deepEqual(nodeRows([node, { ...node, url: "odd", draining: true, since: 0, store_ms: 31.4 }], 1000, span), [
    ["10.0.0.5:8080", "1,200", "3 of 8", "12", "60 s", "0.8 ms"],
    ["odd, draining", "1,200", "3 of 8", "12", "–", "31 ms"],
  ]);
});
