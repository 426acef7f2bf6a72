// The splitting of streamed Markdown into blocks.

import assert from "node:assert/strict";
import { test } from "node:test";
import { BlockSplitter } from "../../web/js/chat/block-splitter.js";

/**
 * Returns the blocks of a text that arrives in chunks, the open one last.
 *
 * @param {string} text
 * @param {number} size of a chunk
 */
function split(text, size) {
  const blocks = new BlockSplitter();
  /** @type {string[]} */
  const finished = [];
  for (let at = 0; at < text.length; at += size) finished.push(...blocks.push(text.slice(at, at + size)));
  return [...finished, blocks.openBlock];
}

/** @type {[string, string[]][]} */
const CASES = [
  ["one paragraph", ["one paragraph"]],
  ["one\n\ntwo\n\nthree", ["one\n\n", "two\n\n", "three"]],
  ["# Title\ntext\n\nmore", ["# Title\n", "text\n\n", "more"]],
  ["text\n```js\na\n\nb\n```\nafter", ["text\n", "```js\na\n\nb\n```\n", "after"]],
  ["~~~~\n```\n~~~\n~~~~\nx", ["~~~~\n```\n~~~\n~~~~\n", "x"]],
  ["1. one\n\n2. two\n\n   still two\n\nthe end", ["1. one\n\n2. two\n\n   still two\n\n", "the end"]],
  ["- a\n  ```\n  code\n\n  ```\n- b\n\nx", ["- a\n  ```\n  code\n\n  ```\n- b\n\n", "x"]],
  ["intro:\n- a\n- b\n\n**bold** end", ["intro:\n- a\n- b\n\n", "**bold** end"]],
  ["| a |\n|---|\n| 1 |\n\nx", ["| a |\n|---|\n| 1 |\n\n", "x"]],
  ["> q\n\n\n\nx", ["> q\n\n\n\n", "x"]],
];

for (const [text, expected] of CASES) {
  test(`chunk size does not change blocks of ${JSON.stringify(text)}`, () => {
    for (let size = 1; size <= text.length; size += 1) assert.deepEqual(split(text, size), expected, `chunks of ${size}`);
  });
}

test("splitting loses no text", () => {
  const letters = ["a", " ", "\n", "\n\n", "- ", "1. ", "```", "```\n", "~~~", "# ", "  ", "> ", "\t"];
  let seed = 7;
  const random = (/** @type {number} */ below) => (seed = (seed * 1103515245 + 12345) % 2147483648) % below;
  for (let round = 0; round < 2000; round += 1) {
    const text = Array.from({ length: 30 }, () => letters[random(letters.length)]).join("");
    const blocks = split(text, 1 + random(6)).join("");
    assert.equal(blocks.replace(/\s/g, ""), text.replace(/\s/g, ""));
  }
});
