// The page: builds its parts, knows who is there, and shows what the address names.

import { get } from "./api.js";
import { ChatView } from "./chat/chat-view.js";
import { el, fill, iconButton } from "./dom.js";
import { askForKey } from "./key-dialog.js";
import { live } from "./event-stream.js";
import { Panel } from "./panel/panel.js";
import { Projects } from "./projects/list.js";
import { go, route, startAnew, toNew } from "./route.js";
import { SessionList } from "./sessions/list.js";
import { Sidebar } from "./sessions/sidebar.js";
import { applyTheme } from "./theme.js";
import { attempt, toast } from "./toast.js";
import { acceptDrops, importFiles } from "./transfer.js";

/** Where the list of chats, and where the panel lie over the page; as in layout.css. */
const NARROW = matchMedia("(max-width: 760px)");
const MEDIUM = matchMedia("(max-width: 1100px)");

const NOTICES = {
  connecting: "Connecting…",
  locked: "This server asks who you are.",
  offline: "The server cannot be reached. Nothing is lost; the page goes on by itself.",
};

class App {
  me = { userId: "local" };
  models = { list: [], standard: undefined };
  notice = el("div.notice", { role: "status", hidden: true });
  projects = new Projects();
  #main = document.getElementById("main");
  #sidebar = document.getElementById("sidebar");
  #menuButtons = [];
  #scrim = document.getElementById("scrim");
  #wasLive = false;
  #isKnown = false;
  #shown = null;

