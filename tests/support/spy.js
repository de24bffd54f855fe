// Notes in every tab what the page was told and what it showed, and lets no tab take that with it when it closes.

window.spy = { told: [], toasts: [], added: 0, removed: 0, tasks: 0, harmed: [] };

/** Keep a note, and give it to the other tabs of this browser: so it is known of a tab that is closed meanwhile. */
const others = new BroadcastChannel('spy');
const note = (kind, value) => {
  spy[kind].push(value);
  others.postMessage({ kind, value });
};
others.onmessage = ({ data: { kind, value } }) => spy[kind].push(value);
const tab = spy.tab = crypto.getRandomValues(new Uint32Array(2)).join('-');

// The waits between attempts are a random part of a time that doubles; a small part of it is enough for a test.
Math.random = () => 0.05;

const dispatch = EventTarget.prototype.dispatchEvent;
EventTarget.prototype.dispatchEvent = function (event) {
  const { type, detail } = event;
  // The page has other clients too, those of its devices.
  if (type === 'notification' && document.querySelector('notification-toasts')?.client === this) {
    const { id, title, created_seq } = detail.item;
    note('told', { tab, id, title, created_seq, missed: detail.missed, first: detail.first });
  }
  return dispatch.call(this, event);
};

const rowsIn = (nodes) => [...nodes].filter((node) => node.localName === 'article').length;

customElements.whenDefined('notification-toasts').then(() => {
  // The page's own inbox is in view: it shows what comes, and a toast would be over it.
  for (const toasts of document.querySelectorAll('notification-toasts')) toasts.setAttribute('always', '');
  new MutationObserver((records) => {
    const added = records.flatMap((record) => [...record.addedNodes]).filter((node) => node.classList?.contains('toast'));
    for (const toast of added) note('toasts', { tab, id: toast.dataset.id ?? null, text: toast.textContent });
  }).observe(document.querySelector('notification-toasts').shadowRoot, { childList: true, subtree: true });
  new MutationObserver((records) => {
    for (const { addedNodes, removedNodes } of records) {
      spy.added += rowsIn(addedNodes);
      spy.removed += rowsIn(removedNodes);
    }
  }).observe(document.querySelector('notification-inbox').shadowRoot, { childList: true, subtree: true });
});

new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) spy.tasks = Math.max(spy.tasks, duration);
}).observe({ entryTypes: ['longtask'] });

addEventListener('securitypolicyviolation', (event) => spy.harmed.push(`${event.violatedDirective} ${event.blockedURI}`));

/** What hostile texts call. */
window.harm = () => { spy.harmed.push('a script has run'); };
