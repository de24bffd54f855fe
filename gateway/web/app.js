// The inbox page: the copy of the inbox, the socket that keeps it current, and what the user does.
//
// The page holds the newest part of the user's log and its position in that log (`seq`). The copy begins as the
// first page of GET /v1/inbox; from there the messages of the socket change it, each applied once.

import { Failed, REASONS, SignedOut, accessToken, call, forget, isSignedIn, refresh, signIn, signOut } from './session.js';
import {
  $, announce, insertRow, paintRow, part, removeRow, showConnection, showInbox, showSignIn, showSignInError,
  showSummary, toast,
} from './view.js';

const PAGE_SIZE = 50;
const FIRST_DELAY = 500; // ms; doubled with each failure in a row …
const LONGEST_DELAY = 30_000; // … up to this; the wait is a random part of it ("full jitter").
const FLUSH_DELAY = 150; // ms; for this long, acknowledgements are gathered.
const CONFIRM_TIME = 4_000; // ms

// Close codes after which trying again unasked would help nobody.
const STOPS = {
  4003: 'This account may not read an inbox.',
  4009: 'This inbox is open in too many places. Close one of them, then try again.',
};

// --- The copy of the inbox -------------------------------------------------------------------------------

/** What a page knows that has read nothing. An `epoch` of null means: read the inbox afresh. */
const nothing = () => ({ epoch: null, seq: 0, unread: 0, unseen: 0, next: null, floor: 0, items: new Map() });

let inbox = nothing();

/** Read a page no older than what the socket has told already, so that neither undoes the other. */
async function readPage(cursor) {
  const query = new URLSearchParams({ limit: PAGE_SIZE, ...(cursor && { cursor }) });
  let page;
  do page = await call('GET', `/v1/inbox?${query}`); while (inbox.epoch !== null && page.seq < inbox.seq);
  return page;
}

async function loadFirst(signal) {
  const page = await readPage(null);
  if (signal.aborted) return;
  inbox = { ...nothing(), epoch: page.epoch, seq: page.seq };
  $('list').replaceChildren();
  takePage(page);
}

async function loadMore() {
  const reader = inbox;
  const page = await readPage(inbox.next);
  if (reader === inbox) takePage({ ...page, unread: inbox.unread, unseen: inbox.unseen });
}

function takePage(page) {
  inbox.next = page.next;
  inbox.floor = page.next ? page.items.at(-1).created_seq : 0;
  merge(page.items);
  setCounts(page);
}

/** Take items in their latest state. Those older than the pages read so far come when they are asked for. */
function merge(items) {
  for (const item of items) {
    const known = inbox.items.get(item.id);
    if (known ? known.seq > item.seq : item.created_seq < inbox.floor) continue;
    if (item.deleted_at || item.archived_at) {
      inbox.items.delete(item.id);
      if (known) removeRow(known.row);
    } else {
      const row = known?.row ?? insertRow(item);
      inbox.items.set(item.id, { ...item, row });
      paintRow(row, item);
    }
  }
  showSummary(inbox);
}

function setCounts({ unread = inbox.unread, unseen = inbox.unseen }) {
  Object.assign(inbox, { unread, unseen });
  showSummary(inbox);
}

/** How the messages that take a number of the log change the copy. */
const CHANGES = {
  notification: (message) => merge([message.notification]),
  changed: (message) => merge(message.items),
  read({ seq, up_to }) {
    const read_at = new Date().toISOString();
    const meant = (item) => item.created_seq <= up_to && item.seq < seq && !item.read_at;
    merge([...inbox.items.values()].filter(meant).map((item) => ({ ...item, seq, read_at })));
  },
};

// --- The socket ------------------------------------------------------------------------------------------

const connection = { socket: null, live: false, failures: 0, renewed: false, acked: 0, seen: 0, flush: null };
let running = null; // Aborted when the user signs out.
let wake = () => {}; // Ends the wait for the next attempt.

