// Setup problems of the client, for its developer: each once, in the console. No text contains a part of a token, or of
// a text of the application.

const said = new WeakMap();

/**
 * @param {import('./types.d.ts').Platform['console']} console @param {string} text what is wrong, and what to do
 * @param {'warn' | 'info'} level
 */
export function advise(console, text, level = 'warn') {
  if (!console) return;
  const texts = said.get(console) ?? new Set();
  said.set(console, texts);
  if (!texts.has(text)) console[level]?.(`Notifications: ${text}`);
  texts.add(text);
}

/** @type {[RegExp, string, string][]} */
const NO_TOKENS = [
  [/^$/, 'an empty string', 'return the token, or null if no user is signed in'],
  [/^</, 'an HTML page', 'check the address that it fetches, response.ok, and that the user is signed in there'],
  [/^["{[]/, 'JSON as a string', 'check response.ok, and return response.json()'],
  [/^(bearer|eyJ\S*)\s/i, 'a token with "Bearer", a space or a line break in it', 'return the token alone'],
];
/** @type {[RegExp, string, string]} */
const OTHER = [/./, 'another string', 'check the address that it fetches, and response.ok'];

/** @type {Record<string, string>} */
const FAILURES = {
  SyntaxError: 'the response is not JSON, but perhaps an HTML page: check the address that it fetches, and response.ok',
  TypeError: 'the address that it fetches could not be reached, or its code has a mistake',
};

/** Say how getToken has failed, by the name of its error: the text of one may hold a token. @param {any} error */
export function failedToken(error) {
  const name = /^\w{1,32}$/.exec(error?.name ?? '')?.[0] ?? 'it threw, or its promise was rejected';
  return `getToken failed: ${FAILURES[name] ?? name}. The client tries again.`;
}

/** Say that the path that getToken fetches has refused: its query may hold anything. @param {Response} response */
export function refusedToken({ url, status }) {
  return `getToken: ${url ? new URL(url).pathname : 'the address that it fetches'} returned ${status}: look at the response.`;
}

/** Say what getToken has returned instead of a token. @param {any} given @param {unknown} token */
export function noToken(given, token) {
  if (typeof token !== 'string') {
    // A long key could be a token.
    const keys = Object.keys(given).filter((key) => key.length < 20).join();
    const what = typeof given === 'object' ? `an object without a token, but {${keys}}` : `a ${typeof given}`;
    return `getToken returned ${what}: `
      + 'return a string, { token }, { access_token } or the Response of fetch, and check that response.';
  }
  const [, what, todo] = NO_TOKENS.find(([pattern]) => pattern.test(token)) ?? OTHER;
  return `getToken returned ${what}, not a token: ${todo}.`;
}
