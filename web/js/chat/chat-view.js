// The open chat: header, thread, queue and composer.

import { ApiError, call, get, messagePath, sessionPath } from "../api.js";
import { createIcon, createIconButton, el, setChildren } from "../dom.js";
import { eventStream } from "../event-stream.js";
import { openMenu } from "../menu.js";
import { chatHref, navigate, newChatHref } from "../route.js";
import { getChatActions } from "../sessions/actions.js";
import { attempt, showToast } from "../toast.js";
import { Composer } from "./composer.js";
import { ReadMarker } from "./read-marker.js";
import { ReplyQueue } from "./reply-queue.js";
import { Scroller } from "./scroller.js";
import { Thread } from "./thread.js";
import { renderWelcome } from "./welcome.js";

/**
 * Announcements for screen readers by the status of the reply.
 *
 * @type {Record<string, string>}
 */
const ANNOUNCEMENTS = { complete: "Reply complete", interrupted: "Reply interrupted", failed: "Reply failed" };

export class ChatView {
  /** @type {Session | null} */
  session = null;
  /** @type {string | null} `null` for a new chat. */
  sessionId = null;
  /** @type {string | null} The project of a new chat. */
  #projectId = null;
  /** @type {Settings} The settings of a new chat. */
  #settings = {};
  /** The role that the user writes as while a person is replying. */
  #writeAs = "user";
  #isTakenOver = false;
  #title = el("h1");
  #subtitle = el("span.muted");
  #menuButton = createIconButton("more", "More", () => this.#openMenu(), { "aria-haspopup": "menu", "aria-expanded": "false" });
  #queue = el("ul.queue", { "aria-label": "Queued messages", hidden: true });
  #closedNote = el("div.closed-note", { hidden: true });
  #announcement = el("div.sr-only", { role: "status" });
  #welcome = el("div.welcome");
  /** @type {Promise<void> | null} */
  #refreshing = null;
  #isStale = false;

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.thread = new Thread(this);
    this.composer = new Composer({
      send: (message) => this.#send(message),
      stop: () => this.replies.stop(),
      chooseModel: (model) => attempt(() => this.change({ settings: { ...this.settings, model } })),
    });
    this.scrollElement = el("div.scroller", { tabIndex: 0, role: "region", "aria-label": "Messages" }, this.thread.frame);
    this.scroller = new Scroller(this.scrollElement, this.thread.frame);
    this.scroller.onjump = () => this.thread.isAtEnd || attempt(() => this.thread.refresh());
    this.replies = new ReplyQueue(this);
    this.readMarker = new ReadMarker(this);
    this.thread.observe(this.scrollElement);
    const dock = el("div.dock", {}, el("div.dock-inner", {}, this.scroller.button, this.#queue, this.#closedNote, this.composer.element));
    const header = el("header.bar", {}, app.createMenuButton(), el("div.bar-title", {}, this.#title, this.#subtitle), app.panel.button, this.#menuButton);
    this.elements = [header, app.notice, this.#welcome, this.scrollElement, dock, this.#announcement];
    this.#listen();
  }

  get userId() {
    return this.app.user.userId;
  }

  get isFollowing() {
    return this.scroller.isFollowing;
  }

  /** Whether messages can be edited, regenerated and branched. */
  get canEdit() {
    return this.session?.status !== "closed";
  }

  get settings() {
    return this.session?.settings ?? this.#settings;
  }

  /** @param {() => void} change */
  keepPosition(change) {
    this.scroller.keepPosition(change);
  }

  /**
   * Opens a new chat. The server creates it with its first message.
   *
   * @param {string | null} projectId
   */
  openNew(projectId) {
    this.#leave();
    this.session = null;
    this.sessionId = null;
    this.#projectId = projectId;
    this.#settings = {};
    this.composer.open(`new.${projectId ?? ""}`);
    this.#render();
    this.composer.focus();
  }

  /**
   * Opens a chat, optionally at a message.
   *
   * @param {string} sessionId
   * @param {string | null} messageId
   */
  async open(sessionId, messageId) {
    if (sessionId === this.sessionId) {
      if (messageId) await this.#showMessage(sessionId, messageId);
      return;
    }
    this.#leave();
    this.sessionId = sessionId;
    this.session = this.app.sessions.find(sessionId);
    this.composer.open(sessionId);
    this.#render();
    const [session] = await Promise.all([get(sessionPath(sessionId)), messageId ? null : this.thread.refresh()]);
    if (sessionId !== this.sessionId) return;
    this.#setSession(session);
    if (messageId) await this.#showMessage(sessionId, messageId);
    else this.scroller.jumpToLatest();
    this.#joinRunning();
    this.#render();
    this.readMarker.markNewest();
    if (!messageId && !this.app.sessions.isRenaming) this.composer.focus();
  }


  rerender() {
    this.#render();
  }

  close() {
    this.#leave();
    this.sessionId = null;
    this.session = null;
  }

  // Actions on messages

  /** @param {Message} message */
  edit(message) {
    this.composer.edit(message);
  }

  /** @param {string} messageId */
  regenerate(messageId) {
    const reply = this.thread.findView(messageId)?.message;
    if (!reply || this.replies.isRunning) return;
    this.replies.regenerate(reply);
  }

  /**
   * Switches to the branch of another version of a message.
   *
   * @param {string} messageId
   */
  async switchTo(messageId) {
    const { sessionId } = this;
    const sibling = this.thread.messages.find(({ siblingIds }) => siblingIds?.includes(messageId));
    const oldTop = (sibling && this.thread.findView(sibling.id))?.element.getBoundingClientRect().top;
    if (!sessionId || oldTop === undefined) return;
    await attempt(async () => {
      this.#setSession(await call("PUT", sessionPath(sessionId, "/head"), { messageId }));
      const message = await get(messagePath(sessionId, messageId));
      if (sessionId !== this.sessionId) return;
      await this.thread.showAround(message);
      // Both versions appear at the same place, so the reader keeps it.
      const element = this.thread.findView(messageId)?.element;
      if (!element) return;
      this.scroller.show(element);
      this.scrollElement.scrollTop += element.getBoundingClientRect().top - oldTop;
      this.thread.loadNearEnds();
    });
  }

  /** @param {string} messageId */
  async fork(messageId) {
    const { sessionId } = this;
    if (!sessionId) return;
    /** @type {Session | undefined} */
    const forked = await attempt(() => call("POST", sessionPath(sessionId, "/fork"), { messageId }));
    if (!forked) return;
    this.app.sessions.upsert(forked);
    navigate(chatHref(forked.sessionId));
    showToast("New chat created from this point");
  }

  // Events of replies


  getNewChatSettings() {
    return { ...(this.#projectId ? { projectId: this.#projectId } : {}), ...this.#settings };
  }

  /**
   * A turn has started. A new chat gets its id and title.
   *
   * @param {string} sessionId
   * @param {string} title
   */
  handleSessionStart(sessionId, title) {
    if (this.sessionId === sessionId) return this.setTitle(sessionId, title);
    this.sessionId = sessionId;
    this.composer.draft.moveTo(sessionId);
    this.#title.textContent = title;
    navigate(chatHref(sessionId), true);
    attempt(async () => this.#setSession(await get(sessionPath(sessionId))));
  }

  /**
   * @param {string} sessionId
   * @param {string} title
   */
  setTitle(sessionId, title) {
    if (sessionId !== this.sessionId) return;
    this.#title.textContent = title;
    document.title = `${title} · Echoic`;
    this.app.sessions.updateTitle(sessionId, title);
  }

  /**
   * A reply has ended.
   *
   * @param {MessageStatus | undefined} status unset if it could not be fetched
   */
  async handleReplyEnd(status) {
    this.#announcement.textContent = "";
    await this.refresh();
    this.#announcement.textContent = (status && ANNOUNCEMENTS[status]) ?? "";
  }

  showQueue() {
    const messages = this.replies.queuedMessages;
    this.#queue.hidden = messages.length === 0;
    setChildren(this.#queue, messages.map(({ text }) => el("li", {}, el("span.spinner"), el("span", {}, `Queued: ${text || "images"}`))));
  }

  /** Loads the chat again. Calls during a refresh lead to one more. */
  refresh() {
    this.#isStale = true;
    this.#refreshing ??= this.#loadUntilFresh().finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  async #loadUntilFresh() {
    while (this.#isStale) {
      this.#isStale = false;
      await attempt(() => this.#load());
    }
  }

  async #load() {
    const { sessionId } = this;
    if (!sessionId) return this.#render();
    const session = await get(sessionPath(sessionId));
    if (this.thread.isAtEnd || this.thread.isEmpty) await this.thread.refresh();
    if (sessionId !== this.sessionId) return;
    this.#setSession(session);
    this.#joinRunning();
    this.readMarker.markNewest();
    this.app.panel.refresh();
  }

  /** Joins the running reply. A queued message of this tab has its own connection. */
  #joinRunning() {
    const activeTurn = this.session?.activeTurn;
    if (activeTurn && !this.replies.hasQueued) this.replies.join(activeTurn.turnId);
  }

  /**
   * Changes fields of the chat, or the settings of a new chat.
   *
   * @param {SessionChange} fields
   */
  async change(fields) {
    if (this.sessionId) {
      this.#setSession(await call("PATCH", sessionPath(this.sessionId), fields));
      return;
    }
    this.#settings = fields.settings ?? this.#settings;
    this.#render();
  }

  /** @param {UnsentMessage} message */
  #send(message) {
    if (this.#writeAs === "assistant") {
      this.#postAsAssistant(message);
      return;
    }
    this.#welcome.hidden = true;
    this.scrollElement.hidden = false;
    this.replies.send(message);
    // An edit far up stays next to its context until the server accepts it.
    if (!message.edit || this.thread.isAtEnd) this.scroller.jumpToLatest();
  }

  /** @param {UnsentMessage} message */
  async #postAsAssistant(message) {
    const { draft } = this.composer;
    const body = { chatSessionId: this.sessionId, role: "assistant", content: message.text, parts: message.images };
    draft.markSending(message);
    const posted = await attempt(() => call("POST", "/api/chat-messages", body));
    if (!posted) {
      this.composer.restoreUnsent(draft, [message]);
      return;
    }
    draft.markSent(message);
    await this.refresh();
    this.scroller.jumpToLatest();
  }

  /**
   * @param {string} sessionId
   * @param {string} messageId
   */
  async #showMessage(sessionId, messageId) {
    await attempt(async () => {
      const message = await get(messagePath(sessionId, messageId));
      await this.thread.showAround(message).catch(async (error) => {
        if (!(error instanceof ApiError) || error.status >= 500) throw error;
        // The message is on another branch.
        this.#setSession(await call("PUT", sessionPath(sessionId, "/head"), { messageId }));
        await this.thread.showAround(await get(messagePath(sessionId, messageId)));
        showToast("Switched to the branch with this message");
      });
      const view = this.thread.findView(message.id);
      if (!view) return;
      this.scroller.show(view.element);
      view.flash();
      this.thread.loadNearEnds();
    });
  }

  #leave() {
    this.scroller.reset();
    this.replies.leave();
    this.thread.clear();
    this.showQueue();
  }

  /** @param {Session} session */
  #setSession(session) {
    if (session.sessionId !== this.sessionId) return;
    this.session = session;
    this.app.sessions.upsert(session);
    this.#render();
  }

  #render() {
    const { session } = this;
    const isNew = !this.sessionId;
    const title = isNew ? "New chat" : (session?.title ?? "");
    this.#title.textContent = title;
    document.title = title ? `${title} · Echoic` : "Echoic";
    const project = this.app.projects.getName(session?.projectId ?? this.#projectId);
    this.#subtitle.textContent = project ?? "";
    const isEmpty = isNew && this.thread.isEmpty;
    this.#welcome.hidden = !isEmpty;
    this.scrollElement.hidden = isEmpty;
    setChildren(this.#welcome, isEmpty && renderWelcome(project, (text) => this.composer.suggest(text)));
    this.#menuButton.hidden = isNew;
    this.composer.setModels(this.app.models.list, this.settings.model, this.app.models.defaultId, this.app.canManage(session));
    this.#renderStatus();
    this.app.panel.show(this);
  }

  #renderStatus() {
    const status = this.session?.status ?? "active";
    const isClosed = status === "closed";
    this.composer.element.hidden = isClosed;
    this.#closedNote.hidden = !isClosed;
    const reopen = () => attempt(() => this.change({ status: "active" }));
    setChildren(this.#closedNote, "This chat is closed.", el("button.button.small", { type: "button", onclick: reopen }, "Reopen"));
    if (status !== "agent_assigned") {
      this.#writeAs = "user";
      if (this.#isTakenOver) this.composer.showBanner();
      this.#isTakenOver = false;
    } else if (!this.#isTakenOver) {
      this.#isTakenOver = true;
      this.#showTakeoverBanner();
    }
  }

  #showTakeoverBanner() {
    const options = [el("option", { value: "user" }, "as user"), el("option", { value: "assistant" }, "as assistant")];
    /** @type {HTMLSelectElement} */
    const select = el("select.input", { "aria-label": "Write as", onchange: () => (this.#writeAs = select.value) }, options);
    this.composer.showBanner(createIcon("people"), el("span", {}, "A person is replying; the model is paused."), this.app.canManage(this.session) && select);
  }

  #openMenu() {
    const { session } = this;
    if (session) openMenu(this.#menuButton, getChatActions(this.app, session, { rename: () => this.app.sessions.rename(session) }));
  }

  #listen() {
    const isOpen = (/** @type {string} */ sessionId) => this.sessionId !== null && sessionId === this.sessionId;
    eventStream.on("message", ({ sessionId }) => isOpen(sessionId) && !this.replies.isRunning && this.refresh());
    eventStream.on("turn", ({ sessionId, action }) => isOpen(sessionId) && action === "ended" && !this.replies.isRunning && this.refresh());
    eventStream.on("seen", ({ sessionId }) => isOpen(sessionId) && this.refresh());
    eventStream.on("session", (event) => isOpen(event.sessionId) && this.#handleSessionEvent(event));
    eventStream.on("sync", () => this.sessionId && this.refresh());
  }

  /** @param {ServerEvents["session"]} event */
  #handleSessionEvent({ action, session }) {
    if (action === "deleted" || action === "left") {
      showToast(action === "left" ? "You left this chat" : "This chat was deleted");
      return navigate(newChatHref());
    }
    const hasNewHead = session && session.headId !== this.thread.messages.at(-1)?.id;
    if (session) this.#setSession({ ...this.session, ...session });
    if (hasNewHead && !this.replies.isRunning) this.refresh();
  }
}
