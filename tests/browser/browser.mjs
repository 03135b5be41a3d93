// A browser with the page open, and a line to the gateway that can be cut.

import net from "node:net";
import { chromium } from "playwright-core";

export const model = "haiku";

const ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

// The gateway's own port, through this process: `cut()` breaks every connection and lets none
// through until `mend()`.
export async function openLine(gateway) {
  let { hostname, port } = new URL(gateway);
  const open = new Set();
  let whole = true;
  const server = net.createServer((here) => {
    if (!whole) return here.destroy();
    const there = net.connect({ host: hostname, port: Number(port) });
    for (const [one, other] of [[here, there], [there, here]]) {
      open.add(one);
      one.on("error", () => {});
      one.on("close", () => {
        open.delete(one);
        other.destroy();
      });
    }
    here.pipe(there);
    there.pipe(here);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      whole = false;
      for (const socket of open) socket.destroy();
    },
    mend() {
      whole = true;
    },
    // From now on another gateway answers, as where one was restarted.
    to(other) {
      ({ hostname, port } = new URL(other));
    },
    close: () => server.close(),
  };
}

export async function openBrowser() {
  return chromium.launch({ executablePath: process.env.CCAPI_TEST_CHROMIUM, args: ARGS, headless: true });
}

// A page of its own, with what it complained of and whom it asked.
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
  await context.addInitScript(() => window.localStorage.setItem("ccapi.model", window.localStorage.getItem("ccapi.model") ?? "haiku"));
  const page = await context.newPage();
  const noted = { errors: [], hosts: new Set() };
  page.on("console", (message) => message.type() === "error" && noted.errors.push(`${message.text()} (${message.location().url})`));
  page.on("pageerror", (error) => noted.errors.push(String(error)));
  page.on("request", (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol.startsWith("http")) noted.hosts.add(host);
  });
  page.on("websocket", (socket) => noted.hosts.add(new URL(socket.url()).host));
  page.setDefaultTimeout(20_000);
  await page.goto(url);
  return { page, noted, context };
}

export const lastAnswer = (page) => page.locator("#log .turn .answer").last();
export const turns = (page) => page.locator("#log > .turn").count();

export async function say(page, text) {
  await page.locator("#ask").fill(text);
  await page.locator("#ask").press("Enter");
}

// Until the newest turn is over; returns what it says.
export async function answered(page, text) {
  if (text) await lastAnswer(page).getByText(text).first().waitFor();
  await page.locator("#log > .turn").last().locator(".ending").waitFor();
  await page.locator("#stop").waitFor({ state: "hidden" });
  return lastAnswer(page).locator(".md").allInnerTexts().then((all) => all.join("\n"));
}

export async function shoot(page, name) {
  await page.screenshot({ path: `${process.env.CCAPI_TEST_ARTEFACTS}/${name}.png` });
}

export const overflows = (page) =>
  page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth || document.querySelector(".log").scrollWidth > document.querySelector(".scroll").clientWidth);
