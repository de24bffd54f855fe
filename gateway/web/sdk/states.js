// What an inbox shows instead of notifications, or below them.

import { icon, make } from './dom.js';

const EMPTY = {
  all: { sign: 'check', text: 'emptyAll' },
  unread: { sign: 'checks', text: 'emptyUnread' },
  archived: { sign: 'archive', text: 'emptyArchived' },
};

/** A few words in the middle of the list; a page can put its own into the slot. */
function message(words, { sign, text, slot, more = words.say(`${text}More`), role = 'status' }, ...children) {
  return make('slot', { name: slot }, make('div', { className: 'state', part: 'state', role },
    make('span', { className: 'art' }, icon(sign)), make('h3', { textContent: words.say(text) }),
    more && make('p', { textContent: more }), ...children));
}

function bone() {
  return make('div', { className: 'bone', 'aria-hidden': 'true' }, make('i'), make('i'), make('i'));
}

function again(words, tryAgain) {
  return make('button', { type: 'button', textContent: words.say('tryAgain'), click: tryAgain });
}

/** What can be done where nothing is shown. In an inbox that is empty a page may offer something else. */
function next(words, tab, name, act) {
  const button = make('button', { type: 'button', textContent: words.say(name), click: act });
  return tab === 'all' ? make('slot', { name: 'empty-action' }, button) : button;
}

/**
 * What each state consists of, in the words of a locale. `tab` is the one that is chosen, `other` the one that an
 * empty list offers.
 */
export const STATES = {
  nothing: () => [],
  more: (words) => [make('p', { className: 'more', role: 'status', textContent: `${words.say('loading')} …` })],
  loading: (words) => [make('p', { className: 'unseen', role: 'status', textContent: words.say('loading') }),
    ...Array.from({ length: 4 }, bone)],
  empty: (words, tab, other, tryAgain, choose) => [message(words, { ...EMPTY[tab], slot: 'empty' },
    next(words, tab, other === 'all' ? 'showAll' : 'showArchived', () => choose(other)))],
  signedOut: (words) => [message(words, { sign: 'lock', text: 'signedOut', slot: 'signed-out' })],
  failed: (words, tab, other, tryAgain) => [
    message(words, { sign: 'cloud', text: 'failedToLoad', slot: 'failed', more: '', role: 'alert' },
      again(words, tryAgain)),
  ],
  failedMore: (words, tab, other, tryAgain) => [
    make('div', { className: 'more', role: 'alert' }, words.say('failedToLoad'), ' ', again(words, tryAgain)),
  ],
};
