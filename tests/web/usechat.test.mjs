// `useChat` in a real browser, on the page of `examples/web`: what its reader sees while a reply is
// being written, and after a reload.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { openTab, startExamples, startVite } from "./examples.mjs";

const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==", "base64");

const examples = await startExamples();
after(examples.stop);
const { open, upstream, messages } = examples;

test("a reply is shown word by word, as the provider says it", async () => {
  const page = await open("/#words");
  await say(page, "Count");
  const call = await upstream.call();
  let counted = "";
  for (const word of ["one, ", "two, ", "three"]) {
    call.text(word);
    counted += word;
    await shows(page, ["Count", counted]);
  }
  await button(page, "Stop").waitFor();
  call.text(".").finish();
  await isDone(page);
  await shows(page, ["Count", "one, two, three."]);
  await page.locator("article.assistant footer", { hasText: "gated-1" }).waitFor();
  await tells("words", ["Count", "one, two, three."]);
});

test("a page that is loaded in the middle of a reply shows all of it, and once", async () => {
  const page = await open("/#reloaded");
  await exchange(page, "Who is there?", "An old friend.");
  await say(page, "Tell me a tale");
  const call = await upstream.call();
  call.text("Es war einmal 你好, ");
  await shows(page, ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, "]);

  await page.reload();
  await shows(page, ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, "]);
  const second = await openTab(page.context(), page.url());
  call.text("und alles ");
  for (const tab of [page, second]) await shows(tab, ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, und alles "]);
  call.reply("wurde gut.");

  const whole = ["Who is there?", "An old friend.", "Tell me a tale", "Es war einmal 你好, und alles wurde gut."];
  for (const tab of [page, second]) {
    await isDone(tab);
    await shows(tab, whole);
    await tab.reload();
    await shows(tab, whole);
  }
  await tells("reloaded", whole);
  await exchange(page, "And then?", "They slept.");
  assert.deepEqual(call.request.messages.filter(({ role }) => role !== "system").map(({ content }) => content), whole.slice(0, 3));
});

test("a reply that is stopped keeps what was said of it, also after a reload", async () => {
  const page = await open("/#stopped");
  await say(page, "Go on and on");
  const call = await upstream.call();
  call.text("And on and ");
  await shows(page, ["Go on and on", "And on and "]);
  await page.reload();
  await shows(page, ["Go on and on", "And on and "]);

  await button(page, "Stop").click();
  await isDone(page);
  await shows(page, ["Go on and on", "And on and "]);
  assert.equal((await messages("stopped")).at(-1).status, "interrupted");
  await page.reload();
  await isDone(page);
  await shows(page, ["Go on and on", "And on and "]);
  await exchange(page, "Enough", "Quite.");
});

test("a reply that is made again takes the place of the first, and is resumed like it", async () => {
  const page = await open("/#again");
  await exchange(page, "Toss a coin", "Heads.");
  await button(page, "Again").click();
  const call = await upstream.call();
  assert.equal(call.asked, "Toss a coin");
  call.text("Tai");
  await shows(page, ["Toss a coin", "Tai"]);
  await page.reload();
  await shows(page, ["Toss a coin", "Tai"]);
  call.reply("ls.");
  await isDone(page);
  await shows(page, ["Toss a coin", "Tails."]);
  await tells("again", ["Toss a coin", "Tails."]);
  assert.equal((await messages("again")).at(-1).siblingIds.length, 2);
});

test("a message that is put anew makes a branch, and what followed it is gone from the page", async () => {
  const page = await open("/#edited");
  await exchange(page, "I am Ada", "Hello, Ada.");
  await exchange(page, "Who am I?", "Ada.");
  for (const name of ["Bob", "Eve"]) {
    await page.locator("article.user").first().getByRole("button", { name: "Edit" }).click();
    await page.getByPlaceholder("Put it anew").waitFor();
    await exchange(page, `I am ${name}`, `Hello, ${name}.`);
    await shows(page, [`I am ${name}`, `Hello, ${name}.`]);
  }
  await exchange(page, "Who am I?", "Eve.");
  await page.reload();
  await shows(page, ["I am Eve", "Hello, Eve.", "Who am I?", "Eve."]);
  assert.equal((await messages("edited"))[0].siblingIds.length, 3);
});

test("pictures go to the model, and are there after a reload", async () => {
  const page = await open("/#pictures");
  await page.getByLabel("Pictures").setInputFiles({ name: "pixel.png", mimeType: "image/png", buffer: PIXEL });
  await say(page, "What is it?");
  const call = await upstream.call();
  const url = `data:image/png;base64,${PIXEL.toString("base64")}`;
  const seen = call.request.messages.at(-1).content.find(({ type }) => type === "image_url");
  assert.equal(seen.image_url.url, url);
  call.reply("One pixel.");
  await isDone(page);
  await page.reload();
  await page.locator(`img[src="${url}"]`).waitFor();
  await shows(page, ["What is it?", "One pixel."]);
});

test("a provider that fails is told, and another try succeeds", async () => {
  const page = await open("/#failed");
  await say(page, "Stumble");
  (await upstream.call()).refuse(400, "out of order");
  await page.getByRole("alert").filter({ hasText: "out of order" }).waitFor();
  await button(page, "Try again").click();
  (await upstream.call()).reply("Up again.");
  await isDone(page);
  await shows(page, ["Stumble", "Up again."]);
  await page.reload();
  await shows(page, ["Stumble", "Up again."]);
});

test("a new page has a session of its own, also as it is developed", async () => {
  const vite = await startVite([], examples.server.url);
  after(vite.stop);
  const page = await open("/", vite.url);
  await exchange(page, "Hello", "Hello to you.");
  await page.reload();
  await shows(page, ["Hello", "Hello to you."]);
  await tells(new URL(page.url()).hash.slice(1), ["Hello", "Hello to you."]);
});

function button(page, name) {
  return page.getByRole("button", { name, exact: true });
}

async function say(page, text) {
  await page.getByLabel("Message").fill(text);
  await button(page, "Send").click();
}

/** Says something, and lets the provider answer it. */
async function exchange(page, text, answer) {
  await say(page, text);
  (await upstream.call()).reply(answer);
  await page.locator("article.assistant").last().filter({ hasText: answer }).waitFor();
  await isDone(page);
}

/** Waits until a page shows these texts, and nothing else. */
async function shows(page, texts) {
  const wanted = JSON.stringify(texts);
  const read = (wanted) => {
    const shown = [...document.querySelectorAll("article")].map((article) => {
      const own = [...article.childNodes].filter(({ nodeType }) => nodeType === Node.TEXT_NODE);
      return own.map(({ data }) => data).join("");
    });
    return JSON.stringify(shown) === wanted;
  };
  await page.waitForFunction(read, wanted).catch(async (error) => {
    const html = await page.locator("#page").innerHTML();
    throw new Error(`${page.url()} does not show ${wanted}:\n${html}`, { cause: error });
  });
  assert.deepEqual(page.problems, []);
}

/** Waits until no reply is being written. */
async function isDone(page) {
  await button(page, "Send").waitFor();
}

/** What the server has stored of the session. */
async function tells(session, texts) {
  assert.deepEqual((await messages(session)).map(({ content }) => content), texts);
}
