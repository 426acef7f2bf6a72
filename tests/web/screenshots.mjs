// Takes screenshots of the console in its main states: `node screenshots.mjs FOLDER` takes all,
// `node screenshots.mjs FOLDER readme` only the one in the README.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { sendMessage, start, waitForReply } from "./support.mjs";

const [folder = "screenshots", only] = process.argv.slice(2);
await mkdir(folder, { recursive: true });
const echoic = await start();
const { api, upstream } = echoic;

const REPLY = `A lease is a lock that expires. Its holder renews it in time; if the holder crashes, the lease ends by itself and **no cleanup is needed**.

\`\`\`rust
/// Returns whether the lease is still valid at \`now\`.
fn is_alive(seen_at: Instant, now: Instant, lease: Duration) -> bool {
    now.duration_since(seen_at) < lease // one late heartbeat is fine
}
\`\`\`

Three things to get right:

1. **One clock.** Use the database's clock, not the server's.
2. **Renew early.** Five times per lease leaves room for a slow network.
3. **Fencing.** A holder that was only paused must notice before it writes.

| Lease | Renewed every | A crash is detected after |
|------:|--------------:|--------------------------:|
| 5 s   | 1 s           | 5 s                       |
| 15 s  | 3 s           | 15 s                      |`;

/** The streaming screenshot is taken here, while the code block is open. */
const CODE_END = REPLY.indexOf("\n}");

const TITLES = ["Leases and fencing tokens", "Names for a small boat", "Postgres index for a text search", "Sourdough that does not rise", "Letter to the landlord", "What to see in Porto in two days", "Rust lifetimes, once more", "Birthday poem for Ilse"];
for (const title of TITLES.slice(1).reverse()) {
  const { sessionId } = await api.createSession({ title });
  await api.addMessage(sessionId, "user", title);
}
const project = await api.call("POST", "/api/projects", { name: "Lighthouse", description: "A museum in an old lighthouse.", systemPrompt: "Answer like a patient keeper.", files: [{ path: "opening-hours.md", content: "Daily from ten to six." }, { path: "history/lamp.md", content: "Lit in 1831.\n".repeat(40) }, { path: "tickets.json", content: "{}" }] });
await api.createSession({ title: "Guided tours in winter", projectId: project.projectId });
const pinned = await api.createSession({ title: "Weekly review" });
await api.call("PATCH", `/api/chat-sessions/${pinned.sessionId}`, { pinned: true });

await api.call("POST", "/api/import", {
  sessions: [
    {
      sessionId: "shown",
      title: TITLES[0],
      settings: { systemPrompt: "Be brief. Show code where it says more than words." },
      messages: [
        { role: "user", content: "We run several instances on one database. How do they find out that one of them is gone?" },
        {
          role: "assistant",
          content: "By silence. Each instance writes a heartbeat; when one has been silent for longer than its **lease**, the others treat it as gone and take over what it was doing.",
          parts: [{ type: "reasoning", text: "They share a database, so a heartbeat row is enough." }],
        },
      ],
    },
  ],
});

// A chat that a person has taken over, with a tool call and a failed reply.
const tool = { type: "tool-track", toolCallId: "t", state: "output-available", input: { parcel: "EC-1831" }, output: { at: "Porto", since: "Tuesday" } };
await api.call("POST", "/api/import", {
  sessions: [
    {
      sessionId: "helped",
      title: "My parcel is lost",
      messages: [
        { role: "user", content: "Where is my parcel EC-1831?" },
        { role: "assistant", content: "It has been in **Porto** since Tuesday.", parts: [tool] },
        { role: "user", content: "That is not where I live!" },
        { role: "assistant", content: "", status: "failed", error: { code: "provider_error", message: "the provider is overloaded (503)" } },
        { role: "user", content: "Hello?" },
      ],
    },
  ],
});
await api.call("PATCH", "/api/chat-sessions/helped", { status: "agent_assigned", participants: ["maria"] });

