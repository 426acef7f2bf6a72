// Says what was read: of chats that several people share, while the page is looked at.

import { call, session } from "../api.js";

export class Seen {
  #last = null;

  constructor(view) {
    this.view = view;
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Marks the newest message, if somebody else could want to know. */
  look() {
    const { view } = this;
    const newest = view.thread.messages.at(-1);
    const isShared = (view.session?.participants?.length ?? 0) > 1;
    if (document.hidden || !isShared || !newest || newest.id === this.#last || !view.thread.isAtEnd) return;
    this.#last = newest.id;
    call("POST", session(view.sessionId, "/seen"), { upTo: newest.id }).catch(() => (this.#last = null));
  }
}
