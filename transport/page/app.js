// The page as a whole: what is shown for which address, and the keys that work everywhere.
//
// Knows: #/ (a new conversation), #/c/ID (one that exists) and #/overview (formerly #/house).
// Refuses to know: how any of them is shown.

import { api, onKeyNeeded } from "./api.js";
import { Composer } from "./composer.js";
import { askForKey, changeKey, showHelp } from "./dialogs.js";
import { byId, h, icon } from "./dom.js";
import { Overview } from "./overview.js";
import { continueElsewhere, rememberWanted } from "./go_on.js";
import { apiKey, lasting, tab } from "./keys.js";
import { Sidebar } from "./sidebar.js";
import { Talk, takeAlong, waitingTexts } from "./talk.js";
import { OverviewWatch, busyChildren } from "./watch.js";

const AGAIN = 3_000; // ms until a gateway that cannot be reached is asked again

let talk = null;
let overview = null;
let opening = false; // a conversation is being made

const watch = new OverviewWatch();
const composer = new Composer({ send: (message) => send(message), stop: () => talk?.stop() });
const sidebar = new Sidebar({ deleted: (id) => talk?.id === id && (location.hash = "#/") });

// -- what is shown -----------------------------------------------------------------------------------

function route() {
  const [, place, id] = location.hash.split("/");
  leave();
  const atOverview = place === "overview" || place === "house"; // its former name, in bookmarks
  byId("chat").hidden = atOverview;
  byId("overview").hidden = !atOverview;
  mark(byId("to-overview"), atOverview);
  sidebar.open(false);
  if (atOverview) {
    overview = new Overview(watch);
    document.title = "Overview · ccapi";
    sidebar.turnTo(null);
  } else if (place === "c" && id) {
    join(decodeURIComponent(id));
  } else {
    greet();
  }
}

function leave() {
  talk?.close();
  overview?.close();
  talk = overview = null;
}

function mark(link, is) {
  if (is) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function greet(words = null) {
  sidebar.turnTo(null);
  head("New conversation");
  composer.turnTo("new");
  composer.forConversation(false);
  composer.busy(false);
  const drawn = byId("mark").cloneNode(true);
  drawn.removeAttribute("id");
  byId("hello").replaceChildren(
    drawn,
    h("h2", {}, words ?? "Who is at home?"),
    h("p", {}, "Each conversation is a live Claude Code child. Ask a plain model, or give an agent a workspace and answer what it wants to do."),
    h("p", { class: "hints" }, h("span", {}, h("kbd", {}, "Enter"), "sends"), h("span", {}, h("kbd", {}, "Shift"), h("kbd", {}, "Enter"), "breaks the line"), h("span", {}, h("kbd", {}, "?"), "shows all keys")),
  );
  byId("hello").hidden = false;
  byId("ask").focus();
}

function join(id, { keepBox = false } = {}) {
  byId("hello").hidden = true;
  head("Conversation");
  sidebar.turnTo(id);
  if (!keepBox) composer.turnTo(id);
  composer.forConversation(true);
  talk = new Talk({
    id,
    changed: () => refresh(),
    edit: (text) => composer.fill(text),
    complain: (text) => composer.complain(text),
    goOn: () => goOn(),
    gone: (words) => {
      keepForNext(id);
      leave();
      history.replaceState(null, "", "#/"); // the address of nothing would be kept, and bookmarked
      sidebar.refresh();
      greet(sidebar.removing === id ? null : words);
    },
  });
  byId("ask").focus();
}

function refresh() {
  if (!talk?.story.conversation) return;
  const { story, permissions } = talk;
  const { id, title, model } = story.conversation;
  const first = story.turns[0]?.question.flatMap((item) => item.content ?? []).find((one) => one.text)?.text;
  const shown = title ?? first?.split("\n")[0].slice(0, 60) ?? null;
  head(shown ?? "New conversation", model, story.watchers);
  composer.forConversation(true, model);
  composer.busy(Boolean(story.running));
  sidebar.update({ id, title: shown, phase: story.phase, asks: permissions.open.length > 0 });
}

function head(title, model = null, watchers = 0) {
  byId("title").textContent = title;
  document.title = `${talk?.permissions.open.length ? "Permission? " : ""}${title} · ccapi`;
  byId("model-tag").hidden = !model;
  byId("model-tag").textContent = model ?? "";
  byId("watchers").hidden = watchers < 2;
  byId("watchers").replaceChildren(icon("eyes"), `${watchers} watching`);
}

// The mark is a house: a window is lit for each child at work.
function light(overview) {
  if (!overview) return;
  const busy = busyChildren(overview.children);
  const ready = overview.children.live - busy;
  for (const mark of document.querySelectorAll(".mark")) {
    [...mark.querySelectorAll("rect")].forEach((pane, at) =>
      pane.setAttribute("class", at < busy ? "lit" : at < busy + ready ? "warm" : ""));
  }
  byId("brand-state").textContent = busy ? `${busy} at work` : "";
  sidebar.know(overview);
}

// -- what is said ------------------------------------------------------------------------------------

function send(message) {
  if (talk) return talk.ask(message);
  if (!opening) open(message);
  return false; // the words stay until there is a conversation for them
}

async function open(message) {
  opening = true;
  composer.complain(null);
  try {
    const wanted = composer.wanted();
    const made = await api.create(wanted);
    rememberWanted(made.id, wanted);
    composer.made(made.id);
    sidebar.update(made);
    history.pushState(null, "", `#/c/${made.id}`);
    route();
    talk.ask(message);
  } catch (error) {
    composer.complain(error.message);
  } finally {
    opening = false;
  }
}

// A gateway that has restarted, or has forgotten it, does not have the conversation that is shown:
// another one begins with what was said in it, and takes along what waits to be sent.
async function goOn() {
  if (opening || !talk) return;
  opening = true;
  composer.complain(null);
  const old = talk;
  try {
    const made = await continueElsewhere(old);
    takeAlong(old.id, made.id);
    sidebar.update(made);
    if (talk !== old) return; // another one is looked at meanwhile; this one is in the list
    composer.takeAlong(made.id);
    history.replaceState(null, "", `#/c/${made.id}`);
    leave();
    join(made.id, { keepBox: true });
  } catch (error) {
    composer.complain(error.message);
  } finally {
    opening = false;
  }
}

// What waited in a conversation that is not shown any more goes into the box for the next one.
function keepForNext(id) {
  const waiting = waitingTexts(id);
  const draft = tab.get(`draft.${id}`);
  const kept = [...waiting, ...(draft ? [draft] : [])].join("\n\n");
  tab.drop(`draft.${id}`);
  if (kept && sidebar.removing !== id) tab.set("draft.new", [tab.get("draft.new"), kept].filter(Boolean).join("\n\n"));
}

// -- keys --------------------------------------------------------------------------------------------

addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, textarea, select");
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (sidebar.isOpen) sidebar.open(false);
    else talk?.stop();
  } else if (event.altKey && event.code === "KeyN") go(event, "#/");
  else if (event.altKey && event.code === "KeyH") go(event, "#/overview");
  else if (event.altKey && event.code === "KeyL") {
    event.preventDefault();
    (byId("list").querySelector("[aria-current]") ?? byId("list").querySelector("a") ?? byId("new")).focus();
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("ask").focus();
  } else if (event.key === "?" && !typing) {
    event.preventDefault();
    showHelp();
  }
});

