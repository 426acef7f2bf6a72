// The pages of projects: the list of all, and the chats, files and instructions of one.

import { buildQuery, call, filePath, get, getErrorMessage, projectPath } from "../api.js";
import { confirmAction, createField, getText, openForm } from "../dialog.js";
import { createIcon, createIconButton, el, setChildren } from "../dom.js";
import { formatBytes, formatCount, formatTime } from "../format.js";
import { chatHref, navigate, newChatHref, projectHref, PROJECTS_HREF } from "../route.js";
import { attempt, showToast } from "../toast.js";

const PAGE_SIZE = 20;
const MAX_FILE_BYTES = 1 << 20;

export class ProjectsPage {
  #title = el("h1");
  #content = el("div.page-inner");
  #files = el("section.section");
  /** @type {Project | null} The open project; `null` while the list is open. */
  #project = null;

  /** @param {App} app */
  constructor(app) {
    this.app = app;
    const header = el("header.bar", {}, app.createMenuButton(), el("div.bar-title", {}, this.#title));
    this.elements = [header, app.notice, el("div.page", {}, this.#content)];
  }

  get isProjectOpen() {
    return this.#project !== null;
  }

  async openList() {
    this.#project = null;
    this.#show("Projects", []);
    await this.app.projects.load();
    const rows = this.app.projects.list.map(({ projectId, name, files, updatedAt }) => {
      const note = el("span.muted", {}, `${formatCount(files.length, "file")} · ${formatTime(updatedAt)}`);
      return el("li", {}, createIcon("folder"), el("a", { href: projectHref(projectId) }, name), note);
    });
    const create = el("button.button.primary.small", { type: "button", onclick: () => this.#create() }, createIcon("plus"), "New project");
    const hint = "Chats in a project share a description, instructions and files. The model always sees the current version, as far as it fits.";
    const head = el("div.section-head", {}, el("p.muted", {}, hint), create);
    this.#show("Projects", [el("section.section", {}, head, renderRows(rows, "No projects yet."))]);
  }

  /** @param {string} projectId */
  async open(projectId) {
    const [project, chats] = await Promise.all([get(projectPath(projectId)), this.#loadChats(projectId)]);
    this.#showFiles(project);
    const newChat = el("a.button.primary.small", { href: newChatHref(projectId) }, createIcon("plus"), "New chat in this project");
    const remove = el("button.button.danger.small", { type: "button", onclick: () => this.#delete(project) }, "Delete project…");
    this.#show(project.name, [
      el("section.section", {}, el("div.section-head", {}, el("h2", {}, "Chats"), newChat), chats),
      this.#files,
      this.#createForm(project),
      el("div", {}, remove),
    ]);
  }

  /**
   * Returns the project's chats and a button that loads more of them.
   *
   * @param {string} projectId
   */
  async #loadChats(projectId) {
    /** @type {(cursor?: string | null) => Promise<SessionPage>} */
    const fetchPage = (cursor) => get(projectPath(projectId, `/chat-sessions${buildQuery({ limit: PAGE_SIZE, cursor })}`));
    const createRow = (/** @type {Session} */ { sessionId, title, lastMessageAt, createdAt }) =>
      el("li", {}, el("a", { href: chatHref(sessionId) }, title), el("span.muted", {}, formatTime(lastMessageAt ?? createdAt)));
    let { sessions, nextCursor } = await fetchPage();
    const list = renderRows(sessions.map(createRow), "No chats yet.");
    const onclick = () =>
      attempt(async () => {
        ({ sessions, nextCursor } = await fetchPage(nextCursor));
        list.append(...sessions.map(createRow));
        more.hidden = !nextCursor;
      });
    const more = el("button.button.small", { type: "button", hidden: !nextCursor, onclick }, "More chats");
    return [list, more];
  }

  /**
   * Adds text files to the open project.
   *
   * @param {File[]} files
   */
  async addFiles(files) {
    const project = this.#project;
    if (!project) return;
    for (const file of files) await attempt(() => this.#upload(project, file));
    await this.#reloadFiles(project);
    this.app.projects.load();
  }

  /**
   * Loads the files again. Unsaved changes in the form are kept.
   *
   * @param {Project} project
   */
  async #reloadFiles({ projectId }) {
    const project = await attempt(() => get(projectPath(projectId)));
    if (project && projectId === this.#project?.projectId) this.#showFiles(project);
  }

  /**
   * @param {Project} project
   * @param {File} file
   */
  async #upload(project, file) {
    if (file.size > MAX_FILE_BYTES) throw new Error(`${file.name} is larger than 1 MiB`);
    const content = await file.text();
    // U+FFFD replaces bytes that are not UTF-8.
    if (content.includes("\u0000") || content.includes("\ufffd")) throw new Error(`${file.name} isn’t a text file`);
    await call("PUT", filePath(project.projectId, file.webkitRelativePath || file.name), { content });
  }

  /**
   * @param {string} title
   * @param {Child[]} sections
   */
  #show(title, sections) {
    this.#title.textContent = title;
    document.title = `${title} · Echoic`;
    setChildren(this.#content, sections);
  }

  /** @param {Project} project */
  #showFiles(project) {
    this.#project = project;
    const onchange = () => this.addFiles([...(input.files ?? [])]);
    /** @type {HTMLInputElement} */
    const input = el("input", { type: "file", multiple: true, hidden: true, tabIndex: -1, "aria-label": "Files", onchange });
    const upload = el("button.button.small", { type: "button", onclick: () => input.click() }, createIcon("upload"), "Add files");
    const create = el("button.button.small", { type: "button", onclick: () => this.#editFile(project, null) }, createIcon("plus"), "New file");
    const rows = project.files.map(({ path, size }) => {
      const open = el("button.row-button", { type: "button", onclick: () => this.#editFile(project, path) }, path);
      const remove = createIconButton("trash", `Delete ${path}`, () => this.#removeFile(project, path), { small: true });
      return el("li", {}, createIcon("file"), open, el("span.muted", {}, formatBytes(size)), remove);
    });
    const head = el("div.section-head", {}, el("h2", {}, "Files"), el("div.inline-form", {}, create, upload, input));
    setChildren(this.#files, head, renderRows(rows, "No files yet. Drop notes, code or other text files here."));
  }

  /** @param {Project} project */
  #createForm(project) {
    const name = el("input", { name: "name", value: project.name, required: true, maxLength: 200 });
    const description = el("textarea", { name: "description", rows: 2, value: project.description ?? "" });
    const prompt = el("textarea", { name: "systemPrompt", rows: 5, value: project.systemPrompt ?? "" });
    const onsubmit = async (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const data = new FormData(form);
      const body = { name: getText(data, "name"), description: getText(data, "description"), systemPrompt: getText(data, "systemPrompt") || null };
      // Refused if the project was changed elsewhere since it was loaded.
      const headers = { "if-match": `"${this.#project?.version}"` };
      const changed = await attempt(() => call("PATCH", projectPath(project.projectId), body, { headers }));
      if (!changed) return;
      showToast("Saved");
      await this.app.projects.load();
      await this.open(project.projectId);
    };
    const save = el("div", {}, el("button.button.primary", { type: "submit" }, "Save"));
    const form = el("form.section", { onsubmit }, createField("Name", name), createField("Description", description), createField("Instructions", prompt), save);
    return el("section.section", {}, el("h2", {}, "Details"), form);
  }

  async #create() {
    const input = el("input", { name: "name", required: true, maxLength: 200 });
    const answer = await openForm("New project", [createField("Name", input)], { submit: "Create" });
    const project = answer && (await attempt(() => call("POST", "/api/projects", { name: getText(answer, "name") })));
    if (!project) return;
    await this.app.projects.load();
    navigate(projectHref(project.projectId));
  }

  /**
   * Edits a file or, without a path, creates one.
   *
   * @param {Project} project
   * @param {string | null} path
   */
  async #editFile(project, path) {
    const file = path ? await attempt(() => get(filePath(project.projectId, path))) : { path: "", content: "" };
    if (!file) return;
    const pathInput = el("input", { name: "path", value: file.path, required: true, readOnly: Boolean(path), placeholder: "notes.md" });
    const contentInput = el("textarea", { name: "content", rows: 14, value: file.content, spellcheck: false });
    // Saving over another file needs a second click, after a warning.
    let confirmedPath = path;
    const check = async (/** @type {FormData} */ data) => {
      const target = getText(data, "path").trim();
      if (!isValidPath(target)) return "Enter a path such as “notes/today.md”, without empty parts, “.” or “..”.";
      if (target !== confirmedPath && this.#project?.files.some((each) => each.path === target)) {
        confirmedPath = target;
        return `“${target}” already exists. Save again to replace it.`;
      }
      const body = { content: getText(data, "content").replace(/\r\n/g, "\n") };
      return call("PUT", filePath(project.projectId, target), body).then(() => null, getErrorMessage);
    };
    const answer = await openForm(path ?? "New file", [createField("Path", pathInput), createField("Content", contentInput)], { check });
    if (answer) await this.#reloadFiles(project);
  }

  /**
   * @param {Project} project
   * @param {string} path
   */
  async #removeFile(project, path) {
    const { content } = (await attempt(() => get(filePath(project.projectId, path)))) ?? {};
    const isDeleted = await attempt(() => call("DELETE", filePath(project.projectId, path)));
    if (!isDeleted) return;
    await this.#reloadFiles(project);
    const undo = async () => {
      await attempt(() => call("PUT", filePath(project.projectId, path), { content }));
      await this.#reloadFiles(project);
    };
    showToast(`Deleted ${path}`, content === undefined ? undefined : { label: "Undo", run: undo, takesFocus: true });
  }

  /** @param {Project} project */
  async #delete({ projectId }) {
    const name = this.#project?.name;
    const isConfirmed = await confirmAction(`Delete “${name}”?`, "This also deletes its files, its chats and all their messages. It cannot be undone.", "Delete project");
    if (!isConfirmed || !(await attempt(() => call("DELETE", projectPath(projectId))))) return;
    await this.app.projects.load();
    this.app.sessions.load();
    navigate(PROJECTS_HREF);
  }
}

/**
 * Returns whether a path stays within the project. The browser resolves other paths before the
 * server could reject them.
 *
 * @param {string} path
 */
const isValidPath = (path) => path.split("/").every((name) => !["", ".", ".."].includes(name));

/**
 * @param {HTMLElement[]} rows
 * @param {string} emptyText
 */
function renderRows(rows, emptyText) {
  return rows.length > 0 ? el("ul.rows", {}, rows) : el("p.empty-rows", {}, emptyText);
}
