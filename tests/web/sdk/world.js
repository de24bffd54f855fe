// A browser and a gateway in memory, driven step by step: what a test does not let happen does not happen.

import { NotificationClient } from '../../../gateway/web/sdk/notifications.js';

/** Let everything run that waits for nothing but its turn. */
export async function settle() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => { setImmediate(resolve); });
}

/** A token as the gateway makes them, as far as a client can read it. */
export function tokenOf(sub, number = 1) {
  return `head.${btoa(JSON.stringify({ iss: 'gateway', sub, number }))}.signature`;
}

export const gate = () => Promise.withResolvers();

class Clock {
  now = Date.parse('2026-01-01T00:00:00Z');
  #timers = new Map();
  #last = 0;

  set(act, ms) {
    this.#last += 1;
    this.#timers.set(this.#last, { act, at: this.now + ms });
    return this.#last;
  }

  clear(timer) {
    this.#timers.delete(timer);
  }

  get next() {
    return Math.min(...[...this.#timers.values()].map(({ at }) => at));
  }

  /** Move the time, and run what is due in its order. */
  async pass(ms) {
    const end = this.now + ms;
    await settle();
    while (this.next <= end) {
      const [timer, { act, at }] = [...this.#timers].sort(([, one], [, other]) => one.at - other.at)[0];
      this.#timers.delete(timer);
      this.now = Math.max(this.now, at);
      act();
      await settle();
    }
    this.now = end;
  }
}

/** The log of one user, and what the gateway says of it. */
export class Log {
  epoch = 'e1';
  seq = 0;
  seen = 0;
  items = new Map();
  messages = [];
  preferences = { categories: {}, timezone: null, quiet_hours: [], quiet_until: null };
  versions = 0;
  onmessage = () => {};

  post(title = 'Hello', fields = {}) {
    const id = `n${this.seq + 1}`;
    const item = {
      id, created_seq: this.seq + 1, title, body: null, category: 'default', priority: 'normal', url: null, data: null,
      created_at: '2026-01-01T00:00:00.000Z', icon: null, actions: null, expires_at: null, edited_at: null, read_at: null,
      archived_at: null, deleted_at: null, snoozed_until: null, answer: null, deleted_reason: null, ...fields,
    };
    this.#commit([item]);
    this.#tell({ type: 'notification', seq: this.seq, notification: this.items.get(id) });
    return id;
  }

  change(ids, fields, always = false) {
    const changes = (item) => always || Object.entries(fields).some(([name, value]) => (
      name === 'snoozed_until' ? item[name] !== value : !item[name] !== !value));
    const meant = [ids].flat().map((id) => this.items.get(id)).filter((item) => item && !item.deleted_at && changes(item));
    if (!meant.length) return;
    this.#commit(meant.map((item) => ({ ...item, ...fields })));
    this.#tell({ type: 'changed', seq: this.seq, items: meant.map(({ id }) => this.items.get(id)) });
  }

  /** The sender has changed it, or with `renotify` has it enter again. */
  edit(id, fields, renotify = false) {
    const item = { ...this.items.get(id), ...fields, edited_at: '2026-01-01T00:00:06.000Z' };
    if (renotify) this.#enter(item);
    else this.change(id, item, true);
  }

  /** Its sender, its time or its successor has taken it away. */
  withdraw(id, deleted_reason) { this.change(id, { ...GONE, deleted_at: '2026-01-01T00:00:07.000Z', deleted_reason }); }

  /** It is time for a snoozed one. */
  wake(id, fields = {}) { this.#enter({ ...this.items.get(id), snoozed_until: null }, fields); }

  #enter(item, fields) {
    this.#commit([{ ...item, created_seq: this.seq + 1, read_at: null, archived_at: null }]);
    this.#tell({ type: 'notification', seq: this.seq, notification: this.items.get(item.id), ...fields });
  }

  /** Answer an item, or return the status and the code of what is wrong. */
  answer(id, action, text = null) {
    const item = this.items.get(id);
    if (!item || item.deleted_at) return [404, 'not_found'];
    if (item.answer) return [409, 'already_answered'];
    const found = item.actions?.find((one) => one.id === action);
    if (!found) return [404, 'unknown_action'];
    if (Boolean(found.reply) !== (text !== null)) return [422, 'validation_error'];
    const at = '2026-01-01T00:00:08.000Z';
    this.change(id, { answer: { action, text, at }, read_at: item.read_at ?? at });
    return null;
  }

  prefer(preferences) {
    this.versions += 1;
    this.preferences = preferences;
    this.onmessage({ type: 'preferences', preferences });
  }

  readUpTo(upTo) {
    const meant = [...this.items.values()].filter((item) => item.created_seq <= upTo && !item.read_at && !item.snoozed_until);
    if (!meant.length) return;
    this.#commit(meant.map((item) => ({ ...item, read_at: '2026-01-01T00:00:01.000Z' })));
    this.#tell({ type: 'read', seq: this.seq, up_to: upTo });
  }

  see(upTo) {
    this.seen = Math.max(this.seen, upTo);
    this.onmessage({ type: 'seen', up_to: this.seen, unseen: this.counts.unseen });
  }

  #commit(items) {
    this.seq += 1;
    for (const item of items) this.items.set(item.id, { ...item, seq: this.seq });
  }

  #tell(message) {
    this.onmessage({ ...message, ...this.counts });
  }

  get counts() {
    const unread = [...this.items.values()].filter((item) => (
      !item.read_at && !item.archived_at && !item.deleted_at && !item.snoozed_until));
    return { unread: unread.length, unseen: unread.filter((item) => item.created_seq > this.seen).length };
  }

  hello(sub = 'ada') {
    const { epoch, seq, counts } = this;
    return { type: 'hello', sub, epoch, seq, ...counts, heartbeat: 30, expires_at: '2026-01-01T01:00:00.000Z' };
  }

  /** What a client that was at `since` is told: each item once, at its last change. */
  replay(since) {
    const bySeq = Map.groupBy([...this.items.values()].filter((item) => item.seq > since), (item) => item.seq);
    return [...bySeq].sort(([one], [other]) => one - other).map(([seq, items]) => (
      items.length === 1 && items[0].created_seq === seq
        ? { type: 'notification', seq, notification: items[0], ...this.counts }
        : { type: 'changed', seq, items, ...this.counts }
    ));
  }

  live() {
    return { type: 'live', seq: this.seq, ...this.counts };
  }

  page({ limit = 50, cursor, unread, archived, snoozed, category } = {}) {
    const isSnoozed = snoozed === 'true';
    const all = [...this.items.values()]
      .filter((item) => !item.deleted_at && Boolean(item.snoozed_until) === isSnoozed)
      .filter((item) => isSnoozed || Boolean(item.archived_at) === (archived === 'true'))
      .filter((item) => unread === undefined || Boolean(item.read_at) === (unread === 'false'))
      .filter((item) => category === undefined || item.category === category)
      .filter((item) => !cursor || item.created_seq < Number(cursor))
      .sort((one, other) => (isSnoozed
        ? Date.parse(one.snoozed_until) - Date.parse(other.snoozed_until) || one.created_seq - other.created_seq
        : other.created_seq - one.created_seq));
    const items = all.slice(0, Number(limit));
    const next = all.length > items.length ? String(items.at(-1).created_seq) : null;
    return { items, next, seq: this.seq, epoch: this.epoch, ...this.counts };
  }
}

// What the gateway takes as a parameter of a page. `tests/web/test_doubles.py` compares the two.
const PARAMETERS = {
  limit: /^0*(?:[1-9]\d?|1\d\d|200)$/, cursor: /^\d+$/, unread: /^(?:true|false)$/, archived: /^(?:true|false)$/,
  snoozed: /^(?:true|false)$/,
  category: /^[^\0]{1,64}$/,
};

const GONE = {
  title: null, body: null, category: null, priority: null, url: null, data: null, created_at: null, icon: null, actions: null,
  expires_at: null, edited_at: null, read_at: null, archived_at: null, snoozed_until: null, answer: null,
};
const FIELDS = {
  read: (read_at) => ({ read_at }),
  unread: () => ({ read_at: null }),
  archive: (archived_at) => ({ archived_at, snoozed_until: null }),
  delete: (deleted_at) => ({ ...GONE, deleted_at, deleted_reason: 'user' }),
  snooze: (_time, snoozed_until) => ({ snoozed_until }),
};

const answer = (body, status = 200, headers = {}) => (
  new Response(body === null ? null : JSON.stringify(body), { status, headers })
);
export const problem = (status, code, headers) => answer({ code, detail: `about ${code}` }, status, headers);

/** One socket as the gateway sees it. */
class Socket {
  readyState = 0;
  sent = [];

