// Dates, numbers and sizes in the format of the user's locale.

const DAY_MS = 86_400_000;
const timeFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const dateFormat = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const costFormat = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const numberFormat = new Intl.NumberFormat();

/** @param {number} value */
export const formatNumber = (value) => numberFormat.format(value);

/** @param {string} timestamp */
export function formatTime(timestamp) {
  const date = new Date(timestamp);
  if (date.toDateString() === new Date().toDateString()) return timeFormat.format(date);
  const isThisYear = date.getFullYear() === new Date().getFullYear();
  return `${(isThisYear ? dayFormat : dateFormat).format(date)}, ${timeFormat.format(date)}`;
}

/** @param {string} timestamp */
export const formatFullTime = (timestamp) => fullFormat.format(new Date(timestamp));

/** @param {string} timestamp */
export function getDateGroup(timestamp) {
  const today = new Date().setHours(0, 0, 0, 0);
  const time = new Date(timestamp).getTime();
  if (time >= today) return "Today";
  if (time >= today - DAY_MS) return "Yesterday";
  if (time >= today - 7 * DAY_MS) return "Previous 7 days";
  if (time >= today - 30 * DAY_MS) return "Previous 30 days";
  return "Older";
}

/** @param {number} count */
export function formatBytes(count) {
  if (count < 1024) return `${count} B`;
  if (count < 1 << 20) return `${(count / 1024).toFixed(1)} KiB`;
  return `${(count / (1 << 20)).toFixed(1)} MiB`;
}

/** @param {number} count */
export function formatTokens(count) {
  return count < 10_000 ? formatNumber(count) : `${(count / 1000).toFixed(count < 100_000 ? 1 : 0)} k`;
}

/** @param {number} milliseconds */
export function formatDuration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** @param {number} amount in the currency of the price table, which is unknown */
export const formatCost = (amount) => costFormat.format(amount);

/** @param {string} text */
export const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/**
 * @param {number} count
 * @param {string} singular
 */
export const formatCount = (count, singular, plural = `${singular}s`) => `${formatNumber(count)} ${count === 1 ? singular : plural}`;