/** @type {Record<string, import("./support.mjs").PageOptions>} */
const SIZES = { wide: { width: 1280, height: 800 }, narrow: { width: 390, height: 844, hasTouch: true, isMobile: true } };
const SCHEMES = /** @type {const} */ (["light", "dark"]);
const all = Object.keys(SIZES).flatMap((size) => SCHEMES.map((scheme) => ({ size, scheme })));
let isStreamed = false;
for (const { size, scheme } of only === "readme" ? all.slice(0, 1) : all) {
  const page = await echoic.openPage("#/c/shown", { ...SIZES[size], colorScheme: scheme, deviceScaleFactor: 1 });
  const takeScreenshot = (/** @type {string} */ name) => page.screenshot({ path: join(folder, only === "readme" ? "console.png" : `${size}-${scheme}-${name}.png`) });
  await page.locator(".message.assistant").first().waitFor();
  if (!isStreamed) {
    await sendMessage(page, "And what exactly is a lease?");
    const call = await upstream.nextCall();
    call.reasoning("A lock that expires. Mention clocks and fencing.");
    call.text(REPLY.slice(0, CODE_END));
    await page.locator("pre.open").waitFor();
    if (only !== "readme") await takeScreenshot("streaming");
    call.text(REPLY.slice(CODE_END)).finish();
    isStreamed = true;
  }
  await waitForReply(page);
  await page.locator(".prose table").waitFor();
  await page.locator(".code .c-key").first().waitFor();
  if (size === "wide") await page.getByRole("button", { name: "Memory, settings, people" }).click();
  if (size === "wide") await page.locator(".piece").first().waitFor();
  if (only === "readme") {
    await takeScreenshot("readme");
    break;
  }
  await takeScreenshot("conversation");
  if (size === "narrow") await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.locator(".piece").first().waitFor();
  if (size === "narrow") await takeScreenshot("memory");
  for (const tab of ["Settings", "People"]) {
    await page.getByRole("tab", { name: tab }).click();
    await takeScreenshot(tab.toLowerCase());
  }
  await page.getByRole("button", { name: "Close panel" }).click();
  await page.locator(".scroller").evaluate((element) => element.scrollTo(0, 0));
  await takeScreenshot("top");
  if (size === "narrow") await page.getByRole("button", { name: "Show chats" }).click();
  await page.getByLabel("Search chats").fill("lease");
  await page.locator(".hit").first().waitFor();
  await takeScreenshot("search");
  await page.getByLabel("Search chats").fill("");
  await page.locator(".chat-row", { hasText: "Porto" }).hover();
  await page.locator(".chat-row", { hasText: "Porto" }).getByRole("button").click();
  await takeScreenshot("menu");
  await page.keyboard.press("Escape");
  await page.goto(`${echoic.url}/#/c/helped`);
  await page.locator(".tool-call summary").click();
  await page.locator(".composer-banner").waitFor();
  await takeScreenshot("helped");
  await page.goto(`${echoic.url}/#/new`);
  await page.getByRole("heading", { name: "What can I help with?" }).waitFor();
  await takeScreenshot("empty");
  await page.goto(`${echoic.url}/#/p/${project.projectId}`);
  await page.locator(".row-button").first().waitFor();
  await takeScreenshot("project");
  await page.goto(`${echoic.url}/#/p`);
  await page.locator(".rows a").first().waitFor();
  await takeScreenshot("projects");
  await page.getByRole("button", { name: "New project" }).click();
  await takeScreenshot("dialog");
  await page.getByRole("button", { name: "Cancel" }).click();
  if (size === "narrow") await page.getByRole("button", { name: "Show chats" }).click();
  await page.getByRole("button", { name: "More options", exact: true }).click();
  await page.getByRole("menuitem", { name: "Sign in with a key…" }).click();
  await page.getByLabel("API key", { exact: true }).waitFor();
  await takeScreenshot("key");
  await page.context().close();
}
await echoic.stop();
