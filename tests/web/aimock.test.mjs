// Replies of aimock, an independent provider, in small chunks and sometimes broken off.

import { LLMock } from "@copilotkit/aimock";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { getSessionId, getTexts, sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const ANSWER = "# Tides\n\nThe **moon** pulls:\n\n- twice a day up\n- twice a day down\n\n```js\nconst hours = 12.4;\n```\n\nThat is all.";

const provider = new LLMock({ host: "127.0.0.1", port: 0, chunkSize: 6, latency: 3 });
provider.onMessage("break off", { content: ANSWER }, { truncateAfterChunks: 5 });
provider.onMessage("tides", { content: ANSWER, reasoning: "Moon first, then the sun." });
await provider.start();
const echoic = await start({ OPENAI_BASE_URL: `${provider.url}/v1`, ECHOIC_MODEL: "gpt-4o-mini" });
after(async () => {
  await echoic.stop();
  await provider.stop();
});

test("reply in small chunks renders Markdown and folds reasoning", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Explain the tides");
  await waitForReply(page);
  const body = page.locator(".message.assistant .body");
  await body.locator(".code .c-key", { hasText: "const" }).waitFor();
  assert.equal(await body.locator("h1").innerText(), "Tides");
  assert.deepEqual(await body.locator("li").allInnerTexts(), ["twice a day up", "twice a day down"]);
  await page.locator(".reasoning summary").click();
  assert.equal(await page.locator(".reasoning p").innerText(), "Moon first, then the sun.");
  await page.reload();
  await body.locator(".code .c-key").waitFor();
  assert.equal((await echoic.api.listMessages(getSessionId(page))).at(-1)?.content, ANSWER);
});

test("broken-off reply is kept, marked and can be retried", async () => {
  const page = await echoic.openPage();
  await sendMessage(page, "Please break off");
  await page.getByRole("button", { name: "Try again" }).waitFor();
  const [, partial] = await getTexts(page);
  assert.ok(ANSWER.replaceAll(/[#*]/g, "").trim().startsWith(partial.split("\n")[0]));
  await page.getByRole("button", { name: "Try again" }).click();
  await waitUntil(() => page.getByText("2/2", { exact: true }).count(), "the second version");
});
