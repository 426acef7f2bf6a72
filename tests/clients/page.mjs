// A chat page without a browser: the class behind `useChat()`, with its state in plain fields.

import * as ai from "ai";
import { fetchWithTimeout } from "./support.mjs";

/**
 * Opens a session as a chat page.
 *
 * @param {string} url
 * @param {string} id
 * @param {any[]} [messages] the stored messages
 * @param {typeof globalThis.fetch} [fetch]
 * @param {{ sdk?: any, body?: object, [option: string]: any }} [options] `sdk` is the version of
 *   the AI SDK, `body` is added to every request, and the rest are options of the chat
 */
export function openPage(url, id, messages = [], fetch = fetchWithTimeout, { sdk = ai, body, ...options } = {}) {
  const transport = new sdk.DefaultChatTransport({ api: `${url}/api/chat`, fetch, body });
  return new sdk.AbstractChat({ id, transport, state: new PageState(messages), ...options });
}

/** Returns the texts of the messages on a page. */
export function getTexts(page) {
  const getPartTexts = ({ parts }) => parts.map((part) => (part.type === "text" ? part.text : ""));
  return page.messages.map((message) => getPartTexts(message).join(""));
}

/** The state that a user interface framework would hold. */
class PageState {
  status = "ready";
  error = undefined;

  constructor(messages) {
    this.messages = messages;
  }

  pushMessage(message) {
    this.messages = [...this.messages, message];
  }

  popMessage() {
    this.messages = this.messages.slice(0, -1);
  }

  replaceMessage(index, message) {
    this.messages = this.messages.with(index, this.snapshot(message));
  }

  snapshot(value) {
    return structuredClone(value);
  }
}
