// Finds chats by their titles and messages by their words.

import { get, query } from "../api.js";
import { el, fill, icon } from "../dom.js";
import { when } from "../format.js";
import { toChat } from "../route.js";

const PAUSE = 180;

export class Search {
  #input = el("input.input", { type: "search", placeholder: "Search", "aria-label": "Search chats and messages", autocomplete: "off" });
  element = el("div.search-box", { role: "search" }, icon("search"), this.#input);
  /** Messages that were found, to stand below the chats. */
  results = el("section", { "aria-label": "Messages found", hidden: true });
  #timer = null;
  #last = "";

  constructor(list) {
    this.list = list;
    this.#input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#search(), PAUSE);
    });
    this.#input.addEventListener("keydown", ({ key }) => key === "Escape" && this.clear());
  }

  focus() {
    this.#input.focus();
    this.#input.select();
  }

  clear() {
    this.#input.value = "";
    this.#search();
  }

  async #search() {
    const text = this.#input.value.trim();
    if (text === this.#last) return;
    this.#last = text;
    this.list.filter({ search: text });
    if (text === "") return void (this.results.hidden = true);
    const found = await get(`/api/search${query({ q: text, limit: 20 })}`).catch(() => ({ results: [], nextCursor: null }));
    if (text !== this.#last) return;
    this.#show(text, found);
  }

  #show(text, { results, nextCursor }) {
    const hits = results.filter(({ messageId }) => messageId);
    this.results.hidden = false;
    const more = el("button.button.small", { type: "button", hidden: !nextCursor, onclick: () => this.#more(text, nextCursor, more) }, "More");
    fill(this.results, el("h2", {}, "In messages"), hits.map(hit), hits.length === 0 && el("p.nothing", {}, "No message holds these words."), more);
  }

  async #more(text, cursor, button) {
    const page = await get(`/api/search${query({ q: text, limit: 20, cursor })}`).catch(() => null);
    if (!page || text !== this.#last) return;
    button.before(...page.results.filter(({ messageId }) => messageId).map(hit));
    button.hidden = !page.nextCursor;
    button.onclick = () => this.#more(text, page.nextCursor, button);
  }
}

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
