// The replies of the chat that is open: the one that is being written, and those that wait for it.

import { call, chat, get, message as messagePath, newId } from "../api.js";
import { live } from "../event-stream.js";
import { toast } from "../toast.js";
import { LiveReply } from "./live-reply.js";
import { MessageView } from "./message-view.js";
import { Turn } from "./turn-reader.js";

/** How long a turn may belong to a message that waits, before somebody else must have begun it. */
const CLAIM = 400;

export class Replies {
  /** What is being read: `{turn, reply, sessionId}`. */
  #current = null;
  /** Messages of this tab that wait for the reply before them. */
  #waiting = new Set();

  /** `view` is the conversation: it holds the thread and the composer. */
  constructor(view) {
    this.view = view;
    live.addEventListener("turn", ({ detail }) => this.#heard(detail));
  }

  get isRunning() {
    return this.#current !== null;
  }

  get waiting() {
    return [...this.#waiting];
  }

  /** Messages that wait for a new chat to have its id. */
  get #held() {
    return this.waiting.filter(({ isHeld }) => isHeld);
  }

  /** Reads nothing any more; the replies go on at the server. */
  leave() {
    for (const entry of [this.#current, this.#current?.interrupted, ...this.#waiting]) {
      if (!entry) continue;
      entry.isLeft = true;
      entry.turn.leave();
      if (entry.isHeld) entry.message.isSending = false;
    }
    this.#current = null;
    this.#waiting.clear();
    this.view.composer.isRunning = false;
  }

  /** Sends `{key, text, pictures, edit}`, anew if it was tried before; an edit interrupts what runs. */
  send(message) {
    const { key, text, pictures, edit } = message;
    const body = { message: text, clientMessageId: key };
    if (pictures.length > 0) body.parts = pictures;
    if (edit) body.parentId = edit.parentId ?? null;
    if (this.#current) body.onBusy = edit ? "interrupt" : "queue";
    const written = { id: key, clientMessageId: key, role: "user", content: text, parts: pictures, isPending: true, createdAt: new Date().toISOString(), siblingIds: [] };
    const { draft } = this.view.composer;
    const entry = this.#entry({ message, body, draft, user: new MessageView(written, this.view), branch: body.parentId });
    entry.retry = () => {
      this.view.thread.drop(entry.user);
      this.send(message);
    };
    draft.sending(message);
    if (body.onBusy === "queue") return this.#queue(entry);
    entry.interrupted = this.#current;
    this.view.thread.push(entry.user);
    this.#make(entry);
    this.#post(entry);
  }

  /** Asks for another reply beside one. */
  regenerate(reply) {
    const entry = this.#entry({ branch: reply.parentId });
    entry.retry = () => this.regenerate(reply);
    this.#make(entry);
    entry.turn.send(chat(this.view.sessionId, "regenerate"), { messageId: reply.id }, { "idempotency-key": newId() });
  }

  /** Reads the reply that runs, unless it is read already. */
  join(turnId) {
    const isKnown = this.#current && (!this.#current.reply.turnId || !turnId || this.#current.reply.turnId === turnId);
    if (isKnown) return;
    this.#current?.turn.leave();
    if (this.#current) this.view.thread.drop(this.#current.reply);
    const entry = this.#entry({});
    entry.reply.turnId = turnId;
    this.#make(entry);
    entry.turn.join();
  }

  /** Stops the reply that is written, or as soon as it is one; a message that waits for it is given back. */
  async stop() {
    const entry = this.#current;
    if (!entry) return;
    this.#giveBack(this.#held);
    const { turnId } = entry.reply;
    entry.isToStop = !turnId;
    if (turnId) await call("POST", chat(entry.sessionId, "stop"), { turnId }).catch(({ message }) => toast(message));
  }

  /**
   * A reply and what it answers: `{message, body, draft, user}` if that is sent from here, and behind
   * which message it makes a `branch`.
   */
  #entry(sent) {
    const entry = { ...sent, reply: new LiveReply(this.view), sessionId: this.view.sessionId };
    entry.turn = new Turn(this.view.sessionId, {
      taken: () => this.#taken(entry),
      frame: (frame) => this.#frame(entry, frame),
      link: (isUp) => entry.reply.link(isUp),
      ended: (how, error) => this.#ended(entry, how, error),
    });
    return entry;
  }

  #make(entry) {
    this.#current = entry;
    this.view.keep(() => this.view.thread.push(entry.reply));
    this.view.composer.isRunning = true;
  }

  #post(entry) {
    const { sessionId } = this.view;
    entry.sessionId = sessionId;
    entry.turn.settle(sessionId);
    const body = { ...entry.body, ...(sessionId ? { sessionId } : this.view.firstSettings()) };
    entry.turn.send("/api/chat", body, { "idempotency-key": entry.message.key });
  }

  /** A message that becomes one when its turn comes; in a chat that is new it waits for that first. */
  #queue(entry) {
    this.#waiting.add(entry);
    this.view.showWaiting();
    entry.isHeld = !this.view.sessionId;
    if (!entry.isHeld) this.#post(entry);
  }

