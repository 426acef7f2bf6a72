// The conversation that is open: its header, its messages, the field to write in.

import { ApiError, call, get, message as messagePath, session as sessionPath } from "../api.js";
import { el, fill, icon, iconButton } from "../dom.js";
import { live } from "../event-stream.js";
import { openMenu } from "../menu.js";
import { go, toChat, toNew } from "../route.js";
import { chatActions } from "../sessions/actions.js";
import { attempt, toast } from "../toast.js";
import { Composer } from "./composer.js";
import { Replies } from "./reply-queue.js";
import { Scroller } from "./scroller.js";
import { Seen } from "./read-marker.js";
import { Thread } from "./thread.js";
import { welcome } from "./welcome.js";

/** What is said of a reply to who cannot see how it ended. */
const ENDINGS = { complete: "The reply is complete.", interrupted: "The reply ended early.", failed: "The reply has failed." };

export class ChatView {
  session = null;
  sessionId = null;
  #projectId = null;
  #settings = {};
  #answersAs = "user";
  #isByHand = false;
  #title = el("h1");
  #subtitle = el("span.quiet-text");
  #more = iconButton("more", "More", () => this.#menu(), { "aria-haspopup": "menu", "aria-expanded": "false" });
  #queue = el("ul.queue", { "aria-label": "Waiting messages", hidden: true });
  #closed = el("div.closed-note", { hidden: true });
  #announce = el("div.sr", { role: "status" });
  #empty = el("div.welcome");
  #refreshing = null;
  #isStale = false;

