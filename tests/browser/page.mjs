// The page as a person uses it, in Chromium: what each check saw.

import net from "node:net";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium } from "playwright-core";
import { png, report } from "./report.mjs";

const { CCAPI_TEST_KEYED_URL: keyed, CCAPI_TEST_KEY: key, CCAPI_TEST_URL: gateway, CCAPI_TEST_SHOTS: shots, CCAPI_TEST_CHROMIUM: executablePath } = process.env;
const target = new URL(gateway);

// Between the browser and the gateway, so that connections can be broken.
const pipes = new Set();
const proxy = net.createServer((client) => {
  const server = net.connect(Number(target.port), target.hostname);
  for (const [from, to] of [[client, server], [server, client]]) {
    pipes.add(from);
    from.pipe(to);
    from.on("error", () => to.destroy());
    from.on("close", () => {
      pipes.delete(from);
      to.destroy();
    });
  }
});
await new Promise((open) => proxy.listen(0, "127.0.0.1", open));
const home = `http://127.0.0.1:${proxy.address().port}/`;

const context = await chromium.launchPersistentContext(mkdtempSync(path.join(tmpdir(), "page-")), {
  executablePath,
  headless: true,
  viewport: { width: 1280, height: 820 },
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"],
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(15_000);
const wrong = [];
const hosts = new Set();
page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
page.on("pageerror", (error) => wrong.push(String(error)));
page.on("request", (request) => hosts.add(new URL(request.url()).host));

const shot = (name) => page.screenshot({ path: path.join(shots, `${name}.png`) });
const ask = async (text) => {
  await page.fill("#ask", text);
  await page.press("#ask", "Enter");
};
const answers = page.locator(".turn .answer");
const last = () => answers.last();
const ended = (count) => page.waitForFunction((n) => document.querySelectorAll(".turn .ending").length >= n && !document.querySelector(".waiting"), count);
const begin = async (profile, model = "claude-haiku-4-5") => {
  await page.goto(`${home}#/`);
  await page.waitForSelector("#hello:not([hidden])");
  await page.waitForFunction(() => document.querySelectorAll("#model option").length > 0);
  await page.check(`input[name=profile][value=${profile}]`, { force: true });
  await page.selectOption("#model", { value: profile === "agent" ? `agent/${model}` : model });
};

await report({
  async opens() {
    await page.goto(home);
    await page.waitForSelector("#hello:not([hidden])");
    await shot("hello-light");
    return { title: await page.title(), list: await page.textContent("#list-note") };
  },

  async chats() {
    await begin("chat");
    await ask("Say slowly");
    await page.waitForSelector(".answer .md");
    const early = (await last().innerText()).length;
    await page.waitForFunction((n) => document.querySelector(".answer").innerText.length > n + 50, early);
    await ended(1);
    await shot("chat-light");
    return {
      grew: (await last().innerText()).length > early,
      heading: await last().locator("h4").first().innerText(),
      code: await last().locator("pre code").first().innerText(),
      scripts: await last().locator("script, img").count(),
      links: await last().locator("a").evaluateAll((all) => all.map((a) => a.getAttribute("href"))),
      address: new URL(page.url()).hash.startsWith("#/c/conv_"),
      listed: await page.locator(".entry a[aria-current]").innerText(),
    };
  },

  async stops() {
    await ask("Say slowly again");
    await page.waitForSelector("#stop:not([hidden])");
    await page.waitForFunction(() => [...document.querySelectorAll(".turn")].at(-1).querySelector(".answer .md"));
    await page.press("#ask", "Escape");
    await page.waitForSelector(".mishap");
    return { said: await page.locator(".mishap p").last().innerText() };
  },

  async regenerates() {
    await ask("Count");
    await page.waitForFunction(() => [...document.querySelectorAll(".turn")].at(-1).innerText.includes("asked 1"));
    await ended(3);
    const turns = await page.locator(".turn").count();
    await page.locator("button", { hasText: "Again" }).last().click();
    await page.waitForFunction(() => [...document.querySelectorAll(".turn")].at(-1).innerText.includes("asked 2"));
    await page.waitForFunction(() => !document.querySelector(".waiting"));
    return { same: (await page.locator(".turn").count()) === turns };
  },

  async pastes() {
    await page.evaluate((data) => {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "dot.png", { type: "image/png" }));
      document.getElementById("ask").dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
    }, png);
    await page.waitForSelector("#attached img");
    await ask("What is in the picture?");
    await page.waitForFunction(() => [...document.querySelectorAll(".turn")].at(-1).innerText.includes("pictures: 1"));
    return { shown: await page.locator(".question img").count() };
  },

  async comesBack() {
    await begin("chat");
    await ask("Say slowly");
    await page.waitForSelector(".answer .md");
    for (const pipe of pipes) pipe.destroy();
    await page.waitForSelector("#state:not([hidden])");
    await shot("lost");
    await ended(1);
    const text = await last().innerText();
    return {
      state: await page.locator("#state").isHidden(),
      once: Array.from({ length: 30 }, (_, at) => text.split(`Paragraph ${at}.`).length - 1),
      turns: await page.locator(".turn").count(),
    };
  },

  async asksPermission() {
    await begin("agent");
    await ask("Write it down");
    await page.waitForSelector(".permit");
    await page.waitForSelector("#asking:not([hidden])");
    await shot("agent-permission");
    const input = await page.locator(".permit pre").innerText();
    await page.locator(".permit button", { hasText: "Allow once" }).click();
    await ended(1);
    await shot("agent-done");
    return {
      input: JSON.parse(input).content,
      settled: await page.locator(".permit").innerText(),
      step: await page.locator(".step .tool").first().innerText(),
      answer: await last().innerText(),
      bar: await page.locator("#asking").isHidden(),
    };
  },

  async isAnsweredElsewhere() {
    await ask("Write it down again");
    await page.waitForSelector(".permit:not([data-settled])");
    const id = new URL(page.url()).hash.split("/").at(-1);
    const of = `${home}v1/conversations/${id}/permissions`;
    const [{ request_id: request }] = (await (await fetch(of)).json()).data;
    const reply = { behavior: "deny", message: "Not today." };
    await fetch(`${of}/${request}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(reply) });
    await ended(2);
    await shot("agent-denied");
    return {
      settled: await page.locator(".permit").last().innerText(),
      step: await page.locator(".step").last().getAttribute("data-state"),
      told: await last().innerText(),
    };
  },

  async overview() {
    await page.goto(`${home}#/house`);
    await page.waitForSelector(".cell");
    const former = await page.locator("#overview-title").isVisible();
    await page.goBack();
    await page.goto(`${home}#/overview`);
    await page.waitForSelector(".cell");
    await page.waitForSelector(".slot.busy, .slot.idle, .slot.warm");
    const where = () => page.locator(".cell").evaluateAll((all) => all.map((cell) => cell.style.transform).sort().join());
    const still = await where();
    const asked = { model: "claude-haiku-4-5", messages: [{ role: "user", content: "Say slowly" }] };
    const said = fetch(`${home}v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(asked) });
    await page.waitForSelector(".cell.busy");
    await page.waitForSelector(".mark rect.lit");
    await page.waitForTimeout(900);
    await shot("overview-light");
    const moved = (await where()) !== still;
    await (await said).text();
    return { former, moved, tables: await page.locator(".tables caption").allInnerTexts(), cells: await page.locator(".cell").count() };
  },

  async night() {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.waitForTimeout(900); // until the colours have changed
    await shot("overview-dark");
    await page.goBack();
    await page.waitForSelector(".turn");
    await shot("agent-dark");
    await page.emulateMedia({ colorScheme: "light" });
    return {};
  },

  async phone() {
    await page.setViewportSize({ width: 360, height: 740 });
    await page.waitForTimeout(200);
    await shot("phone");
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.click('[data-opens="side"] >> visible=true');
    await page.waitForTimeout(350);
    await shot("phone-list");
    await page.setViewportSize({ width: 1280, height: 820 });
    return { wide };
  },

  async asksForKey() {
    await page.goto(keyed);
    const field = page.locator("dialog[open] input[type=password]");
    await field.fill("wrong");
    await field.press("Enter");
    const complaint = await page.locator("dialog[open] .wrong").innerText();
    await field.fill(key);
    await field.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll("#model option").length > 0);
    await ask("Hello");
    await ended(1);
    return { complaint, answer: await last().innerText() };
  },

  async quiet() {
    await context.close();
    // What the broken connections and the wrong key said is expected.
    return { wrong: wrong.filter((text) => !/ERR_|WebSocket connection|status of 401/.test(text)), hosts: [...hosts] };
  },
});
