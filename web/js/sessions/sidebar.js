// The sidebar: search, projects, the chats, and what concerns all of them.

import { key, setKey } from "../api.js";
import { askForKey } from "../key-dialog.js";
import { el, fill, icon, iconButton } from "../dom.js";
import { live } from "../event-stream.js";
import { openMenu } from "../menu.js";
import { go, startAnew, toNew, toProject, toProjects } from "../route.js";
import { nextTheme, theme } from "../theme.js";
import { toast } from "../toast.js";
import { exportChats, pickImport } from "../transfer.js";
import { Search } from "./search.js";

const STATES = { live: "Connected", connecting: "Connecting…", offline: "Offline, retrying", locked: "No key" };

export class Sidebar {
  #connection = el("div.connection", { role: "status" });
  #projects = el("select.input", { "aria-label": "Project", onchange: () => this.#choose() });
  #close;
  #isArchive = false;
  #chosen = "";

  constructor(app, element) {
    this.app = app;
    this.search = new Search(app.sessions);
    const brand = el("a", { href: "#/new" }, el("img", { src: "/assets/icon.svg", alt: "" }), "Echoic");
    this.#close = iconButton("close", "Close the list of chats", () => app.closeSidebar());
    this.#close.classList.add("only-narrow");
    const fresh = el("button.button.primary.new-chat", { type: "button", onclick: () => this.#new() }, icon("plus"), "New chat");
    const more = iconButton("more", "More for all chats", () => this.#menu(more), { "aria-haspopup": "menu", "aria-expanded": "false" });
    fill(
      element,
      el("div.brand", {}, brand, this.#close),
      el("div.side-tools", {}, fresh, this.search.element, this.#projects),
      app.sessions.element,
      el("div.side-foot", {}, this.#connection, more),
    );
    app.sessions.element.append(this.search.results);
    live.addEventListener("state", () => this.showState());
    this.showState();
    addEventListener("projects", () => this.showProjects());
    this.showProjects();
  }

  focus() {
    this.#close.focus();
  }

  showProjects() {
    const options = this.app.projects.list.map(({ projectId, name }) => el("option", { value: projectId }, name));
    fill(
      this.#projects,
      el("option", { value: "" }, "All chats"),
      el("option", { value: "archive" }, "Archive"),
      options.length > 0 && el("optgroup", { label: "Projects" }, options),
      el("option", { value: "projects" }, "Projects and their files…"),
    );
    this.#projects.value = this.#chosen;
    if (this.#projects.selectedIndex < 0) this.#projects.value = "";
  }

  #choose() {
    const { value } = this.#projects;
    if (value === "projects") {
      this.#projects.value = this.#chosen;
      return go(toProjects);
    }
    this.#chosen = value;
    this.#isArchive = value === "archive";
    const projectId = this.#isArchive ? "" : value;
    this.app.sessions.filter({ archived: String(this.#isArchive), projectId });
    this.search.within(projectId);
    if (projectId) go(toProject(projectId));
  }

  #new() {
    go(toNew(this.#isArchive ? null : this.#chosen));
    this.app.closeSidebar();
  }

  #menu(button) {
    openMenu(button, [
      { label: "Import chats…", icon: "upload", run: () => pickImport(this.app) },
      { label: "Export all chats", icon: "download", run: () => exportChats({ format: "json" }, "echoic.json") },
      { label: "Projects", icon: "folder", run: () => go(toProjects) },
      null,
      { label: `Colours: ${theme()}`, icon: "theme", run: () => toast(`Colours: ${nextTheme()}`, null, 1500) },
      key() ? { label: "Forget the API key", icon: "key", run: () => this.#forget() } : { label: "API key…", icon: "key", run: () => askForKey(true).then((given) => given && location.reload()) },
    ]);
  }

  #forget() {
    setKey("", false);
    sessionStorage.clear();
    startAnew();
  }

  /** How the connection is, and whose it is where somebody asks. */
  showState() {
    const { name, email, userId } = this.app.me;
    this.#connection.dataset.state = live.state;
    fill(this.#connection, el("span", {}, STATES[live.state]), key() && el("span.who", { title: userId }, name ?? email ?? userId));
  }
}
