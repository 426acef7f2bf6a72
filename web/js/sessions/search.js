// Search for chats by title and for messages by their text.

import { buildQuery, get } from "../api.js";
import { createIcon, el, setChildren } from "../dom.js";
import { formatTime } from "../format.js";
import { chatHref } from "../route.js";
import { attempt } from "../toast.js";

const DEBOUNCE_MS = 180;
const PAGE_SIZE = 20;

export class SearchBox {
  #input = el("input.input", { type: "search", placeholder: "Search", "aria-label": "Search chats and messages", autocomplete: "off" });
  element = el("div.search-box", { role: "search" }, createIcon("search"), this.#input);
  /** The messages found, shown below the chats. */
  results = el("section", { "aria-label": "Messages found", hidden: true });
  #end = el("div.list-end");
  /** @type {IntersectionObserver | null} */
  #endObserver = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #text = "";
  #projectId = "";

  /** @param {SessionList} list */
  constructor(list) {
    this.list = list;
    this.#input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#search(), DEBOUNCE_MS);
    });
    this.#input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.#input.value === "") return;
      event.preventDefault();
      this.clear();
    });
  }

  focus() {
    this.#input.focus();
    this.#input.select();
  }

  clear() {
    this.#input.value = "";
    this.#search();
  }

  /** @param {string} projectId empty for all projects */
  setProject(projectId) {
    this.#projectId = projectId;
    this.#searchMessages();
  }

  #search() {
    const text = this.#input.value.trim();
    if (text === this.#text) return;
    this.#text = text;
    this.list.setFilter({ search: text });
    this.#searchMessages();
  }

  async #searchMessages() {
    if (this.#text === "") {
      this.results.hidden = true;
      return;
    }
    const query = this.#query;
    /** @type {SearchPage} */
    const page = await get(`/api/search${query}`).catch(() => ({ results: [], nextCursor: null }));
    if (query === this.#query) this.#showResults(page);
  }

  get #query() {
    return buildQuery({ q: this.#text, projectId: this.#projectId, limit: PAGE_SIZE });
  }

  /** @param {SearchPage} page */
  #showResults({ results, nextCursor }) {
    this.results.hidden = false;
    const hits = renderHits(results);
    setChildren(this.results, el("h2", {}, "Messages"), hits, hits.length === 0 && el("p.empty", {}, "No matching messages"), this.#end);
    this.#loadMoreAtEnd(nextCursor);
  }

  /** @param {string | null} cursor */
  #loadMoreAtEnd(cursor) {
    this.#endObserver?.disconnect();
    setChildren(this.#end, cursor && el("span.spinner"));
    if (!cursor) return;
    const onIntersect = (/** @type {IntersectionObserverEntry[]} */ [{ isIntersecting }]) => isIntersecting && this.#loadMore(cursor);
    this.#endObserver = new IntersectionObserver(onIntersect, { root: this.list.element, rootMargin: "400px" });
    this.#endObserver.observe(this.#end);
  }

  /** @param {string} cursor */
  async #loadMore(cursor) {
    this.#endObserver?.disconnect();
    const query = this.#query;
    /** @type {SearchPage | undefined} */
    const page = await attempt(() => get(`/api/search${query}&cursor=${encodeURIComponent(cursor)}`));
    if (query !== this.#query) return;
    this.#end.before(...renderHits(page?.results ?? []));
    this.#loadMoreAtEnd(page?.nextCursor ?? null);
  }
}

/**
 * Renders results that are messages. Results that are chats are in the list already.
 *
 * @param {SearchResult[]} results
 */
const renderHits = (results) => results.filter(({ messageId }) => messageId).map(renderHit);

/** @param {SearchResult} result */
function renderHit({ sessionId, title, messageId, snippet, highlights, createdAt }) {
  const text = el("span", {}, ...renderSnippet(snippet, highlights));
  return el("a.hit", { href: chatHref(sessionId, messageId) }, el("b", {}, title), text, el("small.muted", {}, formatTime(createdAt)));
}

/**
 * @param {string} snippet
 * @param {[number, number][]} highlights positions in code points
 */
function renderSnippet(snippet, highlights) {
  const characters = [...snippet];
  /** @type {Child[]} */
  const parts = [];
  let position = 0;
  for (const [start, end] of highlights) {
    parts.push(characters.slice(position, start).join(""), el("mark", {}, characters.slice(start, end).join("")));
    position = end;
  }
  return [...parts, characters.slice(position).join("")];
}
