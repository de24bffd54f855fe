// What an inbox shows instead of notifications, or below them.

import { icon, make } from './dom.js';

// The sign and the text of each tab.
const EMPTY = {
  all: ['check', 'emptyAll'],
  unread: ['checks', 'emptyUnread'],
  snoozed: ['clock', 'emptySnoozed'],
  archived: ['archive', 'emptyArchived'],
};

/** A few words in the middle of the list; a page can put its own into the slot. */
function message(words, { sign, text, slot, category, more = words.say(`${text}More`), role = 'status' }, ...children) {
  return make('slot', { name: slot }, make('div', { className: 'state', part: 'state', role },
    make('span', { className: 'art' }, icon(sign)), make('h3', { textContent: words.say(text, { category }) }),
    more && make('p', { textContent: more }), ...children));
}

function bone() {
  return make('div', { className: 'bone', 'aria-hidden': 'true' }, make('i'), make('i'), make('i'));
}

function again(words, tryAgain) {
  return make('button', { textContent: words.say('tryAgain'), click: tryAgain });
}

/** A list that is empty, and what leads on from there. In an inbox that is empty a page may offer something else. */
function empty(words, tab, category, leave) {
  const lead = (name) => make('button', { textContent: words.say(name), click: leave });
  const [sign, text] = EMPTY[tab];
  const what = { sign, text, slot: 'empty' };
  if (category) {
    return message(words, { ...what, text: 'emptyCategory', more: '', category: words.category(category) }, lead('showCategories'));
  }
  return message(words, what,
    tab === 'all' ? make('slot', { name: 'empty-action' }, lead('showArchived')) : lead('showAll'));
}

/**
 * What each state consists of, in the words of a locale. `tab` and `category` are those that are chosen; `leave` leads
 * from an empty list to another one.
 */
export const STATES = {
  nothing: () => [],
  more: (words) => [make('p', { className: 'more', role: 'status', textContent: `${words.say('loading')} …` })],
  loading: (words) => [make('p', { className: 'unseen', role: 'status', textContent: words.say('loading') }),
    ...Array.from({ length: 4 }, bone)],
  empty: (words, tab, category, tryAgain, leave) => [empty(words, tab, category, leave)],
  signedOut: (words) => [message(words, { sign: 'lock', text: 'signedOut', slot: 'signed-out' })],
  failed: (words, tab, category, tryAgain) => [
    message(words, { sign: 'cloud', text: 'failedToLoad', slot: 'failed', more: '', role: 'alert' },
      again(words, tryAgain)),
  ],
  failedMore: (words, tab, category, tryAgain) => [
    make('div', { className: 'more', role: 'alert' }, words.say('failedToLoad'), ' ', again(words, tryAgain)),
  ],
};
