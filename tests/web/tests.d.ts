// Types of the browser tests.

type Page = import("playwright-core").Page;
type Locator = import("playwright-core").Locator;
type BrowserContext = import("playwright-core").BrowserContext;

interface Window {
  /** Set by a payload that was executed. */
  hacked?: unknown;
  /** Connection states that a test has observed. */
  states: (string | undefined)[];
  /** Durations of long tasks that a test has observed. */
  tasks: number[];
  axe: typeof import("axe-core");
}
