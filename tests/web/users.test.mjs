// A server with API keys and several users.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createApi, getTexts, sendMessage, start, waitForReply, waitUntil } from "./support.mjs";

const echoic = await start({ ECHOIC_AUTH: "keys", ECHOIC_RATE_LIMIT: "off", ECHOIC_PRICES: "gated-*=1/0.5/10" }, /40[134]/);
after(echoic.stop);
const { server, upstream } = echoic;

const createKey = (/** @type {string} */ user, /** @type {string[]} */ ...options) => server.run("keys", "create", "--user", user, ...options);
const field = (/** @type {Page} */ page) => page.getByLabel("API key", { exact: true });
const submitKey = (/** @type {Page} */ page) => page.getByRole("button", { name: "Continue" }).click();

/**
 * @param {Page} page
 * @param {string} key
 */
async function enterKey(page, key) {
  await field(page).fill(key);
  await submitKey(page);
}

/**
 * Opens a page and signs in.
 *
 * @param {string} key
 */
async function openPageAs(key, path = "") {
  const page = await echoic.openPage(path);
  await enterKey(page, key);
  await page.getByText("Connected").waitFor();
  return page;
}

/**
 * @param {Page} page
 * @param {string} name
 */
async function openTab(page, name) {
  if (await page.locator("#panel").isHidden()) await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.getByRole("tab", { name }).click();
}

const row = (/** @type {Page} */ page, /** @type {string} */ title) => page.locator(".chat-row").filter({ hasText: title });

test("page rejects a wrong key and accepts a valid one", async () => {
  const key = await createKey("alice");
  const page = await echoic.openPage();
  const error = page.locator("dialog .error");
  await enterKey(page, "ek_wrong");
  await error.filter({ hasText: "That key is invalid or has expired." }).waitFor();
  await enterKey(page, "ключ");
  await error.filter({ hasText: "That doesn’t look like a key." }).waitFor();
  await enterKey(page, ` ${key} `);
  await page.getByText("Connected").waitFor();
  await page.locator("dialog").waitFor({ state: "detached" });
  await page.locator(".connection .user", { hasText: "alice" }).waitFor();

  await sendMessage(page, "Hello, it is me");
  (await upstream.nextCall()).reply("Hello **Alice**.");
  await waitForReply(page);
  await page.locator(".prose strong", { hasText: "Alice" }).waitFor();
  await row(page, "Hello, it is me").waitFor();
  await page.reload();
  await page.getByText("Connected").waitFor();
  assert.deepEqual(await getTexts(page), ["Hello, it is me", "Hello Alice."]);
});

test("remembered key signs in other tabs until sign-out", async () => {
  const page = await echoic.openPage();
  await field(page).fill(await createKey("alice"));
  await page.getByLabel("Remember it in this browser").check();
  await submitKey(page);
  await page.getByText("Connected").waitFor();
  const other = await echoic.openTab(page.context(), "", /40[13]/);
  await other.getByText("Connected").waitFor();
  await other.getByRole("button", { name: "More options", exact: true }).click();
  await other.getByRole("menuitem", { name: "Sign out" }).click();
  await field(other).waitFor();
  assert.equal(await other.evaluate(() => JSON.stringify([localStorage, sessionStorage]).includes("ek_")), false);
});

test("closing the key dialog leaves a notice to sign in", async () => {
  const page = await echoic.openPage();
  await field(page).waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.locator(".notice", { hasText: "This server needs an API key." }).waitFor();
  await sendMessage(page, "Anybody there?");
  await page.locator(".toast").waitFor();
  await page.getByRole("heading", { name: "What can I help with?" }).waitFor();
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "Anybody there?");
  await page.getByRole("button", { name: "Enter a key" }).click();
  await enterKey(page, await createKey("alice"));
  await page.getByText("Connected").waitFor();
  assert.equal(await page.locator(".notice").isVisible(), false);
});

