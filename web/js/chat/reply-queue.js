// The replies of the open chat: the one that is being written, and the messages that wait for it.

import { call, chatPath, createId, get, getErrorMessage, messagePath } from "../api.js";
import { eventStream } from "../event-stream.js";
import { showToast } from "../toast.js";
import { LiveReply } from "./live-reply.js";
import { MessageView } from "./message-view.js";
import { TurnReader } from "./turn-reader.js";

/**
 * How long a queued message of this tab has to claim a turn that started. Later the turn must
 * belong to another tab.
 */
const CLAIM_MS = 400;

export class ReplyQueue {
  /** @type {ReplyEntry | null} The reply that is being read. */
  #current = null;
  /** @type {Set<ReplyEntry>} Messages of this tab that wait for the reply before them. */
  #queued = new Set();

  /** @param {ChatView} chat */
  constructor(chat) {
    this.chat = chat;
    eventStream.on("turn", (event) => this.#handleTurnEvent(event));
  }

  get isRunning() {
    return this.#current !== null;
  }

  get hasQueued() {
    return this.#queued.size > 0;
  }


  get queuedMessages() {
    return [...this.#queued].flatMap(({ outgoing }) => outgoing?.message ?? []);
  }

  get #held() {
    return [...this.#queued].filter(({ isHeld }) => isHeld);
  }

  /** Stops reading. The replies continue on the server. */
  leave() {
    for (const entry of [this.#current, this.#current?.interrupted, ...this.#queued]) {
      if (!entry) continue;
      entry.hasLeft = true;
      entry.turn.leave();
      if (entry.isHeld && entry.outgoing) entry.outgoing.message.isSending = false;
    }
    this.#current = null;
    this.#queued.clear();
    this.chat.composer.isRunning = false;
  }

  /**
   * Sends a message, or sends it again. An edit interrupts the running reply, any other message is
   * queued after it.
   *
   * @param {UnsentMessage} message
   */
  send(message) {
    const { clientMessageId, text, images, edit } = message;
    const branchParentId = edit ? (edit.parentId ?? null) : undefined;
    /** @type {TurnBody} */
    const body = { message: text, clientMessageId };
    if (images.length > 0) body.parts = images;
    if (edit) body.parentId = branchParentId;
    if (this.#current) body.onBusy = edit ? "interrupt" : "queue";
    /** @type {Message} */
    const pending = { id: clientMessageId, clientMessageId, role: "user", content: text, parts: images, isPending: true, createdAt: new Date().toISOString(), siblingIds: [] };
    const { draft } = this.chat.composer;
    const view = new MessageView(pending, this.chat);
    const entry = this.#createEntry({ outgoing: { message, body, draft, view }, branchParentId });
    entry.retry = () => {
      this.chat.thread.removePending(view);
      this.send(message);
    };
    draft.markSending(message);
    if (body.onBusy === "queue") {
      this.#enqueue(entry);
      return;
    }
    entry.interrupted = this.#current;
    this.chat.thread.addPending(view);
    this.#setCurrent(entry);
    this.#post(entry);
  }

  /** @param {Message} reply */
  regenerate(reply) {
    const { sessionId } = this.chat;
    if (!sessionId) return;
    const entry = this.#createEntry({ branchParentId: reply.parentId });
    entry.retry = () => this.regenerate(reply);
    this.#setCurrent(entry);
    entry.turn.send(chatPath(sessionId, "regenerate"), { messageId: reply.id }, { "idempotency-key": createId() });
  }

  /**
   * Reads the running reply, unless this tab reads it already.
   *
   * @param {string} turnId
   */
  join(turnId) {
    const current = this.#current;
    const isKnown = current && (!current.reply.turnId || !turnId || current.reply.turnId === turnId);
    if (isKnown) return;
    if (current) {
      current.turn.leave();
      this.chat.thread.removePending(current.reply);
    }
    const entry = this.#createEntry({});
    entry.reply.turnId = turnId;
    this.#setCurrent(entry);
    entry.turn.join();
  }

  /** Stops the running reply, or does so once it has started. Restores held messages. */
  async stop() {
    const entry = this.#current;
    if (!entry) return;
    this.#restore(this.#held);
    const { turnId } = entry.reply;
    entry.isStopRequested = !turnId;
    if (!turnId || !entry.sessionId) return;
    await call("POST", chatPath(entry.sessionId, "stop"), { turnId }).catch((error) => showToast(getErrorMessage(error)));
  }

  /** @param {Pick<ReplyEntry, "outgoing" | "branchParentId">} fields */
  #createEntry(fields) {
    const { sessionId } = this.chat;
    const turn = new TurnReader(sessionId, {
      onAccepted: () => this.#handleAccepted(entry),
      onFrame: (frame) => this.#handleFrame(entry, frame),
      onConnectionChange: (isConnected) => entry.reply.setConnected(isConnected),
      onEnd: (reason, error) => (error ? this.#handleRefusal(entry, error) : this.#handleEnd(entry)),
    });
    /** @type {ReplyEntry} */
    const entry = {
      ...fields,
      sessionId,
      turn,
      reply: new LiveReply(this.chat),
      isAccepted: false,
      isHeld: false,
      isStopRequested: false,
      isClosed: false,
      hasLeft: false,
    };
    return entry;
  }

  /** @param {ReplyEntry} entry */
  #setCurrent(entry) {
    this.#current = entry;
    this.chat.keepPosition(() => this.chat.thread.addPending(entry.reply));
    this.chat.composer.isRunning = true;
  }

  /** @param {ReplyEntry} entry */
  #post(entry) {
    if (!entry.outgoing) return;
    const { body, message } = entry.outgoing;
    const { sessionId } = this.chat;
    entry.sessionId = sessionId;
    entry.turn.setSession(sessionId);
    const session = sessionId ? { sessionId } : this.chat.getNewChatSettings();
    entry.turn.send("/api/chat", { ...body, ...session }, { "idempotency-key": message.clientMessageId });
  }

  /**
   * Queues a message on the server. In a new chat it is held until the chat has its id.
   *
   * @param {ReplyEntry} entry
   */
  #enqueue(entry) {
    this.#queued.add(entry);
    this.chat.showQueue();
    entry.isHeld = !this.chat.sessionId;
    if (!entry.isHeld) this.#post(entry);
  }

  /**
   * Makes a queued message current when its turn starts.
   *
   * @param {ReplyEntry} entry
   */
  #dequeue(entry) {
    this.#queued.delete(entry);
    this.chat.showQueue();
    if (entry.outgoing) this.chat.thread.addPending(entry.outgoing.view);
    this.#setCurrent(entry);
  }

