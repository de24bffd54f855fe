// The entry of the web components: importing it defines <notification-bell>, <notification-inbox>,
// <notification-preferences> and <notification-toasts>. Each is given a client by its property `client`.

import { NotificationBell } from './notification-bell.js';
import { NotificationInbox } from './notification-inbox.js';
import { NotificationPreferences } from './notification-preferences.js';
import { NotificationToasts } from './notification-toasts.js';

export { NotificationClient } from './notifications.js';
export { NotificationBell, NotificationInbox, NotificationPreferences, NotificationToasts };

const ELEMENTS = {
  'notification-inbox': NotificationInbox,
  'notification-preferences': NotificationPreferences,
  'notification-bell': NotificationBell,
  'notification-toasts': NotificationToasts,
};

// A page may load two copies, of two versions; the first one stays.
for (const [name, element] of Object.entries(ELEMENTS)) {
  if (globalThis.customElements && !customElements.get(name)) customElements.define(name, element);
}
