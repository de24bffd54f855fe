// What reaches beyond the page: notifications of the system, the count in the title and on the app's icon.

const STORED = 'notify.system';
const COUNT = /^\([^)]*\) /u;

let hasFailed = false;

/**
 * Whether a page can make one. Chrome on Android has the class and grants the permission, but leaves the making to
 * service workers, and other shells have one that always throws. Nothing is made here: reading the options ends it.
 */
function canConstruct() {
  if (hasFailed || /\bAndroid\b/.test(navigator.userAgent)) return false;
  const read = new Error();
  try {
    return Boolean(new Notification('', { get body() { throw read; } }));
  } catch (error) {
    return error === read;
  }
}

/** Whether notifications of the system can be had, are shown, or are blocked. */
export function systemState() {
  if (typeof Notification === 'undefined') return 'none';
  if (Notification.permission === 'denied') return 'denied';
  if (!canConstruct()) return 'none';
  return Notification.permission === 'granted' && remembered() ? 'on' : 'off';
}

function remembered() {
  try {
    return localStorage.getItem(STORED) === 'on';
  } catch {
    return false; // A page without storage remembers nothing.
  }
}

/** Turn them on, which asks for permission, or off. Call it on a click only: browsers demand it, and so do people. */
export async function setSystem(on) {
  if (on && (await Notification.requestPermission()) !== 'granted') return;
  try {
    localStorage.setItem(STORED, on ? 'on' : 'off');
  } catch { /* As above. */ }
}

/** Show one, where nobody looks at a tab. */
export function showSystem(item, onClick) {
  if (systemState() !== 'on' || document.visibilityState === 'visible') return;
  try {
    const shown = new Notification(item.title, {
      body: item.body ?? '', tag: item.id, dir: 'auto',
      requireInteraction: item.priority === 'urgent', silent: item.priority === 'low',
    });
    shown.onclick = () => {
      shown.close();
      window.focus();
      onClick();
    };
  } catch {
    hasFailed = true;
  }
}

/** Put the number of unread items before the title of the page, or take it away. */
export function countInTitle(count, text) {
  const bare = document.title.replace(COUNT, '');
  const title = count ? `(${text}) ${bare}` : bare;
  if (document.title !== title) document.title = title;
}

/** Show the number on the icon of an installed app. */
export function countOnIcon(count) {
  navigator.setAppBadge?.(count).catch(() => {});
}
