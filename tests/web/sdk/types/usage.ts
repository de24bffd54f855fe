// What a page in TypeScript may write, and what it may not.

// @ts-types="../../../../gateway/web/sdk/notifications.d.ts"
import { NotificationClient } from '../../../../gateway/web/sdk/notifications.js';
import type { Action, CallError, Item, Options, Preferences, State } from '../../../../gateway/web/sdk/notifications.d.ts';

const client = new NotificationClient({
  getToken: async (why) => (why === 'rejected' ? null : 'token'),
  url: new URL('https://notify.example.com'),
  carrier: 'ticket',
  transport: 'stream',
  encoding: 'msgpack',
  share: false,
  pageSize: 20,
});

client.addEventListener('notification', ({ detail: { item, missed, first, alert } }) => {
  const title: string | null = item.title;
  const flags: boolean[] = [missed, first, alert];
  console.log(title, flags);
}, { once: true });
client.addEventListener('state', (event) => {
  const state: State = event.detail.state;
  const code: string | undefined = event.detail.problem?.code;
  console.log(state, code);
});
client.addEventListener('items', ({ detail: { added, readUpTo = 0 } }) => {
  console.log(added.map(({ created_seq }) => created_seq - readUpTo));
});
client.addEventListener('counts', ({ detail }) => console.log(detail.unread - detail.unseen));
client.addEventListener('signedout', ({ detail }) => console.log(detail.code.length));

client.start();
await client.loadMore();
await client.read({ upTo: client.seq });
await client.read(['a', 'b']);
await client.archive('a', false);
await client.seen();
const page: { items: Item[]; next: string | null } = await client.query({ unread: true, cursor: null });
await client.delete(page.items.map(({ id }) => id)).catch((error: CallError) => console.log(error.code));
await client.snooze(['a', 'b'], new Date());
await client.snooze('a', null);
const [action]: readonly Action[] = page.items[0].actions ?? [];
await client.act('a', action.id, action.reply ? 'Thanks' : undefined);
const snoozed: { items: Item[]; next: string | null } = await client.listSnoozed({ limit: 10 });
const preferences: Preferences = await client.preferences();
await client.setPreferences({ ...preferences, quiet_until: snoozed.items[0].snoozed_until })
  .catch((error: CallError) => console.log(error.status === 412));
client.addEventListener('preferences', ({ detail }) => console.log(detail.preferences.quiet_hours[0]?.days));
client.retry();
client.signOut();
client.stop();

const minimal: Options = { getToken: () => null };
new NotificationClient(minimal);

// @ts-expect-error: a token is never an option
new NotificationClient({ token: 'token' });
// @ts-expect-error: there is no such carrier
new NotificationClient({ getToken: () => null, carrier: 'cookie' });
// @ts-expect-error: a number is no token
new NotificationClient({ getToken: () => 1 });
// @ts-expect-error: there is no such event
client.addEventListener('notifications', () => {});
// @ts-expect-error: items are not to be changed
client.items[0].title = 'mine';
// @ts-expect-error: the list is not to be changed
client.items.push(page.items[0]);
// @ts-expect-error: the state is not to be set
client.state = 'live';
// @ts-expect-error: there is no such day
await client.setPreferences({ ...preferences, quiet_hours: [{ days: ['monday'], from: '22:00', until: '07:00' }] });
// @ts-expect-error: until when, or null
await client.snooze('a');
// @ts-expect-error: up to a number
await client.read({ upTo: 'all' });
// @ts-expect-error: the title may be absent
page.items[0].title.length;
