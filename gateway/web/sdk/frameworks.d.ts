// The elements in the templates of React, Vue and Svelte. None of the three has to be installed: what is not found is
// ignored, line by line, and adds nothing.
import type { NotificationBell, NotificationInbox, NotificationOpenEvent, NotificationPreferences, NotificationToasts, Texts } from './components.d.ts';
import type { NotificationClient, Item } from './notifications.d.ts';

/** The attributes of all elements, and the properties that a framework sets by the same way. */
export interface NotificationElementAttributes {
  /** The client whose notifications are shown. */
  client?: NotificationClient | null;
  /** Texts that replace the English ones, by their names. */
  texts?: Partial<Texts>;
  /** Labels of categories, by their names. */
  categoryLabels?: Record<string, string>;
  /** A BCP 47 language tag. Default: the nearest `lang`, else English. */
  locale?: string;
  /** Default: the `color-scheme` of the page around it. */
  theme?: 'light' | 'dark' | 'system';
}

/** Present or absent. Only React 19 takes `false` for absent; elsewhere write `undefined`. */
type Flag = true | '';

export interface NotificationInboxAttributes<Off = never> extends NotificationElementAttributes {
  /** Show the `data` of a notification, to be opened. */
  'show-data'?: Flag | Off;
  /** Labels of categories, as a JSON object by their names. */
  'category-labels'?: string;
  /** Switch off the keys of one letter. */
  'no-shortcuts'?: Flag | Off;
}

export interface NotificationPreferencesAttributes extends NotificationElementAttributes {
  /** Labels of categories, as a JSON object by their names. */
  'category-labels'?: string;
}

export interface NotificationBellAttributes<Off = never> extends NotificationInboxAttributes<Off> {
  /** Whether the inbox is shown. */
  open?: boolean;
  /** Put the number of unread notifications before the title of the page. */
  'count-in-title'?: Flag | Off;
  /** The address of your page with the whole inbox. */
  'see-all'?: string;
}

export interface NotificationToastsAttributes<Off = never> extends NotificationElementAttributes {
  /** How many toasts are shown at once. */
  max?: number | `${number}`;
  /** The lowest priority that gets a toast. Default: `normal`. */
  'min-priority'?: NonNullable<Item['priority']>;
  /** The address of a sound. */
  sound?: string;
  /** Show toasts beside an inbox that is in view, too. */
  always?: Flag | Off;
}

type Opened = (event: NotificationOpenEvent) => void;

// @ts-ignore
type ReactProps<T, A> = import('react').DetailedHTMLProps<import('react').HTMLAttributes<T>, T> & A & { 'onnotification-open'?: Opened };

interface ReactElements {
  'notification-bell': ReactProps<NotificationBell, NotificationBellAttributes<false>>;
  'notification-inbox': ReactProps<NotificationInbox, NotificationInboxAttributes<false>>;
  'notification-preferences': ReactProps<NotificationPreferences, NotificationPreferencesAttributes>;
  'notification-toasts': ReactProps<NotificationToasts, NotificationToastsAttributes<false>>;
}

// Vue's compiler looks for what a template writes as `show-data` under `showData`.
type Camel<Name> = Name extends `${infer First}-${infer Rest}` ? `${First}${Capitalize<Camel<Rest> & string>}` : Name;
type VueAttributes<A> = { [Name in keyof A as Camel<Name> & string]: A[Name] } & { onNotificationOpen?: Opened };

// @ts-ignore
type VueElement<T, A> = new () => T & { $props: import('vue').HTMLAttributes & import('vue').PublicProps & VueAttributes<A> };

interface VueElements {
  'notification-bell': VueElement<NotificationBell, NotificationBellAttributes>;
  'notification-inbox': VueElement<NotificationInbox, NotificationInboxAttributes>;
  'notification-preferences': VueElement<NotificationPreferences, NotificationPreferencesAttributes>;
  'notification-toasts': VueElement<NotificationToasts, NotificationToastsAttributes>;
}

// @ts-ignore
type SvelteProps<T, A> = import('svelte/elements').HTMLAttributes<T> & A & { 'onnotification-open'?: Opened; 'on:notification-open'?: Opened };

interface SvelteElements {
  'notification-bell': SvelteProps<NotificationBell, NotificationBellAttributes>;
  'notification-inbox': SvelteProps<NotificationInbox, NotificationInboxAttributes>;
  'notification-preferences': SvelteProps<NotificationPreferences, NotificationPreferencesAttributes>;
  'notification-toasts': SvelteProps<NotificationToasts, NotificationToastsAttributes>;
}

// @ts-ignore
declare module 'react' {
  namespace JSX {
    interface IntrinsicElements extends ReactElements {}
  }
}

// @ts-ignore
declare module 'vue' {
  interface GlobalComponents extends VueElements {}
}

declare global {
  // Of React 18.
  namespace JSX {
    interface IntrinsicElements extends ReactElements {}
  }
  namespace svelteHTML {
    interface IntrinsicElements extends SvelteElements {}
  }
}