  constructor(url, protocols, tab) {
    const { world } = tab;
    this.tab = tab;
    this.url = new URL(url);
    this.protocols = protocols;
    this.world = world;
    world.sockets.push(this);
    world.onsocket(this);
  }

  get token() {
    return this.protocols.find((one) => one.startsWith('bearer.'))?.slice(7);
  }

  get since() {
    return Number(this.url.searchParams.get('since'));
  }

  open() {
    this.readyState = 1;
    this.onopen?.({});
    return this;
  }

  say(message) {
    if (this.readyState === 0) this.open();
    const data = JSON.stringify(message);
    this.tab.later(() => this.onmessage?.({ data }));
    return this;
  }

  /** Everything up to `live`, as a gateway says it. */
  resume(log = this.world.log) {
    this.say(log.hello());
    for (const message of log.replay(this.since)) this.say(message);
    return this.say(log.live());
  }

  /** The gateway, or the network, ends it. */
  end(code = 1006, reason = '') {
    if (code !== 1006 && this.readyState === 0) this.open();
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  send(text) {
    const command = JSON.parse(text);
    this.sent.push(command);
    this.world.oncommand(this, command);
  }

  close() {
    this.readyState = 3;
    this.closed = true;
  }
}

/** The locks of a browser (Web Locks API), for one name after another. */
class Locks {
  #held = new Map();
  #waiting = [];

