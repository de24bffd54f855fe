import { StrictMode, useState } from 'react';
import { Bell } from './Bell';
import { Latest, Unread } from './Hooks';

function Page({ bell }: { bell: boolean }) {
  const [shown, show] = useState(true);
  return <>
    {bell && <Bell />}
    <button onClick={() => show(!shown)}>Toggle</button>
    {shown && <><Unread /><Latest /></>}
  </>;
}

export function App(props: { bell: boolean }) {
  return <StrictMode><Page {...props} /></StrictMode>;
}
