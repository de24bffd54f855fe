// <notification-bell>: the number of what is new, and the inbox behind it.

import { icon, iconButton, make, nameButton, write } from './dom.js';
import { NotificationElement, lists } from './element.js';
import { PARTS } from './notification-inbox.js';
import { isOwn, safeLink } from './link.js';
import { countInTitle, countOnIcon, setSystem, showSystem, systemState } from './system.js';
import { BELL } from './theme.js';

const GAP = 8; // px between the bell, its popover and the edges of the window.
const LEAST_HEIGHT = 160; // px
const PASSED_ON = ['theme', 'show-data', 'no-shortcuts'];

export class NotificationBell extends NotificationElement {
  static sheets = [BELL];
  static observedAttributes = [...NotificationElement.observedAttributes,
    'category-labels', 'count-in-title', 'no-shortcuts', 'see-all', 'show-data'];
  #parts = {};

  handlers = {
    state: () => this.refresh(),
    counts: () => this.refresh(),
    notification: ({ item, missed, first, alert }) => first && !missed && alert && showSystem(item, () => this.#openFromSystem(item)),
  };

  attributeChangedCallback(name, before, now) {
    super.attributeChangedCallback(name, before, now);
    if (before === now || !this.#parts.inbox) return;
    this.#passOn();
    this.refresh();
  }

  /** Whether the inbox is shown. */
  get open() { return this.#parts.popover?.matches(':popover-open') ?? false; }

  set open(open) { this.#parts.popover?.togglePopover(Boolean(open)); }

  begin(signal) {
    lists.set(this, () => { this.open = true; });
    signal.addEventListener('abort', () => lists.delete(this));
    addEventListener('resize', () => this.#place(), { signal });
    addEventListener('scroll', () => this.#place(), { signal, passive: true, capture: true });
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    if (this.hasAttribute('count-in-title')) countInTitle(0);
  }

  build() {
    const { words } = this;
    const parts = (this.#parts = {});
    parts.badge = make('span', { className: 'badge', part: 'badge', hidden: true, 'aria-hidden': 'true' });
    parts.button = make('button',
      { className: 'bell', part: 'bell', 'aria-haspopup': 'dialog', 'aria-expanded': 'false' },
      make('slot', { name: 'icon' }, icon('bell')), parts.badge);
    parts.inbox = make('notification-inbox', { part: 'inbox', exportparts: PARTS });
    const close = { slot: 'actions', click: () => { this.open = false; } };
    parts.choose = iconButton('sliders', words.say('preferences'), { slot: 'actions', click: () => this.#showPreferences(true) });
    parts.inbox.append(parts.choose, iconButton('close', words.say('close'), close));
    parts.said = make('span', { role: 'status' });
    parts.system = make('button', { className: 'link', click: () => this.#toggleSystem() });
    parts.all = make('a', { className: 'all', part: 'all', textContent: words.say('seeAll'), click: () => { this.open = false; } });
    parts.settings = make('div', { className: 'settings', part: 'settings' },
      parts.said, make('slot', { name: 'settings' }), parts.system, parts.all);
    parts.popover = make('div', { className: 'popover', part: 'popover', popover: 'auto', role: 'dialog', tabIndex: -1,
      'aria-label': words.say('notifications'),
      beforetoggle: ({ newState }) => newState === 'closed' && this.#onClosing(),
      toggle: ({ newState }) => this.#onToggle(newState === 'open') },
      parts.inbox, parts.settings);
    parts.button.popoverTargetElement = parts.popover;
    this.#passOn();
    return [parts.button, parts.popover];
  }

  /** Give the inbox what this element was given. */
  #passOn() {
    for (const inner of [this.#parts.inbox, this.#parts.preferences].filter(Boolean)) {
      for (const name of PASSED_ON) {
        if (this.hasAttribute(name)) inner.setAttribute(name, this.getAttribute(name));
        else inner.removeAttribute(name);
      }
      inner.setAttribute('locale', this.locale);
      const { texts, categoryLabels, client } = this;
      Object.assign(inner, { texts, categoryLabels, client });
    }
  }

  /** Show the preferences in the place of the inbox, or the inbox again. */
  #showPreferences(isShown) {
    const parts = this.#parts;
    if (isShown && !parts.preferences) {
      const back = { slot: 'actions', textContent: this.words.say('back'), click: () => this.#showPreferences(false) };
      parts.preferences = make('notification-preferences', {}, make('button', back));
      this.#passOn();
      parts.inbox.after(parts.preferences);
    }
    if (!parts.preferences) return;
    parts.preferences.hidden = !isShown;
    parts.inbox.hidden = isShown;
    if (this.open) (isShown ? parts.preferences.firstChild : parts.choose).focus();
  }

  refresh() {
    const { client, words } = this;
    const { badge, button } = this.#parts;
    const signedIn = client && client.state !== 'signedout';
    const count = signedIn ? client.unseen : 0, unread = signedIn ? client.unread : 0;
    badge.hidden = !count;
    write(badge, words.badge(count));
    const label = count ? words.say('bellNew', { count }) : words.say('notifications');
    nameButton(button, label);
    if (this.hasAttribute('count-in-title')) countInTitle(unread, words.badge(unread, 999));
    if (client) countOnIcon(unread);
    this.#showSystem();
  }

  #onToggle(isOpen) {
    this.#parts.button.setAttribute('aria-expanded', isOpen);
    if (!isOpen) {
      this.#showPreferences(false);
      return;
    }
    this.#place();
    this.#parts.popover.focus();
  }

  /** Give the focus back where it was in the popover: what is clicked elsewhere has it already. */
  #onClosing() {
    const { button, popover } = this.#parts;
    if (popover.matches(':focus-within')) button.focus();
  }

  /** Put the popover below the bell, or above it where there is more room, inside of the window. */
  #place() {
    const { button, popover } = this.#parts;
    if (!this.open) return;
    const bell = button.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const below = clientHeight - bell.bottom - 2 * GAP, above = bell.top - 2 * GAP;
    // Where there is room, the bell stays in sight.
    popover.style.setProperty('max-height', `${Math.max(below, above, LEAST_HEIGHT)}px`);
    const { offsetWidth: width, offsetHeight: height } = popover;
    const start = this.matches(':dir(rtl)') ? bell.left : bell.right - width;
    const left = Math.max(GAP, Math.min(start, clientWidth - width - GAP));
    const top = Math.min(height > below && above > below ? bell.top - GAP - height : bell.bottom + GAP,
      clientHeight - height - GAP);
    popover.style.setProperty('left', `${left}px`);
    popover.style.setProperty('top', `${Math.max(GAP, top)}px`);
  }

  // --- notifications of the system ---------------------------------------------------------------------------

  #showSystem() {
    const { words } = this;
    const { settings, said, system, all } = this.#parts;
    const state = this.client?.state === 'signedout' ? 'none' : systemState();
    const address = this.getAttribute('see-all');
    all.hidden = address === null;
    all.href = address ?? '';
    settings.hidden = state === 'none' && all.hidden;
    system.hidden = state === 'denied' || state === 'none';
    write(said, state === 'none' ? '' : state === 'denied' ? words.say('systemDenied') : words.say(state === 'on' ? 'systemOn' : 'systemHow'));
    write(system, words.say(state === 'on' ? 'systemOff' : 'systemAsk'));
  }

  async #toggleSystem() {
    await setSystem(systemState() !== 'on');
    this.#showSystem();
  }

  #openFromSystem(item) {
    const target = this.announceOpening(item) && safeLink(item.url);
    this.client.read(item.id).catch((error) => {
      this.open = true;
      this.#parts.inbox.sayFailed(error);
    });
    if (!target) this.open = true;
    else if (isOwn(target)) location.assign(target);
    else window.open(target, '_blank', 'noopener,noreferrer');
  }
}
