// What a page in React may write, and what it may not. It is checked and never run.

import { useRef } from 'react';
import type { NotificationBell, NotificationOpenEvent } from '@notification-gateway/sdk/components';
import { useNotifications, useUnreadCount } from '@notification-gateway/sdk/react';
import { client } from './notifications';

export function Usage({ flag }: { flag: boolean }) {
  const bell = useRef<NotificationBell>(null);
  const unread: number = useUnreadCount(null);
  const { items, state, problem } = useNotifications(client);
  const title: string | null | undefined = items[0]?.title;
  return <>
    <notification-bell
      ref={bell} client={client} texts={{ undo: 'Back' }} open={flag} locale="de" theme="dark" show-data={flag} count-in-title
      className="bell" id="bell" slot="end" style={{ color: 'red' }} onClick={({ currentTarget }) => currentTarget.focus()}
      onnotification-open={(event: NotificationOpenEvent) => console.log(event.detail.item.url)} />
    <notification-inbox key="inbox" client={null} theme="system" show-data=""><b slot="empty">{title}</b></notification-inbox>
    <notification-toasts client={client} max={2} min-priority="low" sound="/ding.mp3" />
    <p>{unread} {state} {problem?.code}</p>
    {/* @ts-expect-error: a client is no text */}
    <notification-bell client="client" />
    {/* @ts-expect-error: there is no such theme */}
    <notification-inbox theme="pink" />
    {/* @ts-expect-error: there is no such priority */}
    <notification-toasts min-priority="huge" />
    {/* @ts-expect-error: a number of toasts */}
    <notification-toasts max="many" />
    {/* @ts-expect-error: there is no such text */}
    <notification-bell texts={{ headline: 'News' }} />
    {/* @ts-expect-error: a handler is a function */}
    <notification-bell onnotification-open="open" />
    {/* @ts-expect-error: there is no such element */}
    <notification-bel />
  </>;
}

export function misuse() {
  // @ts-expect-error: the hooks read a client
  useNotifications({});
  // @ts-expect-error: items are not to be changed
  useNotifications(client).items.push(null);
  // @ts-expect-error: a number, not an object
  useUnreadCount(client).unread;
}
