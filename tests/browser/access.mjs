// The page for those who use no mouse, or do not see it, or have no connection; at a gateway that
// asks for a key. test_page_access.py says what each check has to see.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { lastAnswer, openBrowser, openLine, openPage, say, shoot } from "./browser.mjs";
import { report } from "./report.mjs";

const { CCAPI_TEST_BASE_URL: gateway, CCAPI_TEST_KEY: key } = process.env;
const line = await openLine(gateway);
const home = `${line.url}/`;
const browser = await openBrowser();
const { page, noted } = await openPage(browser, home);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const ended = (count) => page.waitForFunction((n) => document.querySelectorAll(".turn .ending").length >= n && !document.querySelector(".waiting"), count);

// What axe finds serious or worse, in a few words. The policy of the page lets no script in; what a
// debugger evaluates is not asked.
async function violations() {
  await page.waitForTimeout(400); // until what fades has faded
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ target, any }) => `${target} ${any[0]?.message ?? ""}`).slice(0, 3).join("; ")}`);
}

const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute("href") || document.activeElement.tagName);

await report({
  async asksForAKey() {
    await page.waitForSelector("dialog[open]");
    await shoot(page, "key");
    const focus = await page.evaluate(() => document.activeElement.name);
    const axed = await violations();
    await page.keyboard.type("not-this-one");
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog .wrong");
    const wrong = await page.locator("dialog .wrong").innerText();
    await page.keyboard.type(key);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#model option").length > 0);
    const open = await page.locator("dialog[open]").count();
    return { focus, axed, wrong, open, kept: await page.evaluate((shown) => [sessionStorage, localStorage].map((store) => Object.values(store).includes(shown)), key) };
  },

  async worksByKeyboard() {
    await page.keyboard.press("Alt+n");
    await page.keyboard.type("count to 5");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("please");
    const written = await page.inputValue("#ask");
    await page.keyboard.press("Enter");
    await ended(1);
    const answer = await lastAnswer(page).locator(".md").innerText();
    await page.keyboard.press("Alt+n");
    await page.waitForSelector("#hello:not([hidden])");
    await page.keyboard.type("how many messages?");
    await page.keyboard.press("Enter");
    await ended(1);
    await page.keyboard.press("Alt+l");
    const first = await focused();
    await page.keyboard.press("ArrowDown");
    const second = await focused();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector(".said")?.innerText.startsWith("count"));
    const after = await focused();
    await page.keyboard.press("Tab");
    await page.keyboard.press("?");
    await page.waitForSelector("dialog[open]");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => !document.querySelector("dialog"));
    await page.keyboard.press("Alt+l");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Delete");
    await page.waitForSelector("dialog[open]");
    ;
    await page.keyboard.press("Enter");
    await page.waitForFunction((gone) => ![...document.querySelectorAll(".entry a")].some((a) => a.getAttribute("href") === gone), first);
    return { written, answer, moved: first !== second, after, left: await page.locator(".entry").count() };
  },

  async isSpokenNotSpelt() {
    const voice = await page.evaluate(() => ({ live: document.getElementById("voice").getAttribute("aria-live"), log: document.getElementById("log").getAttribute("aria-live") }));
    const spoken = page.evaluate(() => new Promise((done) => {
      let times = 0;
      new MutationObserver(() => (times += 1)).observe(document.getElementById("voice"), { childList: true });
      setTimeout(() => done(times), 2500);
    }));
    await say(page, "count to 12");
    await ended(2);
    return { ...voice, times: await spoken, said: await page.locator("#voice").innerText() };
  },

  async waitsForTheConnection() {
    line.cut();
    await page.waitForSelector("#state:not([hidden])");
    await say(page, "repeat: better late");
    await say(page, "repeat: than never");
    await page.waitForFunction(() => document.querySelectorAll(".fate").length === 2);
    const fates = await page.locator(".fate").allInnerTexts();
    await shoot(page, "queued");
    await page.fill("#ask", "half a thought");
    line.mend();
    await page.reload(); // before it has tried again by itself
    return { fates };
  },

  async keepsWhatWaits() {
    await ended(4);
    const asked = await page.locator(".said").allInnerTexts();
    return { asked: asked.slice(-2), draft: await page.inputValue("#ask"), answers: (await page.locator(".answer .md").allInnerTexts()).slice(-2), fates: await page.locator(".fate").count() };
  },

  async pleasesAxe() {
    const seen = {};
    await say(page, "show me some markdown");
    await ended(5);
    seen.chat = await violations();
    await page.click("#more");
    seen.options = await violations();
    await page.click("#more");
    await page.emulateMedia({ colorScheme: "dark" });
    await page.evaluate(() => (document.getElementById("scroll").scrollTop = 1e6));
    await shoot(page, "chat-dark");
    seen.dark = await violations();
    await page.goto(`${home}#/overview`);
    await page.waitForSelector(".cell");
    await page.waitForSelector(".usage-table");
    seen.darkOverview = await violations();
    await page.emulateMedia({ colorScheme: "light" });
    seen.overview = await violations();
    await page.setViewportSize({ width: 360, height: 740 });
    await shoot(page, "overview-phone");
    seen.phoneOverview = await violations();
    seen.wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.goto(`${home}#/`);
    await page.waitForSelector("#hello:not([hidden])");
    seen.hello = await violations();
    await page.setViewportSize({ width: 1280, height: 820 });
    return seen;
  },

  async switchesDayAndNight() {
    const colours = () => page.evaluate(() => [document.documentElement.dataset.theme ?? "system", getComputedStyle(document.body).backgroundColor]);
    const seen = [await colours()];
    for (let at = 0; at < 3; at += 1) {
      await page.click("#theme");
      seen.push(await colours());
    }
    return seen;
  },

  async quiet() {
    // The wrong key and the line that was cut are what a browser itself complains of.
    return {
      errors: noted.errors.filter((text) => !/ERR_|WebSocket connection to|status of 401/.test(text)),
      hosts: [...noted.hosts].filter((host) => host !== new URL(line.url).host),
    };
  },
});
