// The messages of a chat: a window of the current branch that loads more at both ends.

import { buildQuery, get, sessionPath } from "../api.js";
import { el } from "../dom.js";
import { attempt } from "../toast.js";
import { prefetch } from "./markdown.js";
import { MessageView } from "./message-view.js";

const PAGE_SIZE = 30;
const MAX_MESSAGES = 150;
/** How long to wait for rendered text before messages are shown as plain text. */
const RENDER_WAIT_MS = 300;
/** Views created before the page gets a chance to handle input. */
const BATCH_SIZE = 10;
/** Distance from an end of the window, in pixels, at which more messages load. */
const LOAD_MARGIN = 900;

export class Thread {
  element = el("ol.thread", { "aria-label": "Conversation" });
  #top = el("div.list-end");
  #bottom = el("div.list-end");
  /** @type {MessageView[]} */
  #views = [];
  #hasOlder = false;
  #hasNewer = false;
  #isLoading = false;
  /** Incremented for each new window, so that late responses for an old one are dropped. */
  #generation = 0;
  /** @type {ThreadItem[]} Messages that are not stored yet and the live reply. Always last. */
  #pending = [];

  /** @param {ChatView} chat */
  constructor(chat) {
    this.chat = chat;
    this.frame = el("div", {}, this.#top, this.element, this.#bottom);
  }

  /**
   * Loads more messages before the reader reaches an end of the window.
   *
   * @param {HTMLElement} scroller
   */
  observe(scroller) {
    const observer = new IntersectionObserver(
      (entries) => entries.some(({ isIntersecting }) => isIntersecting) && this.loadNearEnds(),
      { root: scroller, rootMargin: `${LOAD_MARGIN}px` },
    );
    observer.observe(this.#top);
    observer.observe(this.#bottom);
    // The observer does not report an end that left and came back between two frames.
    scroller.addEventListener("scroll", () => this.loadNearEnds(), { passive: true });
  }


  async loadNearEnds() {
    if (this.#isLoading || !this.element.isConnected) return;
    this.#isLoading = true;
    await attempt(() => this.#loadWhileNear());
    this.#isLoading = false;
  }

  get messages() {
    return this.#views.map(({ message }) => message);
  }

  /** Whether the window contains the newest message. */
  get isAtEnd() {
    return !this.#hasNewer;
  }

  get isEmpty() {
    return this.#views.length === 0 && this.#pending.length === 0;
  }

  clear() {
    this.#generation += 1;
    this.#views = [];
    this.#pending = [];
    this.#hasOlder = false;
    this.#hasNewer = false;
    this.#render();
  }

  /** @param {string} id */
  findView(id) {
    return this.#views.find((view) => view.id === id);
  }

  /** Loads the newest messages. Views that are shown already are kept. */
  async refresh() {
    const generation = this.#generation;
    const page = await this.#fetchPage({});
    if (generation !== this.#generation) return;
    // The live reply shows the message that is being written.
    const liveId = this.#pending.find((item) => !(item instanceof MessageView))?.id;
    const messages = page.messages.filter(({ id }) => id !== liveId);
    const overlap = messages.length > 0 ? this.#views.findIndex(({ id }) => id === messages[0].id) : 0;
    const isAdjacent = overlap >= 0 && !this.#hasNewer;
    this.chat.keepPosition(() => {
      const before = isAdjacent ? this.#views.slice(0, overlap) : [];
      if (!isAdjacent || messages.length === 0) this.#hasOlder = page.hasMore;
      this.#views = [...before, ...messages.map((message) => this.#getView(message, page.views))];
      this.#hasNewer = false;
      this.#render();
    });
    this.loadNearEnds();
  }

  /**
   * Moves the window to a message.
   *
   * @param {Message} message
   */
  async showAround(message) {
    const [older, newer] = await Promise.all([this.#fetchPage({ before: message.id }), this.#fetchPage({ after: message.id })]);
    await prefetchAll([message]);
    this.#generation += 1;
    const views = new Map([...older.views, ...newer.views]);
    this.#views = [...older.messages, message, ...newer.messages].map((each) => this.#getView(each, views));
    this.#hasOlder = older.hasMore;
    this.#hasNewer = newer.hasMore;
    this.#render();
  }

  /**
   * Removes what follows a message, for a new branch that starts there. `null` removes everything.
   *
   * @param {string | null} id
   */
  truncateAfter(id) {
    const index = id === null ? -1 : this.#views.findIndex((view) => view.id === id);
    if (id !== null && index < 0) return;
    this.#generation += 1;
    this.#views = this.#views.slice(0, index + 1);
    if (id === null) this.#hasOlder = false;
    this.#hasNewer = false;
    this.#render();
  }

  /** @param {ThreadItem} item */
  addPending(item) {
    this.#pending.push(item);
    this.#render();
  }

  /** @param {ThreadItem} item */
  removePending(item) {
    this.#pending = this.#pending.filter((each) => each !== item);
    this.#render();
  }

  /**
   * Moves a pending message to the stored ones.
   *
   * @param {MessageView} view
   * @param {Message} message the message as it was stored
   */
  settle(view, message) {
    const target = this.findView(message.id) ?? view;
    target.update(message);
    this.#pending = this.#pending.filter((each) => each !== view);
    if (!this.#views.includes(target)) this.#views.push(target);
    this.#render();
  }

  /**
   * Returns the view of a message: the one that is shown, one of `views`, or a new one.
   *
   * @param {Message} message
   * @param {Map<string, MessageView>} views
   */
  #getView(message, views) {
    const sent = this.#pending.filter((item) => item instanceof MessageView);
    const isSame = (/** @type {MessageView} */ view) => view.message.clientMessageId && view.message.clientMessageId === message.clientMessageId;
    const shown = this.findView(message.id) ?? sent.find(isSame);
    if (!shown) return views.get(message.id) ?? new MessageView(message, this.chat);
    this.#pending = this.#pending.filter((item) => item !== shown);
    shown.update(message);
    return shown;
  }

  async #loadWhileNear() {
    const { sessionId } = this.chat;
    while (sessionId === this.chat.sessionId) {
      if (this.#hasOlder && this.#isNear(this.#top)) await this.#loadOlder();
      else if (this.#hasNewer && this.#isNear(this.#bottom)) await this.#loadNewer();
      else return;
    }
  }

  /** @param {Element} end */
  #isNear(end) {
    const { top, bottom } = end.getBoundingClientRect();
    return bottom > -LOAD_MARGIN && top < innerHeight + LOAD_MARGIN;
  }

  async #loadOlder() {
    const page = await this.#fetchNextTo(this.#views[0].id, (id) => ({ before: id }));
    this.chat.keepPosition(() => {
      this.#hasOlder = page.hasMore;
      this.#views = [...page.messages.map((message) => this.#getView(message, page.views)), ...this.#views];
      if (this.#views.length > MAX_MESSAGES && !this.chat.isFollowing) {
        this.#views.length = MAX_MESSAGES;
        this.#hasNewer = true;
      }
      this.#render();
    });
  }

  async #loadNewer() {
    const page = await this.#fetchNextTo(this.#views[this.#views.length - 1].id, (id) => ({ after: id }));
    this.chat.keepPosition(() => {
      this.#hasNewer = page.hasMore;
      this.#views = [...this.#views, ...page.messages.map((message) => this.#getView(message, page.views))];
      if (this.#views.length > MAX_MESSAGES) {
        this.#views = this.#views.slice(-MAX_MESSAGES);
        this.#hasOlder = true;
      }
      this.#render();
    });
  }

  /**
   * Fetches the page before or after a message. Throws an `AbortError` if the window has moved
   * away from the message meanwhile.
   *
   * @param {string} id
   * @param {(id: string) => PageBounds} getBounds
   */
  async #fetchNextTo(id, getBounds) {
    const { sessionId } = this.chat;
    const page = await this.#fetchPage(getBounds(id));
    if (sessionId !== this.chat.sessionId || !this.findView(id)) throw new DOMException("the window has moved", "AbortError");
    return page;
  }

  /**
   * @param {PageBounds} bounds
   * @returns {Promise<LoadedPage>}
   */
  async #fetchPage(bounds) {
    /** @type {MessagePage} */
    const page = await get(sessionPath(this.chat.sessionId ?? "", `/messages${buildQuery({ limit: PAGE_SIZE, ...bounds })}`));
    const unknown = page.messages.filter(({ id }) => !this.findView(id) && !this.#pending.some((item) => item.id === id));
    // The messages next to the window come into view first.
    await prefetchAll(bounds.after ? unknown : unknown.toReversed());
    return { ...page, views: await this.#createViews(unknown) };
  }

  /**
   * Creates views by id, in batches: many at once would block scrolling.
   *
   * @param {Message[]} messages
   */
  async #createViews(messages) {
    /** @type {Map<string, MessageView>} */
    const views = new Map();
    for (const message of messages) {
      if (views.size > 0 && views.size % BATCH_SIZE === 0) await new Promise((resolve) => setTimeout(resolve));
      views.set(message.id, new MessageView(message, this.chat));
    }
    return views;
  }


  #render() {
    const wanted = [...this.#views, ...(this.#hasNewer ? [] : this.#pending)].map(({ element }) => element);
    const keep = new Set(wanted);
    for (const child of [...this.element.children]) if (!keep.has(/** @type {HTMLLIElement} */ (child))) child.remove();
    /** @type {ChildNode | null} */
    let next = this.element.firstChild;
    for (const element of wanted) {
      if (element === next) next = next.nextSibling;
      else this.element.insertBefore(element, next);
    }
    this.#top.replaceChildren(...(this.#hasOlder ? [el("span.spinner")] : []));
    this.#bottom.replaceChildren(...(this.#hasNewer ? [el("span.spinner")] : []));
  }
}

/**
 * Waits until the texts are rendered, so that nothing moves after they are shown.
 *
 * @param {Message[]} messages
 */
async function prefetchAll(messages) {
  const all = Promise.allSettled(messages.map(({ content }) => prefetch(content)));
  await Promise.race([all, new Promise((resolve) => setTimeout(resolve, RENDER_WAIT_MS))]);
}
