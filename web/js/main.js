// The application: builds the page and shows the view that the address names.

import { ApiError, get, getErrorMessage } from "./api.js";
import { ChatView } from "./chat/chat-view.js";
import { createIconButton, el, setChildren } from "./dom.js";
import { eventStream } from "./event-stream.js";
import { askForKey } from "./key-dialog.js";
import { SidePanel } from "./panel/panel.js";
import { ProjectList } from "./projects/list.js";
import { getRoute, navigate, newChatHref, resetPage } from "./route.js";
import { SessionList } from "./sessions/list.js";
import { Sidebar } from "./sessions/sidebar.js";
import { applyTheme } from "./theme.js";
import { attempt, showToast } from "./toast.js";
import { acceptDrops, importFiles } from "./transfer.js";

// Widths below which the sidebar and the panel overlay the page, as in layout.css.
const NARROW = matchMedia("(max-width: 760px)");
const MEDIUM = matchMedia("(max-width: 1100px)");

const LIST_WAIT_MS = 1000;

/** @type {Partial<Record<ConnectionState, string>>} */
const NOTICES = {
  connecting: "Connecting…",
  unauthenticated: "This server needs an API key.",
  offline: "Can’t reach the server. Nothing is lost; reconnecting…",
};

export class App {
  /** @type {User} */
  user = { userId: "local" };
  /** @type {{ list: Model[], defaultId: string | undefined }} */
  models = { list: [], defaultId: undefined };
  notice = el("div.notice", { role: "status", hidden: true });
  projects = new ProjectList();
  sessions = new SessionList(this);
  #main = getElement("main");
  #sidebar = getElement("sidebar");
  #scrim = getElement("scrim");
  sidebar = new Sidebar(this, this.#sidebar);
  panel = new SidePanel(this, getElement("panel"));
  /** @type {HTMLElement[]} */
  #menuButtons = [];
  chat = new ChatView(this);
  /** @type {ProjectsPage | undefined} */
  projectsPage;
  /** @type {ChatView | ProjectsPage | null} */
  #currentView = null;
  #wasConnected = false;
  #hasLoadedUser = false;

  start() {
    applyTheme();
    this.#scrim.addEventListener("click", () => this.#closeOverlays());
    for (const width of [NARROW, MEDIUM]) width.addEventListener("change", () => this.updateOverlays());
    addEventListener("popstate", () => dispatchEvent(new Event("routechange")));
    addEventListener("routechange", () => this.#showRoute());
    addEventListener("keydown", (event) => this.#handleKey(event));
    addEventListener("authenticated", ({ detail }) => this.#hasLoadedUser && detail !== this.user.userId && resetPage());
    document.addEventListener("click", (event) => this.#handleLink(event));
    eventStream.on("state", () => this.#updateNotice());
    eventStream.on("sync", () => this.#loadUser());
    acceptDrops(this);
    this.#showRoute();
    eventStream.start();
    // The event stream loads the list once it is connected. A proxy that delays the stream must not
    // delay the list.
    setTimeout(() => this.sessions.ensureLoaded(), LIST_WAIT_MS);
  }

  /** @param {Session | null} session `null` for a new chat */
  canManage(session) {
    return !session || this.user.admin || session.userId === this.user.userId;
  }

  createMenuButton() {
    const button = createIconButton("menu", "Show chats", () => this.openSidebar(), { "aria-expanded": "false", "aria-controls": "sidebar" });
    button.classList.add("only-narrow");
    this.#menuButtons.push(button);
    return button;
  }


  openSidebar() {
    this.#closePanelOverlay();
    this.#sidebar.classList.add("open");
    this.updateOverlays();
    if (NARROW.matches) this.sidebar.focus();
  }

  closeSidebar() {
    const hadFocus = NARROW.matches && this.#sidebar.contains(document.activeElement);
    this.#sidebar.classList.remove("open");
    this.updateOverlays();
    if (hadFocus) this.#menuButtons.forEach((button) => button.focus());
  }

  get isSidebarOverlay() {
    return NARROW.matches && this.#sidebar.classList.contains("open");
  }

  get isPanelOverlay() {
    return MEDIUM.matches && !this.panel.element.hidden;
  }

  /** Dims what an overlay covers and takes it out of the tab order. */
  updateOverlays() {
    const { isSidebarOverlay, isPanelOverlay } = this;
    this.#scrim.hidden = !(isSidebarOverlay || isPanelOverlay);
    this.#main.inert = isSidebarOverlay || isPanelOverlay;
    this.#sidebar.inert = isPanelOverlay;
    for (const button of this.#menuButtons) button.setAttribute("aria-expanded", String(isSidebarOverlay));
  }

  /** @param {Session} session */
  handleRename(session) {
    this.chat.setTitle(session.sessionId, session.title);
  }


  get #openProject() {
    return this.#currentView === this.projectsPage && this.projectsPage?.isProjectOpen ? this.projectsPage : undefined;
  }

  getDropHint() {
    return this.#openProject ? "Drop files to add them to the project" : "Drop images to attach, or a chat export to import";
  }

  /** @param {File[]} files */
  handleDrop(files) {
    if (this.#openProject) return this.#openProject.addFiles(files);
    const images = files.filter(({ type }) => type.startsWith("image/"));
    const others = files.filter((file) => !images.includes(file));
    if (images.length > 0 && this.#currentView === this.chat) this.chat.composer.addFiles(images);
    if (others.length > 0) importFiles(this, others);
  }


  async #loadUser() {
    const [user, models] = await Promise.allSettled([get("/api/me"), get("/api/models"), this.projects.load()]);
    if (user.status === "fulfilled") {
      this.user = user.value;
      this.#hasLoadedUser = true;
    }
    this.sidebar.showConnection();
    if (models.status === "fulfilled") this.models = { list: models.value.models, defaultId: models.value.default };
    if (this.#currentView === this.chat) this.chat.rerender();
  }

  async #showRoute() {
    const route = getRoute();
    const address = location.hash;
    const isProjects = route.view === "project" || route.view === "projects";
    const view = isProjects ? await this.#loadProjectsPage() : this.chat;
    // The address may have changed while the module was loading.
    if (!view || location.hash !== address) return;
    if (this.#currentView !== view) setChildren(this.#main, view.elements);
    this.#currentView = view;
    if (isProjects) {
      this.chat.close();
      if (!this.panel.element.hidden) this.panel.toggle(false);
    }
    this.closeSidebar();
    try {
      await this.#openRoute(route);
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      const status = error instanceof ApiError ? error.status : undefined;
      if (status === 401) return;
      showToast(getErrorMessage(error));
      if (status === 404) navigate(newChatHref(), true);
    }
  }

  /** @param {Route} route */
  async #openRoute(route) {
    if (route.view === "chat") await this.chat.open(route.sessionId, route.messageId);
    else if (route.view === "new") this.chat.openNew(route.projectId);
    else if (route.view === "projects") await this.projectsPage?.openList();
    else await this.projectsPage?.open(route.projectId);
  }


  async #loadProjectsPage() {
    const module = await attempt(() => import("./projects/page.js"));
    if (module) this.projectsPage ??= new module.ProjectsPage(this);
    return this.projectsPage;
  }

  #updateNotice() {
    const { state } = eventStream;
    this.#wasConnected ||= state === "live";
    // The first connection attempt needs no notice.
    this.notice.hidden = state === "live" || (!this.#wasConnected && state === "connecting");
    const needsKey = state === "unauthenticated";
    const enterKey = () => askForKey(true).then((isEntered) => isEntered && location.reload());
    const onclick = needsKey ? enterKey : () => eventStream.retry();
    const button = el("button", { type: "button", onclick }, needsKey ? "Enter a key" : "Try now");
    setChildren(this.notice, !needsKey && el("span.spinner"), NOTICES[state] ?? "", button);
  }

  #closeOverlays() {
    this.closeSidebar();
    this.#closePanelOverlay();
  }

  #closePanelOverlay() {
    if (this.isPanelOverlay) this.panel.toggle(false);
  }

  /** @param {KeyboardEvent} event */
  #handleKey(event) {
    // Escape belongs to the innermost element: a field, a menu or a dialog comes first.
    const isHandled = event.defaultPrevented || document.querySelector("dialog[open], :popover-open");
    if (event.key === "Escape" && !isHandled) return this.#closeOverlays();
    if (!(event.ctrlKey || event.metaKey)) return;
    if (event.key.toLowerCase() === "k") {
      event.preventDefault();
      this.openSidebar();
      this.sidebar.search.focus();
    }
    if (event.shiftKey && event.key.toLowerCase() === "o") {
      event.preventDefault();
      navigate(newChatHref());
    }
  }

  /** @param {MouseEvent} event */
  #handleLink(event) {
    const link = event.target instanceof Element ? event.target.closest('a[href^="#"]') : null;
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    if (link.matches(".skip-link")) return this.#skipToContent();
    navigate(link.getAttribute("href") ?? "");
  }

  /** Focuses the composer or, where there is none, the page. */
  #skipToContent() {
    const composer = document.getElementById("composer-text");
    (composer?.checkVisibility() ? composer : this.#main).focus();
  }
}

/** @param {string} id */
function getElement(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no element #${id}`);
  return element;
}

new App().start();
