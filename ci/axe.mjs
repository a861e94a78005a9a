// Loads each page given in a headless Chromium, wide and light, then narrow and dark, and lets axe-core look at it.
// Usage: node axe.mjs TOOLS CHROMIUM PAGE...   (TOOLS: the folder of node_modules). One JSON line a page and view.
import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [tools, chromium, ...pages] = process.argv.slice(2);
const load = createRequire(`${tools}/`);
const puppeteer = load("puppeteer-core");
const axe = fs.readFileSync(load.resolve("axe-core/axe.min.js"), "utf8");
const views = [{ width: 1440, scheme: "light" }, { width: 360, scheme: "dark" }];

const browser = await puppeteer.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
for (const path of pages) {
  for (const { width, scheme } of views) {
    const page = await browser.newPage();
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.goto(pathToFileURL(path).href, { waitUntil: "load" });
    await page.evaluate(() => { for (const part of document.querySelectorAll("details")) part.open = true; });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    const found = violations.map(({ id, impact, help, nodes }) => ({ id, impact, help, first: nodes[0].html.slice(0, 160), count: nodes.length }));
    console.log(JSON.stringify({ path, width, scheme, overflow, found }));
    await page.close();
  }
}
await browser.close();
