// The headless client of the Notification Gateway: a user's inbox, kept current, for any page and any framework.
//
// One tab of a user holds the connection, and tells the others what comes (tabs.js); each keeps a copy of the inbox
// (replica.js) and tells its page by events. Commands go to the gateway by the connection where this tab holds it, and
// as requests of its own else; what they change is shown at once, and taken back where it is refused.

import { Commands } from './commands.js';
import { Connection, WRONG } from './connection.js';
import { isTold } from './envelope.js';
import { Failed, Gateway, SignedOut } from './gateway.js';
import { browser, home } from './platform.js';
import { Position } from './position.js';
import { Replica } from './replica.js';
import { Tabs } from './tabs.js';
/** @import { Envelope, Filter, Message, Options, Page, Platform, Status, View } from './types.d.ts' */

const UNDEFINED_ELEMENTS = ':is(notification-bell, notification-inbox, notification-toasts, notification-preferences):not(:defined)';
const DEFINED_WITHIN = 3_000; // ms from the start of a client

export class NotificationClient extends EventTarget {
  #options;
  /** @type {Platform} */
  #platform;
  #gateway;
  #inbox = new Replica();
  #commands;
  #connection;
  #tabs;
  /** The user and the gateway, which tabs share; null where the token does not tell. @type {string | null} */
  #identity = null;
  /** @type {Position | null} */
  #position = null;
  /** Aborted when the client stops. @type {AbortController | null} */
  #running = null;
  /** Aborted when this tab no longer leads. @type {AbortController | null} */
  #term = null;
  /** Aborted when the page is not listened to any more. @type {AbortController | null} */
  #left = null;
  /** @type {Status} */
  #status = { state: 'idle', problem: null, retryAt: null };
  #counts = { unread: 0, unseen: 0 };
  /** @type {string | null} */
  #sub = null;
  #loading = 0;
  /** @type {Promise<void> | null} */
  #extending = null;
  #joined = false;
  /** The tag of the preferences that were read last. @type {{ tag: string | null }} */
  #tagged = { tag: null };
  // Whether the leader has not answered yet.
  #asked = false;