  /**
   * Puts queued messages that will not get a turn back into the field.
   *
   * @param {ReplyEntry[]} entries
   */
  #restore(entries) {
    for (const entry of entries) {
      this.#queued.delete(entry);
      entry.turn.leave();
    }
    const outgoing = entries.flatMap((entry) => entry.outgoing ?? []);
    if (outgoing.length === 0) return;
    this.chat.showQueue();
    this.chat.composer.restoreUnsent(outgoing[0].draft, outgoing.map(({ message }) => message));
  }

  /**
   * The server has the message. Only now is the old branch removed: until here the request could
   * have failed, and the branch would still be the current one.
   *
   * @param {ReplyEntry} entry
   */
  #handleAccepted(entry) {
    entry.isAccepted = true;
    entry.outgoing?.draft.markSent(entry.outgoing.message);
    const { interrupted, branchParentId } = entry;
    if (this.#current !== entry || branchParentId === undefined) return;
    entry.interrupted = null;
    if (interrupted) {
      interrupted.hasLeft = true;
      interrupted.turn.leave();
    }
    this.chat.keepPosition(() => {
      if (interrupted) this.chat.thread.removePending(interrupted.reply);
      this.chat.thread.truncateAfter(branchParentId);
    });
    this.chat.scroller.jumpToLatest();
  }

  /**
   * @param {ReplyEntry} entry
   * @param {TurnFrame} frame
   */
  #handleFrame(entry, frame) {
    if (this.#queued.has(entry)) {
      // A stop drops every queued message on the server.
      if (frame.type === "abort") return this.#restore([...this.#queued].filter(({ isAccepted }) => isAccepted));
      this.#dequeue(entry);
    }
    entry.reply.handleFrame(frame);
    if (frame.type === "start") {
      entry.sessionId = frame.messageMetadata?.sessionId ?? entry.sessionId;
      entry.turn.setSession(entry.sessionId);
      if (entry.isStopRequested) this.stop();
    }
    if (frame.type === "data-session") entry.starting = this.#handleStart(entry, frame.data);
    if (frame.type === "data-title" && entry.sessionId) this.chat.setTitle(entry.sessionId, frame.data.title);
  }

  /**
   * The turn has started: its chat has an id, and the user message is stored.
   *
   * @param {ReplyEntry} entry
   * @param {{ sessionId: string, title: string, userMessageId: string }} data
   */
  async #handleStart(entry, { sessionId, title, userMessageId }) {
    entry.sessionId = sessionId;
    this.chat.handleSessionStart(sessionId, title);
    for (const held of this.#held) {
      held.isHeld = false;
      this.#post(held);
    }
    const view = entry.outgoing?.view;
    if (!view) return;
    const stored = await get(messagePath(sessionId, userMessageId)).catch(() => ({ ...view.message, id: userMessageId }));
    if (this.chat.sessionId === sessionId && !entry.hasLeft) this.chat.keepPosition(() => this.chat.thread.settle(view, stored));
  }

  /**
   * The turn is over: replaces the live reply with the stored message.
   *
   * @param {ReplyEntry} entry
   */
  async #handleEnd(entry) {
    if (this.#queued.delete(entry)) {
      this.chat.showQueue();
      return;
    }
    const finished = await entry.reply.finish();
    // The user message must be in place before its reply.
    await entry.starting;
    const { sessionId } = entry;
    const stored = sessionId && entry.reply.id ? await get(messagePath(sessionId, entry.reply.id)).catch(() => null) : null;
    if (entry.hasLeft || this.chat.sessionId !== sessionId) return;
    // If the stored message cannot be fetched, the text received so far stays.
    /** @type {Message | null} */
    const message = stored ?? entry.reply.message;
    this.chat.keepPosition(() => {
      this.chat.thread.removePending(entry.reply);
      if (message) this.chat.thread.settle(new MessageView(message, this.chat, finished), message);
    });
    this.#close(entry);
    await this.chat.handleReplyEnd(message?.status);
  }

  /**
   * The request failed and no turn started: offers to send the message again.
   *
   * @param {ReplyEntry} entry
   * @param {ApiError} error
   */
  #handleRefusal(entry, error) {
    const { outgoing } = entry;
    if (outgoing) {
      outgoing.draft.markSending(outgoing.message);
      outgoing.message.isSending = false;
    }
    if (entry.hasLeft) {
      if (!outgoing) return;
      this.chat.composer.restoreUnsent(outgoing.draft, [outgoing.message]);
      showToast(`${error.message} Your message is back in the field of its chat.`);
      return;
    }
    const wasQueued = this.#queued.delete(entry);
    this.chat.showQueue();
    this.#close(entry);
    this.#restore(this.#held);
    if (outgoing && wasQueued) this.chat.thread.addPending(outgoing.view);
    if (outgoing && error.status === 0) {
      outgoing.view.showUnsent("Not sent.", () => entry.retry?.(), () => this.#restoreMessage(outgoing));
      if (!this.chat.thread.isAtEnd) this.chat.scroller.jumpToLatest();
      return;
    }
    if (outgoing) this.#restoreMessage(outgoing);
    showToast(error.message, error.status === 0 ? { label: "Try again", run: () => entry.retry?.() } : undefined);
    this.chat.refresh();
  }

  /** @param {OutgoingMessage} outgoing */
  #restoreMessage({ view, draft, message }) {
    this.chat.thread.removePending(view);
    this.chat.composer.restoreUnsent(draft, [message]);
  }

  /** @param {ReplyEntry} entry */
  #close(entry) {
    entry.isClosed = true;
    this.chat.thread.removePending(entry.reply);
    if (this.#current !== entry) return;
    const { interrupted } = entry;
    this.#current = interrupted && !interrupted.isClosed ? interrupted : null;
    this.chat.composer.isRunning = this.isRunning;
  }

  /**
   * Joins a turn that started in another tab or from the queue.
   *
   * @param {ServerEvents["turn"]} event
   */
  async #handleTurnEvent({ action, sessionId, turnId }) {
    if (sessionId !== this.chat.sessionId || action !== "started") return;
    if (this.#current && !this.#current.reply.turnId) return;
    if (this.#queued.size > 0) await new Promise((resolve) => setTimeout(resolve, CLAIM_MS));
    if (sessionId !== this.chat.sessionId || this.#current?.reply.turnId === turnId) return;
    await this.chat.refresh();
    if (sessionId === this.chat.sessionId && this.#current?.reply.turnId !== turnId) this.join(turnId);
  }
}
