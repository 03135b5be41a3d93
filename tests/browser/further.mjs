// More of the page in a browser, beside page.mjs; test_page_further.py says what each check has to see.

import { answered, lastAnswer, openBrowser, openLine, openPage, overflows, say, shoot, turns } from "./browser.mjs";
import { report } from "./report.mjs";

const line = await openLine(process.env.CCAPI_TEST_BASE_URL);
const browser = await openBrowser();
const { page, noted } = await openPage(browser, line.url);

async function fresh(on = page) {
  await on.locator("#new").click();
  await on.locator("#hello").waitFor();
}

await report({
  chats: async () => {
    await say(page, "Good morning");
    const text = await answered(page, "You said");
    await page.locator("#title", { hasText: "Good morning" }).waitFor();
    return { text, hash: new URL(page.url()).hash, listed: await page.locator("#list .name").allInnerTexts() };
  },

  attaches: async () => {
    await fresh();
    const pdf = Buffer.from("%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n");
    await page.locator("#files").setInputFiles([
      { name: "paper.pdf", mimeType: "application/pdf", buffer: pdf },
      { name: "tune.mp3", mimeType: "audio/mpeg", buffer: Buffer.from("x") },
    ]);
    await page.locator("#attached .doc").waitFor();
    const refused = await page.locator("#trouble p").innerText();
    await say(page, "Read this");
    return { refused, text: await answered(page, "I see"), shown: await page.locator("#log .chip").innerText() };
  },

  hostile: async () => {
    await fresh();
    await say(page, "Attack me");
    await answered(page);
    const links = await lastAnswer(page).locator("a").evaluateAll((all) => all.map((one) => one.getAttribute("href")));
    return {
      hacked: await page.evaluate(() => window.hacked ?? null),
      made: await page.locator("#log :is(script, iframe, img, style, b, svg:not(.icon))").count(),
      said: await lastAnswer(page).getByText("<script>").first().isVisible(),
      links,
    };
  },

  permits: async () => {
    await fresh();
    await page.getByLabel("Agent", { exact: true }).check();
    await say(page, "Write the note.");
    await page.locator(".permit").waitFor();
    await page.locator("#asking").getByRole("button", { name: "Allow once" }).waitFor();
    await shoot(page, "further-agent-permission");
    const asked = await page.locator(".permit").first().innerText();
    await page.reload(); // it is shown again
    await page.locator(".permit").getByRole("button", { name: "Allow once" }).click();
    await page.locator(".permit[data-settled=allow]").waitFor();
    const text = await answered(page, "It says");
    await shoot(page, "further-agent-done");
    const id = page.url().split("/").at(-1);
    return { asked, text, id, tools: await page.locator(".step .tool").allInnerTexts(), state: await page.locator(".step").first().getAttribute("data-state") };
  },

  denies: async () => {
    await fresh();
    await page.getByLabel("Agent", { exact: true }).check();
    await say(page, "Another note.");
    await page.locator(".permit input").fill("Not today.");
    await page.locator(".permit input").press("Enter");
    await page.locator(".permit[data-settled=deny]").waitFor();
    const text = await answered(page, "It says");
    await page.locator("#new").click();
    await page.getByLabel("Chat", { exact: true }).check();
    return { text };
  },

  reconnects: async () => {
    await fresh();
    await say(page, "Count again");
    await lastAnswer(page).getByText("1 2 3").waitFor();
    line.cut();
    await page.locator("#state").waitFor();
    const held = (await lastAnswer(page).innerText()).trim();
    await say(page, "And this was said meanwhile");
    await page.locator(".fate").waitFor();
    await shoot(page, "further-lost");
    await page.waitForTimeout(300);
    line.mend();
    await page.locator("#state").waitFor({ state: "hidden" });
    await lastAnswer(page).getByText("You said").waitFor();
    await answered(page);
    const all = await page.locator("#log .turn .answer").evaluateAll((list) => list.map((one) => one.querySelector(".md")?.innerText ?? ""));
    return { held, answers: all, questions: await page.locator("#log .said").allInnerTexts() };
  },

  reloads: async () => {
    await page.reload();
    await lastAnswer(page).getByText("You said").waitFor();
    return { turns: await turns(page), last: (await lastAnswer(page).locator(".md").innerText()) };
  },

  keyboard: async () => {
    await page.locator("#log").focus();
    await page.keyboard.press("?");
    await page.locator("dialog[open]").waitFor();
    await shoot(page, "further-help");
    await page.keyboard.press("Escape");
    await page.locator("dialog").waitFor({ state: "detached" });
    await page.keyboard.press("/");
    const focus = await page.evaluate(() => document.activeElement.id);
    await page.locator("#ask").fill("kept");
    await page.keyboard.press("Alt+h");
    await page.locator("#overview").waitFor();
    await page.goBack();
    await page.locator("#chat").waitFor();
    const draft = await page.locator("#ask").inputValue();
    await page.locator("#ask").fill("");
    return { focus, draft };
  },

  overview: async () => {
    const other = await openPage(browser, `${line.url}/#/overview`);
    await other.page.locator(".cell").first().waitFor();
    await say(page, "Count once more");
    await other.page.locator(".cell.busy").first().waitFor();
    await shoot(other.page, "further-overview-light");
    await other.page.emulateMedia({ colorScheme: "dark" });
    await shoot(other.page, "further-overview-dark");
    await other.page.setViewportSize({ width: 375, height: 740 });
    await shoot(other.page, "further-overview-phone");
    const wide = await overflows(other.page);
    const cells = await other.page.locator(".cell").count();
    const captions = await other.page.locator(".tables caption").allInnerTexts();
    const table = await other.page.locator(".tables table").first().innerText();
    await answered(page);
    await other.page.locator(".cell.busy").first().waitFor({ state: "detached" });
    await other.context.close();
    return { table, cells, captions, wide, errors: other.noted.errors };
  },

  usage: async () => {
    const other = await openPage(browser, `${line.url}/#/overview`);
    await other.page.locator(".usage-table").waitFor();
    await other.page.locator(".usage-table").focus(); // as Tab does after the overview
    const reached = await other.page.evaluate(() => document.activeElement.getAttribute("aria-label"));
    const sums = await other.page.locator(".usage-sums dd").allInnerTexts();
    const rows = await other.page.locator(".usage-table tr").evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.innerText)));
    await shoot(other.page, "further-usage-light");
    await other.page.emulateMedia({ colorScheme: "dark" });
    await other.page.setViewportSize({ width: 375, height: 740 });
    await other.page.locator(".usage").evaluate((one) => one.scrollIntoView());
    await shoot(other.page, "further-usage-phone");
    const wide = await overflows(other.page);
    const errors = [...other.noted.errors];
    const given = { key_id: "b", key_name: "bob", model: "haiku", turns: 2, total_tokens: 1234, cost_usd: 0.5 };
    const today = new Date().toISOString().slice(0, 10);
    const shown = async (answer) => {
      await other.page.unroute("**/v1/usage*");
      await other.page.route("**/v1/usage*", (route) => route.fulfill(answer));
      await other.page.reload();
    };
    const many = Array.from({ length: 24 }, (_, at) => ({ ...given, day: today, model: `model-${at}` }));
    await shown({ json: { object: "list", data: [...many, { ...given, key_id: "a", key_name: "ann", day: today }] } });
    await other.page.locator(".usage-more").focus();
    await other.page.keyboard.press("Enter");
    await other.page.locator(".usage-more").waitFor({ state: "detached" });
    const focus = await other.page.evaluate(() => document.activeElement.getAttribute("aria-label"));
    const keys = await other.page.locator(".usage-table").first().innerText();
    const listed = await other.page.locator(".usage-table").last().locator("tbody tr").count();
    await shown({ json: { object: "list", data: [] } });
    await other.page.locator(".usage-note", { hasText: "Nothing" }).waitFor();
    const none = await other.page.locator(".usage-note").innerText();
    await shown({ status: 503, json: { error: { message: "The storage has a fault." } } });
    await other.page.locator(".usage-note", { hasText: "fault" }).waitFor();
    const fault = await other.page.locator(".usage-note").innerText();
    await other.context.close();
    return { reached, sums, rows, wide, errors, focus, keys, listed, none, fault };
  },

  watchers: async () => {
    const other = await openPage(browser, page.url());
    await page.locator("#watchers", { hasText: "2" }).waitFor();
    await say(other.page, "Hello from the other");
    await lastAnswer(page).getByText("Hello from the other").waitFor();
    await answered(page);
    await other.context.close();
    await page.locator("#watchers").waitFor({ state: "hidden" });
    return { errors: other.noted.errors };
  },

  phone: async () => {
    const phone = await openPage(browser, page.url(), { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
    await lastAnswer(phone.page).getByText("You said").waitFor();
    await shoot(phone.page, "further-phone");
    const chat = await overflows(phone.page);
    await phone.page.getByRole("button", { name: "Conversations" }).first().click();
    await phone.page.locator("#side.open").waitFor();
    await phone.page.waitForTimeout(300);
    await shoot(phone.page, "further-phone-list");
    await phone.page.locator("#new").click();
    await phone.page.locator("#hello").waitFor();
    await phone.page.waitForTimeout(300);
    const hello = await overflows(phone.page);
    const tools = await phone.page.locator(".composer .tools > :not(.vh):not(.spring):not([hidden])").evaluateAll((all) =>
      all.map((one) => one.getBoundingClientRect()).map(({ left, right }) => [left, right]));
    const inside = await phone.page.locator(".profile label").evaluateAll((all) =>
      all.every((one) => one.getBoundingClientRect().right <= one.closest(".profile").getBoundingClientRect().right));
    await shoot(phone.page, "further-phone-hello");
    await say(phone.page, "Attack a phone");
    await answered(phone.page);
    await shoot(phone.page, "further-phone-chat");
    const markdown = await overflows(phone.page);
    await phone.context.close();
    const apart = inside && tools.length > 3 && tools.every(([left], at) => at === 0 || left >= tools[at - 1][1]);
    return { wide: [chat, hello, markdown], apart, errors: phone.noted.errors };
  },

  deletes: async () => {
    const gone = new URL(page.url()).hash;
    await page.locator(`#list a[href="${gone}"]`).hover();
    await page.locator(`#list .entry:has(a[href="${gone}"]) .drop`).click();
    await page.locator("dialog[open]").waitFor();
    await shoot(page, "further-delete");
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.locator("#hello").waitFor();
    await page.locator(`#list a[href="${gone}"]`).waitFor({ state: "detached" });
    return { greeting: await page.locator("#hello h2").innerText(), hash: new URL(page.url()).hash };
  },

  // Last, so that they hold for all of the above.
  quiet: async () => ({
    // The connection that was cut is the one thing a browser itself complains of.
    errors: noted.errors.filter((text) => !/net::ERR_|WebSocket connection to .* failed/.test(text)),
    hosts: [...noted.hosts].filter((host) => host !== new URL(line.url).host),
  }),
});
