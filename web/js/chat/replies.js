// The replies of the chat that is open: the one that is being written, and those that wait for it.

import { call, chat, get, message as messagePath, newId } from "../api.js";
import { live } from "../live.js";
import { toast } from "../toast.js";
import { LiveReply } from "./live-reply.js";
import { MessageView } from "./message.js";
import { Turn } from "./turn.js";

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

  /** Reads nothing any more; the replies go on at the server. */
  leave() {
    this.#current?.turn.leave();
    this.#waiting.forEach(({ turn }) => turn.leave());
    this.#current = null;
    this.#waiting.clear();
    this.view.composer.isRunning = false;
  }

  /** Sends a message; `again` is what a first try was made with. */
  send({ text, parts, parentId, projectId }, again) {
    const key = again?.key ?? newId();
    const body = { message: text, clientMessageId: key };
    if (parts.length > 0) body.parts = parts;
    if (parentId !== undefined) body.parentId = parentId;
    if (this.view.sessionId) body.sessionId = this.view.sessionId;
    else Object.assign(body, projectId ? { projectId } : {}, this.view.firstSettings());
    const written = { id: key, clientMessageId: key, role: "user", content: text, parts, isPending: true, createdAt: new Date().toISOString(), siblingIds: [] };
    if (this.#current) {
      body.onBusy = parentId === undefined ? "queue" : "interrupt";
      if (body.onBusy === "queue") return this.#queue(body, written, key);
    }
    const user = new MessageView(written, this.view);
    this.view.thread.push(user);
    const entry = this.#begin("/api/chat", body, key, user);
    entry.retry = () => {
      this.view.thread.drop(user);
      this.send({ text, parts, parentId, projectId }, { key });
    };
    entry.restore = () => this.view.composer.restore(text, parts);
  }

  /** Asks for another reply beside one. */
  regenerate(messageId) {
    const entry = this.#begin(chat(this.view.sessionId, "regenerate"), { messageId }, newId(), null);
    entry.retry = () => this.regenerate(messageId);
  }

  /** Reads the reply that runs, unless it is read already. */
  join(turnId) {
    const isKnown = this.#current && (!this.#current.reply.turnId || !turnId || this.#current.reply.turnId === turnId);
    if (isKnown) return;
    this.#current?.turn.leave();
    if (this.#current) this.view.thread.drop(this.#current.reply);
    const entry = this.#open(null);
    entry.reply.turnId = turnId;
    entry.turn.join();
  }

  async stop() {
    const { reply, sessionId } = this.#current ?? {};
    if (!reply) return;
    const turn = reply.turnId ? { turnId: reply.turnId } : {};
    await call("POST", chat(sessionId ?? this.view.sessionId, "stop"), turn).catch(({ message }) => toast(message));
  }

  #begin(path, body, key, user) {
    const entry = this.#open(user);
    entry.turn.send(path, body, { "idempotency-key": key });
    return entry;
  }

  #open(user) {
    const reply = new LiveReply(this.view);
    const entry = { reply, user, sessionId: this.view.sessionId };
    entry.turn = new Turn(this.view.sessionId, {
      frame: (frame) => this.#frame(entry, frame),
      link: (isUp) => reply.link(isUp),
      ended: (how, error) => this.#ended(entry, how, error),
    });
    this.#make(entry);
    return entry;
  }

  #make(entry) {
    this.#current = entry;
    this.view.keep(() => this.view.thread.push(entry.reply));
    this.view.composer.isRunning = true;
  }

  /** A message that is sent now and becomes one when its turn comes. */
  #queue(body, written, key) {
    const entry = { text: body.message, user: new MessageView(written, this.view), sessionId: body.sessionId };
    entry.reply = new LiveReply(this.view);
    let isFirst = true;
    let isDropped = false;
    entry.turn = new Turn(body.sessionId, {
      frame: (frame) => {
        // A stop drops what waits.
        isDropped ||= isFirst && frame.type === "abort";
        if (isDropped) return;
        if (isFirst) this.#isNext(entry);
        isFirst = false;
        this.#frame(entry, frame);
      },
      link: (isUp) => entry.reply.link(isUp),
      ended: (how, error) => {
        this.#waiting.delete(entry);
        this.view.showWaiting();
        if (!isFirst) return this.#ended(entry, how, error);
        if (error || isDropped) this.view.composer.restore(written.content, written.parts);
        if (error) toast(error.message);
      },
    });
    this.#waiting.add(entry);
    this.view.showWaiting();
    entry.turn.send("/api/chat", body, { "idempotency-key": key });
  }

  #isNext(entry) {
    this.#waiting.delete(entry);
    this.view.showWaiting();
    this.view.thread.push(entry.user);
    this.#make(entry);
  }

  #frame(entry, frame) {
    entry.reply.frame(frame);
    if (frame.type === "start") {
      const { sessionId } = frame.messageMetadata ?? {};
      entry.sessionId = sessionId ?? entry.sessionId;
      entry.turn.settle(entry.sessionId);
    }
    if (frame.type === "data-session") this.#begun(entry, frame.data);
    if (frame.type === "data-title") this.view.titled(entry.sessionId, frame.data.title);
  }

  async #begun(entry, { sessionId, title, userMessageId }) {
    entry.sessionId = sessionId;
    this.view.began(sessionId, title);
    if (!entry.user) return;
    const stored = await get(messagePath(sessionId, userMessageId)).catch(() => null);
    if (stored && this.view.sessionId === sessionId) this.view.keep(() => this.view.thread.settle(entry.user, stored));
  }

  async #ended(entry, how, error) {
    if (how === "refused") return this.#refused(entry, error);
    const body = await entry.reply.finish();
    const stored = entry.reply.id && (await get(messagePath(entry.sessionId, entry.reply.id)).catch(() => null));
    if (this.view.sessionId !== entry.sessionId) return;
    if (stored) {
      const view = new MessageView(stored, this.view, { text: entry.reply.text, body });
      this.view.keep(() => {
        this.view.thread.drop(entry.reply);
        this.view.thread.settle(view, view.message);
      });
    }
    this.#close(entry);
    await this.view.ended();
  }

  /** Nothing began: the message is given back, or can be sent again. */
  #refused(entry, error) {
    this.#close(entry);
    if (error.status === 0 && entry.user) {
      const edit = () => {
        this.view.thread.drop(entry.user);
        entry.restore();
      };
      return entry.user.showUnsent("It could not be sent.", entry.retry, edit);
    }
    if (entry.user) this.view.thread.drop(entry.user);
    entry.restore?.();
    toast(error.message, error.status === 0 && entry.retry ? { label: "Try again", run: entry.retry } : undefined);
    this.view.refresh();
  }

  #close(entry) {
    this.view.thread.drop(entry.reply);
    if (this.#current !== entry) return;
    this.#current = null;
    this.view.composer.isRunning = false;
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
