// The sidebar: search, filter, chats, connection and main menu.

import { get, getKey, setKey } from "../api.js";
import { createIcon, createIconButton, el, setChildren } from "../dom.js";
import { eventStream } from "../event-stream.js";
import { capitalize } from "../format.js";
import { askForKey } from "../key-dialog.js";
import { openMenu } from "../menu.js";
import { navigate, newChatHref, projectHref, PROJECTS_HREF, resetPage } from "../route.js";
import { cycleTheme, getTheme } from "../theme.js";
import { showToast } from "../toast.js";
import { exportChats, pickImportFiles } from "../transfer.js";
import { SearchBox } from "./search.js";

/** @type {Record<ConnectionState, string>} */
const CONNECTION_TEXTS = { live: "Connected", connecting: "Connecting…", offline: "Offline, retrying", unauthenticated: "Signed out" };

// Values of the project filter that are not project ids.
const ARCHIVE = "archive";
const MANAGE = "projects";

export class Sidebar {
  #connection = el("div.connection", { role: "status" });
  #filter = el("select.input", { "aria-label": "Project", onchange: () => this.#applyFilter() });
  #closeButton;
  /** The selected filter: a project id, `ARCHIVE`, or an empty string. */
  #selected = "";
  /** @type {InvitationList | undefined} */
  #invitations;

  /**
   * @param {App} app
   * @param {HTMLElement} element
   */
  constructor(app, element) {
    this.app = app;
    this.search = new SearchBox(app.sessions);
    const brand = el("a", { href: newChatHref() }, el("img", { src: "/assets/icon.svg", alt: "" }), "Echoic");
    this.#closeButton = createIconButton("close", "Close chat list", () => app.closeSidebar());
    this.#closeButton.classList.add("only-narrow");
    const newChat = el("button.button.primary.new-chat", { type: "button", onclick: () => this.#openNewChat() }, createIcon("plus"), "New chat");
    const menuButton = createIconButton("more", "More options", () => this.#openMenu(menuButton), { "aria-haspopup": "menu", "aria-expanded": "false" });
    setChildren(
      element,
      el("div.brand", {}, brand, this.#closeButton),
      el("div.sidebar-tools", {}, newChat, this.search.element, this.#filter),
      app.sessions.element,
      el("div.sidebar-footer", {}, this.#connection, menuButton),
    );
    app.sessions.element.append(this.search.results);
    eventStream.on("sync", () => this.#loadInvitations());
    eventStream.on("session", ({ action }) => (action === "invited" || this.#invitations) && this.#loadInvitations());
    eventStream.on("state", () => this.showConnection());
    this.showConnection();
    addEventListener("projects", () => this.showProjects());
    this.showProjects();
  }

  focus() {
    this.#closeButton.focus();
  }

  showProjects() {
    const options = this.app.projects.list.map(({ projectId, name }) => el("option", { value: projectId }, name));
    setChildren(
      this.#filter,
      el("option", { value: "" }, "All chats"),
      el("option", { value: ARCHIVE }, "Archive"),
      options.length > 0 && el("optgroup", { label: "Projects" }, options),
      el("option", { value: MANAGE }, "Manage projects…"),
    );
    this.#filter.value = this.#selected;
    // The selected project was deleted.
    if (this.#filter.selectedIndex < 0) this.#filter.value = "";
  }

  async #loadInvitations() {
    // Without a connection, the list of chats says so.
    const page = await get("/api/chat-sessions?invited=true&limit=100").catch(() => null);
    if (!page || (page.sessions.length === 0 && !this.#invitations)) return;
    const { InvitationList } = await import("./invitations.js");
    if (!this.#invitations) {
      this.#invitations = new InvitationList(this.app);
      this.app.sessions.element.prepend(this.#invitations.element);
    }
    this.#invitations.show(page.sessions);
  }

  get #isArchive() {
    return this.#selected === ARCHIVE;
  }

  #applyFilter() {
    const { value } = this.#filter;
    if (value === MANAGE) {
      this.#filter.value = this.#selected;
      navigate(PROJECTS_HREF);
      return;
    }
    this.#selected = value;
    const projectId = this.#isArchive ? "" : value;
    this.app.sessions.setFilter({ archived: String(this.#isArchive), projectId });
    this.search.setProject(projectId);
    if (projectId) navigate(projectHref(projectId));
  }

  #openNewChat() {
    navigate(newChatHref(this.#isArchive ? null : this.#selected));
    this.app.closeSidebar();
  }

  /** @param {HTMLElement} button */
  #openMenu(button) {
    const signIn = () => askForKey(true).then((isEntered) => isEntered && location.reload());
    openMenu(button, [
      { label: "Import chats…", icon: "upload", run: () => pickImportFiles(this.app) },
      { label: "Export all chats", icon: "download", run: () => exportChats({ format: "json" }, "echoic.json") },
      { label: "Projects", icon: "folder", run: () => navigate(PROJECTS_HREF) },
      null,
      { label: `Theme: ${capitalize(getTheme())}`, icon: "theme", run: () => showToast(`Theme: ${capitalize(cycleTheme())}`, null, 1500) },
      getKey() ? { label: "Sign out", icon: "key", run: () => this.#signOut() } : { label: "Sign in with a key…", icon: "key", run: signIn },
    ]);
  }

  #signOut() {
    setKey("", false);
    sessionStorage.clear();
    resetPage();
  }


  showConnection() {
    const { name, email, userId } = this.app.user;
    this.#connection.dataset.state = eventStream.state;
    const user = getKey() && el("span.user", { title: userId }, name ?? email ?? userId);
    setChildren(this.#connection, el("span", {}, CONNECTION_TEXTS[eventStream.state]), user);
  }
}
