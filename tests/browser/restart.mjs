// A gateway that is restarted under the page; test_page_restart.py says what each check has to see.

import { spawn } from "node:child_process";
import { answered, lastAnswer, openBrowser, openPage, say, shoot } from "./browser.mjs";
import { report } from "./report.mjs";

const { CCAPI_TEST_GATEWAY: command, CCAPI_TEST_PORT: port, CCAPI_TEST_GATEWAY_ENV: env } = process.env;
const url = `http://127.0.0.1:${port}`;
const json = async (path) => (await fetch(`${url}${path}`)).json();
let gateway = null;
// However this process ends, but for a SIGKILL: none of its gateways outlives it.
process.on("exit", () => gateway?.kill("SIGKILL"));

async function start() {
  const [program, ...args] = JSON.parse(command);
  gateway = spawn(program, args, { env: JSON.parse(env), stdio: "ignore" });
  for (let tries = 0; tries < 300; tries += 1) {
    try {
      if ((await fetch(`${url}/ready`)).ok) return;
    } catch { /* not yet */ }
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error("the gateway does not answer");
}

async function stop(signal) {
  const ended = new Promise((done) => gateway.once("exit", done));
  gateway.kill(signal);
  await ended;
}

await start();
const browser = await openBrowser();
const { page, noted } = await openPage(browser, url);
const id = () => new URL(page.url()).hash.split("/").at(-1);
const asked = async () => (await json(`/v1/conversations/${id()}/items?limit=100&order=asc`)).data.filter((item) => item.role === "user").map((item) => item.content[0].text);

async function fresh() {
  await page.locator("#new").click();
  await page.locator("#hello").waitFor();
}

// An answer, then a restart while a message waits and another one stands in the box.
async function restarted(signal) {
  await fresh();
  await say(page, "repeat: before");
  await answered(page, "before");
  const before = id();
  await stop(signal);
  await page.locator("#state").waitFor();
  await say(page, "how many messages?");
  await page.locator("#log .fate").getByText("Waits for the connection").waitFor();
  await page.locator("#ask").fill("This is not sent yet.");
  await start();
  await answered(page, "3");
  await page.locator("#state").waitFor({ state: "hidden" });
  await shoot(page, `restart-${signal}`);
  return { same: id() === before, said: await page.locator("#log .said").allInnerTexts(), fates: await page.locator("#log .fate").count(), box: await page.locator("#ask").inputValue(), asked: await asked() };
}

try {
  await report({
    terminated: () => restarted("SIGTERM"),
    killed: () => restarted("SIGKILL"),

    // What was shown of a turn that was lost stays, and says so; after a reload it is not said again.
    loses: async () => {
      await page.locator("#ask").fill("");
      await fresh();
      await say(page, "repeat: before");
      await answered(page, "before");
      await say(page, '!script {"deltas": 100000, "pace_ms": 20}');
      await page.locator("#log .turn").nth(1).locator(".answer .md").waitFor();
      await stop("SIGKILL");
      await page.locator("#state").waitFor();
      await start();
      await page.locator(".mishap").getByText("The gateway was restarted while it answered").waitFor();
      await shoot(page, "restart-lost");
      const shown = { said: (await page.locator("#log .said").allInnerTexts()).length, kept: (await lastAnswer(page).locator(".md").first().innerText()).length > 0, mishaps: await page.locator(".mishap").count() };
      await page.reload();
      await lastAnswer(page).getByText("before").waitFor();
      await say(page, "repeat: after");
      await answered(page, "after");
      return { ...shown, again: await page.locator(".mishap").count(), asked: await asked() };
    },

    // A page that comes to a conversation of which a turn was lost says so, once.
    joinsLate: async () => {
      await fresh();
      await say(page, "repeat: before");
      await answered(page, "before");
      const address = page.url();
      await say(page, '!script {"deltas": 100000, "pace_ms": 20}');
      await page.locator("#log .turn").nth(1).locator(".answer .md").waitFor();
      await fresh();
      await stop("SIGKILL");
      await start();
      await page.goto(address);
      await page.locator(".mishap[data-lost]").waitFor();
      const told = await page.locator(".mishap").innerText();
      await page.reload();
      await lastAnswer(page).getByText("before").waitFor();
      await page.waitForTimeout(300);
      return { told, again: await page.locator(".mishap").count() };
    },

    // The gateway closes it because it has left its memory, for whatever reason but "deleted".
    leavesMemory: async () => {
      const seen = {};
      for (const reason of ["expired", "evicted", "storage_unavailable", "draining"]) {
        const other = await browser.newContext();
        const away = await other.newPage();
        let joins = 0;
        let server = null;
        await away.routeWebSocket(/\/events/, (socket) => {
          joins += 1;
          server = socket;
          const there = socket.connectToServer();
          let last = 0;
          there.onMessage((data) => {
            const { event_id: number, last_event_id: start } = JSON.parse(data);
            last = number ?? start ?? last;
            socket.send(data);
          });
          socket.closing = () => {
            socket.send(JSON.stringify({ type: "conversation.closed", event_id: last + 1, reason }));
            socket.close();
          };
        });
        await away.goto(page.url());
        await away.locator("#log .answer").getByText("before").first().waitFor();
        await away.locator("#ask").fill("Still here.");
        const first = joins;
        server.closing();
        while (joins === first) await away.waitForTimeout(20);
        await away.locator("#state").waitFor({ state: "hidden" });
        seen[reason] = [await away.locator("#log .said").count() > 0, await away.locator("#ask").inputValue()];
        await say(away, `repeat: after ${reason}`);
        await answered(away, `after ${reason}`);
        await other.close();
      }
      return seen;
    },

    finds: async () => {
      const all = await page.locator("#list .entry").count();
      await page.locator("#seek").fill("many");
      await page.waitForFunction((before) => document.querySelectorAll("#list .entry").length < before, all);
      const found = await page.locator("#list .entry").count();
      await shoot(page, "restart-search");
      await page.locator("#seek").fill("nothing-like-it");
      await page.locator("#list-note").getByText("Nothing was found.").waitFor();
      await page.locator("#seek").fill("");
      await page.waitForFunction((before) => document.querySelectorAll("#list .entry").length === before, all);
      return { all, found };
    },

    quiet: async () => ({ errors: noted.errors.filter((text) => !/net::ERR_|WebSocket connection to .* failed|status of 503/.test(text)) }),
  });
} finally {
  gateway.kill("SIGKILL");
  await browser.close();
}
