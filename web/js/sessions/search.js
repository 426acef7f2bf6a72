// Finds chats by their titles and messages by their words.

import { get, query } from "../api.js";
import { el, fill, icon } from "../dom.js";
import { when } from "../format.js";
import { toChat } from "../route.js";
import { attempt } from "../toast.js";

const PAUSE = 180;
const PAGE = 20;

export class Search {
  #input = el("input.input", { type: "search", placeholder: "Search", "aria-label": "Search chats and messages", autocomplete: "off" });
  element = el("div.search-box", { role: "search" }, icon("search"), this.#input);
  /** Messages that were found, to stand below the chats. */
  results = el("section", { "aria-label": "Messages found", hidden: true });
  #end = el("div.edge");
  #watch = null;
  #timer = null;
  #last = "";
  #projectId = "";

  constructor(list) {
    this.list = list;
    this.#input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#search(), PAUSE);
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

  /** Looks only into one project's messages, or with none into all. */
  within(projectId) {
    this.#projectId = projectId;
    this.#find();
  }

  #search() {
    const text = this.#input.value.trim();
    if (text === this.#last) return;
    this.#last = text;
    this.list.filter({ search: text });
    this.#find();
  }

  async #find() {
    const sought = this.#sought;
    if (this.#last === "") return void (this.results.hidden = true);
    const found = await get(`/api/search${sought}`).catch(() => ({ results: [], nextCursor: null }));
    if (sought === this.#sought) this.#show(found);
  }

  get #sought() {
    return query({ q: this.#last, projectId: this.#projectId, limit: PAGE });
  }

  #show({ results, nextCursor }) {
    this.results.hidden = false;
    const hits = of(results);
    fill(this.results, el("h2", {}, "In messages"), hits, hits.length === 0 && el("p.nothing", {}, "No message holds these words."), this.#end);
    this.#goOnAt(nextCursor);
  }

  /** More is read when the end of what was found comes near. */
  #goOnAt(cursor) {
    this.#watch?.disconnect();
    fill(this.#end, cursor && el("span.spinner"));
    if (!cursor) return;
    this.#watch = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.#more(cursor), { root: this.list.element, rootMargin: "400px" });
    this.#watch.observe(this.#end);
  }

  async #more(cursor) {
    this.#watch.disconnect();
    const sought = this.#sought;
    const page = await attempt(() => get(`/api/search${sought}&cursor=${encodeURIComponent(cursor)}`));
    if (sought !== this.#sought) return;
    this.#end.before(...of(page?.results ?? []));
    this.#goOnAt(page?.nextCursor);
  }
}

const of = (results) => results.filter(({ messageId }) => messageId).map(hit);

function hit({ sessionId, title, messageId, snippet, highlights, createdAt }) {
  return el("a.hit", { href: toChat(sessionId, messageId) }, el("b", {}, title), el("span", {}, ...marked(snippet, highlights)), el("small.quiet-text", {}, when(createdAt)));
}

/** The snippet with what was found marked; places are counted in whole characters. */
function marked(snippet, highlights) {
  const letters = [...snippet];
  const parts = [];
  let at = 0;
  for (const [from, to] of highlights) {
    parts.push(letters.slice(at, from).join(""), el("mark", {}, letters.slice(from, to).join("")));
    at = to;
  }
  return [...parts, letters.slice(at).join("")];
}
