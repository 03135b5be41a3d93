// The overview of several gateways; test_page_nodes.py says what each check has to see.

import { openBrowser, openPage, overflows, shoot } from "./browser.mjs";
import { report } from "./report.mjs";

const base = process.env.CCAPI_TEST_BASE_URL;
const alone = process.env.CCAPI_TEST_ALONE_URL;
const browser = await openBrowser();

await report({
  several: async () => {
    const { page, noted } = await openPage(browser, `${base}/#/overview`);
    await page.locator(".nodes tbody tr").nth(2).waitFor();
    await page.locator(".nodes tbody tr td:nth-child(2)").getByText("1", { exact: true }).waitFor();
    const rows = await page.locator(".nodes tbody tr").evaluateAll((all) => all.map((row) => [...row.children].map((cell) => cell.textContent)));
    const head = await page.locator(".nodes thead th").allInnerTexts();
    await page.locator(".nodes").scrollIntoViewIfNeeded();
    await shoot(page, "nodes-overview-light");
    await page.emulateMedia({ colorScheme: "dark" });
    await shoot(page, "nodes-overview-dark");
    await page.setViewportSize({ width: 375, height: 740 });
    await page.locator(".nodes").scrollIntoViewIfNeeded();
    await shoot(page, "nodes-overview-phone");
    return { rows, head, wide: await overflows(page), errors: noted.errors };
  },

  alone: async () => {
    const { page } = await openPage(browser, `${alone}/#/overview`);
    await page.locator(".tables table").first().waitFor();
    return { shown: await page.locator(".nodes").isVisible() };
  },
});

await browser.close();
