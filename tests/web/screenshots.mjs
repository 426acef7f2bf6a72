// Pictures of the console in its main states: `node gallery.mjs FOLDER` writes all of them,
// `node gallery.mjs FOLDER readme` only the one that the README shows.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { replied, say, start } from "./support.mjs";

const [folder = "pictures", only] = process.argv.slice(2);
await mkdir(folder, { recursive: true });
const echoic = await start();
const { api, upstream } = echoic;

const REPLY = `A lease is a lock with an end. Whoever holds it has to renew it in time; if they vanish, it runs out by itself and **nobody has to clean up**.

\`\`\`rust
/// Whether the lease still holds at \`now\`.
fn is_alive(seen_at: Instant, now: Instant, lease: Duration) -> bool {
    now.duration_since(seen_at) < lease // a missed beat is no death
}
\`\`\`

Three things to get right:

1. **One clock.** Use the database's, not each server's own.
2. **Renew early.** Five times per lease leaves room for a slow network.
3. **Fence the past.** A holder that only slept must find out before it writes.

| Lease | Renewed every | A crash is noticed after |
|------:|--------------:|-------------------------:|
| 5 s   | 1 s           | 5 s                      |
| 15 s  | 3 s           | 15 s                     |`;

const TITLES = ["Leases and fencing tokens", "Names for a small boat", "Postgres index for a text search", "Sourdough that does not rise", "Letter to the landlord", "What to see in Porto in two days", "Rust lifetimes, once more", "Birthday poem for Ilse"];
for (const title of TITLES.slice(1).reverse()) {
  const { sessionId } = await api.session({ title });
  await api.say(sessionId, "user", title);
}
const project = await api.call("POST", "/api/projects", { name: "Lighthouse", description: "A museum in an old lighthouse.", systemPrompt: "Answer like a patient keeper.", files: [{ path: "opening-hours.md", content: "Daily from ten to six." }, { path: "history/lamp.md", content: "Lit in 1831.\n".repeat(40) }, { path: "tickets.json", content: "{}" }] });
await api.session({ title: "Guided tours in winter", projectId: project.projectId });
const pinned = await api.session({ title: "Weekly review" });
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

// A chat that a person has taken over, with tools and an answer that failed before.
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

const SIZES = { wide: { width: 1280, height: 800 }, narrow: { width: 390, height: 844, hasTouch: true, isMobile: true } };
const variants = only === "readme" ? [["wide", "light"]] : Object.keys(SIZES).flatMap((size) => ["light", "dark"].map((scheme) => [size, scheme]));
let isFirst = true;
for (const [size, scheme] of variants) {
  const options = { ...SIZES[size], colorScheme: scheme, deviceScaleFactor: 1 };
  const page = await echoic.page("#/c/shown", options);
  const shot = (name) => page.screenshot({ path: join(folder, only === "readme" ? "console.png" : `${size}-${scheme}-${name}.png`) });
  await page.locator(".message.assistant").first().waitFor();
  if (isFirst) {
    await say(page, "And what exactly is a lease?");
    const call = await upstream.call();
    call.reasoning("A lock that expires. Mention clocks and fencing.");
    call.text(REPLY.slice(0, 420));
    await page.locator("pre.open").waitFor();
    if (only !== "readme") await shot("streaming");
    call.text(REPLY.slice(420)).finish();
    isFirst = false;
  }
  await replied(page);
  await page.locator(".prose table").waitFor();
  await page.locator(".code .c-key").first().waitFor();
  if (size === "wide") await page.getByRole("button", { name: "Memory, settings, people" }).click();
  if (size === "wide") await page.locator(".piece").first().waitFor();
  if (only === "readme") {
    await shot("readme");
    break;
  }
  await shot("conversation");
  if (size === "narrow") await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.locator(".piece").first().waitFor();
  if (size === "narrow") await shot("memory");
  for (const tab of ["Settings", "People"]) {
    await page.getByRole("tab", { name: tab }).click();
    await shot(tab.toLowerCase());
  }
  await page.getByRole("button", { name: "Close the panel" }).click();
  await page.locator(".scroller").evaluate((element) => element.scrollTo(0, 0));
  await shot("top");
  if (size === "narrow") await page.getByRole("button", { name: "Show the chats" }).click();
  await page.getByLabel("Search chats").fill("lease");
  await page.locator(".hit").first().waitFor();
  await shot("search");
  await page.getByLabel("Search chats").fill("");
  await page.locator(".chat-row", { hasText: "Porto" }).hover();
  await page.locator(".chat-row", { hasText: "Porto" }).getByRole("button").click();
  await shot("menu");
  await page.keyboard.press("Escape");
  await page.goto(`${echoic.url}/#/c/helped`);
  await page.locator(".tool-call summary").click();
  await page.locator(".composer-banner").waitFor();
  await shot("helped");
  await page.goto(`${echoic.url}/#/new`);
  await page.getByRole("heading", { name: "What is on your mind?" }).waitFor();
  await shot("empty");
  await page.goto(`${echoic.url}/#/p/${project.projectId}`);
  await page.locator(".row-open").first().waitFor();
  await shot("project");
  await page.goto(`${echoic.url}/#/p`);
  await page.locator(".rows a").first().waitFor();
  await shot("projects");
  await page.getByRole("button", { name: "New project" }).click();
  await shot("dialog");
  await page.getByRole("button", { name: "Cancel" }).click();
  if (size === "narrow") await page.getByRole("button", { name: "Show the chats" }).click();
  await page.getByRole("button", { name: "More for all chats" }).click();
  await page.getByRole("menuitem", { name: "API key…" }).click();
  await page.getByLabel("API key", { exact: true }).waitFor();
  await shot("key");
  await page.context().close();
}
await echoic.stop();
