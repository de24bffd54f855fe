/** A button of a notification: with `reply` it takes a text, with `url` it leads there. */
export interface Action {
  readonly id: string;
  readonly label: string;
  readonly style?: 'primary' | 'default' | 'danger';
  readonly url?: string | null;
  readonly reply?: boolean;
}

/** How the user has answered: by which action, with which text. */
export interface Answer {
  readonly action: string;
  readonly text: string | null;
  readonly at: string;
}

/**
 * One notification in one inbox. A deleted one keeps its id, its two numbers, `deleted_at` and `deleted_reason`; the rest
 * is null.
 */
export interface Item {
  readonly id: string;
  /** Where it entered the log: its order in the inbox. */
  readonly created_seq: number;
  /** Its last change. */
  readonly seq: number;
  readonly title: string | null;
  readonly body: string | null;
  readonly category: string | null;
  readonly priority: 'low' | 'normal' | 'high' | 'urgent' | null;
  readonly url: string | null;
  readonly data: Readonly<Record<string, unknown>> | null;
  /** Times are RFC 3339 in UTC. */
  readonly created_at: string | null;
  /** The address of an image. */
  readonly icon: string | null;
  readonly actions: readonly Action[] | null;
  /** When it is removed. */
  readonly expires_at: string | null;
  /** When its sender last changed it. */
  readonly edited_at: string | null;
  readonly read_at: string | null;
  readonly archived_at: string | null;
  readonly deleted_at: string | null;
  /** Until then it is not in the inbox. */
  readonly snoozed_until: string | null;
  readonly answer: Answer | null;
  readonly deleted_reason: 'user' | 'unsent' | 'expired' | 'replaced' | 'retention' | null;
}

/**
 * `idle`: not started, or stopped by the page. `connecting`: on the way; what is here may be old. `live`: current.
 * `offline`: trying again at `retryAt`. `stopped`: the gateway asked for that; `retry()` tries again.
 * `signedout`: the user must sign in again; then `start()`.
 */
export type State = 'idle' | 'connecting' | 'live' | 'offline' | 'stopped' | 'signedout';

/**
 * Why it is stopped, signed out or offline. `code` is one of docs/errors.md, or `unreachable`, `no_token`, `closed`,
 * `signed_out`, `user_changed`, `origin_not_allowed`, `not_a_gateway`. What is wrong with the set-up stands in the console.
 */
export interface Problem {
  readonly code: string;
  readonly detail: string;
}

export interface Status {
  readonly state: State;
  readonly problem: Problem | null;
  readonly retryAt: number | null;
}

export type Token = string | { readonly token: string } | { readonly access_token: string };

export interface Options {
  /**
   * Return an access token with the scope `inbox`: as a string, in an object as token endpoints return it, or as the
   * `Response` of `fetch`. Null, or a response with 401, means that no user is signed in. The client calls it at the start,
   * before the token expires, and after the token was refused. After a rejected promise, or another status, the client
   * tries again later.
   */
  getToken: (why: 'start' | 'expiring' | 'rejected') => Token | Response | null | Promise<Token | Response | null>;
  /** The gateway. Required with a bundler; the default is the address that this module was loaded from. */
  url?: string | URL;
  /** How the token goes to the connection. Default: `subprotocol`. */
  carrier?: 'subprotocol' | 'ticket';
  /** Default: `auto`, which uses the stream if a WebSocket cannot be opened. */
  transport?: 'auto' | 'websocket' | 'stream';
  /** How a WebSocket carries the messages. Default: `json`. The stream, and a gateway without MessagePack, speak JSON. */
  encoding?: 'json' | 'msgpack';
  /** One connection for all tabs of this user. Default: true. */
  share?: boolean;
  /** How many items a page has, 1 to 200. Default: 50. */
  pageSize?: number;
  /** Replacements for the browser's own functions; for tests. */
  platform?: Partial<Platform>;
}

export interface Filter {
  unread?: boolean;
  archived?: boolean;
  /** Soonest first. */
  snoozed?: boolean;
  category?: string;
  /** The `next` of the page before. */
  cursor?: string | null;
  limit?: number;
}

export type Day = 'mon' | 'tue' | 'wed' | 'thu' | 'fri' | 'sat' | 'sun';

/** A time of days in which nothing alerts. `from` after `until` goes on over midnight. */
export interface QuietHours {
  readonly days: readonly Day[];
  /** Such as `22:00`. */
  readonly from: string;
  readonly until: string;
}

/** What a user wants to be told of, and when. */
export interface Preferences {
  readonly categories: Readonly<Record<string, { readonly muted: boolean }>>;
  /** An IANA time zone, in which the quiet hours are. */
  readonly timezone: string | null;
  readonly quiet_hours: readonly QuietHours[];
  readonly quiet_until: string | null;
}

