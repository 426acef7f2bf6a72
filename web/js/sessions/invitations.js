// The chats that the user is invited to, above the list of chats. Loaded when there are some.

import { call, sessionPath } from "../api.js";
import { el, setChildren } from "../dom.js";
import { chatHref, navigate } from "../route.js";
import { attempt } from "../toast.js";

export class InvitationList {
  element = el("section.invitations", { "aria-labelledby": "invitations-title", hidden: true });
  /** @type {Session[]} */
  #sessions = [];

  /** @param {App} app */
  constructor(app) {
    this.app = app;
  }

  /** @param {Session[]} sessions */
  show(sessions) {
    this.#sessions = sessions;
    this.element.hidden = sessions.length === 0;
    setChildren(this.element, el("h2", { id: "invitations-title" }, "Invitations"), el("ul", {}, sessions.map((session) => this.#createItem(session))));
  }

  /** @param {Session} session */
  #createItem(session) {
    const { sessionId, title, userId } = session;
    const accept = async () => {
      const joined = await this.#answer(session, "/accept");
      if (!joined) return;
      this.app.sessions.upsert(joined);
      navigate(chatHref(sessionId));
    };
    const decline = () => this.#answer(session, "/leave");
    return el(
      "li",
      {},
      el("span.title", { title }, title),
      el("span.muted", {}, `From ${userId}`),
      el("button.button.primary.small", { type: "button", "aria-label": `Accept ${title}`, onclick: accept }, "Accept"),
      el("button.button.small", { type: "button", "aria-label": `Decline ${title}`, onclick: decline }, "Decline"),
    );
  }

  /**
   * Answers an invitation. It may have been withdrawn in the meantime, so it disappears either way.
   *
   * @param {Session} session
   * @param {string} action
   */
  async #answer(session, action) {
    const answer = await attempt(() => call("POST", sessionPath(session.sessionId, action), {}));
    this.show(this.#sessions.filter((each) => each !== session));
    return answer;
  }
}