test("revoked key is replaced and the message is sent", async () => {
  const key = await createKey("carol");
  const { sessionId } = await createApi(echoic.url, key).createSession({ title: "Carol's" });
  const page = await openPageAs(key, `#/c/${sessionId}`);
  await page.locator("h1", { hasText: "Carol's" }).waitFor();
  const [{ id }] = JSON.parse(await server.run("keys", "list", "--json")).filter((/** @type {{ user: string }} */ { user }) => user === "carol");
  await server.run("keys", "revoke", id);
  const isRefused = () => fetch(`${echoic.url}/api/me`, { headers: { authorization: `Bearer ${key}` } }).then(({ status }) => status === 401);
  await waitUntil(isRefused, "the key to be refused");
  await sendMessage(page, "Am I still known?");
  await page.locator("dialog", { hasText: "Your key is invalid or has expired." }).waitFor();
  await enterKey(page, await createKey("carol"));
  (await upstream.nextCall()).reply("You are.");
  await waitForReply(page);
  await waitUntil(async () => (await getTexts(page)).join() === "Am I still known?,You are.", "the conversation");

  // Another user in the same browser starts with an empty page.
  await page.getByRole("button", { name: "More options", exact: true }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await enterKey(page, await createKey("dave"));
  await page.locator(".connection .user", { hasText: "dave" }).waitFor();
  await page.getByText("No chats yet").waitFor();
  assert.deepEqual(await getTexts(page), []);
});

test("users cannot see each other's chats", async () => {
  const [eve, frank] = await Promise.all([createKey("eve"), createKey("frank")]);
  const evePage = await openPageAs(eve);
  const frankPage = await openPageAs(frank);
  await sendMessage(evePage, "A secret of Eve");
  (await upstream.nextCall()).reply("Kept.");
  await waitForReply(evePage);
  await sendMessage(frankPage, "Something of Frank");
  (await upstream.nextCall()).reply("Noted.");
  await waitForReply(frankPage);
  await waitUntil(async () => (await createApi(echoic.url, eve).call("GET", "/api/search?q=secret")).results.length > 0, "the search index");
  assert.deepEqual(await frankPage.locator(".chat-row .title").allInnerTexts(), ["Something of Frank"]);
  await frankPage.getByLabel("Search chats").fill("secret");
  await frankPage.getByText("No matching messages").waitFor();
  await frankPage.goto(evePage.url());
  await frankPage.locator(".toast").first().waitFor();
  await frankPage.getByRole("heading", { name: "What can I help with?" }).waitFor();
  assert.equal(await frankPage.getByText("A secret of Eve").count(), 0);
});

test("helper takes over, replies, is read and returns", async () => {
  const [guest, helper] = await Promise.all([createKey("guest"), createKey("helper")]);
  const guestPage = await openPageAs(guest);
  const helperPage = await openPageAs(helper);
  await helperPage.getByText("No chats yet").waitFor();
  await sendMessage(guestPage, "My parcel is lost");
  (await upstream.nextCall()).reply("I am only a model.");
  await waitForReply(guestPage);

  await openTab(guestPage, "People");
  await guestPage.getByLabel("User to add").fill("helper");
  await guestPage.getByRole("button", { name: "Add", exact: true }).click();
  await helperPage.getByRole("button", { name: "Accept My parcel is lost" }).click();
  await waitUntil(async () => (await getTexts(helperPage)).join() === "My parcel is lost,I am only a model.", "the earlier messages");
  await helperPage.locator(".sender", { hasText: "guest" }).waitFor();
  await guestPage.locator(".message.user").getByText("Seen").waitFor();

  await openTab(helperPage, "People");
  await helperPage.getByRole("button", { name: "Take over" }).click();
  await guestPage.getByText("A person is replying; the model is paused.").waitFor();
  await sendMessage(guestPage, "Is anybody there?");
  await helperPage.locator(".message", { hasText: "Is anybody there?" }).waitFor();
  await sendMessage(helperPage, "Yes. I have found it.");
  await guestPage.locator(".message.from-other", { hasText: "I have found it." }).waitFor();
  await guestPage.locator(".sender", { hasText: "helper" }).waitFor();
  await helperPage.locator(".message.user", { hasText: "I have found it." }).getByText("Seen").waitFor();

  await helperPage.getByRole("button", { name: "Return to model" }).click();
  await guestPage.getByText("A person is replying; the model is paused.").waitFor({ state: "hidden" });
  await sendMessage(guestPage, "Thank you both");
  const call = await upstream.nextCall();
  call.text("With ");
  await helperPage.getByText("With").waitFor();
  call.reply("pleasure.");
  for (const page of [guestPage, helperPage]) {
    await waitForReply(page);
    await waitUntil(async () => (await getTexts(page)).at(-1) === "With pleasure.", "the reply");
  }

  // Only the owner may do the rest.
  await openTab(helperPage, "Settings");
  assert.equal(await helperPage.locator("form.settings").getByLabel("System prompt").isDisabled(), true);
  await openTab(helperPage, "Memory");
  await helperPage.getByText("Only the owner of this chat can see this.").waitFor();
  await helperPage.getByRole("button", { name: "More", exact: true }).click();
  assert.deepEqual(await helperPage.getByRole("menuitem").allInnerTexts(), ["Pin", "Archive", "Take over from the model", "Close chat", "Leave"]);
  await helperPage.keyboard.press("Escape");
});

test("invitations are accepted, declined, and chats are left", async () => {
  const host = createApi(echoic.url, await createKey("ivan"));
  const page = await openPageAs(await createKey("judy"));
  await page.getByText("No chats yet").waitFor();
  const invitations = page.getByRole("region", { name: "Invitations" });
  assert.equal(await invitations.count(), 0);
  const { sessionId } = await host.createSession({ title: "Plans", participants: ["judy"] });
  await host.createSession({ title: "Spam", participants: ["judy"] });
  await host.addMessage(sessionId, "user", "Shall we go?");
  await invitations.getByText("Spam").waitFor();
  await invitations.getByText("From ivan").first().waitFor();
  await page.getByRole("button", { name: "Decline Spam" }).click();
  await invitations.getByText("Spam").waitFor({ state: "detached" });
  assert.equal(await row(page, "Plans").count(), 0);

  await page.getByRole("button", { name: "Accept Plans" }).click();
  await page.locator(".message", { hasText: "Shall we go?" }).waitFor();
  await invitations.waitFor({ state: "hidden" });
  await page.getByRole("button", { name: "More options for Plans" }).click();
  await page.getByRole("menuitem", { name: "Pin" }).click();
  await page.getByRole("heading", { name: "Pinned" }).waitFor();
  assert.equal((await host.listSessions())[0].pinned, false);
  const members = () => host.call("GET", `/api/chat-sessions/${sessionId}`).then(({ participants, invited }) => [participants, invited]);
  assert.deepEqual(await members(), [["ivan", "judy"], []]);

  await page.getByRole("button", { name: "More options for Plans" }).click();
  await page.getByRole("menuitem", { name: "Leave" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Leave" }).click();
  await page.getByText("No chats yet").waitFor();
  await page.getByRole("heading", { name: "What can I help with?" }).waitFor();
  assert.deepEqual(await members(), [["ivan"], []]);
});

test("reply shows its tokens, cost and time to first token", async () => {
  const page = await openPageAs(await createKey("grace"));
  await sendMessage(page, "How expensive are you?");
  (await upstream.nextCall()).reply("Cheap.");
  await waitForReply(page);
  const usage = page.locator(".message.assistant .usage").first();
  await usage.filter({ hasText: "95 tokens" }).waitFor();
  // 172 uncached tokens at 1, 640 cached at 0.5 and 95 completion tokens at 10 per million.
  assert.match(await usage.innerText(), /cost 0\.00144 · first token after \d/);
  await openTab(page, "Memory");
  const cells = page.locator(".usage-table tbody tr").first().locator("td");
  await waitUntil(async () => (await cells.count()) === 5, "the usage table");
  const [prompt, cached, reply, cost] = await cells.allInnerTexts();
  assert.deepEqual([prompt, cached, reply, cost], ["812", "640", "95", "0.00144"]);
});

test("read-only key shows everything and changes nothing", async () => {
  const { sessionId } = await createApi(echoic.url, await createKey("heidi")).createSession({ title: "Heidi's" });
  await createApi(echoic.url, await createKey("heidi")).addMessage(sessionId, "user", "some **bold** words");
  const page = await openPageAs(await createKey("heidi", "--scope", "read"), `#/c/${sessionId}`);
  await page.locator(".prose strong", { hasText: "bold" }).waitFor();
  await sendMessage(page, "May I?");
  await page.locator(".toast", { hasText: "This key is read-only" }).waitFor();
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "May I?");
});
