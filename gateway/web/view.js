// What the page shows. What others wrote (title, body, URL, data) enters the document as text, never as markup.

const TOAST_TIME = 6_000; // ms

export const $ = (id) => document.getElementById(id);
export const part = (row, name) => row.querySelector(`[data-part="${name}"]`);

function fill(row, name, text) {
  const element = part(row, name);
  element.hidden = !text;
  element.textContent = text ?? '';
  return element;
}

// --- One notification ------------------------------------------------------------------------------------

const PRIORITIES = { low: 'Low priority', high: 'High priority', urgent: 'Urgent' };

/** Make the row of an item and put it in its place. What was sent never changes, so only this writes it. */
export function insertRow(item) {
  const row = $('item').content.firstElementChild.cloneNode(true);
  Object.assign(row.dataset, { id: item.id, order: item.created_seq, priority: item.priority });
  fill(row, 'title', item.title);
  fill(row, 'body', item.body);
  fill(row, 'priority', PRIORITIES[item.priority]);
  fill(row, 'category', item.category === 'default' ? null : item.category);
  fill(row, 'json', item.data && JSON.stringify(item.data, null, 2));
  part(row, 'data').hidden = !item.data;
  part(row, 'time').dateTime = item.created_at;
  part(row, 'time').title = new Date(item.created_at).toLocaleString();
  fillAddress(row, item.url);
  let after = $('list').firstElementChild;
  while (after && Number(after.dataset.order) > item.created_seq) after = after.nextElementSibling;
  $('list').insertBefore(row, after);
  return row;
}

/** Show a URL as a link only where following it can do nothing but open a page; any other is plain text. */
function fillAddress(row, url) {
  const target = url && URL.canParse(url, location.href) ? new URL(url, location.href) : null;
  const absolute = /^https?:\/\//i.test(url) && /^https?:$/.test(target?.protocol);
  // The parser, not the text, tells whether a path stays here: it takes "/\evil" and "/<tab>/evil" for hosts.
  const path = url?.startsWith('/') && target?.origin === location.origin;
  const link = fill(row, 'link', absolute || path ? url : null);
  if (!link.hidden) link.href = target.href;
  fill(row, 'address', link.hidden ? url : null);
}

/** Show the state of an item, which does change. */
export function paintRow(row, item) {
  const unread = !item.read_at;
  row.classList.toggle('unread', unread);
  fill(row, 'state', unread ? 'Unread: ' : null);
  paintTime(row);
  const labels = { read: unread ? 'Mark read' : 'Mark unread', archive: 'Archive', delete: 'Delete' };
  for (const button of row.querySelectorAll('[data-action]')) {
    button.title = labels[button.dataset.action];
    button.setAttribute('aria-label', `${button.title}: ${item.title}`);
  }
}

/** Whoever works through the list by keyboard stays in it. */
export function removeRow(row) {
  const next = row.nextElementSibling ?? row.previousElementSibling ?? $('heading');
  if (row.contains(document.activeElement)) next.focus();
  row.remove();
}

const AGO = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const DATE = new Intl.DateTimeFormat('en', { day: 'numeric', month: 'short', year: 'numeric' });

function paintTime(row) {
  const time = part(row, 'time');
  const minutes = Math.round((Date.parse(time.dateTime) - Date.now()) / 60_000);
  if (minutes > -1) time.textContent = 'just now';
  else if (minutes > -60) time.textContent = AGO.format(minutes, 'minute');
  else if (minutes > -1440) time.textContent = AGO.format(Math.round(minutes / 60), 'hour');
  else if (minutes > -10_080) time.textContent = AGO.format(Math.round(minutes / 1440), 'day');
  else time.textContent = DATE.format(Date.parse(time.dateTime));
}

setInterval(() => { for (const row of $('list').children) paintTime(row); }, 60_000);

// --- The page around them --------------------------------------------------------------------------------

export function showSummary({ epoch, unread, next, items }) {
  const count = unread > 999 ? '999+' : String(unread);
  document.title = unread ? `(${count}) Inbox` : 'Inbox';
  $('badge').hidden = !unread;
  $('badge').textContent = count;
  $('badge').setAttribute('aria-label', `${unread} unread`);
  $('summary').textContent = epoch === null ? 'Loading…' : unread ? `${unread} unread` : 'Nothing unread';
  $('read-all').disabled = !unread;
  $('more').hidden = !next;
  $('empty').hidden = epoch === null || items.size > 0 || Boolean(next);
}

const STATES = { connecting: 'Connecting', live: 'Live', offline: 'Offline', stopped: 'Disconnected' };

/** Show how the connection is, and in words why, where something is wrong with it. */
export function showConnection(state, why = 'The connection was lost; trying again. Nothing sent meanwhile is lost.') {
  const chip = $('connection');
  // A live region is read out whenever it is written, so it is written only when it changes.
  if (chip.dataset.state !== state) chip.textContent = STATES[state];
  chip.dataset.state = state;
  if ($('banner-text').textContent !== why) $('banner-text').textContent = why;
  $('banner').hidden = state !== 'offline' && state !== 'stopped';
}

let arrivals = [];

/** Let new items light up, and have them read out, once for a burst. */
export function announce(fresh) {
  for (const { row } of fresh) row.classList.add('fresh');
  if (fresh.length && !arrivals.length) setTimeout(sayArrivals, 400);
  arrivals.push(...fresh);
}

function sayArrivals() {
  const [first, ...others] = arrivals;
  arrivals = [];
  if (!first) return;
  $('announcer').textContent = others.length ? `${others.length + 1} new notifications` : `New notification: ${first.title}`;
}

let toastTimer;

/** Say a thing for a moment; `undo` is called when the user wants it undone. */
export function toast(text, undo = null) {
  clearTimeout(toastTimer);
  $('toast-text').textContent = text;
  $('toast-undo').hidden = !undo;
  $('toast-undo').onclick = undo && (() => { toast(''); undo(); });
  if (text) toastTimer = setTimeout(toast, TOAST_TIME, '');
}

/** Show the inbox, still empty. */
export function showInbox() {
  $('sign-in').hidden = true;
  $('app').hidden = false;
  $('heading').focus();
}

/** Show the sign-in, with the reason where there is one, and nothing of the user who was there before. */
export function showSignIn(reason = '') {
  arrivals = [];
  $('list').replaceChildren();
  $('user').textContent = '';
  $('announcer').textContent = '';
  document.title = 'Inbox';
  toast('');
  $('app').hidden = true;
  $('sign-in').hidden = false;
  showSignInError(reason);
  $('username').focus();
}

export function showSignInError(text) {
  $('sign-in-error').textContent = text;
  $('sign-in-error').hidden = !text;
}