  start() {
    applyTheme();
    this.sessions = new SessionList(this);
    this.sidebar = new Sidebar(this, this.#sidebar);
    this.panel = new Panel(this, document.getElementById("panel"));
    this.chat = new ChatView(this);
    this.#scrim.addEventListener("click", () => this.#closeOver());
    for (const width of [NARROW, MEDIUM]) width.addEventListener("change", () => this.cover());
    addEventListener("popstate", () => dispatchEvent(new Event("route")));
    addEventListener("route", () => this.#show());
    addEventListener("keydown", (event) => this.#key(event));
    live.addEventListener("state", () => this.#showState());
    live.addEventListener("sync", () => this.#know());
    addEventListener("identified", ({ detail }) => this.#isKnown && detail !== this.me.userId && startAnew());
    document.addEventListener("click", (event) => this.#follow(event));
    acceptDrops(this);
    this.#show();
    live.start();
    this.sessions.load();
  }

  /** Whether everything may be done with a chat; a new one is its writer's. */
  owns(session) {
    return !session || this.me.admin || session.userId === this.me.userId;
  }

  menuButton() {
    const button = iconButton("menu", "Show the chats", () => this.openSidebar(), { "aria-expanded": "false", "aria-controls": "sidebar" });
    button.classList.add("only-narrow");
    this.#menuButtons.push(button);
    return button;
  }

  /** Shows the list of chats where it is not shown anyway. */
  openSidebar() {
    this.#closePanelOver();
    this.#sidebar.classList.add("open");
    this.cover();
    if (NARROW.matches) this.sidebar.focus();
  }

  closeSidebar() {
    const hadFocus = NARROW.matches && this.#sidebar.contains(document.activeElement);
    this.#sidebar.classList.remove("open");
    this.cover();
    if (hadFocus) this.#menuButtons.forEach((button) => button.focus());
  }

  get isListOver() {
    return NARROW.matches && this.#sidebar.classList.contains("open");
  }

  get isPanelOver() {
    return MEDIUM.matches && !this.panel.element.hidden;
  }

  /** What something lies over is dimmed, and cannot be reached. */
  cover() {
    const { isListOver, isPanelOver } = this;
    this.#scrim.hidden = !(isListOver || isPanelOver);
    this.#main.inert = isListOver || isPanelOver;
    this.#sidebar.inert = isPanelOver;
    for (const button of this.#menuButtons) button.setAttribute("aria-expanded", String(isListOver));
  }

  retitled(session) {
    this.chat.titled(session.sessionId, session.title);
  }

  dropHint() {
    if (this.#shown === this.page && this.page.isOne) return "Drop files to add them to the project";
    return "Drop chats to import them, or pictures to attach them";
  }

  dropped(files) {
    if (this.#shown === this.page && this.page.isOne) return this.page.add(files);
    const pictures = files.filter(({ type }) => type.startsWith("image/"));
    const others = files.filter((file) => !pictures.includes(file));
    if (pictures.length > 0 && this.#shown === this.chat) this.chat.composer.addFiles(pictures);
    if (others.length > 0) importFiles(this, others);
  }

  /** Who is asking, and what can answer; read anew with each connection. */
  async #know() {
    const [me, models] = await Promise.allSettled([get("/api/me"), get("/api/models"), this.projects.load()]);
    if (me.value) this.me = me.value;
    this.#isKnown ||= Boolean(me.value);
    this.sidebar.showState();
    if (models.value) this.models = { list: models.value.models, standard: models.value.default };
    if (this.#shown === this.chat) this.chat.reshow();
  }

  async #show() {
    const { view, sessionId, messageId, projectId } = route();
    const address = location.hash;
    const shown = view === "project" || view === "projects" ? await this.#projectsPage() : this.chat;
    if (!shown || location.hash !== address) return;
    if (this.#shown !== shown) fill(this.#main, shown.elements);
    this.#shown = shown;
    if (shown === this.page) this.chat.close();
    if (shown === this.page) this.panel.element.hidden || this.panel.toggle(false);
    this.closeSidebar();
    try {
      if (view === "chat") await this.chat.open(sessionId, messageId);
      else if (view === "new") this.chat.openNew(projectId);
      else if (view === "projects") await this.page.openAll();
      else await this.page.open(projectId);
    } catch (failure) {
      if (failure.name === "AbortError") return;
      if (failure.status === 401) return;
      toast(failure.message);
      if (failure.status === 404) go(toNew(), true);
    }
  }

  /** Loaded when it is first looked at. */
  async #projectsPage() {
    const module = await attempt(() => import("./projects/page.js"));
    if (module) this.page ??= new module.ProjectsPage(this);
    return this.page;
  }

  #showState() {
    const { state } = live;
    this.#wasLive ||= state === "live";
    // The first connection is no news.
    this.notice.hidden = state === "live" || (!this.#wasLive && state === "connecting");
    const isLocked = state === "locked";
    const enter = () => askForKey(true).then((isGiven) => isGiven && location.reload());
    const button = el("button", { type: "button", onclick: isLocked ? enter : () => live.retry() }, isLocked ? "Enter a key" : "Try now");
    fill(this.notice, !isLocked && el("span.spinner"), NOTICES[state] ?? "", button);
  }

  #closeOver() {
    this.closeSidebar();
    this.#closePanelOver();
  }

  #closePanelOver() {
    if (this.isPanelOver) this.panel.toggle(false);
  }

  #key(event) {
    // Escape is for what is nearest: a field, a menu, a dialog.
    const isTaken = event.defaultPrevented || document.querySelector("dialog[open], :popover-open");
    if (event.key === "Escape" && !isTaken) return this.#closeOver();
    if (!(event.ctrlKey || event.metaKey)) return;
    if (event.key.toLowerCase() === "k") {
      event.preventDefault();
      this.openSidebar();
      this.sidebar.search.focus();
    }
    if (event.shiftKey && event.key.toLowerCase() === "o") {
      event.preventDefault();
      go(toNew());
    }
  }

  /** Links within the page change its address without loading it. */
  #follow(event) {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    if (link.matches(".skip")) return this.#skip();
    go(link.getAttribute("href"));
  }

  /** To the field to write in, or where there is none, to the page. */
  #skip() {
    const field = document.getElementById("composer-text");
    (field?.checkVisibility() ? field : this.#main).focus();
  }
}

new App().start();
