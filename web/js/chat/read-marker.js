// Marks messages as read in shared chats, while the page is visible.

import { call, sessionPath } from "../api.js";

export class ReadMarker {
  /** @type {string | null} */
  #lastMarkedId = null;

  /** @param {ChatView} chat */
  constructor(chat) {
    this.chat = chat;
    document.addEventListener("visibilitychange", () => this.markNewest());
  }

  /** Marks the newest message as read if the chat has other participants. */
  markNewest() {
    const { thread, session } = this.chat;
    const newest = thread.messages.at(-1);
    const isShared = (session?.participants?.length ?? 0) > 1;
    if (document.hidden || !session || !isShared || !newest || newest.id === this.#lastMarkedId || !thread.isAtEnd) return;
    this.#lastMarkedId = newest.id;
    call("POST", sessionPath(session.sessionId, "/seen"), { upTo: newest.id }).catch(() => (this.#lastMarkedId = null));
  }
}