  request(name, options, act) {
    return new Promise((resolve, reject) => {
      const request = { name, act, resolve, reject, tab: this.tab };
      const { signal, steal } = options;
      signal?.addEventListener('abort', () => {
        if (!this.#waiting.includes(request)) return;
        this.#waiting = this.#waiting.filter((one) => one !== request);
        reject(new DOMException('aborted', 'AbortError'));
      });
      if (steal) {
        this.#held.get(name)?.reject(new DOMException('stolen', 'AbortError'));
        this.#held.delete(name);
        this.#waiting.unshift(request);
      } else {
        this.#waiting.push(request);
      }
      queueMicrotask(() => this.#grant(name));
    });
  }

  #grant(name) {
    if (this.#held.has(name)) return;
    const request = this.#waiting.find((one) => one.name === name);
    if (!request) return;
    this.#waiting = this.#waiting.filter((one) => one !== request);
    this.#held.set(name, request);
    const done = Promise.resolve(request.act({ name }));
    const free = () => {
      if (this.#held.get(name) === request) this.#held.delete(name);
      this.#grant(name);
    };
    done.then(request.resolve, request.reject).finally(free);
  }

  /** What the browser does with the locks of a tab that is gone. */
  drop(tab) {
    this.#waiting = this.#waiting.filter((one) => one.tab !== tab);
    for (const [name, request] of this.#held) {
      if (request.tab !== tab) continue;
      this.#held.delete(name);
      this.#grant(name);
    }
  }

  of(tab) {
    return {
      request: (...all) => {
        this.tab = tab;
        const asked = this.request(...all);
        return new Promise((resolve, reject) => {
          asked.then((value) => tab.later(() => resolve(value)), (error) => tab.later(() => reject(error)));
        });
      },
    };
  }
}

/** The channels of a browser: what is posted arrives at the others later, in order. */
class Channels {
  heard = [];
  deaf = new Set();
  #open = new Set();

  of(tab) {
    const channels = this;
    return class {
      constructor(name) {
        this.name = name;
        this.tab = tab;
        channels.#open.add(this);
      }

      postMessage(data) {
        const copy = structuredClone(data);
        channels.heard.push(copy);
        for (const other of channels.#open) {
          if (other === this || other.name !== this.name) continue;
          setImmediate(() => {
            if (!channels.#open.has(other) || channels.deaf.has(other.tab)) return;
            (other.tab ?? Tab.prototype).later(() => other.onmessage?.({ data: copy }));
          });
        }
      }

      close() {
        channels.#open.delete(this);
      }
    };
  }

  drop(tab) {
    for (const one of this.#open) if (one.tab === tab) this.#open.delete(one);
  }
}

class Storage {
  kept = new Map();
  getItem(key) { return this.kept.get(key) ?? null; }
  setItem(key, value) { this.kept.set(key, value); }
  removeItem(key) { this.kept.delete(key); }
}

/** A tab: the client in it, and everything it has told the page. */
class Tab {
  events = [];
  asked = [];
  visible = true;
  offline = false;
  hung = null;
  window = new EventTarget();
  document = new EventTarget();

  constructor(world, { sub = 'ada', getToken, platform, ...options }) {
    const tab = this;
    this.world = world;
    this.getToken = getToken ?? (() => tokenOf(sub, this.asked.length));
    this.client = new NotificationClient({
      url: 'https://gateway.test/',
      ...options,
      getToken: (why) => {
        this.asked.push(why);
        return this.getToken(why);
      },
      platform: {
        WebSocket: class { constructor(url, protocols) { return new Socket(url, protocols, tab); } },
        fetch: (url, init) => world.fetch(url, init),
        storage: world.storage,
        locks: world.locks.of(this),
        BroadcastChannel: world.channels.of(this),
        setTimeout: (act, ms) => world.clock.set(() => this.later(() => this.dead || act()), ms),
        clearTimeout: (timer) => world.clock.clear(timer),
        now: () => world.clock.now,
        random: () => world.random,
        isVisible: () => this.visible,
        isOffline: () => this.offline,
        window: this.window,
        document: this.document,
        ...platform,
      },
    });
    for (const type of ['state', 'counts', 'items', 'notification', 'signedout', 'error', 'preferences']) {
      this.client.addEventListener(type, ({ detail }) => this.events.push({ type, ...detail }));
    }
  }

  get titles() { return this.client.items.map(({ title }) => title); }
  of(type) { return this.events.filter((event) => event.type === type); }
  get told() { return this.of('notification').map(({ item }) => item.title); }

  async start() {
    this.client.start();
    await settle();
    return this;
  }

  async show(visible) {
    this.visible = visible;
    this.document.dispatchEvent(new Event('visibilitychange'));
    await settle();
  }

  async freeze() {
    this.document.dispatchEvent(new Event('freeze'));
    await settle();
  }

  async thaw() {
    this.document.dispatchEvent(new Event('resume'));
    await settle();
  }

  later(act) {
    if (this.hung) this.hung.push(act);
    else act();
  }

  /** The tab runs nothing, and tells nobody: what is to run waits until it wakes. */
  hang() { this.hung = []; }

  async wake() {
    const { hung } = this;
    this.hung = null;
    for (const act of hung) act();
    await settle();
  }

  /** The tab is gone, without a word. */
  async die() {
    this.dead = true;
    this.world.channels.drop(this);
    this.world.sockets.filter((socket) => socket.tab === this).forEach((socket) => { socket.onmessage = null; });
    this.world.locks.drop(this);
    await settle();
  }
}

export class World {
  clock = new Clock();
  log = new Log();
  locks = new Locks();
  channels = new Channels();
  storage = new Storage();
  sockets = [];
  requests = [];
  /** A test may answer a request itself: by `METHOD path`, a function that returns a Response. */
  answers = {};
  random = 0.5;
  onsocket = () => {};
  oncommand = () => {};

  tab(options = {}) {
    return new Tab(this, options);
  }

  /** From here on sockets open and say what a gateway says, and what happens to the log is told on the last one. */
  serve() {
    this.onsocket = (socket) => setImmediate(() => socket.resume());
    this.oncommand = (socket, command) => setImmediate(() => {
      if (socket.readyState !== 1) return;
      const time = '2026-01-01T00:00:05.000Z';
      const { type, ref, ids, up_to, until, id, action, text } = command;
      if (type === 'ping') socket.say({ type: 'heartbeat', seq: this.log.seq, ...this.log.counts });
      else if (type === 'seen') this.log.see(up_to);
      else if (up_to !== undefined) this.log.readUpTo(up_to);
      else if (ids) this.log.change(ids, FIELDS[type](time, until));
      const refused = type === 'act' && this.log.answer(id, action, text)?.[1];
      if (refused) socket.say({ type: 'error', ref, code: refused, detail: `about ${refused}` });
      else if (ref) socket.say({ type: 'ok', ref });
    });
    this.log.onmessage = (message) => {
      for (const socket of this.sockets) if (socket.readyState === 1) socket.say(message);
    };
    return this;
  }

  get socket() { return this.sockets.at(-1); }

  async fetch(url, init = {}) {
    const { pathname: whole, searchParams } = new URL(url);
    const pathname = whole.replace(/^.*(?=\/v1\/|\/healthz)/, '');
    const { method = 'GET' } = init;
    const body = init.body && JSON.parse(init.body);
    const request = { ...init, method, path: pathname, query: Object.fromEntries(searchParams), body };
    this.requests.push(request);
    init.signal?.throwIfAborted();
    const own = this.answers[`${request.method} ${pathname}`];
    if (own) return own(request);
    return this.#answer(request);
  }

  #answer({ method, path, query, body, headers }) {
    const { log } = this;
    if (path === '/healthz') return answer({ status: 'ok' });
    if (path === '/v1/auth/ticket') return answer({ ticket: 'ticket-1', expires_in: 30 });
    if (method === 'GET' && path === '/v1/inbox') {
      const wrong = Object.entries(query).some(([name, value]) => PARAMETERS[name] && !PARAMETERS[name].test(value));
      const clashes = query.snoozed === 'true' && (query.archived === 'true' || query.unread !== undefined);
      return wrong || clashes ? problem(422, 'validation_error') : answer(log.page(query));
    }
    if (path === '/v1/inbox/read' && body.up_to !== undefined) log.readUpTo(body.up_to);
    else if (path === '/v1/inbox/read') log.change(body.ids, { read_at: '2026-01-01T00:00:02.000Z' });
    else if (path === '/v1/inbox/seen') log.see(body.up_to);
    if (path === '/v1/inbox/read' || path === '/v1/inbox/seen') return answer({ seq: log.seq, ...log.counts });
    if (path === '/v1/inbox/preferences') {
      const tag = () => ({ ETag: `"${log.versions}"` });
      if (method === 'GET') return answer(log.preferences, 200, tag());
      const match = headers['If-Match'];
      if (match && match !== tag().ETag) return problem(412, 'precondition_failed');
      log.prefer(body);
      return answer(log.preferences, 200, tag());
    }
    const [id, , action] = path.split('/').slice(3);
    if (!log.items.has(id)) return problem(404, 'not_found');
    if (method === 'DELETE') {
      log.change(id, FIELDS.delete('2026-01-01T00:00:03.000Z'));
      return answer(null, 204);
    }
    if (log.items.get(id).deleted_at) return problem(404, 'not_found');
    const refused = action && log.answer(id, action, body.text);
    if (refused) return problem(...refused);
    if (action || method === 'GET') return answer(log.items.get(id));
    const time = '2026-01-01T00:00:04.000Z';
    const fields = {};
    if (body.read !== undefined) fields.read_at = body.read ? time : null;
    if (body.archived !== undefined) fields.archived_at = body.archived ? time : null;
    if (body.snoozed_until !== undefined && body.archived !== undefined) return problem(422, 'validation_error');
    if (!Object.keys(body).length) return problem(422, 'validation_error');
    // In the time of the world, or in that of whoever compares.
    if (body.snoozed_until && Date.parse(body.snoozed_until) < this.clock.now) return problem(422, 'validation_error');
    if (body.snoozed_until !== undefined) fields.snoozed_until = body.snoozed_until;
    if (body.archived) fields.snoozed_until = null;
    log.change(id, fields);
    return answer(log.items.get(id));
  }
}

/** A tab that is live with some posts in its inbox. */
export async function liveTab({ posts = [], world = new World(), ...options } = {}) {
  for (const title of posts) world.log.post(title);
  world.serve();
  const tab = await world.tab(options).start();
  return { world, tab, client: tab.client, log: world.log };
}
