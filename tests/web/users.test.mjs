// A server that asks who somebody is, and several people at it, each with a key of their own.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { api, replied, say, shown, start, until } from "./support.mjs";

const echoic = await start({ ECHOIC_AUTH: "keys", ECHOIC_RATE_LIMIT: "off", ECHOIC_PRICES: "gated-*=1/0.5/10" }, /40[134]/);
after(echoic.stop);
const { server, upstream } = echoic;

const newKey = (user, ...more) => server.run("keys", "create", "--user", user, ...more);
const field = (page) => page.getByLabel("API key", { exact: true });
const proceed = (page) => page.getByRole("button", { name: "Continue" }).click();

async function enter(page, key) {
  await field(page).fill(key);
  await proceed(page);
}

/** A page in a browser of its own that somebody has opened with their key. */
async function pageOf(key, path = "") {
  const page = await echoic.page(path);
  await enter(page, key);
  await page.getByText("Connected").waitFor();
  return page;
}

async function openTab(page, name) {
  if (await page.locator("#panel").isHidden()) await page.getByRole("button", { name: "Memory, settings, people" }).click();
  await page.getByRole("tab", { name }).click();
}

const row = (page, title) => page.locator(".chat-row").filter({ hasText: title });

test("the page asks for a key, tells a wrong one, and works with a good one", async () => {
  const key = await newKey("alice");
  const page = await echoic.page();
  const wrong = page.locator("dialog .wrong");
  await enter(page, "ek_wrong");
  await wrong.filter({ hasText: "does not know this key" }).waitFor();
  await enter(page, "ключ");
  await wrong.filter({ hasText: "No key looks like this" }).waitFor();
  await enter(page, ` ${key} `);
  await page.getByText("Connected").waitFor();
  await page.locator("dialog").waitFor({ state: "detached" });
  await page.locator(".who", { hasText: "alice" }).waitFor();

  await say(page, "Hello, it is me");
  (await upstream.call()).reply("Hello **Alice**.");
  await replied(page);
  await page.locator(".prose strong", { hasText: "Alice" }).waitFor();
  await row(page, "Hello, it is me").waitFor();
  await page.reload();
  await page.getByText("Connected").waitFor();
  assert.deepEqual(await shown(page), ["Hello, it is me", "Hello Alice."]);
});

test("a key that is to be remembered opens the next tab, and is forgotten on demand", async () => {
  const page = await echoic.page();
  await field(page).fill(await newKey("alice"));
  await page.getByLabel("Remember it in this browser").check();
  await proceed(page);
  await page.getByText("Connected").waitFor();
  const other = await echoic.tab(page.context(), "", /40[13]/);
  await other.getByText("Connected").waitFor();
  await other.getByRole("button", { name: "More for all chats" }).click();
  await other.getByRole("menuitem", { name: "Forget the API key" }).click();
  await field(other).waitFor();
  assert.equal(await other.evaluate(() => JSON.stringify([localStorage, sessionStorage]).includes("ek_")), false);
});

test("who closes the field is told what is missing, and can still enter a key", async () => {
  const page = await echoic.page();
  await field(page).waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.locator(".notice", { hasText: "asks who you are" }).waitFor();
  await say(page, "Anybody there?");
  await page.locator(".toast").waitFor();
  await page.getByRole("heading", { name: "What is on your mind?" }).waitFor();
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "Anybody there?");
  await page.getByRole("button", { name: "Enter a key" }).click();
  await enter(page, await newKey("alice"));
  await page.getByText("Connected").waitFor();
  assert.equal(await page.locator(".notice").isVisible(), false);
});

test("a key that is revoked is told, and what was being sent is sent with the next one", async () => {
  const key = await newKey("carol");
  const { sessionId } = await api(echoic.url, key).session({ title: "Carol's" });
  const page = await pageOf(key, `#/c/${sessionId}`);
  await page.locator("h1", { hasText: "Carol's" }).waitFor();
  const [{ id }] = JSON.parse(await server.run("keys", "list", "--json")).filter(({ user }) => user === "carol");
  await server.run("keys", "revoke", id);
  const isRefused = () => fetch(`${echoic.url}/api/me`, { headers: { authorization: `Bearer ${key}` } }).then(({ status }) => status === 401);
  await until(isRefused, "the key to be refused");
  await say(page, "Am I still known?");
  await page.locator("dialog", { hasText: "not valid, or not any more" }).waitFor();
  await enter(page, await newKey("carol"));
  (await upstream.call()).reply("You are.");
  await replied(page);
  await until(async () => (await shown(page)).join() === "Am I still known?,You are.", "the conversation");

  // Somebody else at the same browser gets a page of their own.
  await page.getByRole("button", { name: "More for all chats" }).click();
  await page.getByRole("menuitem", { name: "Forget the API key" }).click();
  await enter(page, await newKey("dave"));
  await page.locator(".who", { hasText: "dave" }).waitFor();
  await page.getByText("No chats yet").waitFor();
  assert.deepEqual(await shown(page), []);
});

