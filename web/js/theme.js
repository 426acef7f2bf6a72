// Light, dark, or as the system has it.

const NEXT = { system: "light", light: "dark", dark: "system" };

export const theme = () => localStorage.getItem("echoic.theme") ?? "system";

export function applyTheme() {
  document.documentElement.dataset.theme = theme();
}

export function nextTheme() {
  localStorage.setItem("echoic.theme", NEXT[theme()]);
  applyTheme();
  return theme();
}