  #isNext(entry) {
    this.#waiting.delete(entry);
    this.view.showWaiting();
    this.view.thread.push(entry.user);
    this.#make(entry);
  }

  /** Puts messages that will not have their turn into the field again. */
  #giveBack(entries) {
    if (entries.length === 0) return;
    for (const entry of entries) {
      this.#waiting.delete(entry);
      entry.turn.leave();
    }
    this.view.showWaiting();
    this.view.composer.takeBack(entries[0].draft, entries.map(({ message }) => message));
  }

  /** The server has the message: what stood in the place of its branch goes now, and no sooner. */
  #taken(entry) {
    entry.isTaken = true;
    entry.draft?.sent(entry.message);
    const { interrupted, branch } = entry;
    if (this.#current !== entry || branch === undefined) return;
    entry.interrupted = null;
    if (interrupted) {
      interrupted.isLeft = true;
      interrupted.turn.leave();
    }
    this.view.keep(() => {
      if (interrupted) this.view.thread.drop(interrupted.reply);
      this.view.thread.cutBehind(branch);
    });
    this.view.scroller.toLatest();
  }

  #frame(entry, frame) {
    if (this.#waiting.has(entry)) {
      // A stop drops all that wait.
      if (frame.type === "abort") return this.#giveBack(this.waiting.filter(({ isTaken }) => isTaken));
      this.#isNext(entry);
    }
    entry.reply.frame(frame);
    if (frame.type === "start") {
      const { sessionId } = frame.messageMetadata ?? {};
      entry.sessionId = sessionId ?? entry.sessionId;
      entry.turn.settle(entry.sessionId);
      if (entry.isToStop) this.stop();
    }
    if (frame.type === "data-session") entry.begun = this.#begun(entry, frame.data);
    if (frame.type === "data-title") this.view.titled(entry.sessionId, frame.data.title);
  }

  async #begun(entry, { sessionId, title, userMessageId }) {
    entry.sessionId = sessionId;
    this.view.began(sessionId, title);
    for (const held of this.#held) {
      held.isHeld = false;
      this.#post(held);
    }
    if (!entry.user) return;
    const stored = await get(messagePath(sessionId, userMessageId)).catch(() => ({ ...entry.user.message, id: userMessageId }));
    if (this.view.sessionId === sessionId && !entry.isLeft) this.view.keep(() => this.view.thread.settle(entry.user, stored));
  }

  async #ended(entry, how, error) {
    if (how === "refused") return this.#refused(entry, error);
    if (this.#waiting.delete(entry)) return this.view.showWaiting();
    const written = await entry.reply.finish();
    // The message stands before its answer.
    await entry.begun;
    const stored = entry.reply.id && (await get(messagePath(entry.sessionId, entry.reply.id)).catch(() => null));
    if (entry.isLeft || this.view.sessionId !== entry.sessionId) return;
    // What was read stays in sight, though the server cannot say what became of it.
    const message = stored ?? entry.reply.message;
    this.view.keep(() => {
      this.view.thread.drop(entry.reply);
      if (!message) return;
      const view = new MessageView(message, this.view, written);
      this.view.thread.settle(view, message);
    });
    this.#close(entry);
    await this.view.ended(message?.status);
  }

  /** Nothing began: the message is given back, or can be sent again. */
  #refused(entry, error) {
    const { message, draft, user } = entry;
    if (message) {
      draft.sending(message);
      message.isSending = false;
    }
    if (entry.isLeft) {
      if (!message) return;
      this.view.composer.takeBack(draft, [message]);
      return toast(`${error.message} Your message is in its chat’s field again.`);
    }
    const isWaiting = this.#waiting.delete(entry);
    this.view.showWaiting();
    this.#close(entry);
    this.#giveBack(this.#held);
    if (isWaiting) this.view.thread.push(user);
    const drop = () => {
      this.view.thread.drop(user);
      this.view.composer.takeBack(draft, [message]);
    };
    if (error.status === 0 && message) {
      user.showUnsent("It could not be sent.", entry.retry, drop);
      return this.view.thread.isAtEnd || this.view.scroller.toLatest();
    }
    if (message) drop();
    toast(error.message, error.status === 0 ? { label: "Try again", run: entry.retry } : undefined);
    this.view.refresh();
  }

  #close(entry) {
    entry.isClosed = true;
    this.view.thread.drop(entry.reply);
    if (this.#current !== entry) return;
    const { interrupted } = entry;
    this.#current = interrupted && !interrupted.isClosed ? interrupted : null;
    this.view.composer.isRunning = this.isRunning;
  }

  /** A turn that another tab began, or one that was queued. */
  async #heard({ action, sessionId, turnId }) {
    if (sessionId !== this.view.sessionId || action !== "started") return;
    if (this.#current && !this.#current.reply.turnId) return;
    if (this.#waiting.size > 0) await new Promise((resolve) => setTimeout(resolve, CLAIM));
    if (sessionId !== this.view.sessionId || this.#current?.reply.turnId === turnId) return;
    await this.view.refresh();
    if (sessionId === this.view.sessionId && this.#current?.reply.turnId !== turnId) this.join(turnId);
  }
}