function go(event, hash) {
  event.preventDefault();
  // At once: the event of a changed address would come after the next keys.
  if (location.hash !== hash) history.pushState(null, "", hash);
  route();
}

// -- day and night -----------------------------------------------------------------------------------

const THEMES = [[null, "auto", "as the system"], ["light", "day", "light"], ["dark", "night", "dark"]];

function showTheme() {
  const chosen = lasting.get("theme");
  const [, drawn, name] = THEMES.find(([theme]) => theme === chosen) ?? THEMES[0];
  const label = `Colours: ${name}`;
  byId("theme").replaceChildren(icon(drawn));
  byId("theme").setAttribute("aria-label", label);
  byId("theme").title = label;
}

byId("theme").addEventListener("click", () => {
  const at = THEMES.findIndex(([theme]) => theme === lasting.get("theme"));
  const [next] = THEMES[(at + 1) % THEMES.length];
  if (next) {
    lasting.set("theme", next);
    document.documentElement.dataset.theme = next;
  } else {
    lasting.drop("theme");
    delete document.documentElement.dataset.theme;
  }
  showTheme();
});

// -- begin -------------------------------------------------------------------------------------------

onKeyNeeded(askForKey);
showTheme();
byId("help").addEventListener("click", showHelp);
byId("new").addEventListener("click", (event) => go(event, "#/"));
byId("key-button").addEventListener("click", () => changeKey(() => location.reload()));
byId("key-button").hidden = !apiKey();
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("ask").focus();
});
addEventListener("hashchange", route);

async function begin() {
  try {
    composer.models(await api.models());
  } catch (error) {
    composer.complain(error.message);
    if (!error.status) setTimeout(begin, AGAIN); // it was there a moment ago: it had served the page
    return;
  }
  composer.complain(null);
  composer.forConversation(Boolean(talk), talk?.story.conversation?.model);
  byId("key-button").hidden = !apiKey();
  sidebar.refresh();
  watch.start();
  watch.listen(light);
}

begin();
route();
