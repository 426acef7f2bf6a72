// Chromium for the tests, and the errors of its pages.

import { chromium } from "playwright-core";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
/** Time limit of every wait. */
export const TIMEOUT_MS = 15_000;

/** @type {WeakMap<Page, string[]>} */
const pageErrors = new WeakMap();

export function launchBrowser() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
}

/**
 * Opens a tab and records its uncaught errors.
 *
 * @param {import("playwright-core").BrowserContext} context
 */
export async function createTab(context) {
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  pageErrors.set(page, []);
  page.on("pageerror", (error) => getErrors(page).push(`${error.stack ?? error}`));
  return page;
}

/**
 * Returns the errors of a page. Add to them what else must fail its test.
 *
 * @param {Page} page
 */
export const getErrors = (page) => pageErrors.get(page) ?? [];
