// Calls to the gateway in the name of the user. The token is held here and nowhere else: it goes into a header or a
// subprotocol, never into a URL, a storage, a message to another tab or an error.

import { advise, failedToken, noToken, refusedToken } from './advice.js';
import { Backoff } from './backoff.js';
/** @import { Ended, Options, Platform } from './types.d.ts' */

const REQUEST_TIME = 30_000; // ms for an answer
const LEAST_WAIT = 1_000; // ms before a request that came too soon is sent again
const PATIENCE = 60_000; // ms that one may wait in all
const LOOK_TIME = 5_000; // ms in which a gateway that is there says so
const TOKEN = /^(?![<"{[])[!-~]+$/; // What can go into a header, and is neither HTML nor JSON.

/** A request failed. `status` 0 means that no answer came. */
export class Failed extends Error {
  /** @param {string} code @param {string} detail @param {number} status @param {number} retryAfter in ms */
  constructor(code, detail, status = 0, retryAfter = 0) {
    super(detail);
    this.name = 'Failed';
    this.code = code;
    this.detail = detail;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The session is over; `code` says why. */
export class SignedOut extends Failed {
  constructor(code) {
    super(code, 'Please sign in again.', 401);
    this.name = 'SignedOut';
  }
}

/** Make an error of an answer that is none of the good ones. Another server than a gateway may have sent any JSON. */
export async function failure(response) {
  const said = await response.json().catch(() => null);
  const { code, detail } = typeof said?.code === 'string' && typeof said.detail === 'string' ? said : /** @type {any} */ ({});
  const seconds = Number(response.headers.get('Retry-After')) || 0;
  const words = detail ?? `The gateway answered ${response.status}.`;
  return new Failed(code ?? (response.status === 404 ? 'not_a_gateway' : 'failed'), words, response.status, seconds * 1_000);
}

/** Take a body for JSON, or for the token itself. @param {string} text */
function readToken(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Whom a token names, to tell users apart on this machine. What it proves, only the gateway can say. */
function holderOf(token) {
  try {
    const { iss, sub } = JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
    return typeof sub === 'string' ? `${iss ?? ''} ${sub}` : null;
  } catch {
    return null;
  }
}

export class Gateway {
  /** @type {string | null} */
  token = null;
  /** Whom the tokens name; null where they do not tell. @type {string | null} */
  holder = null;
  #getToken;
  #platform;
  /** @type {Promise<string> | null} */
  #asking = null;

  /** @param {URL} url @param {Options['getToken']} getToken @param {Platform} platform */
  constructor(url, getToken, platform) {
    this.url = url;
    this.#getToken = getToken;
    this.#platform = platform;
  }

  /**
   * Ask the application for a token, once for all who ask at the same time. Throws Failed, or SignedOut.
   * @param {'start' | 'expiring' | 'rejected'} why
   */
  ask(why) {
    this.#asking ??= this.#askFor(why).finally(() => { this.#asking = null; });
    return this.#asking;
  }

  async #askFor(why) {
    /** @type {any} */
    let given;
    try {
      given = await this.#getToken(why);
      if (given instanceof Response && given.ok) given = readToken(await given.text());
    } catch (error) {
      throw this.#noToken(failedToken(error));
    }
    if (given instanceof Response) {
      if (given.status !== 401) throw this.#noToken(refusedToken(given));
      given = null;
    }
    if (given === undefined) this.advise('getToken returned undefined, which means null: no user is signed in.');
    if ((given ?? null) === null) {
      if (why === 'start') this.advise('getToken returned null or a 401: no user is signed in.', 'info');
      throw new SignedOut('missing_token');
    }
    const read = typeof given === 'object' ? given.token ?? given.access_token : given;
    const token = typeof read === 'string' ? read.trim() : '';
    if (token.startsWith('ngk_')) {
      this.advise('getToken returned an API key: it must never reach a browser. Mint a token for the user.');
      throw new Failed('api_key', 'The application gave an API key instead of a token.');
    }
    if (!TOKEN.test(token)) throw this.#noToken(noToken(given, typeof read === 'string' ? token : read));
    const holder = holderOf(token);
    if (why !== 'start' && holder !== this.holder) throw new SignedOut('user_changed');
    Object.assign(this, { token, holder });
    return token;
  }

  /** Tell the developer, once. @param {string} text @param {'warn' | 'info'} [level] */
  advise(text, level) { advise(this.#platform.console, text, level); }

  #noToken(text) {
    this.advise(text);
    return new Failed('no_token', 'The application could not get a token.');
  }

  /**
   * Get another token than one that was refused. Throws Failed, or SignedOut with the reason of the refusal.
   * @param {string | null | undefined} refused @param {string} reason
   */
  async renew(refused, reason) {
    if (this.token !== refused) return;
    const token = await this.ask('rejected').catch((error) => {
      throw error.code === 'missing_token' ? new SignedOut(reason) : error;
    });
    if (token !== refused) return;
    this.advise(`${this.url.origin} refused the token that getToken returned, and getToken returned it again: ${reason}.`
      + ' Mint a token for the user with this gateway at each call.');
    throw new SignedOut(reason);
  }

  /** Forget the token. */
  forget() {
    this.token = this.holder = null;
  }

  /**
   * Call, and return the answer. A token that is refused is replaced, once; a request that came too soon (429) waits
   * as long as the gateway says, and is sent again. Throws Failed, or SignedOut.
   * `tagged` has the tag that a write must match, if any, and is given the tag of the answer.
   * @param {string} method @param {string} path
   * @param {{ body?: object, signal?: AbortSignal, tagged?: { tag: string | null } }} options
   * @returns {Promise<any>}
   */
  async call(method, path, options = {}, mayRenew = true, patience = PATIENCE) {
    const { body, signal, tagged } = options;
    const token = this.token;
    if (!token) throw new Failed('missing_token', 'Nobody is signed in.');
    const headers = { Authorization: `Bearer ${token}` };
    if (body) headers['Content-Type'] = 'application/json';
    if (body && tagged?.tag) headers['If-Match'] = tagged.tag;
    const late = AbortSignal.timeout(REQUEST_TIME);
    const response = await this.#platform.fetch(new URL(path, this.url), {
      method, headers, body: body && JSON.stringify(body), cache: 'no-store',
      // What a click on a link says outlives the page that the link leaves.
      keepalive: Boolean(body),
      signal: signal ? AbortSignal.any([signal, late]) : late,
    }).catch(() => {
      throw new Failed('unreachable', 'There is no connection.');
    });
    if (response.status === 401) {
      const { code } = await failure(response);
      if (!mayRenew) throw new SignedOut(code);
      await this.renew(token, code);
      return this.call(method, path, options, false, patience);
    }
    if (!response.ok) {
      const failed = await failure(response);
      // Those that were refused together do not come back together.
      const ms = Math.max(failed.retryAfter, LEAST_WAIT) * (1 + this.#platform.random());
      if (failed.status !== 429 || ms > patience) throw failed;
      await new Backoff(this.#platform).wait(ms, signal ?? new AbortController().signal);
      return this.call(method, path, options, mayRenew, patience - ms);
    }
    if (tagged) tagged.tag = response.headers.get('ETag');
    // Some good answers have no body.
    return response.json().catch(() => ({}));
  }

  /** Whether the gateway answers at all. */
  answers(path = 'healthz') {
    const signal = AbortSignal.timeout(LOOK_TIME);
    return this.#platform.fetch(new URL(path, this.url), { cache: 'no-store', signal }).then(({ ok }) => ok, () => false);
  }

  /**
   * Tell the developer why there was no connection, and return the code of the problem. The SDK is served to the pages
   * of every origin, all else only to those that are allowed.
   * @param {Ended} ended
   */
  async explain({ why = 'unreachable', status = 0 }) {
    const page = globalThis.location?.origin;
    const { href, origin, pathname } = this.url;
    if (why !== 'unreachable') {
      if (why === 'not_a_gateway' || status === 404) {
        const todo = /\/v1\//.test(pathname) ? 'url ends before /v1' : 'set url to the address of one';
        this.advise(`${href} is not a gateway: ${todo}.`);
        return 'not_a_gateway';
      }
    } else if (page && !await this.answers()) {
      if (page !== origin && await this.answers('sdk/package.json')) {
        this.advise(`${origin} does not allow pages of ${page}: add ${page} to its GATEWAY_ALLOWED_ORIGINS.`);
        return 'origin_not_allowed';
      }
      this.advise(`${href} cannot be reached, or is not a gateway: start the gateway, or set url to its address (http:// or https://). `
        + 'A content security policy needs it in connect-src.');
    }
    return why;
  }
}
