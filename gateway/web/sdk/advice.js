// What is wrong with how the client is set up, said to its developer: in the console, each once. No text of it has
// anything of a token, or of what the application said.

const said = new WeakMap();

/** @param {Pick<Console, 'warn'> | undefined} console @param {string} text what is wrong, and what to do */
export function advise(console, text) {
  if (!console) return;
  const texts = said.get(console) ?? new Set();
  said.set(console, texts);
  if (!texts.has(text)) console.warn(`Notifications: ${text}`);
  texts.add(text);
}

/** @type {[RegExp, string, string][]} */
const NO_TOKENS = [
  [/^$/, 'an empty text', 'return the token, or null when nobody is signed in'],
  [/^</, 'a page of HTML', 'check the address that it asks, and that the user is signed in there; look at answer.ok'],
  [/^["{[]/, 'JSON as a text', 'return answer.json() where it is { token } or { access_token }; look at answer.ok'],
];
/** @type {[RegExp, string, string]} */
const OTHER = [/./, 'a text that is no token', 'check the address that it asks; look at answer.ok'];

/** @type {Record<string, string>} */
const FAILURES = {
  SyntaxError: 'what it read is no JSON, such as a page of HTML: check the address that it asks, and answer.ok',
  TypeError: 'the address that it asks could not be reached, or its code has a mistake',
};

/** Say how getToken has failed, by the name of its error: the text of one may hold a token. @param {any} error */
export function failedToken(error) {
  const name = /^\w{1,32}$/.exec(error?.name ?? '')?.[0] ?? 'it threw, or its promise was rejected';
  return `getToken failed: ${FAILURES[name] ?? name}. It is asked again.`;
}

/** Say what getToken has returned instead of a token. @param {unknown} given @param {unknown} token */
export function noToken(given, token) {
  const [, what, todo] = typeof token === 'string' ? NO_TOKENS.find(([pattern]) => pattern.test(token)) ?? OTHER
    : [0, `a value of type ${typeof given} without a token`,
      'return a string, { token }, { access_token } or the Response of fetch, and look at what the path that it asks has answered'];
  return `getToken returned ${what}, not a token: ${todo}.`;
}