function receive(message) {
  if (message.type in CHANGES) {
    if (message.seq <= inbox.seq) return;
    const before = inbox.seq;
    inbox.seq = message.seq;
    CHANGES[message.type](message);
    const told = message.items ?? [message.notification];
    announce(told.map((item) => inbox.items.get(item?.id)).filter((item) => item?.created_seq > before));
  }
  setCounts(message);
  SIGNALS[message.type]?.(message);
  scheduleFlush();
}

/** What the other messages ask for. */
const SIGNALS = {
  hello: ({ sub }) => { $('user').textContent = sub; },
  live({ seq }) {
    inbox.seq = seq;
    Object.assign(connection, { live: true, failures: 0, renewed: false });
    showConnection('live');
  },
  // The log cannot be resumed from here. The loop below reads the inbox, and connects from where that stands.
  reset() {
    inbox.epoch = null;
    connection.socket.close(1000);
  },
  // Half of what is left is soon enough, and keeps tokens that live for less than the notice from being
  // renewed without a pause. Where this fails the socket ends with 4001, and the loop says why.
  token_expiring({ expires_at }) {
    const left = Date.parse(expires_at) - Date.now();
    setTimeout(() => refresh().then(authenticate, () => {}), Math.min(Math.max(left / 2, 1_000), 30_000));
  },
  error: ({ code, detail }) => console.warn(`${code}: ${detail}`),
};

const authenticate = () => command({ type: 'auth', token: accessToken() });

function command(message) {
  if (connection.socket?.readyState === WebSocket.OPEN) connection.socket.send(JSON.stringify(message));
}

function scheduleFlush() {
  connection.flush ??= setTimeout(flush, FLUSH_DELAY);
}

/** Tell what this page has applied, and what the user has had before their eyes. */
function flush() {
  connection.flush = null;
  if (!connection.live) return;
  const { seq, unseen } = inbox;
  if (seq > connection.acked) command({ type: 'ack', seq });
  connection.acked = seq;
  if (unseen && seq > connection.seen && document.visibilityState === 'visible') {
    command({ type: 'seen', up_to: seq });
    connection.seen = seq;
  }
}

/** Hold one socket until it ends, and return how it ended. */
function converse(signal) {
  const url = new URL(`/v1/ws?${new URLSearchParams({ since: inbox.seq, epoch: inbox.epoch })}`, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  // A browser cannot send a header with a WebSocket; the token goes as a subprotocol, and so into no log.
  const socket = new WebSocket(url, ['notify.v1', `bearer.${accessToken()}`]);
  Object.assign(connection, { socket, live: false, acked: 0, seen: 0 });
  return new Promise((resolve) => {
    let silence = 75_000; // ms without a message after which the connection is taken for dead.
    let watch;
    const end = ({ code, reason }) => {
      clearTimeout(watch);
      socket.onmessage = socket.onclose = signal.onabort = null;
      socket.close(1000);
      connection.live = false;
      resolve({ code, reason });
    };
    const rewatch = () => {
      clearTimeout(watch);
      watch = setTimeout(end, silence, { code: 1006, reason: '' });
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.heartbeat) silence = message.heartbeat * 2_000 + 5_000;
      rewatch();
      receive(message);
    };
    socket.onclose = end;
    signal.onabort = () => end({ code: 1000, reason: '' });
    rewatch();
  });
}

/** Wait for a random part of a time that doubles with each failure, or until there is reason to try at once. */
function pause() {
  const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** connection.failures++);
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, Math.random() * longest);
  });
}

/** Keep the page connected until the user signs out, or the session ends: then throw SignedOut. */
async function stayConnected(signal) {
  while (!signal.aborted) {
    let ended = { code: 1006, reason: '' };
    let trouble;
    try {
      if (inbox.epoch === null) await loadFirst(signal);
      if (signal.aborted) return;
      ended = await converse(signal);
      if (ended.code === 4001) {
        await renewOnce(ended.reason);
        continue;
      }
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      trouble = error.message;
    }
    if (!signal.aborted) await beforeNextAttempt(ended.code, trouble);
  }
}

/** The socket was refused: a new token helps once. Throws SignedOut with the reason when it does not. */
async function renewOnce(reason) {
  const over = new SignedOut(REASONS[reason] ?? REASONS.invalid_token);
  if (connection.renewed) throw over;
  await refresh().catch((error) => { throw error instanceof SignedOut ? over : error; });
  connection.renewed = true;
}

