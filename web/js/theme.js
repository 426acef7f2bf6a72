// The color theme.

/** @type {Record<string, string>} */
const NEXT_THEME = { system: "light", light: "dark", dark: "system" };

export const getTheme = () => localStorage.getItem("echoic.theme") ?? "system";

export function applyTheme() {
  document.documentElement.dataset.theme = getTheme();
}


export function cycleTheme() {
  localStorage.setItem("echoic.theme", NEXT_THEME[getTheme()]);
  applyTheme();
  return getTheme();
}
