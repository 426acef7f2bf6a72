// The chats in the sidebar: pinned ones, then the newest; more of them on demand; live.

import { call, get, query, request, session as sessionPath } from "../api.js";
import { ask, field } from "../dialog.js";
import { arrange, el, fill, oncePerFrame } from "../dom.js";
import { span } from "../format.js";
import { live } from "../event-stream.js";
import { go, route, toChat, toNew } from "../route.js";
import { attempt, toast } from "../toast.js";
import { Row } from "./row.js";

const PAGE = 30;
/** How long a deleted chat can be had back. */
const UNDO = 6000;

export class SessionList {
  element = el("nav.chats", { "aria-label": "Chats" });
  #lists = el("div");
  #end = el("div.edge");
  #sessions = new Map();
  #rows = new Map();
  #groups = new Map();
  #deleting = new Set();
  #cursor = null;
  #filter = { search: "", projectId: "", archived: "false" };
  #loading = 0;
  #show = oncePerFrame(() => this.#place());
  #watch = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.#cursor && this.#more(), { root: this.element, rootMargin: "400px" });

  constructor(app) {
    this.app = app;
    this.element.append(this.#lists, this.#end);
    live.addEventListener("session", ({ detail }) => this.#heard(detail));
    live.addEventListener("turn", ({ detail }) => this.#turned(detail));
    live.addEventListener("sync", () => this.load());
    addEventListener("pagehide", () => this.#deleteAll());
    addEventListener("route", () => this.#show());
  }

  known(sessionId) {
    return this.#sessions.get(sessionId) ?? null;
  }

  get isRenaming() {
    return this.element.contains(document.activeElement) && document.activeElement.matches(".rename");
  }

  /** Shows only what a search, a project, the archive hold. */
  filter(filter) {
    this.#filter = { ...this.#filter, ...filter };
    return this.load();
  }

  /** Reads the beginning of the list anew. */
  async load() {
    this.#loading += 1;
    const call = this.#loading;
    const page = await attempt(() => this.#page(null));
    if (!page || call !== this.#loading) return;
    this.#sessions = new Map();
    this.#take(page);
  }

  put(session) {
    if (!this.#fits(session)) this.#sessions.delete(session.sessionId);
    else this.#sessions.set(session.sessionId, { ...this.#sessions.get(session.sessionId), ...session });
    this.#show();
  }

  titled(sessionId, title) {
    const session = this.#sessions.get(sessionId);
    if (session) this.put({ ...session, title });
  }

  /** Renames a chat in its row; one that is not listed, in a dialog. */
  async rename({ sessionId, title }) {
    const row = this.#rows.get(sessionId);
    if (row) {
      this.app.openSidebar();
      return row.rename();
    }
    const input = el("input", { name: "title", value: title, required: true, maxLength: 200 });
    const answer = await ask("Rename the chat", [field("Title", input)]);
    if (answer) await this.setTitle(sessionId, answer.get("title"));
  }

  async setTitle(sessionId, title) {
    const session = await attempt(() => call("PUT", sessionPath(sessionId, "/title"), { title }));
    if (session) this.put(session);
    if (session) this.app.retitled(session);
  }

  /** Takes a chat away, and deletes it a few seconds later. */
  remove({ sessionId, title }) {
    const wasOpen = route().sessionId === sessionId;
    this.#deleting.add(sessionId);
    if (wasOpen) go(toNew());
    this.#place();
    const run = () => {
      this.#deleting.delete(sessionId);
      if (wasOpen && route().view === "new") go(toChat(sessionId));
      this.#place();
      this.#rows.get(sessionId)?.focus();
    };
    const otherwise = () => attempt(() => this.#delete(sessionId));
    toast(`“${shortened(title)}” is deleted`, { label: "Undo", run, otherwise, takesFocus: true }, UNDO);
  }

  async #delete(sessionId, options) {
    if (!this.#deleting.has(sessionId)) return;
    try {
      await request("DELETE", sessionPath(sessionId), options);
      this.#sessions.delete(sessionId);
    } finally {
      this.#deleting.delete(sessionId);
      this.#show();
    }
  }

  /** Who leaves the page has made up their mind. */
  #deleteAll() {
    for (const sessionId of this.#deleting) this.#delete(sessionId, { keepalive: true }).catch(() => {});
  }

  async #more() {
    const call = this.#loading;
    const cursor = this.#cursor;
    this.#cursor = null;
    const page = await attempt(() => this.#page(cursor));
    if (call !== this.#loading) return;
    if (page) this.#take(page);
    else this.#cursor = cursor;
  }

  /** Behind a page the end may still be near, so it is looked at anew. */
  #take({ sessions, nextCursor }) {
    sessions.forEach((session) => this.#sessions.set(session.sessionId, session));
    this.#cursor = nextCursor;
    this.#place();
    this.#watch.unobserve(this.#end);
    this.#watch.observe(this.#end);
  }

  #page(cursor) {
    return get(`/api/chat-sessions${query({ limit: PAGE, cursor, ...this.#filter })}`);
  }

  #heard({ action, sessionId, session }) {
    if (action === "deleted") this.#sessions.delete(sessionId);
    else if (session && this.#belongs(session)) return this.put(session);
    this.#show();
  }

  /** What is older than the part of the list that was read comes with its page. */
  #belongs(session) {
    return this.#sessions.has(session.sessionId) || !this.#cursor || this.#isWithin(session);
  }

  #isWithin(session) {
    const last = [...this.#sessions.values()].map(newest).sort()[0];
    return session.pinned || !last || newest(session) >= last;
  }

  #fits(session) {
    const { search, projectId, archived } = this.#filter;
    if (search && !this.#sessions.has(session.sessionId)) return false;
    if (projectId && session.projectId !== projectId) return false;
    return archived === "all" || String(session.archived ?? false) === archived;
  }

  #turned({ action, sessionId, turnId, messageId }) {
    const session = this.#sessions.get(sessionId);
    if (!session) return;
    this.put({ ...session, activeTurn: action === "started" ? { turnId, messageId } : null });
  }

  #place() {
    const focused = document.activeElement;
    if (this.isRenaming) return void focused.addEventListener("blur", () => this.#show(), { once: true });
    const isFocused = this.element.contains(focused);
    const shown = [...this.#sessions.values()].filter(({ sessionId }) => !this.#deleting.has(sessionId));
    shown.sort((a, b) => Number(b.pinned) - Number(a.pinned) || (newest(a) < newest(b) ? 1 : -1));
    const groups = Map.groupBy?.(shown, heading) ?? grouped(shown);
    const current = route().sessionId;
    const parts = [...groups].map(([name, sessions]) => this.#group(name, sessions, current));
    const known = new Set(shown.map(({ sessionId }) => sessionId));
    for (const id of this.#rows.keys()) if (!known.has(id)) this.#rows.delete(id);
    arrange(this.#lists, parts.length > 0 ? parts : [this.#nothing()]);
    if (isFocused && focused !== document.activeElement) focused.focus({ preventScroll: true });
    fill(this.#end, this.#cursor ? el("span.spinner") : null);
  }

  #group(name, sessions, current) {
    const rows = sessions.map((session) => {
      const row = this.#rows.get(session.sessionId);
      if (row) row.update(session);
      else this.#rows.set(session.sessionId, new Row(this.app, session));
      const shown = this.#rows.get(session.sessionId);
      shown.isCurrent = session.sessionId === current;
      return shown.element;
    });
    const group = this.#groups.get(name) ?? el("section", { "aria-label": name }, el("h2", {}, name), el("ul"));
    this.#groups.set(name, group);
    arrange(group.lastChild, rows);
    return group;
  }

  #nothing() {
    const { search, projectId, archived } = this.#filter;
    const text = search ? "No chat has such a title." : archived === "true" ? "The archive is empty." : projectId ? "No chats in this project yet." : "No chats yet. Say something, and it begins.";
    return el("p.nothing", {}, text);
  }
}

const newest = ({ lastMessageAt, createdAt }) => lastMessageAt ?? createdAt;
const heading = (session) => (session.pinned ? "Pinned" : span(newest(session)));

function grouped(sessions) {
  const groups = new Map();
  for (const session of sessions) groups.set(heading(session), [...(groups.get(heading(session)) ?? []), session]);
  return groups;
}

const shortened = (title) => (title.length > 40 ? `${title.slice(0, 40)}…` : title);
