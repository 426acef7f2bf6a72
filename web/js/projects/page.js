// Projects: what several chats have in common.

import { call, file as filePath, get, project as projectPath, query } from "../api.js";
import { ask, confirm, field } from "../dialog.js";
import { el, fill, icon, iconButton } from "../dom.js";
import { bytes, many, when } from "../format.js";
import { go, toChat, toNew, toProject, toProjects } from "../route.js";
import { attempt, toast } from "../toast.js";

const PAGE = 20;
const MOST_BYTES = 1 << 20;

export class ProjectsPage {
  #title = el("h1");
  #inner = el("div.page-inner");
  #files = el("section.section");
  #project = null;

  constructor(app) {
    this.app = app;
    const head = el("header.bar", {}, app.menuButton(), el("div.bar-title", {}, this.#title));
    this.elements = [head, app.notice, el("div.page", {}, this.#inner)];
  }

  async openAll() {
    this.#project = null;
    this.#show("Projects", []);
    await this.app.projects.load();
    const rows = this.app.projects.list.map(({ projectId, name, files, updatedAt }) =>
      el("li", {}, icon("folder"), el("a", { href: toProject(projectId) }, name), el("span.quiet-text", {}, `${many(files.length, "file")} · ${when(updatedAt)}`)));
    const fresh = el("button.button.primary.small", { type: "button", onclick: () => this.#create() }, icon("plus"), "New project");
    const told = el("p.quiet-text", {}, "Chats of a project share a description, instructions and files. The model reads them as they are now, as far as its budget goes.");
    this.#show("Projects", [el("section.section", {}, el("div.section-head", {}, told, fresh), list(rows, "No projects yet."))]);
  }

  async open(projectId) {
    const [project, chats] = await Promise.all([get(projectPath(projectId)), this.#chats(projectId)]);
    this.#showFiles(project);
    const begin = el("a.button.primary.small", { href: toNew(projectId) }, icon("plus"), "New chat in this project");
    const remove = el("button.button.danger.small", { type: "button", onclick: () => this.#delete() }, "Delete the project");
    this.#show(project.name, [
      el("section.section", {}, el("div.section-head", {}, el("h2", {}, "Chats"), begin), chats),
      this.#files,
      this.#form(project),
      el("div", {}, remove),
    ]);
  }

  /** The project's chats, with more of them on demand. */
  async #chats(projectId) {
    const page = (cursor) => get(projectPath(projectId, `/chat-sessions${query({ limit: PAGE, cursor })}`));
    const row = ({ sessionId, title, lastMessageAt, createdAt }) =>
      el("li", {}, el("a", { href: toChat(sessionId) }, title), el("span.quiet-text", {}, when(lastMessageAt ?? createdAt)));
    let { sessions, nextCursor } = await page();
    const shown = list(sessions.map(row), "No chats yet.");
    const onclick = () =>
      attempt(async () => {
        ({ sessions, nextCursor } = await page(nextCursor));
        shown.append(...sessions.map(row));
        more.hidden = !nextCursor;
      });
    const more = el("button.button.small", { type: "button", hidden: !nextCursor, onclick }, "More chats");
    return [shown, more];
  }

  /** Adds files of text; gives whether a project is shown that can take them. */
  async add(files) {
    const project = this.#project;
    for (const file of files) await attempt(() => this.#upload(project, file));
    await this.#reload(project);
    this.app.projects.load();
  }

  /** Reads the files anew; what is being written about the project stays as it is. */
  async #reload({ projectId }) {
    const project = await attempt(() => get(projectPath(projectId)));
    if (project && projectId === this.#project?.projectId) this.#showFiles(project);
  }

  get isOne() {
    return this.#project !== null;
  }

  async #upload(project, file) {
    if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than 1 MiB`);
    const content = await file.text();
    if (content.includes("\u0000") || content.includes("\ufffd")) throw new Error(`${file.name} is no text`);
    await call("PUT", filePath(project.projectId, file.webkitRelativePath || file.name), { content });
  }

  #show(title, sections) {
    this.#title.textContent = title;
    document.title = `${title} · Echoic`;
    fill(this.#inner, sections);
  }

  #showFiles(project) {
    this.#project = project;
    const input = el("input", { type: "file", multiple: true, hidden: true, tabIndex: -1, "aria-label": "Files", onchange: () => this.add([...input.files]) });
    const upload = el("button.button.small", { type: "button", onclick: () => input.click() }, icon("upload"), "Add files");
    const write = el("button.button.small", { type: "button", onclick: () => this.#edit(project, null) }, icon("plus"), "Write one");
    const rows = project.files.map((file) =>
      el("li", {}, icon("file"), el("button.row-open", { type: "button", onclick: () => this.#edit(project, file.path) }, file.path), el("span.quiet-text", {}, bytes(file.size)), iconButton("trash", `Delete ${file.path}`, () => this.#remove(project, file.path), { small: true })));
    fill(this.#files, el("div.section-head", {}, el("h2", {}, "Files"), el("div.inline-form", {}, write, upload, input)), list(rows, "No files yet. Drop some here: notes, code, anything that is text."));
  }

  #form(project) {
    const name = el("input", { name: "name", value: project.name, required: true, maxLength: 200 });
    const description = el("textarea", { name: "description", rows: 2, value: project.description ?? "" });
    const prompt = el("textarea", { name: "systemPrompt", rows: 5, value: project.systemPrompt ?? "" });
    const onsubmit = async (event) => {
      event.preventDefault();
      const form = new FormData(event.target);
      const body = { name: form.get("name"), description: form.get("description"), systemPrompt: form.get("systemPrompt") || null };
      const headers = { "if-match": `"${this.#project.version}"` };
      const changed = await attempt(() => call("PATCH", projectPath(project.projectId), body, { headers }));
      if (!changed) return;
      toast("Saved");
      await this.app.projects.load();
      await this.open(project.projectId);
    };
    const save = el("div", {}, el("button.button.primary", { type: "submit" }, "Save"));
    return el("section.section", {}, el("h2", {}, "What the model is told"), el("form.section", { onsubmit }, field("Name", name), field("Description", description), field("Instructions", prompt), save));
  }

  async #create() {
    const input = el("input", { name: "name", required: true, maxLength: 200 });
    const answer = await ask("New project", [field("Name", input)], { submit: "Create" });
    const project = answer && (await attempt(() => call("POST", "/api/projects", { name: answer.get("name") })));
    if (!project) return;
    await this.app.projects.load();
    go(toProject(project.projectId));
  }

  async #edit(project, path) {
    const file = path ? await attempt(() => get(filePath(project.projectId, path))) : { path: "", content: "" };
    if (!file) return;
    const name = el("input", { name: "path", value: file.path, required: true, readOnly: Boolean(path), placeholder: "notes.md" });
    const content = el("textarea", { name: "content", rows: 14, value: file.content, spellcheck: false });
    // A file that is there already is replaced when that was told.
    let known = path;
    const check = async (answer) => {
      const at = answer.get("path").trim();
      if (!isPath(at)) return "A path names one place in the project, like “notes/today.md”: nothing empty between its slashes, no “.” and no “..”.";
      if (at !== known && this.#project.files.some(({ path }) => path === at)) {
        known = at;
        return `There is a file “${at}” already. Save again to replace it.`;
      }
      const body = { content: answer.get("content").replace(/\r\n/g, "\n") };
      return call("PUT", filePath(project.projectId, at), body).then(() => null, ({ message }) => message);
    };
    const answer = await ask(path ?? "New file", [field("Path", name), field("Content", content)], { check });
    if (answer) await this.#reload(project);
  }

  async #remove(project, path) {
    const { content } = (await attempt(() => get(filePath(project.projectId, path)))) ?? {};
    const done = await attempt(() => call("DELETE", filePath(project.projectId, path)));
    if (!done) return;
    await this.#reload(project);
    const run = async () => {
      await attempt(() => call("PUT", filePath(project.projectId, path), { content }));
      await this.#reload(project);
    };
    toast(`${path} is deleted`, content === undefined ? undefined : { label: "Undo", run, takesFocus: true });
  }

  async #delete() {
    const { projectId, name } = this.#project;
    const isSure = await confirm(`Delete “${name}”?`, "Its files, its chats and all their messages are deleted with it. This cannot be undone.", "Delete everything in it");
    if (!isSure || !(await attempt(() => call("DELETE", projectPath(projectId))))) return;
    await this.app.projects.load();
    this.app.sessions.load();
    go(toProjects);
  }
}

/** The others would lead elsewhere before the server could refuse them. */
const isPath = (text) => text.split("/").every((name) => !["", ".", ".."].includes(name));

function list(rows, nothing) {
  return rows.length > 0 ? el("ul.rows", {}, rows) : el("p.empty-rows", {}, nothing);
}