/** What happened to the view `items`. `changed` also names items outside of it, which a filtered view may hold. */
export interface Change {
  readonly added: readonly Item[];
  readonly changed: readonly Item[];
  readonly removed: readonly Item[];
  /** The view has begun anew; `added` is all of it. */
  readonly reset: boolean;
  /** Every item with a `created_seq` up to this was read; of those in `items`, `changed` has them. */
  readonly readUpTo?: number;
}

export interface Events {
  state: Status;
  counts: { readonly unread: number; readonly unseen: number };
  items: Change;
  /**
   * An item this client has not had, or one that has entered again; it may have been read elsewhere since. Where `alert`
   * is false, the user has quiet hours: no toast, no sound.
   */
  notification: { readonly item: Item; readonly missed: boolean; readonly first: boolean; readonly alert: boolean };
  /** The user has changed the preferences elsewhere. */
  preferences: { readonly preferences: Preferences };
  loading: { readonly loading: boolean };
  signedout: { readonly code: string };
  /** A command was refused, and is not shown any more. */
  error: Problem;
}

/** What a refused or failed call rejects with. */
export interface CallError extends Error {
  readonly code: string;
  readonly detail: string;
  /** Of the gateway's answer; 0 where none came. */
  readonly status: number;
}

export class NotificationClient extends EventTarget {
  constructor(options: Options);
  /** Connect, and stay connected. */
  start(): void;
  /** Stop. What is here stays to be seen, and `start` goes on from it. */
  stop(): void;
  /** Forget this user here: in every tab, and the stored position. It is the application that ends the token. */
  signOut(): void;
  /** Try now, while offline or stopped. */
  retry(): void;
  readonly state: State;
  readonly problem: Problem | null;
  /** When the next attempt is made, in ms since 1970, while offline. */
  readonly retryAt: number | null;
  readonly sub: string | null;
  /** The position: the number of the last change that was applied. */
  readonly seq: number;
  readonly epoch: string | null;
  readonly unread: number;
  readonly unseen: number;
  /** Whether this tab holds the connection. */
  readonly leader: boolean;
  /** The loaded part of the default inbox, newest first. A new array after each change. */
  readonly items: readonly Item[];
  /** Nothing older is left to load. */
  readonly complete: boolean;
  readonly loading: boolean;
  /** Load the next older page into `items`, once the first one is here. Rejects with CallError: also where it does not come. */
  loadMore(): Promise<void>;
  /** Read a page of a filtered view. Rejects with CallError. */
  query(filter: Filter): Promise<{ items: Item[]; next: string | null }>;
  /** The commands show their effect at once; where they are refused they take it back, and reject with CallError. */
  read(what: string | readonly string[] | { upTo: number }): Promise<void>;
  unreadAgain(ids: string | readonly string[]): Promise<void>;
  archive(ids: string | readonly string[], archived?: boolean): Promise<void>;
  delete(ids: string | readonly string[]): Promise<void>;
  /** Take items out of the inbox until a time, 1 minute to 366 days ahead, or with null have them back as they were. */
  snooze(ids: string | readonly string[], until: string | number | Date | null): Promise<void>;
  /** Answer by one of the item's actions, once; `text` where the action has `reply`. */
  act(id: string, action: string, text?: string): Promise<void>;
  /** Read a page of what is snoozed, soonest first. Rejects with CallError. */
  listSnoozed(filter?: Filter): Promise<{ items: Item[]; next: string | null }>;
  preferences(): Promise<Preferences>;
  /**
   * Replace the preferences, and return them. Rejects with CallError: also where they were changed since this client read
   * them, with the `status` 412.
   */
  setPreferences(preferences: Preferences): Promise<Preferences>;
  /** Move the seen mark; without a number, to all that is here. */
  seen(upTo?: number): Promise<void>;
  addEventListener<K extends keyof Events>(
    type: K,
    listener: ((event: CustomEvent<Events[K]>) => void) | { handleEvent(event: CustomEvent<Events[K]>): void } | null,
    options?: AddEventListenerOptions | boolean,
  ): void;
  removeEventListener<K extends keyof Events>(
    type: K,
    listener: ((event: CustomEvent<Events[K]>) => void) | { handleEvent(event: CustomEvent<Events[K]>): void } | null,
    options?: EventListenerOptions | boolean,
  ): void;
}

/** What the client asks of the browser. */
export interface Platform {
  WebSocket: typeof WebSocket | undefined;
  fetch: typeof fetch;
  storage: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'> | null;
  locks: Pick<LockManager, 'request'> | undefined;
  BroadcastChannel: typeof BroadcastChannel | undefined;
  setTimeout: (act: () => void, ms: number) => unknown;
  clearTimeout: (timer: unknown) => void;
  /** ms since 1970 */
  now: () => number;
  random: () => number;
  isVisible: () => boolean;
  isOffline: () => boolean;
  console: (Pick<Console, 'warn'> & Partial<Pick<Console, 'info'>>) | undefined;
  window: EventTarget | undefined;
  document: EventTarget | undefined;
}
