// Whole chats in and out, as files.

import { key, query, request } from "./api.js";
import { el } from "./dom.js";
import { many } from "./format.js";
import { toast } from "./toast.js";

const FORMATS = "What can be imported is a JSON export of Echoic, or ChatGPT’s conversations.json.";

/** Saves an export. Without a key the browser reads the stream into the file by itself. */
export async function exportChats(what, name) {
  const address = `/api/export${query(what)}`;
  if (!key()) return save(address, name);
  try {
    const response = await request("GET", address);
    const url = URL.createObjectURL(await response.blob());
    save(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch ({ message }) {
    toast(message);
  }
}

/**
 * Lets what is dragged out of the page become a file, where the browser can do that. It would ask
 * without a key, so there is nothing to drag with one.
 */
export function dragOut(event, what, name) {
  if (key()) return;
  const address = new URL(`/api/export${query(what)}`, location.href);
  event.dataTransfer.setData("DownloadURL", `application/json:${fileName(name)}:${address}`);
}

const fileName = (name) => name.replace(/[\\/:*?"<>|\u0000-\u001f]+/g, " ").trim() || "chat";

function save(href, name) {
  const link = el("a", { href, download: fileName(name) });
  document.body.append(link);
  link.click();
  link.remove();
}

export function pickImport(app) {
  const input = el("input", { type: "file", accept: ".json,application/json", hidden: true, onchange: () => importFiles(app, [...input.files]) });
  document.body.append(input);
  input.click();
  input.remove();
}

/** Imports exports of Echoic and of ChatGPT; the server reads them as they arrive. */
export async function importFiles(app, files) {
  for (const file of files) {
    const away = toast(`Importing ${file.name}…`, null, 600_000);
    try {
      const response = await request("POST", "/api/import", { body: file });
      const { sessions, skipped } = (await response.json()).data;
      const added = many(sessions.length, "chat");
      const reason = skipped[0] ? `; ${many(skipped.length, "other")} left out: ${skipped[0].reason}` : "";
      toast(`${file.name}: ${added} imported${reason}`);
    } catch ({ status, message, details }) {
      toast(status === 400 && !details?.imported ? `${file.name} is no export of chats. ${FORMATS}` : `${file.name}: ${message}`);
    }
    away();
  }
  app.sessions.load();
}

/** Files dropped anywhere: pictures go to the message, files to the project that is shown, others are imported. */
export function acceptDrops(app) {
  const root = document.documentElement;
  let depth = 0;
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  const leave = () => {
    depth = 0;
    root.classList.remove("dropping");
  };
  addEventListener("dragenter", (event) => {
    if (!isFiles(event)) return;
    depth += 1;
    root.dataset.drop = app.dropHint();
    root.classList.add("dropping");
  });
  addEventListener("dragleave", () => (depth -= 1) <= 0 && leave());
  addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    leave();
    app.dropped([...event.dataTransfer.files]);
  });
}
