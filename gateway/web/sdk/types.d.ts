// What the modules of the client hand to each other.
import type { Item, Status } from './notifications.d.ts';

export type { Filter, Item, Options, Platform, Status } from './notifications.d.ts';

export interface Counts {
  seq: number;
  unread: number;
  unseen: number;
}

export interface Page {
  items: Item[];
  next: string | null;
  seq: number;
  epoch: string;
  unread: number;
  unseen: number;
}

/** A change of the log, as the gateway tells it (docs/protocol.md). */
export type Told =
  | { type: 'notification'; seq: number; notification: Item }
  | { type: 'changed'; seq: number; items: Item[] }
  | { type: 'read'; seq: number; up_to: number };

export type Message = { [field: string]: any; type: string } & Partial<Counts>;

/** A change of the view, and the items that this client has not had. */
export interface View {
  added: Item[];
  changed: Item[];
  removed: Item[];
  reset: boolean;
  news: Item[];
  readUpTo?: number;
}

/** What the user has done to the items with these ids, or to all up to a number. */
export interface Operation {
  field?: 'read_at' | 'archived_at' | 'deleted_at' | 'snoozed_until' | 'answer';
  value?: string | object | null;
  ids?: Set<string>;
  upTo?: number;
  seenUpTo?: number;
  /** As they were when it began. */
  seqs?: Map<string, number>;
  countedAt?: number;
}

export interface Snapshot {
  epoch: string | null;
  seq: number;
  next: string | null;
  floor: number;
  counts: Counts;
  items: Item[];
  untold?: number[];
}

/** How a connection ended: a close code, and what is known of the reason. */
export interface Ended {
  code?: number;
  reason?: string;
  detail?: string;
  /** The code of what failed, and the status of its answer. */
  why?: string;
  status?: number;
  /** Whether it was a connection at all. */
  opened?: boolean;
  retryAfter?: number;
  stream?: boolean;
}

export interface Envelope {
  [field: string]: any;
  kind: string;
  from: string;
  status?: Status;
}
