// The messages that are shown: a window of the path, with more of it in either direction on demand.

import { get, query, session } from "../api.js";
import { el } from "../dom.js";
import { attempt } from "../toast.js";
import { prepare } from "./markdown.js";
import { MessageView } from "./message-view.js";

const PAGE = 30;
/** More messages are not kept in the page. */
const MOST_SHOWN = 150;
/** How long opening waits for text to be rendered, before it is shown as it is. */
const PATIENCE = 300;
/** How many messages are made before the page may do something else. */
const SLICE = 10;

export class Thread {
  element = el("ol.thread", { "aria-label": "Conversation" });
  #top = el("div.edge");
  #bottom = el("div.edge");
  #views = [];
  #hasOlder = false;
  #hasNewer = false;
  #isLoading = false;
  /** Counts the windows; what was read for another one is not shown. */
  #window = 0;
  /** Messages that are not stored yet, and the reply that is being written: always last. */
  #tail = [];
  #observer;

  constructor(chat) {
    this.chat = chat;
    this.frame = el("div", {}, this.#top, this.element, this.#bottom);
  }

  /** Loads more before an end of the window is reached. */
  watch(scroller) {
    this.#observer = new IntersectionObserver(
      (entries) => entries.some(({ isIntersecting }) => isIntersecting) && this.look(),
      { root: scroller, rootMargin: "900px" },
    );
    this.#observer.observe(this.#top);
    this.#observer.observe(this.#bottom);
    // An end that went away and came back between two pictures is nothing new to the observer.
    scroller.addEventListener("scroll", () => this.look(), { passive: true });
  }

