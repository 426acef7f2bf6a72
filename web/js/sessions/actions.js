// The menu of a chat.

import { call, sessionPath } from "../api.js";
import { createField, getText, openForm } from "../dialog.js";
import { el } from "../dom.js";
import { attempt, showToast } from "../toast.js";
import { exportChats } from "../transfer.js";

/**
 * @param {App} app
 * @param {Session} session
 * @param {{ rename: () => unknown }} handlers
 * @returns {(MenuItem | null)[]}
 */
export function getChatActions(app, session, { rename }) {
  const { sessionId, title, pinned, archived } = session;
  const change = (/** @type {SessionChange} */ fields) => () => attempt(async () => {
    app.sessions.upsert(await call("PATCH", sessionPath(sessionId), fields));
    return true;
  });
  const archive = change({ archived: true });
  const unarchive = change({ archived: false });
  const archiveWithUndo = async () => (await archive()) && showToast("Archived", { label: "Undo", run: unarchive });
  const placement = [
    { label: pinned ? "Unpin" : "Pin", icon: "pin", run: change({ pinned: !pinned }) },
    archived ? { label: "Unarchive", icon: "archive", run: unarchive } : { label: "Archive", icon: "archive", run: archiveWithUndo },
  ];
  if (!app.canManage(session)) {
    const leave = { label: "Leave", icon: "close", danger: true, run: () => app.sessions.leave(session) };
    return [...placement, null, ...getParticipantActions(session, change), null, leave];
  }
  const hasProjects = app.projects.list.length > 0;
  return [
    { label: "Rename", icon: "pencil", run: rename },
    ...placement,
    ...(hasProjects ? [{ label: "Move to project…", icon: "folder", run: () => moveToProject(app, session) }] : []),
    null,
    { label: "Export as Markdown", icon: "download", run: () => exportChats({ sessionId, format: "markdown" }, `${title}.md`) },
    { label: "Export as JSON", icon: "download", run: () => exportChats({ sessionId, format: "json" }, `${title}.json`) },
    null,
    { label: "Delete", icon: "trash", danger: true, run: () => app.sessions.remove(session) },
  ];
}

/**
 * A participant in another user's chat may choose who replies.
 *
 * @param {Session} session
 * @param {(fields: SessionChange) => () => unknown} change
 * @returns {MenuItem[]}
 */
function getParticipantActions({ status }, change) {
  const createItem = (/** @type {string} */ label, /** @type {SessionStatus} */ next) => ({ label, icon: "people", run: change({ status: next }) });
  if (status === "closed") return [createItem("Reopen", "active")];
  const takeover = status === "agent_assigned" ? createItem("Return to model", "active") : createItem("Take over from the model", "agent_assigned");
  return [takeover, createItem("Close chat", "closed")];
}

/**
 * @param {App} app
 * @param {Session} session
 */
async function moveToProject(app, session) {
  const options = app.projects.list.map(({ projectId, name }) => el("option", { value: projectId }, name));
  const select = el("select", { name: "project" }, el("option", { value: "" }, "None"), options);
  select.value = session.projectId ?? "";
  const answer = await openForm("Move to project", [createField("Project", select)], { submit: "Move" });
  if (!answer) return;
  const projectId = getText(answer, "project") || null;
  await attempt(async () => app.sessions.upsert(await call("PATCH", sessionPath(session.sessionId), { projectId })));
}
