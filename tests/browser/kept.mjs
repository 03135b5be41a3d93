// What the page keeps and what it does not, in a browser; test_page_kept.py says what each check has
// to see.

import { answered, lastAnswer, openBrowser, openLine, openPage, overflows, say, shoot } from "./browser.mjs";
import { report } from "./report.mjs";

const { CCAPI_TEST_BASE_URL: base, CCAPI_TEST_OTHER_URL: other, CCAPI_TEST_KEYED_URL: keyed, CCAPI_TEST_KEY: key } = process.env;
const line = await openLine(base);
const browser = await openBrowser();
const { page, noted } = await openPage(browser, line.url);
const hash = () => new URL(page.url()).hash;
const json = async (url, body) => (await fetch(url, body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json();
const itemsOf = async (url) => (await json(`${url}/v1/conversations/${hash().split("/").at(-1)}/items?order=asc`)).data;
const told = (items) => items.map((item) => [item.role, item.status, item.content.map((one) => one.text ?? one.type).join("")]);

async function fresh() {
  await page.locator("#new").click();
  await page.locator("#hello").waitFor();
}

await report({
  stops: async () => {
    await say(page, "Count");
    await lastAnswer(page).getByText("1 2 3").waitFor();
    await page.locator("#ask").press("Escape");
    await page.locator(".mishap").waitFor();
    await shoot(page, "kept-stopped");
    const written = await lastAnswer(page).locator(".md").innerText();
    const words = await page.locator(".mishap p").innerText();
    await say(page, "What now?");
    await answered(page, "You said: What now?");
    const items = told(await itemsOf(base));
    await page.reload();
    await lastAnswer(page).getByText("You said").waitFor();
    return { written, words, items, again: await page.locator("#log .answer .md").first().innerText(), marked: await page.locator(".mishap p").innerText() };
  },

  maths: async () => {
    await fresh();
    await say(page, "Maths");
    await answered(page);
    await shoot(page, "kept-maths");
    return { text: await lastAnswer(page).locator(".md").innerText(), emphasised: await lastAnswer(page).locator("em, strong").count() };
  },

  wishes: async () => {
    await fresh();
    await page.getByLabel("Agent", { exact: true }).check();
    await page.locator("#more").click();
    await page.locator("#system").fill("Speak like a pirate.");
    await page.locator("#workspace").fill("ship");
    await page.locator("#effort").selectOption("low");
    await shoot(page, "kept-options");
    await say(page, "Hello there");
    await answered(page, "You said");
    const effort = await page.locator("#effort").inputValue();
    await fresh();
    await page.locator("#more").click();
    const left = [await page.locator("#system").inputValue(), await page.locator("#workspace").inputValue(), await page.locator("#effort").inputValue()];
    await page.locator("#more").click();
    await page.getByLabel("Chat", { exact: true }).check();
    return { effort, left };
  },

  attaches: async () => {
    await fresh();
    await page.locator("#files").setInputFiles([
      { name: "half.py", mimeType: "text/x-python", buffer: Buffer.from("def half(x):\n    return x / 2  # ½\n") },
      { name: "Makefile", mimeType: "application/octet-stream", buffer: Buffer.from("all:\n\tcc x.c\n") },
      { name: "wide.txt", mimeType: "text/plain", buffer: Buffer.from("\ufeffwide ½", "utf16le") },
      { name: "bytes.bin", mimeType: "application/octet-stream", buffer: Buffer.from([0, 1, 2, 255]) },
      { name: "tune.mp3", mimeType: "audio/mpeg", buffer: Buffer.from("x") },
    ]);
    await page.locator("#attached li").nth(2).waitFor();
    await page.locator("#trouble").getByText("tune.mp3").waitFor();
    const refused = await page.locator("#trouble p").innerText();
    const shown = await page.locator("#attached li").allInnerTexts();
    await shoot(page, "kept-attached");
    await say(page, "Read these");
    const text = await answered(page, "I see");
    return { refused, shown, text, chips: await page.locator("#log .chip").allInnerTexts() };
  },

  // The document itself never scrolls, however much stands in the transcript.
  scrolls: async () => {
    await fresh();
    for (const what of ["Long", "Long again"]) {
      await say(page, what);
      await answered(page, "The end");
    }
    await page.locator("#scroll").evaluate((one) => { one.scrollTop = 0; });
    const seen = await page.evaluate(() => {
      scrollTo(0, 500);
      const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
      return { more: scrollHeight - clientHeight, scrollTop, inside: document.querySelector("#scroll").scrollHeight > 2000 };
    });
    return seen;
  },

  restarts: async () => {
    await fresh();
    await page.locator("#more").click();
    await page.locator("#system").fill("Be brief.");
    await say(page, "My name is Ada.");
    await answered(page, "You said");
    await say(page, "Count");
    await lastAnswer(page).getByText("1 2 3").waitFor();
    const before = hash();
    line.cut();
    await page.locator("#state").waitFor();
    await say(page, "This waits.");
    await page.locator("#ask").fill("This is not sent yet.");
    line.to(other);
    line.mend();
    await page.locator("#state").getByText("restarted").waitFor();
    await shoot(page, "kept-restarted");
    await page.setViewportSize({ width: 360, height: 740 });
    await page.waitForTimeout(200);
    await shoot(page, "kept-restarted-phone");
    const wide = await overflows(page);
    await page.setViewportSize({ width: 1280, height: 800 });
    const kept = { hash: hash() === before, said: await page.locator("#log .said").allInnerTexts(), answers: await page.locator("#log .answer .md").allInnerTexts(), box: await page.locator("#ask").inputValue(), wide };
    await page.getByRole("button", { name: "Go on in a new conversation" }).click();
    await page.locator("#state").waitFor({ state: "hidden" });
    await answered(page, "You said: This waits.");
    await shoot(page, "kept-went-on");
    return { kept, moved: hash() !== before, box: await page.locator("#ask").inputValue(), items: told(await itemsOf(other)) };
  },

  // What waited is not lost with the tab's memory either.
  reloadsAfterRestart: async () => {
    await page.locator("#ask").fill("A draft.");
    line.cut();
    await page.locator("#state").waitFor();
    line.to(base);
    line.mend();
    await page.locator("#state").getByText("restarted").waitFor();
    await page.reload();
    await page.locator("#hello").waitFor();
    return { greeting: await page.locator("#hello h2").innerText(), box: await page.locator("#ask").inputValue() };
  },

  lists: async () => {
    await page.locator("#ask").fill("");
    const made = [];
    for (let count = 0; count < 230; count += 1) made.push((await json(`${base}/v1/conversations`, {})).id);
    await page.reload();
    await page.locator("#list-more").waitFor();
    const counts = [await page.locator("#list .entry").count()];
    await page.locator("#list-more").scrollIntoViewIfNeeded();
    await shoot(page, "kept-list");
    await page.locator("#list-more").click();
    await page.waitForFunction(() => document.querySelectorAll("#list .entry").length === 200);
    counts.push(await page.locator("#list .entry").count());
    await page.locator("#list-more").click();
    await page.locator("#list-more").waitFor({ state: "hidden" });
    const ids = await page.locator("#list .entry").evaluateAll((all) => all.map((one) => one.dataset.id));
    return { counts, all: made.every((id) => ids.includes(id)), once: new Set(ids).size === ids.length };
  },

  keys: async () => {
    const locked = await openPage(browser, keyed);
    const field = locked.page.locator("dialog[open] input[type=password]");
    const complaints = [];
    for (const wrong of ["schlüssel", "two words", "dash–ed", "kéy"]) {
      await field.fill(wrong);
      await field.press("Enter");
      complaints.push(await locked.page.locator("dialog[open] .wrong").innerText());
    }
    await shoot(locked.page, "kept-key");
    await field.fill(`  ${key} `);
    await field.press("Enter");
    await locked.page.locator("#list-note").getByText("Nothing yet").waitFor();
    // One that was kept by an earlier page.
    await locked.page.evaluate(() => sessionStorage.setItem("ccapi.key", "schlüssel"));
    await locked.page.reload();
    await field.waitFor();
    const kept = await locked.page.locator("dialog[open] .wrong").innerText();
    await locked.context.close();
    return { complaints, kept };
  },

  quiet: async () => ({
    errors: noted.errors.filter((text) => !/net::ERR_|WebSocket connection to .* failed|status of 404/.test(text)),
    hosts: [...noted.hosts].filter((host) => host !== new URL(line.url).host),
  }),
});