  constructor(app) {
    this.app = app;
    this.thread = new Thread(this);
    this.composer = new Composer({
      send: (message) => this.#send(message),
      stop: () => this.replies.stop(),
      model: (model) => attempt(() => this.change({ settings: { ...this.settings, model } })),
    });
    const scrolled = el("div.scroller", { tabIndex: 0, role: "region", "aria-label": "Messages" }, this.thread.frame);
    this.scroller = new Scroller(scrolled, this.thread.frame);
    this.scroller.onlatest = () => this.thread.isAtEnd || attempt(() => this.thread.refresh());
    this.replies = new Replies(this);
    this.seen = new Seen(this);
    this.thread.watch(scrolled);
    const dock = el("div.dock", {}, el("div.dock-inner", {}, this.scroller.button, this.#queue, this.#closed, this.composer.element));
    const head = el("header.bar", {}, app.menuButton(), el("div.bar-title", {}, this.#title, this.#subtitle), app.panel.button, this.#more);
    this.elements = [head, app.notice, this.#empty, scrolled, dock, this.#announce];
    this.scrolled = scrolled;
    this.#listen();
  }

  get me() {
    return this.app.me.userId;
  }

  get isFollowing() {
    return this.scroller.isFollowing;
  }

  /** Whether messages may be edited, answered anew, taken elsewhere. */
  get canChange() {
    return this.session?.status !== "closed";
  }

  get settings() {
    return this.session?.settings ?? this.#settings;
  }

  keep(change) {
    this.scroller.keep(change);
  }

  /** A chat that does not exist before something is said in it. */
  openNew(projectId) {
    this.#leave();
    this.session = null;
    this.sessionId = null;
    this.#projectId = projectId;
    this.#settings = {};
    this.composer.open(`new.${projectId ?? ""}`);
    this.#show();
    this.composer.focus();
  }

  /** Shows a chat, at a message if one is named. */
  async open(sessionId, messageId) {
    if (sessionId === this.sessionId) {
      if (messageId) await this.#goTo(messageId);
      return;
    }
    this.#leave();
    this.sessionId = sessionId;
    this.session = this.app.sessions.known(sessionId);
    this.composer.open(sessionId);
    this.#show();
    const [session] = await Promise.all([get(sessionPath(sessionId)), messageId ? null : this.thread.refresh()]);
    if (sessionId !== this.sessionId) return;
    this.#update(session);
    if (messageId) await this.#goTo(messageId);
    else this.scroller.toLatest();
    this.#joinRunning();
    this.#show();
    this.seen.look();
    if (!messageId && !this.app.sessions.isRenaming) this.composer.focus();
  }

  /** Names and models are known by now. */
  reshow() {
    this.#show();
  }

  close() {
    this.#leave();
    this.sessionId = null;
    this.session = null;
  }

  // What messages ask for.

  edit(message) {
    this.composer.edit(message);
  }

  regenerate(messageId) {
    const reply = this.thread.view(messageId)?.message;
    if (!reply || this.replies.isRunning) return;
    this.replies.regenerate(reply);
  }

  async switchTo(messageId) {
    const { sessionId } = this;
    const at = this.thread.messages.find(({ siblingIds }) => siblingIds?.includes(messageId));
    const old = this.thread.view(at.id).element.getBoundingClientRect().top;
    await attempt(async () => {
      this.#update(await call("PUT", sessionPath(sessionId, "/head"), { messageId }));
      const message = await get(messagePath(sessionId, messageId));
      if (sessionId !== this.sessionId) return;
      await this.thread.around(message);
      // The versions stand in the same place, so the reader stays there.
      const now = this.thread.view(messageId).element;
      this.scroller.show(now);
      this.scrolled.scrollTop += now.getBoundingClientRect().top - old;
      this.thread.look();
    });
  }

  async fork(messageId) {
    const forked = await attempt(() => call("POST", sessionPath(this.sessionId, "/fork"), { messageId }));
    if (!forked) return;
    this.app.sessions.put(forked);
    go(toChat(forked.sessionId));
    toast("A new chat goes on from there");
  }

  // What replies tell.

  /** What a chat is made with. */
  firstSettings() {
    return { ...(this.#projectId ? { projectId: this.#projectId } : {}), ...this.#settings };
  }

  began(sessionId, title) {
    if (this.sessionId === sessionId) return this.titled(sessionId, title);
    this.sessionId = sessionId;
    this.composer.draft.moveTo(sessionId);
    this.#title.textContent = title;
    go(toChat(sessionId), true);
    attempt(async () => this.#update(await get(sessionPath(sessionId))));
  }

  titled(sessionId, title) {
    if (sessionId !== this.sessionId) return;
    this.#title.textContent = title;
    document.title = `${title} · Echoic`;
    this.app.sessions.titled(sessionId, title);
  }

  /** A reply has ended, as its `status` says; `undefined` if nobody knows. */
  async ended(status) {
    this.#announce.textContent = "";
    await this.refresh();
    this.#announce.textContent = ENDINGS[status] ?? "";
  }

  showWaiting() {
    const waiting = this.replies.waiting;
    this.#queue.hidden = waiting.length === 0;
    fill(this.#queue, waiting.map(({ message }) => el("li", {}, el("span.spinner"), el("span", {}, `Waiting: ${message.text || "pictures"}`))));
  }

  /** Reads anew what may have changed; what changes meanwhile is read once more. */
  refresh() {
    this.#isStale = true;
    this.#refreshing ??= this.#readAll().finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  async #readAll() {
    while (this.#isStale) {
      this.#isStale = false;
      await attempt(() => this.#read());
    }
  }

  async #read() {
    const { sessionId } = this;
    if (!sessionId) return this.#show();
    const session = await get(sessionPath(sessionId));
    if (this.thread.isAtEnd || this.thread.isEmpty) await this.thread.refresh();
    if (sessionId !== this.sessionId) return;
    this.#update(session);
    this.#joinRunning();
    this.seen.look();
    this.app.panel.refresh();
  }

  /** Reads the reply that runs; one that waited here comes over its own connection. */
  #joinRunning() {
    const { activeTurn } = this.session;
    if (activeTurn && this.replies.waiting.length === 0) this.replies.join(activeTurn.turnId);
  }

  /** Changes fields of the chat; of one that does not exist yet, its settings. */
  async change(fields) {
    if (this.sessionId) return this.#update(await call("PATCH", sessionPath(this.sessionId), fields));
    this.#settings = fields.settings ?? this.#settings;
    this.#show();
  }

  #send(message) {
    if (this.#answersAs === "assistant") return this.#answer(message);
    this.#empty.hidden = true;
    this.scrolled.hidden = false;
    this.replies.send(message);
    // An edit keeps what it stands beside in the window until it is sent.
    if (!message.edit || this.thread.isAtEnd) this.scroller.toLatest();
  }

  /** A person's answer in place of the model's. */
  async #answer(message) {
    const { draft } = this.composer;
    const body = { chatSessionId: this.sessionId, role: "assistant", content: message.text, parts: message.pictures };
    draft.sending(message);
    const posted = await attempt(() => call("POST", "/api/chat-messages", body));
    if (!posted) return this.composer.takeBack(draft, [message]);
    draft.sent(message);
    await this.refresh();
    this.scroller.toLatest();
  }

  async #goTo(messageId) {
    await attempt(async () => {
      const { sessionId } = this;
      const message = await get(messagePath(sessionId, messageId));
      await this.thread.around(message).catch(async (failure) => {
        if (!(failure instanceof ApiError) || failure.status >= 500) throw failure;
        // It stands on another branch, which is chosen to show it.
        this.#update(await call("PUT", sessionPath(sessionId, "/head"), { messageId }));
        await this.thread.around(await get(messagePath(sessionId, messageId)));
        toast("Switched to the branch that holds this message");
      });
      const view = this.thread.view(message.id);
      this.scroller.show(view.element);
      view.flash();
      this.thread.look();
    });
  }

  #leave() {
    this.scroller.reset();
    this.replies.leave();
    this.thread.clear();
    this.showWaiting();
  }

  #update(session) {
    if (session.sessionId !== this.sessionId) return;
    this.session = session;
    this.app.sessions.put(session);
    this.#show();
  }

  #show() {
    const { session } = this;
    const isNew = !this.sessionId;
    const title = isNew ? "New chat" : (session?.title ?? "");
    this.#title.textContent = title;
    document.title = title ? `${title} · Echoic` : "Echoic";
    const project = this.app.projects.name(session?.projectId ?? this.#projectId);
    this.#subtitle.textContent = project ?? "";
    const isBare = isNew && this.thread.isEmpty;
    this.#empty.hidden = !isBare;
    this.scrolled.hidden = isBare;
    fill(this.#empty, isBare && welcome(project, (text) => this.composer.suggest(text)));
    this.#more.hidden = isNew;
    this.composer.setModels(this.app.models.list, this.settings.model, this.app.models.standard, this.app.owns(this.session));
    this.#showStatus();
    this.app.panel.show(this);
  }

  #showStatus() {
    const status = this.session?.status ?? "active";
    const isClosed = status === "closed";
    this.composer.element.hidden = isClosed;
    this.#closed.hidden = !isClosed;
    const reopen = () => attempt(() => this.change({ status: "active" }));
    fill(this.#closed, "This chat is closed.", el("button.button.small", { type: "button", onclick: reopen }, "Reopen"));
    if (status !== "agent_assigned") {
      this.#answersAs = "user";
      if (this.#isByHand) this.composer.showBanner();
      this.#isByHand = false;
    } else if (!this.#isByHand) {
      this.#isByHand = true;
      this.#handBanner();
    }
  }

  #handBanner() {
    const options = [el("option", { value: "user" }, "as user"), el("option", { value: "assistant" }, "as assistant")];
    const choice = el("select.input", { "aria-label": "Write as", onchange: () => (this.#answersAs = choice.value) }, options);
    this.composer.showBanner(icon("people"), el("span", {}, "A person answers; the model is silent."), this.app.owns(this.session) && choice);
  }

  #menu() {
    openMenu(this.#more, chatActions(this.app, this.session, { rename: () => this.app.sessions.rename(this.session) }));
  }

  #listen() {
    const ours = (run) => ({ detail }) => detail.sessionId === this.sessionId && this.sessionId && run(detail);
    live.addEventListener("message", ours(() => this.replies.isRunning || this.refresh()));
    live.addEventListener("turn", ours(({ action }) => action === "ended" && !this.replies.isRunning && this.refresh()));
    live.addEventListener("seen", ours(() => this.refresh()));
    live.addEventListener("session", ours(({ action, session }) => this.#heard(action, session)));
    live.addEventListener("sync", () => this.sessionId && this.refresh());
  }

  #heard(action, session) {
    if (action === "deleted") {
      toast("This chat was deleted");
      return go(toNew());
    }
    const headMoved = session && session.headId !== this.thread.messages.at(-1)?.id;
    if (session) this.#update({ ...this.session, ...session });
    if (headMoved && !this.replies.isRunning) this.refresh();
  }
}
