// Hooks for React 18 and later. Rendering opens no connection, so they may run where a server renders.

import { useSyncExternalStore } from 'react';

const KINDS = ['items', 'counts', 'state', 'loading'];
const FIELDS = ['items', 'complete', 'loading', 'unread', 'unseen', 'state', 'problem', 'retryAt'];
const NOTHING = Object.freeze({
  items: Object.freeze([]), complete: false, loading: false, unread: 0, unseen: 0, state: 'idle', problem: null, retryAt: null,
});
const ABSENT = { subscribe: () => () => {}, read: () => NOTHING, count: () => 0 };

/** What all hooks of one client share. @type {WeakMap<object, Shared>} */
const shared = new WeakMap();

/** One client as React reads it: it runs while a component uses it. */
class Shared {
  #client;
  #snapshot = NOTHING;
  /** @type {Set<() => void>} */
  #components = new Set();
  // Whether it was started here. What the application has started is the application's to stop.
  #started = false;
  #settling = false;

  constructor(client) {
    this.#client = client;
  }

  subscribe = (changed) => {
    if (!this.#components.size) for (const kind of KINDS) this.#client.addEventListener(kind, this.#tell);
    this.#components.add(changed);
    this.#settle();
    return () => {
      this.#components.delete(changed);
      if (!this.#components.size) for (const kind of KINDS) this.#client.removeEventListener(kind, this.#tell);
      this.#settle();
    };
  };

  /** The same object until something changes, as React asks for. */
  read = () => {
    const client = this.#client;
    if (FIELDS.some((field) => client[field] !== this.#snapshot[field])) {
      this.#snapshot = Object.freeze(Object.fromEntries(FIELDS.map((field) => [field, client[field]])));
    }
    return this.#snapshot;
  };

  count = () => this.#client.unread;

  #tell = () => {
    // What it has been since the application stopped it, or the user signed out, is the application's doing.
    if (['idle', 'signedout'].includes(this.#client.state)) this.#started = false;
    for (const changed of [...this.#components]) changed();
  };

  /** Start or stop once React has committed: StrictMode takes a component away and brings it back at once. */
  #settle() {
    if (this.#settling) return;
    this.#settling = true;
    queueMicrotask(() => {
      this.#settling = false;
      if (this.#components.size) this.#start();
      else this.#stop();
    });
  }

  #start() {
    if (this.#started || this.#client.state !== 'idle') return;
    this.#started = true;
    this.#client.start();
  }

  #stop() {
    if (this.#started) this.#client.stop();
    this.#started = false;
  }
}

function of(client) {
  if (!client) return ABSENT;
  if (!shared.has(client)) shared.set(client, new Shared(client));
  return shared.get(client);
}

/** The inbox and the connection of a client, current; of none, an empty inbox. */
export function useNotifications(client) {
  const { subscribe, read } = of(client);
  return useSyncExternalStore(subscribe, read, ABSENT.read);
}

/** The number of unread notifications of a client, current; of none, 0. */
export function useUnreadCount(client) {
  const { subscribe, count } = of(client);
  return useSyncExternalStore(subscribe, count, ABSENT.count);
}
