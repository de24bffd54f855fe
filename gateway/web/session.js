// Who is signed in, and calls to the gateway in their name. Nothing here touches the document.

/** The path that the gateway is mounted at, with a slash at its end. */
export const HOME = new URL('.', import.meta.url).pathname;

// Several gateways may share an origin, each at a path of its own.
const STORED = HOME === '/' ? 'notify.tokens' : `notify.tokens ${HOME}`;

export const REASONS = {
  token_expired: 'Your session has expired. Please sign in again.',
  token_revoked: 'Your session was ended. Please sign in again.',
  invalid_token: 'Your session is no longer valid. Please sign in again.',
};

/** The session is over: only signing in again helps. The message is for the user. */
export class SignedOut extends Error {}

/** A request failed. The message is for the user; status 0 means that no answer came; `errors` are those of fields. */
export class Failed extends Error {
  constructor(message, status = 0, code = '', errors = []) {
    super(message);
    Object.assign(this, { status, code, errors });
  }
}

// The tab keeps the tokens for as long as it lives, and nothing of them outlives it.
let tokens = JSON.parse(sessionStorage.getItem(STORED));
let refreshing = null;

export const isSignedIn = () => tokens !== null;
export const accessToken = () => tokens?.access_token;

async function keep(answer) {
  // An answer without a refresh token means: go on with the one you have (RFC 6749, section 6).
  const { refresh_token, session = randomName(), key = randomKey() } = tokens ?? {};
  store({ refresh_token, ...answer, session, key, obtained: Date.now() });
  await tell(tokens);
}

function store(fresh) {
  tokens = fresh;
  sessionStorage.setItem(STORED, JSON.stringify(tokens));
}

const random = (bytes) => crypto.getRandomValues(new Uint8Array(bytes));
const randomName = () => random(16).join('-');
const randomKey = () => [...random(32)];

// A tab that was duplicated has a copy of the tokens, and a refresh token is good once: used again later by the
// other tab, it would end the session of both. So tabs of one session tell each other that there is something new,
// and one that begins, or was closed and is opened again, asks.
//
// Every page of the origin hears what is said here. The tokens are sealed, with a key that only the tabs of the session
// have: it was made at the sign-in, it is copied with the tab, and it is never said.
const siblings = new BroadcastChannel(STORED);
const sealing = crypto.subtle; // Missing on http, but for this machine: there each tab keeps to itself.
let opening = null; // What a sibling said last, until it is opened.

const sealer = ({ key }) => sealing.importKey('raw', Uint8Array.from(key), 'AES-GCM', false, ['encrypt', 'decrypt']);
const bound = (iv, { session, obtained }) => (
  { name: 'AES-GCM', iv, additionalData: new TextEncoder().encode(`${session} ${obtained}`) }
);

async function tell(news) {
  if (!sealing || !news.key) return;
  const iv = random(12);
  const { session, obtained } = news;
  const text = new TextEncoder().encode(JSON.stringify(news));
  const sealed = await sealing.encrypt(bound(iv, news), await sealer(news), text);
  siblings.postMessage({ session, obtained, iv, sealed });
}

async function open(news) {
  const { iv, sealed } = news;
  const text = await sealing.decrypt(bound(iv, news), await sealer(tokens), sealed);
  const fresh = JSON.parse(new TextDecoder().decode(text));
  if (tokens?.session === fresh.session && fresh.obtained > tokens.obtained) store(fresh);
}

siblings.onmessage = ({ data }) => {
  if (!sealing || !tokens?.key || data?.session !== tokens.session) return;
  if (!data.sealed) tell(tokens);
  // What cannot be opened was not sealed by a sibling.
  else if (data.obtained > tokens.obtained) opening = open(data).catch(() => {});
};
if (tokens) siblings.postMessage({ session: tokens.session });

/** Do something while no other tab does it, where the browser has locks: on https, and on this machine. */
const alone = (act) => (navigator.locks ? navigator.locks.request(STORED, act) : act());

export function forget() {
  tokens = null;
  sessionStorage.removeItem(STORED);
}

async function send(path, options) {
  const response = await fetch(HOME + path.slice(1), options).catch(() => {
    throw new Failed('The gateway cannot be reached. Check your connection and try again.');
  });
  const answer = await response.json().catch(() => ({})); // Some good answers have no body.
  if (response.ok) return answer;
  const words = answer.detail ?? answer.error_description ?? `The gateway answered ${response.status}.`;
  throw new Failed(words, response.status, answer.code ?? answer.error, answer.errors);
}

const form = (path, fields, options) => send(path, { method: 'POST', body: new URLSearchParams(fields), ...options });

/** Sign in. Throws Failed. */
export async function signIn(username, password) {
  const answer = await form('/v1/auth/token', { grant_type: 'password', username, password });
  tokens = null; // A new session, with a name and a key of its own.
  await keep(answer);
}

/** Sign in by the code of a link, which is good once. Throws Failed. */
export async function signInByCode(code) {
  const answer = await form('/demo/session', { code });
  tokens = null;
  await keep(answer);
}

/** Forget the tokens at once and end their session; should the gateway not hear of it, they expire. */
export function signOut() {
  const token = tokens?.refresh_token ?? tokens?.access_token;
  forget();
  if (token) form('/v1/auth/revoke', { token }, { keepalive: true }).catch(() => {});
}

/** Replace the access token, once for all who ask at the same time. Throws Failed, or SignedOut. */
export function refresh() {
  refreshing ??= renew().finally(() => { refreshing = null; });
  return refreshing;
}

/** Return another access token than the one that was refused or ends, and get one where there is none. Throws as above. */
export async function accessTokenAfter(refused) {
  const { access_token, obtained, expires_in } = tokens;
  // Another tab, or another client of this one, may have replaced it already. That one may have ended since, too.
  if (access_token === refused || Date.now() >= obtained + expires_in * 1_000) await refresh();
  return accessToken();
}

async function renew() {
  const { access_token } = tokens ?? {};
  await alone(async () => {
    // Another tab may have been faster.
    await opening;
    if (tokens && tokens.access_token === access_token) await exchange(tokens);
  });
}

async function exchange({ refresh_token, session }) {
  if (!refresh_token) throw new SignedOut(REASONS.token_expired);
  const answer = await form('/v1/auth/token', { grant_type: 'refresh_token', refresh_token }).catch((error) => {
    throw [400, 401].includes(error.status) ? new SignedOut(REASONS.token_expired) : error;
  });
  if (tokens?.session !== session) throw new SignedOut(''); // The user signed out meanwhile.
  // Without locks another tab may have been told the same successor, and have said so already.
  if (tokens.refresh_token === refresh_token) await keep(answer);
}

/**
 * Call the gateway as the user and return its answer. An access token that has just ended is replaced, once.
 * Throws Failed, or SignedOut.
 */
export async function call(method, path, body, mayRefresh = true) {
  const headers = { Authorization: `Bearer ${accessToken()}` };
  if (body) headers['Content-Type'] = 'application/json';
  try {
    return await send(path, { method, headers, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.status !== 401) throw error;
    if (!mayRefresh) throw new SignedOut(REASONS[error.code] ?? error.message);
  }
  await refresh();
  return call(method, path, body, false);
}