  /** @param {Options} options */
  constructor({
    getToken, url = home(), carrier = 'subprotocol', transport = 'auto', encoding = 'json', share = true, pageSize = 50,
    platform,
  } = /** @type {any} */ ({})) {
    super();
    if (typeof getToken !== 'function') throw new TypeError('getToken: a function that returns an access token is required');
    const base = new URL(url, globalThis.location?.href);
    // Of "localhost:8000" the parser takes the host for a scheme, and "127.0.0.1:8000" for a path of the page.
    if (!/^https?:$/.test(base.protocol) || /^[\w.-]+:\d/.test(String(url))) {
      throw new TypeError(`url: ${url} does not begin with http:// or https://`);
    }
    base.pathname = base.pathname.replace(/\/*$/, '/');
    this.#options = { carrier, transport, encoding, share, pageSize };
    this.#platform = { ...browser(), ...platform };
    this.#gateway = new Gateway(base, getToken, this.#platform);
    this.#commands = new Commands(this.#gateway, this.#inbox, {
      request: async (command) => this.leader && this.#connection.request(command),
      show: (view) => this.#show(view),
      refused: ({ code, detail }) => this.#dispatch('error', { code, detail }),
    });
    this.#connection = new Connection(this.#gateway, this.#inbox, this.#platform, this.#options, {
      load: (signal) => this.#load(signal),
      message: (message, missed) => this.#tell(message, missed),
      status: (status) => this.#announce(status),
    });
    this.#tabs = new Tabs(this.#platform, {
      lead: () => this.#lead(),
      lose: () => this.#lose(),
      silent: () => this.#greet(true),
      told: (envelope) => this.#hears[envelope.kind]?.(envelope),
    });
  }

  get state() { return this.#status.state; }
  get problem() { return this.#status.problem; }
  get retryAt() { return this.#status.retryAt; }
  get sub() { return this.#sub; }
  get seq() { return this.#inbox.seq; }
  get epoch() { return this.#inbox.epoch; }
  get unread() { return this.#counts.unread; }
  get unseen() { return this.#counts.unseen; }
  get items() { return this.#inbox.items; }
  get complete() { return this.#inbox.epoch !== null && this.#inbox.next === null; }
  get loading() { return this.#loading > 0; }
  get leader() { return this.#term !== null; }

  // --- Starting and stopping --------------------------------------------------------------------------------

  /** Connect, and stay connected. Where it runs already, nothing happens. */
  start() {
    if (this.#running) return;
    const running = new AbortController();
    this.#running = running;
    this.#become({ state: 'connecting' });
    this.#lookForElements();
    this.#begin(running.signal).catch((error) => this.#fail(running, error));
  }

  /** Tell the developer where elements stand on the page that nobody has defined: they show nothing. */
  #lookForElements() {
    const { document } = globalThis;
    if (!document) return;
    setTimeout(() => {
      const found = document.querySelector(UNDEFINED_ELEMENTS);
      if (found) this.#gateway.advise(`<${found.localName}> is not defined: import sdk/components, not sdk/notifications.`);
    }, DEFINED_WITHIN);
  }

  /** @param {AbortSignal} signal */
  async #begin(signal) {
    const before = this.#gateway.holder;
    await this.#connection.identify(signal);
    if (signal.aborted) return;
    const { holder, url } = this.#gateway;
    // A token that does not tell may be anybody's.
    if (holder === null || (before !== null && holder !== before)) this.#show(this.#inbox.clear());
    this.#identity = holder && `${url} ${holder}`;
    this.#position = this.#identity === null ? null : new Position(this.#platform.storage, this.#identity);
    this.#listen();
    this.#join();
  }

  /** Stop; what is here stays to be seen, and `start` goes on from it. */
  stop() {
    if (this.#running) this.#halt({ state: 'idle' });
  }

  /** Forget this user: in every tab, and the stored position. The application ends the token. */
  signOut() {
    this.#tabs.post('signout');
    this.#leaveForGood();
  }

  #leaveForGood() {
    this.#position?.forget();
    this.#leave('signed_out');
  }

  /** Try now, while offline or stopped. */
  retry() {
    if (this.state === 'stopped' && !this.#running) this.start();
    else this.#wake(true);
  }

  #halt(status) {
    this.#running?.abort();
    this.#running = null;
    this.#suspend();
    this.#left?.abort();
    this.#become(status);
  }

  /** @param {string} code why */
  #leave(code) {
    if (this.state === 'signedout') return;
    this.#halt({ state: 'signedout', problem: { code, detail: 'Please sign in again.' } });
    this.#gateway.forget();
    this.#sub = null;
    this.#show(this.#inbox.clear());
    this.#dispatch('signedout', { code });
  }

