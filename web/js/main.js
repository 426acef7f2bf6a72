// The page: builds its parts, knows who is there, and shows what the address names.

import { get } from "./api.js";
import { ChatView } from "./chat/view.js";
import { el, fill, iconButton } from "./dom.js";
import { askForKey } from "./key.js";
import { live } from "./live.js";
import { Panel } from "./panel/panel.js";
import { Projects } from "./projects/store.js";
import { go, route, startAnew, toNew } from "./route.js";
import { SessionList } from "./sessions/list.js";
import { Sidebar } from "./sessions/sidebar.js";
import { applyTheme } from "./theme.js";
import { attempt, toast } from "./toast.js";
import { acceptDrops, importFiles } from "./transfer.js";

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
  #sidebar = document.getElementById("sidebar");
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
    const button = iconButton("menu", "Show the chats", () => this.openSidebar());
    button.classList.add("only-narrow");
    return button;
  }

  openSidebar() {
    this.#sidebar.classList.add("open");
    this.showScrim();
  }

  closeSidebar() {
    this.#sidebar.classList.remove("open");
    this.showScrim();
  }

  /** Covers the page while something lies over it. */
  showScrim() {
    const isNarrow = matchMedia("(max-width: 760px)").matches;
    const isPanelOver = !this.panel.element.hidden && matchMedia("(max-width: 1100px)").matches;
    this.#scrim.hidden = !((isNarrow && this.#sidebar.classList.contains("open")) || isPanelOver);
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
    if (this.#shown !== shown) fill(document.getElementById("main"), shown.elements);
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
    if (!this.panel.element.hidden && matchMedia("(max-width: 1100px)").matches) this.panel.toggle(false);
  }

  #key(event) {
    if (event.key === "Escape") return this.#closeOver();
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
    const link = event.target.closest?.('a[href^="#/"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  }
}

new App().start();
