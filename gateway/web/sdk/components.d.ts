/// <reference path="./frameworks.d.ts" />
import type { Item, NotificationClient } from './notifications.d.ts';

// @ts-types="./notifications.d.ts"
export { NotificationClient } from './notifications.js';

/** The forms of a text that counts, by the categories of the plural rules. `{count}` is filled in. */
export type Plural = { other: string } & Partial<Record<'zero' | 'one' | 'two' | 'few' | 'many', string>>;

/** The texts of the components. What stands in braces is filled in. */
export interface Texts {
  notifications: string; all: string; unread: string; snoozed: string; archived: string; category: string; anyCategory: string; general: string;
  markRead: string; markUnread: string; snooze: string; wakeNow: string; laterToday: string; tomorrow: string; nextWeek: string; pickTime: string; wrongTime: string; edited: string; actions: string; send: string; archive: string; unarchive: string; delete: string; deleteNow: string; deleteShort: string;
  markAllRead: string; undo: string; dismiss: string; close: string; back: string; moreActions: string; showAll: string; showArchived: string; showCategories: string; seeAll: string; tryNow: string; tryAgain: string; data: string; showMore: string; showLess: string;
  preferences: string; tellMe: string; quietHours: string; quietHint: string; addHours: string; quietFrom: string; quietTo: string;
  timeZone: string; quietUntil: string; wrongHours: string; noCategories: string; isPast: string; saved: string;
  /** `{time}` */
  until: string; snoozedNow: string;
  /** `{label}` */
  confirm: string; answeredBy: string;
  /** `{label}`, `{text}` */
  repliedBy: string;
  /** By the reason why it can no longer be sent. */
  replyLost: string | { other: string } & Partial<Record<'answered' | 'expired' | 'replaced' | 'unsent', string>>;
  /** `{text}` */
  youWrote: string;
  low: string; high: string; urgent: string; justNow: string; loading: string;
  emptyAll: string; emptyAllMore: string; emptyUnread: string; emptyUnreadMore: string; emptySnoozed: string; emptySnoozedMore: string; emptyArchived: string; emptyArchivedMore: string;
  /** `{category}` */
  emptyCategory: string;
  offline: string; unavailable: string;
  /** `{time}` */
  retryIn: string;
  retrying: string; stopped: string; signedOut: string; signedOutMore: string; failedToLoad: string;
  /** `{detail}` */
  failed: string;
  shortcuts: string; keyNext: string; keyPrevious: string; keyOpen: string; keyRead: string; keySnooze: string; keyArchive: string; keyDelete: string; keyHelp: string;
  archivedNow: string; unarchivedNow: string; deletedNow: string; noUndo: string;
  readNow: string | Plural; bellNew: string | Plural; arrived: string | Plural; more: string | Plural; newer: string | Plural;
  systemAsk: string; systemOn: string; systemHow: string; systemOff: string; systemDenied: string;
}

/** The texts of a locale, and what Intl makes of numbers and times in it. */
export interface Words {
  /** `count` chooses the form of a text that counts. */
  say(name: keyof Texts, values?: Record<string, string | number>): string;
  number(value: number): string;
  badge(value: number, most?: number): string;
  /** 0 is Monday. */
  weekday(day: number): string;
  seconds(value: number): string;
  /** Times are in ms since 1970. */
  dateTime(ms: number): string;
  moment(ms: number): string;
  ago(ms: number): string;
  /** Today, yesterday, tomorrow, or the date. */
  day(ms: number): string;
  /** The label of a category. */
  category(name: string): string;
}

/** Fired by all elements, and cancelable: whoever cancels it goes there by other means. */
export type NotificationOpenEvent = CustomEvent<{ item: Item }>;

interface NotificationElementEventMap extends HTMLElementEventMap {
  'notification-open': NotificationOpenEvent;
}

declare class NotificationElement extends HTMLElement {
  /** The client whose notifications are shown. */
  client: NotificationClient | null;
  /** Texts that replace the English ones, by their names. */
  texts: Partial<Texts>;
  /** Labels of categories, by their names. */
  categoryLabels: Record<string, string>;
  /** The language in use. */
  readonly locale: string;
  readonly words: Words;
  addEventListener<K extends keyof NotificationElementEventMap>(
    type: K, listener: (this: this, event: NotificationElementEventMap[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof NotificationElementEventMap>(
    type: K, listener: (this: this, event: NotificationElementEventMap[K]) => void, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}

/** `<notification-bell>`: the number of what is new, and the inbox behind it. */
export class NotificationBell extends NotificationElement {
  /** Whether the inbox is shown. */
  open: boolean;
}

/** `<notification-inbox>`: a user's notifications, and what can be done with them. */
export class NotificationInbox extends NotificationElement {}

/** `<notification-preferences>`: which categories a user is told of, and when nothing alerts. */
export class NotificationPreferences extends NotificationElement {}

/** `<notification-toasts>`: what has just come, shown for a moment in the one tab that is looked at. */
export class NotificationToasts extends NotificationElement {
  /** Take every toast away. */
  clear(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    'notification-bell': NotificationBell;
    'notification-inbox': NotificationInbox;
    'notification-preferences': NotificationPreferences;
    'notification-toasts': NotificationToasts;
  }
}