  #fail(running, error) {
    if (running.signal.aborted) return;
    if (error instanceof SignedOut) this.#leave(error.code);
    else {
      this.#halt({ state: 'stopped', problem: { code: 'internal_error', detail: String(error.message) } });
      throw error;
    }
  }

  // --- This tab among the others ----------------------------------------------------------------------------

  #listen() {
    const { window, document } = this.#platform;
    this.#left = new AbortController();
    const { signal } = this.#left;
    const on = (target, kind, act) => target?.addEventListener(kind, act, { signal });
    // A frozen page runs nothing. What it would hold, the others would wait for.
    on(window, 'pagehide', () => this.#suspend());
    on(document, 'freeze', () => this.#suspend());
    on(window, 'pageshow', () => this.#join());
    on(document, 'resume', () => this.#join());
    on(window, 'online', () => this.#wake());
    on(window, 'offline', () => this.#wake());
    on(document, 'visibilitychange', () => {
      const visible = this.#platform.isVisible();
      this.#greet(visible);
      if (visible) this.#wake();
    });
  }

  #join() {
    if (this.#joined) return;
    this.#joined = true;
    this.#tabs.join(this.#options.share ? this.#identity : null);
    if (!this.leader) this.#greet(true);
  }

  #suspend() {
    this.#joined = false;
    this.#term?.abort();
    this.#term = null;
    this.#tabs.leave();
  }

  #lead() {
    const running = this.#running;
    const term = new AbortController();
    this.#term = term;
    this.#tabs.post('lead');
    this.#connection.run(term.signal).catch((error) => this.#fail(running, error));
  }

  #lose() {
    this.#term?.abort();
    this.#term = null;
    this.#greet(true);
  }

  /** Say to the others that this tab is here; `asks`: the leader is to say how things stand. */
  #greet(asks) {
    if (!this.#joined) return;
    const { epoch, seq } = this.#inbox;
    this.#asked = asks && !this.leader;
    this.#tabs.greet(this.#asked ? { epoch, seq } : null);
  }

  /** Tell the others how things stand, and all that is here where they are to take it. */
  #stand(whole, first = '') {
    const snapshot = whole && this.#inbox.epoch !== null ? this.#inbox.snapshot() : null;
    this.#tabs.post('state', { snapshot, status: this.#status, sub: this.#sub, first });
  }

  #wake(force = false) {
    if (this.leader || !this.#joined) this.#connection.wake(force);
    else this.#tabs.post('wake', { force });
  }

  /**
   * What the other tabs tell. Only a leader is asked, and only a follower is told how things are.
   * @type {Record<string, (envelope: Envelope) => void>}
   */
  #hears = {
    here: ({ position }) => {
      const { epoch, seq } = this.#inbox;
      if (this.leader && position) this.#stand(position.epoch !== epoch || position.seq !== seq);
    },
    lead: () => this.#greet(true),
    wake: ({ force }) => this.leader && this.#connection.wake(force === true),
    signout: () => this.#leaveForGood(),
    status: (told) => this.#follow(told),
    state: (told) => this.#follow(told),
    message: (told) => this.#take(told),
  };

  /** Take what the leader tells, in the order in which it does. @param {Envelope} told */
  #take({ epoch, prev, message, missed, first }) {
    if (this.leader) return;
    const isNext = epoch === this.#inbox.epoch && prev <= this.#inbox.seq;
    // The last words of a leader that is gone may come after the first of the next one. Without a number they are old.
    if (isNext && message.type === 'seen' && prev < this.#inbox.seq) return;
    // Where something was not heard, the leader is asked, once.
    if (isNext) this.#apply(message, missed, first === this.#tabs.id);
    else if (!this.#asked) this.#greet(true);
  }

  /** Be where the leader is. @param {Envelope} told */
  #follow({ kind, snapshot, status, sub, first }) {
    if (this.leader) return;
    if (kind === 'state') this.#asked = false;
    this.#sub = sub;
    if (snapshot && (snapshot.epoch !== this.#inbox.epoch || snapshot.seq > this.#inbox.seq)) {
      this.#show(this.#inbox.restore(snapshot), true, first === this.#tabs.id);
    }
    this.#become(/** @type {Status} */ (status));
  }

  // --- What comes -------------------------------------------------------------------------------------------

  async #load(signal) {
    const page = await this.#read({}, signal);
    if (signal.aborted) return;
    const kept = this.#position?.read();
    const since = this.#inbox.isNew && kept?.epoch === page.epoch ? kept.seq : page.seq;
    const first = this.#tabs.first();
    const view = this.#inbox.load(page, since);
    this.#stand(true, first);
    this.#show(view, true, first === this.#tabs.id);
    this.#keep(page.epoch);
  }

  /** Tell the other tabs, then take it oneself. */
  #tell(message, missed) {
    if (message.sub) this.#sub = message.sub;
    if (!isTold(message)) return;
    const first = this.#tabs.first();
    const { epoch, seq: prev } = this.#inbox;
    this.#tabs.post('message', { epoch, prev, message, missed, first });
    this.#apply(message, missed, first === this.#tabs.id);
    this.#keep(epoch);
  }

  /** Keep the position, unless whoever was told has ended it. */
  #keep(epoch) {
    if (epoch === this.#inbox.epoch) this.#position?.keep(epoch, this.#inbox.seq);
  }

  #apply(message, missed, first) {
    const view = this.#inbox.apply(message);
    if (view) this.#show(view, missed, first, message.alert !== false);
    if (message.type === 'preferences') this.#dispatch('preferences', { preferences: message.preferences });
  }

  /** Tell the page of a change of the view. @param {View} view */
  #show({ news, readUpTo, ...change }, missed = false, first = true, alert = true) {
    if (change.reset || change.added.length || change.changed.length || change.removed.length || readUpTo) {
      this.#dispatch('items', readUpTo ? { ...change, readUpTo } : change);
    }
    const { unread, unseen } = this.#inbox.counts;
    if (unread !== this.#counts.unread || unseen !== this.#counts.unseen) {
      this.#counts = { unread, unseen };
      this.#dispatch('counts', { unread, unseen });
    }
    for (const item of news) this.#dispatch('notification', { item, missed, first, alert });
  }

  /** @param {Partial<Status>} status */
  #announce(status) {
    this.#become(status);
    this.#tabs.post('status', { status: this.#status, sub: this.#sub });
  }

  /** @param {Partial<Status>} status */
  #become({ state = 'idle', problem = null, retryAt = null }) {
    const { state: was, problem: why, retryAt: when } = this.#status;
    if (state === was && problem?.code === why?.code && retryAt === when) return;
    this.#status = { state, problem, retryAt };
    this.#dispatch('state', this.#status);
  }

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // --- What the page asks for -------------------------------------------------------------------------------

  /**
   * Load the next older page into `items`, once the first one is here. Rejects with an Error that has a `code`, also
   * where there is no first page and none is on its way.
   */
  loadMore() {
    this.#extending ??= this.#extend().finally(() => { this.#extending = null; });
    return this.#extending;
  }

  async #extend() {
    await this.#begun();
    const { next } = this.#inbox;
    if (!next) return;
    const page = await this.#guarded(() => this.#read({ cursor: next }));
    // A view that has begun anew meanwhile has another end.
    if (next === this.#inbox.next && this.epoch === page.epoch) this.#show(this.#inbox.extend(page));
  }

  /** Wait for the first page, while something is being done to get it. Throws Failed. */
  async #begun() {
    const waiting = new AbortController();
    await /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
      const look = () => {
        const { code = 'stopped', detail = 'The client is not running.' } = this.problem ?? {};
        if (this.epoch !== null) resolve();
        else if (['idle', 'stopped', 'signedout'].includes(this.state)) reject(new Failed(code, detail));
      };
      for (const type of ['items', 'state']) this.addEventListener(type, look, { signal: waiting.signal });
      look();
    })).finally(() => waiting.abort());
  }

  /** Read a filtered view. It is not kept: `items` events tell what becomes of it. */
  /** @param {Filter} filter */
  async query(filter = {}) {
    const { items, next } = await this.#guarded(() => this.#read(filter));
    return { items: this.#inbox.overlaid(items), next };
  }

  /** @param {Filter} filter @param {AbortSignal} [signal] @returns {Promise<Page>} */
  async #read({ unread, archived, snoozed, category, cursor, limit = this.#options.pageSize }, signal) {
    const fields = { limit, unread, archived, snoozed, category, cursor };
    const given = Object.entries(fields).filter(([, value]) => (value ?? null) !== null);
    const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
    this.#loading += 1;
    this.#dispatch('loading', { loading: true });
    try {
      return await this.#inbox.reading(async () => {
        const page = await this.#gateway.call('GET', `v1/inbox?${query}`, { signal });
        if (!page.epoch) throw new Failed('not_a_gateway', WRONG.not_a_gateway);
        return page;
      });
    } finally {
      this.#loading -= 1;
      this.#dispatch('loading', { loading: this.loading });
    }
  }

  /** @param {string | string[] | { upTo: number }} what */
  read(what) { return this.#guarded(() => this.#commands.read(what)); }

  unreadAgain(ids) { return this.#guarded(() => this.#commands.unread(ids)); }

  archive(ids, archived = true) { return this.#guarded(() => this.#commands.archive(ids, archived)); }

  delete(ids) { return this.#guarded(() => this.#commands.delete(ids)); }

  /** @param {string | number | Date | null} until */
  snooze(ids, until) { return this.#guarded(() => this.#commands.snooze(ids, until)); }

  /** Answer an item by one of its actions. */
  act(id, action, text) { return this.#guarded(() => this.#commands.act(id, action, text)); }

  /** Read a page of what is snoozed, soonest first. @param {Filter} filter */
  listSnoozed(filter = {}) { return this.query({ ...filter, snoozed: true }); }

  preferences() { return this.#exchange('GET'); }

  /** Replace the preferences. Where they were changed since they were read here, they stay, and this rejects. */
  setPreferences(preferences) { return this.#exchange('PUT', preferences); }

  /** @param {string} method @param {object} [body] */
  #exchange(method, body) {
    return this.#guarded(() => this.#gateway.call(method, 'v1/inbox/preferences', { body, tagged: this.#tagged }));
  }

  /** Move the seen mark; without a number, to all that is here. */
  async seen(upTo = Math.max(this.seq, this.items[0]?.created_seq ?? 0)) {
    if (this.unseen) await this.#guarded(() => this.#commands.seen(upTo));
  }

  async #guarded(work) {
    const running = this.#running;
    try {
      return await work();
    } catch (error) {
      if (error instanceof SignedOut && running === this.#running) this.#leave(error.code);
      throw error;
    }
  }
}