  /** Loads what is missing near the ends of the window. */
  async look() {
    if (this.#isLoading || !this.element.isConnected) return;
    this.#isLoading = true;
    await attempt(() => this.#grow());
    this.#isLoading = false;
  }

  get messages() {
    return this.#views.map(({ message }) => message);
  }

  get isAtEnd() {
    return !this.#hasNewer;
  }

  get isEmpty() {
    return this.#views.length === 0 && this.#tail.length === 0;
  }

  clear() {
    this.#window += 1;
    this.#views = [];
    this.#tail = [];
    this.#hasOlder = false;
    this.#hasNewer = false;
    this.#place();
  }

  view(id) {
    return this.#views.find((view) => view.id === id);
  }

  /** Shows the newest messages; what is shown already stays as it is. */
  async refresh() {
    const window = this.#window;
    const page = await this.#page({});
    if (window !== this.#window) return;
    // What is being written is shown by who writes it.
    const writing = this.#tail.find((view) => !(view instanceof MessageView))?.id;
    page.messages = page.messages.filter(({ id }) => id !== writing);
    const overlap = page.messages.length > 0 ? this.#views.findIndex(({ id }) => id === page.messages[0].id) : 0;
    const isJoined = overlap >= 0 && !this.#hasNewer;
    this.chat.keep(() => {
      const before = isJoined ? this.#views.slice(0, overlap) : [];
      if (!isJoined || page.messages.length === 0) this.#hasOlder = page.hasMore;
      this.#views = [...before, ...page.messages.map((message) => this.#viewOf(message, page.made))];
      this.#hasNewer = false;
      this.#place();
    });
    this.look();
  }

  /** Shows the messages around one. */
  async around(message) {
    const [older, newer] = await Promise.all([this.#page({ before: message.id }), this.#page({ after: message.id })]);
    await prepared([message]);
    this.#window += 1;
    const made = new Map([...older.made, ...newer.made]);
    this.#views = [...older.messages, message, ...newer.messages].map((each) => this.#viewOf(each, made));
    this.#hasOlder = older.hasMore;
    this.#hasNewer = newer.hasMore;
    this.#place();
  }

  /** Cuts off what follows a message, for the branch that begins there. `null` cuts all. */
  cutBehind(id) {
    const at = id === null ? -1 : this.#views.findIndex((view) => view.id === id);
    if (id !== null && at < 0) return;
    this.#window += 1;
    this.#views = this.#views.slice(0, at + 1);
    if (id === null) this.#hasOlder = false;
    this.#hasNewer = false;
    this.#place();
  }

  /** Adds what is not stored yet. */
  push(view) {
    this.#tail.push(view);
    this.#place();
  }

  drop(view) {
    this.#tail = this.#tail.filter((each) => each !== view);
    this.#place();
  }

  /** A message that was stored, or that the reply became. */
  settle(view, message) {
    const kept = this.view(message.id) ?? view;
    kept.update(message);
    this.#tail = this.#tail.filter((each) => each !== view);
    if (!this.#views.includes(kept)) this.#views.push(kept);
    this.#place();
  }

  /** The view of a message: the one that is shown, or one that was `made` for it. */
  #viewOf(message, made) {
    const isOwn = (view) => view instanceof MessageView && view.message.clientMessageId && view.message.clientMessageId === message.clientMessageId;
    const known = this.view(message.id) ?? this.#tail.find(isOwn);
    if (!known) return made.get(message.id) ?? new MessageView(message, this.chat);
    this.#tail = this.#tail.filter((view) => view !== known);
    known.update(message);
    return known;
  }

  async #grow() {
    const sessionId = this.chat.sessionId;
    while (sessionId === this.chat.sessionId) {
      if (this.#hasOlder && this.#isNear(this.#top)) await this.#older();
      else if (this.#hasNewer && this.#isNear(this.#bottom)) await this.#newer();
      else return;
    }
  }

  #isNear(edge) {
    const { top, bottom } = edge.getBoundingClientRect();
    return bottom > -900 && top < innerHeight + 900;
  }

  async #older() {
    const page = await this.#more({ before: this.#views[0].id });
    this.chat.keep(() => {
      this.#hasOlder = page.hasMore;
      this.#views = [...page.messages.map((message) => this.#viewOf(message, page.made)), ...this.#views];
      if (this.#views.length > MOST_SHOWN && !this.chat.isFollowing) {
        this.#views.length = MOST_SHOWN;
        this.#hasNewer = true;
      }
      this.#place();
    });
  }

  async #newer() {
    const page = await this.#more({ after: this.#views.at(-1).id });
    this.chat.keep(() => {
      this.#hasNewer = page.hasMore;
      this.#views = [...this.#views, ...page.messages.map((message) => this.#viewOf(message, page.made))];
      if (this.#views.length > MOST_SHOWN) {
        this.#views = this.#views.slice(-MOST_SHOWN);
        this.#hasOlder = true;
      }
      this.#place();
    });
  }

  /** A page whose place in the window may have gone meanwhile. */
  async #more(slice) {
    const sessionId = this.chat.sessionId;
    const page = await this.#page(slice);
    const [anchor] = Object.values(slice);
    if (sessionId !== this.chat.sessionId || !this.view(anchor)) throw new DOMException("gone", "AbortError");
    return page;
  }

  async #page(slice) {
    const page = await get(session(this.chat.sessionId, `/messages${query({ limit: PAGE, ...slice })}`));
    // The messages that will be seen first.
    const unknown = page.messages.filter(({ id }) => !this.view(id) && !this.#tail.some((view) => view.id === id));
    await prepared(slice.after ? unknown : unknown.toReversed());
    page.made = await this.#make(unknown);
    return page;
  }

  /** Makes views, by id, a few at a time: many at once would hold up whoever scrolls. */
  async #make(messages) {
    const made = new Map();
    for (const message of messages) {
      if (made.size > 0 && made.size % SLICE === 0) await new Promise((resolve) => setTimeout(resolve));
      made.set(message.id, new MessageView(message, this.chat));
    }
    return made;
  }

  /** Puts the elements in order, touching only those that stand elsewhere. */
  #place() {
    const wanted = [...this.#views, ...(this.#hasNewer ? [] : this.#tail)].map(({ element }) => element);
    const keep = new Set(wanted);
    for (const child of [...this.element.children]) if (!keep.has(child)) child.remove();
    let at = this.element.firstChild;
    for (const element of wanted) {
      if (element === at) at = at.nextSibling;
      else this.element.insertBefore(element, at);
    }
    this.#top.replaceChildren(...(this.#hasOlder ? [el("span.spinner")] : []));
    this.#bottom.replaceChildren(...(this.#hasNewer ? [el("span.spinner")] : []));
  }
}

/** Has the texts rendered before they are shown, so that nothing moves afterwards. */
async function prepared(messages) {
  const all = Promise.allSettled(messages.map(({ content }) => prepare(content)));
  await Promise.race([all, new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
}