test("two people do not see each other's chats, whatever address they open", async () => {
  const [eve, frank] = await Promise.all([newKey("eve"), newKey("frank")]);
  const [hers, his] = [await pageOf(eve), await pageOf(frank)];
  await say(hers, "A secret of Eve");
  (await upstream.call()).reply("Kept.");
  await replied(hers);
  await say(his, "Something of Frank");
  (await upstream.call()).reply("Noted.");
  await replied(his);
  await until(async () => (await api(echoic.url, eve).call("GET", "/api/search?q=secret")).results.length > 0, "the words to be kept");
  assert.deepEqual(await his.locator(".chat-row .title").allInnerTexts(), ["Something of Frank"]);
  await his.getByLabel("Search chats").fill("secret");
  await his.getByText("No message holds these words.").waitFor();
  await his.goto(hers.url());
  await his.getByText("there is no such session").or(his.locator(".toast")).first().waitFor();
  await his.getByRole("heading", { name: "What is on your mind?" }).waitFor();
  assert.equal(await his.getByText("A secret of Eve").count(), 0);
});

test("a person helps another one: takes over, answers, is read, and hands back", async () => {
  const [guest, helper] = await Promise.all([newKey("guest"), newKey("helper")]);
  const hers = await pageOf(guest);
  const his = await pageOf(helper);
  await his.getByText("No chats yet").waitFor();
  await say(hers, "My parcel is lost");
  (await upstream.call()).reply("I am only a model.");
  await replied(hers);

  await openTab(hers, "People");
  await hers.getByLabel("User to add").fill("helper");
  await hers.getByRole("button", { name: "Add", exact: true }).click();
  await row(his, "My parcel is lost").locator("a").click();
  await until(async () => (await shown(his)).join() === "My parcel is lost,I am only a model.", "what was said before");
  await his.locator(".speaker", { hasText: "guest" }).waitFor();
  await hers.locator(".message.user").getByText("Seen").waitFor();

  await openTab(his, "People");
  await his.getByRole("button", { name: "Take over" }).click();
  await hers.getByText("A person answers; the model is silent.").waitFor();
  await say(hers, "Is anybody there?");
  await his.locator(".message", { hasText: "Is anybody there?" }).waitFor();
  await say(his, "Yes. I have found it.");
  await hers.locator(".message.others", { hasText: "I have found it." }).waitFor();
  await hers.locator(".speaker", { hasText: "helper" }).waitFor();
  await his.locator(".message.user", { hasText: "I have found it." }).getByText("Seen").waitFor();

  await his.getByRole("button", { name: "Hand back to the model" }).click();
  await hers.getByText("A person answers; the model is silent.").waitFor({ state: "hidden" });
  await say(hers, "Thank you both");
  const call = await upstream.call();
  call.text("With ");
  await his.getByText("With").waitFor();
  call.reply("pleasure.");
  for (const page of [hers, his]) {
    await replied(page);
    await until(async () => (await shown(page)).at(-1) === "With pleasure.", "the reply");
  }

  // What is the owner's alone is not offered.
  await openTab(his, "Settings");
  assert.equal(await his.locator("form.settings").getByLabel("System prompt").isDisabled(), true);
  await openTab(his, "Memory");
  await his.getByText("shown to the chat’s owner only").waitFor();
  await his.getByRole("button", { name: "More", exact: true }).click();
  assert.deepEqual(await his.getByRole("menuitem").allInnerTexts(), ["Take over from the model", "Close"]);
  await his.keyboard.press("Escape");
});

test("each reply tells what it took: tokens, money, and the time until it began", async () => {
  const page = await pageOf(await newKey("grace"));
  await say(page, "How dear are you?");
  (await upstream.call()).reply("Cheap.");
  await replied(page);
  const told = page.locator(".message.assistant .figures").first();
  await told.filter({ hasText: "95 tokens" }).waitFor();
  // (812 - 640) at 1, 640 at 0.5 and 95 at 10 for a million.
  assert.match(await told.innerText(), /cost 0\.00144 · first after \d/);
  await openTab(page, "Memory");
  const cells = page.locator(".replies tbody tr").first().locator("td");
  await until(async () => (await cells.count()) === 5, "the table of replies");
  const [prompt, cached, reply, cost] = await cells.allInnerTexts();
  assert.deepEqual([prompt, cached, reply, cost], ["812", "640", "95", "0.00144"]);
});

test("a key that may only read shows everything and changes nothing", async () => {
  const { sessionId } = await api(echoic.url, await newKey("heidi")).session({ title: "Heidi's" });
  await api(echoic.url, await newKey("heidi")).say(sessionId, "user", "some **bold** words");
  const page = await pageOf(await newKey("heidi", "--scope", "read"), `#/c/${sessionId}`);
  await page.locator(".prose strong", { hasText: "bold" }).waitFor();
  await say(page, "May I?");
  await page.locator(".toast", { hasText: "This key may only read" }).waitFor();
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "May I?");
});
