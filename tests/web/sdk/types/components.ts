// What a page in TypeScript may write with the components, and what it may not.

// @ts-types="../../../../gateway/web/sdk/components.d.ts"
import { NotificationClient } from '../../../../gateway/web/sdk/components.js';
import type { NotificationOpenEvent, Texts } from '../../../../gateway/web/sdk/components.d.ts';

const client = new NotificationClient({ getToken: () => null });
const bell = document.createElement('notification-bell');
bell.client = client;
bell.open = !bell.open;
const texts: Partial<Texts> = { notifications: 'Neuigkeiten', more: { one: '{count} weitere', other: '{count} weitere' } };
bell.texts = texts;
bell.addEventListener('notification-open', (event) => {
  const title: string | null = event.detail.item.title;
  if (title) event.preventDefault();
});
document.querySelector('notification-toasts')?.clear();
const inbox = document.querySelector('notification-inbox');
inbox?.addEventListener('notification-open', (event: NotificationOpenEvent) => console.log(event.detail.item.url));
inbox?.addEventListener('click', ({ clientX }) => clientX.toFixed());
console.log(inbox?.words.say('more', { count: 2 }));

// @ts-expect-error: a token is never a property
bell.token = 'token';
// @ts-expect-error: there is no such text
bell.texts = { headline: 'Neuigkeiten' };
// @ts-expect-error: a text that counts has a form for the rest
bell.texts = { more: { one: 'eine' } };
// @ts-expect-error: not every text counts
bell.texts = { undo: { other: 'Zurück' } };
