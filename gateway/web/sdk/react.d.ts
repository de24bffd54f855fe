/// <reference path="./frameworks.d.ts" />
import type { Item, NotificationClient, Problem, State } from './notifications.d.ts';

/** What a client has, at one moment: a new object after each change, and the same one until then. */
export interface Notifications {
  /** The loaded part of the inbox, newest first. */
  readonly items: readonly Item[];
  /** Nothing older is left to load. */
  readonly complete: boolean;
  readonly loading: boolean;
  readonly unread: number;
  readonly unseen: number;
  readonly state: State;
  readonly problem: Problem | null;
  /** When the next attempt is made, in ms since 1970, while offline. */
  readonly retryAt: number | null;
}

/**
 * The inbox and the connection of a client, current. Where a server renders, and without a client, it is empty and `idle`.
 *
 * A client that is `idle` is started by its first hook and stopped after its last; one that you have started is yours
 * to stop. All hooks of one client share its connection. Pass the same client each time, not one made while rendering.
 */
export function useNotifications(client: NotificationClient | null | undefined): Notifications;

/** The number of unread notifications, else as `useNotifications`. A component with it is drawn anew only when that changes. */
export function useUnreadCount(client: NotificationClient | null | undefined): number;
