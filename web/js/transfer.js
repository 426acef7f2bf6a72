// Export, import and dropped files.

import { ApiError, buildQuery, getErrorMessage, getKey, request } from "./api.js";
import { el } from "./dom.js";
import { formatCount } from "./format.js";
import { attempt, showToast } from "./toast.js";

const FORMATS = "You can import exports of Echoic, ChatGPT, Claude, Open WebUI or LibreChat, as JSON or ZIP.";

/**
 * @param {ExportFilter} filter
 * @param {string} name
 */
export async function exportChats(filter, name) {
  const address = `/api/export${buildQuery(filter)}`;
  // Without a key the browser can stream the download to the disk.
  if (!getKey()) return saveAs(address, name);
  try {
    const response = await request("GET", address);
    const url = URL.createObjectURL(await response.blob());
    saveAs(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    showToast(getErrorMessage(error));
  }
}

/**
 * Lets a drag out of the page create a file. The browser downloads it, but without the key.
 *
 * @param {DragEvent} event
 * @param {ExportFilter} filter
 * @param {string} name
 */
export function setDragData(event, filter, name) {
  if (getKey()) return;
  const address = new URL(`/api/export${buildQuery(filter)}`, location.href);
  event.dataTransfer?.setData("DownloadURL", `application/json:${toFileName(name)}:${address}`);
}

/** Characters that Windows does not allow in file names. */
const RESERVED = /[\\/:*?"<>|\p{Cc}]+/gu;

const toFileName = (/** @type {string} */ name) => name.replace(RESERVED, " ").trim() || "chat";

/**
 * @param {string} href
 * @param {string} name
 */
function saveAs(href, name) {
  const link = el("a", { href, download: toFileName(name) });
  document.body.append(link);
  link.click();
  link.remove();
}

/** @param {App} app */
export function pickImportFiles(app) {
  const onchange = () => importFiles(app, [...(input.files ?? [])]);
  /** @type {HTMLInputElement} */
  const input = el("input", { type: "file", accept: ".json,.jsonl,.zip", multiple: true, hidden: true, onchange });
  document.body.append(input);
  input.click();
  input.remove();
}

/**
 * @param {App} app
 * @param {File[]} files
 */
export async function importFiles(app, files) {
  for (const file of files) {
    const dismiss = showToast(`Importing ${file.name}…`, null, 600_000);
    try {
      const response = await request("POST", "/api/import", { body: file });
      const { sessions, skipped, moreSkipped = 0 } = (await response.json()).data;
      const imported = formatCount(sessions.length, "chat");
      const rest = skipped[0] ? `; ${formatCount(skipped.length + moreSkipped, "other")} skipped: ${skipped[0].reason}` : "";
      showToast(`${file.name}: ${imported} imported${rest}`);
    } catch (error) {
      showToast(describeImportError(file, error));
    }
    dismiss();
  }
  app.sessions.load();
}

/**
 * @param {File} file
 * @param {unknown} error
 */
function describeImportError(file, error) {
  const message = getErrorMessage(error);
  // The server names the formats of other products.
  const isOtherFile =
    error instanceof ApiError && error.status === 400 && !error.details?.imported && !message.includes("looks like");
  return isOtherFile ? `${file.name} isn’t a chat export. ${FORMATS}` : `${file.name}: ${message}`;
}

/** Names of files in a dropped folder that may be exports. */
const EXPORT_NAME = /\.(jsonl?|zip)$/i;

/**
 * Returns the dropped files, and of dropped folders those that may be exports.
 *
 * @param {DataTransfer} transfer
 */
async function readDrop(transfer) {
  // Taken at once: the items are empty after the event.
  const dropped = [...transfer.items].map((item) => {
    const entry = item.webkitGetAsEntry();
    return entry?.isDirectory ? /** @type {FileSystemDirectoryEntry} */ (entry) : item.getAsFile();
  });
  const files = [];
  for (const one of dropped) {
    if (one instanceof File) files.push(one);
    else if (one) files.push(...(await readFolder(one)));
  }
  return files;
}

/**
 * @param {FileSystemDirectoryEntry} folder
 * @returns {Promise<File[]>}
 */
async function readFolder(folder) {
  const reader = folder.createReader();
  const files = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return files;
    for (const entry of entries) {
      if (entry.isDirectory) {
        files.push(...(await readFolder(/** @type {FileSystemDirectoryEntry} */ (entry))));
      } else if (EXPORT_NAME.test(entry.name)) {
        files.push(await readFile(/** @type {FileSystemFileEntry} */ (entry)));
      }
    }
  }
}

/**
 * @param {FileSystemFileEntry} entry
 * @returns {Promise<File>}
 */
const readFile = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));

/** @param {App} app */
export function acceptDrops(app) {
  const root = document.documentElement;
  let depth = 0;
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  const resetDrag = () => {
    depth = 0;
    root.classList.remove("drag-over");
  };
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    root.dataset.dropHint = app.getDropHint();
    root.classList.add("drag-over");
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) resetDrag();
  });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!event.dataTransfer || !hasFiles(event)) return;
    event.preventDefault();
    resetDrag();
    const files = readDrop(event.dataTransfer);
    attempt(async () => app.handleDrop(await files));
  });
}