async function beforeNextAttempt(code, trouble) {
  if (code in STOPS) {
    showConnection('stopped', STOPS[code]);
    await new Promise((resolve) => { wake = resolve; });
    showConnection('connecting');
  } else {
    // A gateway that restarts is back at once, as a rule: the first failure is not worth an alarm.
    showConnection(connection.failures ? 'offline' : 'connecting', trouble);
    await pause();
  }
}

/** The user looks at the page again, or the network is back. */
function onReturn() {
  if (document.visibilityState !== 'visible') return;
  if ($('connection').dataset.state !== 'stopped') wake();
  scheduleFlush();
}

// --- What the user does ----------------------------------------------------------------------------------

/** Run what the user asked for, and say what went wrong. */
async function attempt(work) {
  const mine = running;
  try {
    await work();
  } catch (error) {
    if (mine !== running) return;
    if (error instanceof SignedOut) leave(error.message);
    else toast(error.message);
  }
}

/** Apply a change that the gateway has made. The socket tells it too; this works while there is no socket. */
async function apply(change) {
  const reader = inbox;
  const item = await change;
  if (reader === inbox) merge([item]);
}

const patch = (id, fields) => apply(call('PATCH', `/v1/inbox/${id}`, fields));

const ACTIONS = {
  read: (row, item) => patch(item.id, { read: !item.read_at }),
  async archive(row, item) {
    await patch(item.id, { archived: true });
    toast('Archived.', () => attempt(() => patch(item.id, { archived: false })));
  },
  async delete(row, item, button) {
    const question = part(button, 'confirm');
    if (question.hidden) {
      // Deleting cannot be undone, so it takes a second press while the question stands.
      question.hidden = false;
      button.setAttribute('aria-label', `Press again to delete: ${item.title}`);
      setTimeout(() => { question.hidden = true; paintRow(row, inbox.items.get(item.id) ?? item); }, CONFIRM_TIME);
      return;
    }
    await apply(call('DELETE', `/v1/inbox/${item.id}`).then(() => ({ ...item, deleted_at: true })));
    toast('Deleted.');
  },
};

function onListClick({ target }) {
  const row = target.closest('.item');
  const item = inbox.items.get(row?.dataset.id);
  if (!item) return;
  const button = target.closest('[data-action]');
  if (button) attempt(() => ACTIONS[button.dataset.action](row, item, button));
  // Whoever follows the link has read the notification.
  else if (target.closest('a') && !item.read_at) attempt(() => patch(item.id, { read: true }));
}

const readAll = () => call('POST', '/v1/inbox/read', { up_to: inbox.seq });

async function onSignIn(event) {
  event.preventDefault();
  const { username, password } = event.target.elements;
  $('sign-in-button').disabled = true;
  showSignInError('');
  try {
    await signIn(username.value, password.value);
    password.value = '';
    enter();
  } catch (error) {
    showSignInError(error.message);
    password.select();
  } finally {
    $('sign-in-button').disabled = false;
  }
}

function enter() {
  showInbox();
  showConnection('connecting');
  showSummary(inbox);
  const mine = new AbortController();
  running = mine;
  stayConnected(mine.signal).catch((error) => { if (mine === running) leave(error.message); });
}

/** Forget everything of this user, and show the sign-in with the reason. */
function leave(reason) {
  running?.abort();
  running = null;
  forget();
  inbox = nothing();
  Object.assign(connection, { failures: 0, renewed: false });
  showSignIn(reason);
}

$('sign-in-form').addEventListener('submit', onSignIn);
$('sign-out').addEventListener('click', () => { signOut(); leave(); });
$('reconnect').addEventListener('click', () => wake());
$('list').addEventListener('click', onListClick);
$('more').addEventListener('click', () => attempt(loadMore));
$('read-all').addEventListener('click', () => attempt(readAll));
window.addEventListener('online', onReturn);
document.addEventListener('visibilitychange', onReturn);

if (isSignedIn()) enter();
else leave();
