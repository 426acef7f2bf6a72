// A chat page without a browser: the class behind `useChat()`, and what a user interface framework
// keeps for it.

import * as ai from "ai";
import { fetchInTime } from "./support.mjs";

/**
 * A chat page on a session, with the messages it was opened with, on a version of the AI SDK. `more`
 * are further options of the chat; its `body` goes along with each request.
 */
export function openPage(url, id, messages = [], fetch = fetchInTime, { sdk = ai, body, ...more } = {}) {
  const transport = new sdk.DefaultChatTransport({ api: `${url}/api/chat`, fetch, body });
  return new sdk.AbstractChat({ id, transport, state: new PageState(messages), ...more });
}

/** The texts on the page. */
export function shown(page) {
  const texts = ({ parts }) => parts.map((part) => (part.type === "text" ? part.text : ""));
  return page.messages.map((message) => texts(message).join(""));
}

/** What is on the page, in plain fields. */
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
