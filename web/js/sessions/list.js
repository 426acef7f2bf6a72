// The list of chats: pinned ones first, then by date.

import { buildQuery, call, get, request, sessionPath } from "../api.js";
import { confirmAction, createField, getText, openForm } from "../dialog.js";
import { el, setChildren, syncChildren, throttleToFrame } from "../dom.js";
import { eventStream } from "../event-stream.js";
import { getDateGroup } from "../format.js";
import { chatHref, getOpenSessionId, getRoute, navigate, newChatHref } from "../route.js";
import { attempt, showToast } from "../toast.js";
import { SessionRow } from "./row.js";

const PAGE_SIZE = 30;
/** How long a deletion can be undone. Only then is the chat deleted. */
const UNDO_MS = 6000;

export class SessionList {
  element = el("nav.chats", { "aria-label": "Chats" });
  #groupsElement = el("div");
  #end = el("div.list-end");
  /** @type {Map<string, Session>} */
  #sessions = new Map();
  /** @type {Map<string, SessionRow>} */
  #rows = new Map();
  /** @type {Map<string, SessionGroup>} */
  #groups = new Map();
  /** @type {Set<string>} Chats that the user has deleted but can still restore. */
  #deleting = new Set();
  /** @type {string | null} */
  #cursor = null;
  /** @type {SessionFilter} */
  #filter = { search: "", projectId: "", archived: "false" };
  /** Number of the latest load. Responses to older ones are dropped. */
  #loadNumber = 0;
  #scheduleRender = throttleToFrame(() => this.#render());
  #endObserver = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.#loadMore(), { root: this.element, rootMargin: "400px" });

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.element.append(this.#groupsElement, this.#end);
    eventStream.on("session", (event) => this.#handleSessionEvent(event));
    eventStream.on("turn", (event) => this.#handleTurnEvent(event));
    eventStream.on("sync", () => this.load());
    addEventListener("pagehide", () => this.#deletePending());
    addEventListener("routechange", () => this.#scheduleRender());
  }

  /** @param {string} sessionId */
  find(sessionId) {
    return this.#sessions.get(sessionId) ?? null;
  }

  get isRenaming() {
    return this.element.contains(document.activeElement) && document.activeElement?.matches(".rename") === true;
  }

  /** @param {Partial<SessionFilter>} filter */
  setFilter(filter) {
    this.#filter = { ...this.#filter, ...filter };
    return this.load();
  }

  ensureLoaded() {
    return this.#loadNumber === 0 ? this.load() : undefined;
  }

  async load() {
    this.#loadNumber += 1;
    const loadNumber = this.#loadNumber;
    const page = await attempt(() => this.#fetchPage(null));
    if (!page || loadNumber !== this.#loadNumber) return;
    this.#sessions = new Map();
    this.#addPage(page);
  }

  /**
   * Adds or updates a chat, or removes it if the filter no longer matches.
   *
   * @param {Session} session
   */
  upsert(session) {
    if (!this.#matchesFilter(session)) this.#sessions.delete(session.sessionId);
    else this.#sessions.set(session.sessionId, { ...this.#sessions.get(session.sessionId), ...session });
    this.#scheduleRender();
  }

  /**
   * @param {string} sessionId
   * @param {string} title
   */
  updateTitle(sessionId, title) {
    const session = this.#sessions.get(sessionId);
    if (session) this.upsert({ ...session, title });
  }

  /**
   * Renames a chat in its row or, if it is not listed, in a dialog.
   *
   * @param {Session} session
   */
  async rename({ sessionId, title }) {
    const row = this.#rows.get(sessionId);
    if (row) {
      this.app.openSidebar();
      row.rename();
      return;
    }
    const input = el("input", { name: "title", value: title, required: true, maxLength: 200 });
    const answer = await openForm("Rename chat", [createField("Title", input)]);
    if (answer) await this.saveTitle(sessionId, getText(answer, "title"));
  }

  /**
   * @param {string} sessionId
   * @param {string} title
   */
  async saveTitle(sessionId, title) {
    /** @type {Session | undefined} */
    const session = await attempt(() => call("PUT", sessionPath(sessionId, "/title"), { title }));
    if (!session) return;
    this.upsert(session);
    this.app.handleRename(session);
  }

  /**
   * Removes a chat from the list, and deletes it if the user does not undo that.
   *
   * @param {Session} session
   */
  remove({ sessionId, title }) {
    const wasOpen = getOpenSessionId() === sessionId;
    this.#deleting.add(sessionId);
    if (wasOpen) navigate(newChatHref());
    this.#render();
    const undo = () => {
      this.#deleting.delete(sessionId);
      if (wasOpen && getRoute().view === "new") navigate(chatHref(sessionId));
      this.#render();
      this.#rows.get(sessionId)?.focus();
    };
    const onExpire = () => attempt(() => this.#delete(sessionId));
    showToast(`Deleted “${truncate(title)}”`, { label: "Undo", run: undo, onExpire, takesFocus: true }, UNDO_MS);
  }

  /**
   * @param {string} sessionId
   * @param {{ keepalive?: boolean }} [options]
   */
  async #delete(sessionId, options) {
    if (!this.#deleting.has(sessionId)) return;
    try {
      await request("DELETE", sessionPath(sessionId), options);
      this.#sessions.delete(sessionId);
    } finally {
      this.#deleting.delete(sessionId);
      this.#scheduleRender();
    }
  }

  /** Deletes at once what could still be undone: the page is going away. */
  #deletePending() {
    for (const sessionId of this.#deleting) this.#delete(sessionId, { keepalive: true }).catch(() => {});
  }

  /**
   * Leaves another user's chat.
   *
   * @param {Session} session
   */
  async leave({ sessionId, title }) {
    const isSure = await confirmAction("Leave chat", `You will no longer see “${truncate(title)}” until you are invited again.`, "Leave");
    if (!isSure || !(await attempt(() => call("POST", sessionPath(sessionId, "/leave"), {})))) return;
    this.#sessions.delete(sessionId);
    this.#scheduleRender();
    if (getOpenSessionId() === sessionId) navigate(newChatHref());
  }

  async #loadMore() {
    const cursor = this.#cursor;
    if (!cursor) return;
    const loadNumber = this.#loadNumber;
    this.#cursor = null;
    const page = await attempt(() => this.#fetchPage(cursor));
    if (loadNumber !== this.#loadNumber) return;
    if (page) this.#addPage(page);
    else this.#cursor = cursor;
  }

  /** @param {SessionPage} page */
  #addPage({ sessions, nextCursor }) {
    sessions.forEach((session) => this.#sessions.set(session.sessionId, session));
    this.#cursor = nextCursor;
    this.#render();
    // The end may still be in view. Observing it again reports that.
    this.#endObserver.unobserve(this.#end);
    this.#endObserver.observe(this.#end);
  }

  /**
   * @param {string | null} cursor
   * @returns {Promise<SessionPage>}
   */
  #fetchPage(cursor) {
    return get(`/api/chat-sessions${buildQuery({ limit: PAGE_SIZE, cursor, ...this.#filter })}`);
  }

  /** @param {ServerEvents["session"]} event */
  #handleSessionEvent({ action, sessionId, session }) {
    if (action === "invited") return;
    if (action === "deleted" || action === "left") this.#sessions.delete(sessionId);
    else if (session && this.#isInLoadedRange(session)) return this.upsert(session);
    this.#scheduleRender();
  }

  /**
   * Chats outside the loaded range come with their page.
   *
   * @param {Session} session
   */
  #isInLoadedRange(session) {
    if (this.#sessions.has(session.sessionId) || !this.#cursor || session.pinned) return true;
    const [oldest] = [...this.#sessions.values()].map(getLastActivity).sort();
    return !oldest || getLastActivity(session) >= oldest;
  }

  /** @param {Session} session */
  #matchesFilter(session) {
    const { search, projectId, archived } = this.#filter;
    // Only the server can search. Chats that it did not return do not match.
    if (search && !this.#sessions.has(session.sessionId)) return false;
    if (projectId && session.projectId !== projectId) return false;
    return archived === "all" || String(session.archived ?? false) === archived;
  }

  /** @param {ServerEvents["turn"]} event */
  #handleTurnEvent({ action, sessionId, turnId, messageId }) {
    const session = this.#sessions.get(sessionId);
    if (!session) return;
    this.upsert({ ...session, activeTurn: action === "started" ? { turnId, messageId } : null });
  }

  #render() {
    const focused = document.activeElement;
    if (this.isRenaming) {
      // Moving the row would end the renaming.
      focused?.addEventListener("blur", () => this.#scheduleRender(), { once: true });
      return;
    }
    const hadFocus = this.element.contains(focused);
    const shown = [...this.#sessions.values()].filter(({ sessionId }) => !this.#deleting.has(sessionId));
    shown.sort((a, b) => Number(b.pinned) - Number(a.pinned) || (getLastActivity(a) < getLastActivity(b) ? 1 : -1));
    const openSessionId = getOpenSessionId();
    const groups = [...groupSessions(shown)].map(([name, sessions]) => this.#renderGroup(name, sessions, openSessionId));
    const ids = new Set(shown.map(({ sessionId }) => sessionId));
    for (const id of this.#rows.keys()) if (!ids.has(id)) this.#rows.delete(id);
    syncChildren(this.#groupsElement, groups.length > 0 ? groups : [this.#renderEmpty()]);
    if (hadFocus && focused instanceof HTMLElement && focused !== document.activeElement) focused.focus({ preventScroll: true });
    setChildren(this.#end, this.#cursor ? el("span.spinner") : null);
  }

  /**
   * @param {string} name
   * @param {Session[]} sessions
   * @param {string | null} openSessionId
   */
  #renderGroup(name, sessions, openSessionId) {
    const rows = sessions.map((session) => {
      const row = this.#getRow(session);
      row.isCurrent = session.sessionId === openSessionId;
      return row.element;
    });
    const group = this.#groups.get(name) ?? createGroup(name);
    this.#groups.set(name, group);
    syncChildren(group.list, rows);
    return group.element;
  }

  /** @param {Session} session */
  #getRow(session) {
    const row = this.#rows.get(session.sessionId);
    if (row) {
      row.update(session);
      return row;
    }
    const created = new SessionRow(this.app, session);
    this.#rows.set(session.sessionId, created);
    return created;
  }

  #renderEmpty() {
    return el("p.empty", {}, this.#getEmptyText());
  }

  #getEmptyText() {
    const { search, projectId, archived } = this.#filter;
    if (search) return "No matching chats";
    if (archived === "true") return "No archived chats";
    return projectId ? "No chats in this project yet" : "No chats yet. Send a message to start one.";
  }
}

/** @param {string} name */
function createGroup(name) {
  const list = el("ul");
  return { element: el("section", { "aria-label": name }, el("h2", {}, name), list), list };
}

/** @param {Session} session */
const getLastActivity = ({ lastMessageAt, createdAt }) => lastMessageAt ?? createdAt;

/** @param {Session[]} sessions */
function groupSessions(sessions) {
  /** @type {Map<string, Session[]>} */
  const groups = new Map();
  for (const session of sessions) {
    const name = session.pinned ? "Pinned" : getDateGroup(getLastActivity(session));
    groups.set(name, [...(groups.get(name) ?? []), session]);
  }
  return groups;
}

/** @param {string} title */
const truncate = (title) => (title.length > 40 ? `${title.slice(0, 40)}…` : title);
