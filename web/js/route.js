// The address: `#/c/SESSION/MESSAGE`, `#/new/PROJECT`, `#/p/PROJECT` or `#/p`.

/** @returns {Route} */
export function getRoute() {
  const [kind = "", first = "", second = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  if (kind === "c" && first) return { view: "chat", sessionId: first, messageId: second || null };
  if (kind === "p") return first ? { view: "project", projectId: first } : { view: "projects" };
  return { view: "new", projectId: kind === "new" && first ? first : null };
}


export function getOpenSessionId() {
  const route = getRoute();
  return route.view === "chat" ? route.sessionId : null;
}

/** @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const encode = encodeURIComponent;

/**
 * @param {string} sessionId
 * @param {string | null} [messageId]
 */
export const chatHref = (sessionId, messageId) => `#/c/${encode(sessionId)}${messageId ? `/${encode(messageId)}` : ""}`;

/** @param {string | null} [projectId] */
export const newChatHref = (projectId) => (projectId ? `#/new/${encode(projectId)}` : "#/new");

/** @param {string} projectId */
export const projectHref = (projectId) => `#/p/${encode(projectId)}`;

export const PROJECTS_HREF = "#/p";

/** @param {string} href */
export function navigate(href, isReplacing = false) {
  if (isReplacing) history.replaceState(null, "", href);
  else if (location.hash !== href) history.pushState(null, "", href);
  dispatchEvent(new Event("routechange"));
}

/** Reloads the page without its address, which another user may not have access to. */
export function resetPage() {
  history.replaceState(null, "", newChatHref());
  location.reload();
}
