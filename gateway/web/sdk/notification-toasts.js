// <notification-toasts>: what has just come, shown for a moment in the corner of the one tab that is looked at.

import { Choices, lapsed } from './choices.js';
import { iconButton, make, write } from './dom.js';
import { NotificationElement, inView, lists, views } from './element.js';
import { glyph, priorityChip, quote, title } from './row.js';
import { ITEM, TOASTS } from './theme.js';

const PRIORITIES = ['low', 'normal', 'high', 'urgent'];
const MOST = 3; // toasts at once, and one where the window is small: more would cover the page.
const SMALL = '(max-width: 520px), (max-height: 520px)';
const TOAST_TIME = 6_000; // ms that one of normal priority stays; one of high priority stays twice as long.
const GATHER = 400; // ms for which what came while nobody was connected is counted together.

export class NotificationToasts extends NotificationElement {
  static sheets = [ITEM, TOASTS];
  static observedAttributes = [...NotificationElement.observedAttributes, 'always', 'max', 'min-priority', 'sound'];
  #toasts = new Set();
  #waiting = [];
  #missed = 0;
  #mattered = false; // whether one of those missed would have had a toast
  #gathering;
  #more = 0;
  #sum = null;
  #cameFrom = null;
  /** @type {HTMLAudioElement | null} */
  #sound = null;

  handlers = {
    notification: (detail) => this.#onNotification(detail),
    items: ({ changed, removed }) => this.#update([...changed, ...removed]),
    signedout: () => this.clear(),
  };

  build() {
    const { words } = this;
    this.clear();
    this.polite = make('p', { className: 'unseen', role: 'status' });
    this.assertive = make('p', { className: 'unseen', role: 'alert' });
    this.stack = make('section', { className: 'stack', part: 'stack', 'aria-label': words.say('notifications'),
      pointerenter: () => this.#pause(true), pointerleave: () => this.#pause(false),
      focusin: ({ relatedTarget }) => this.#onFocusIn(relatedTarget), focusout: () => this.#pause(false),
      keydown: (event) => this.#onKey(event) });
    return [this.stack, this.polite, this.assertive];
  }

  refresh() {}

  /** An inbox that comes into view shows what a toast would cover there. */
  begin(signal) {
    views.addEventListener('change', () => {
      for (const toast of [...this.#toasts]) if (this.#isShown(toast.item)) this.#remove(toast);
      if (this.#sum && !this.#sum.mustBeSeen && this.#isShown()) this.#remove(this.#sum);
    }, { signal });
  }

  #isShown(item) {
    return !this.hasAttribute('always') && [...inView.values()].some((shows) => shows(this.client?.sub, item));
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.clear();
  }

  /** Take every toast away. */
  clear() {
    for (const toast of this.#toasts) clearTimeout(toast.timer);
    clearTimeout(this.#gathering);
    this.#toasts.clear();
    this.isPaused = this.#mattered = false;
    this.#waiting = [];
    this.#missed = this.#more = 0;
    this.#sum = this.#gathering = null;
    this.stack?.replaceChildren();
  }

  // --- what comes --------------------------------------------------------------------------------------------

  #onNotification({ item, missed, first, alert }) {
    if (!first || !alert || item.read_at) return;
    const lowest = PRIORITIES.indexOf(this.getAttribute('min-priority') ?? 'normal');
    const getsToast = PRIORITIES.indexOf(item.priority) >= lowest;
    if (missed) this.#gather(getsToast);
    else if (getsToast) {
      // It has entered again.
      for (const toast of [...this.#toasts]) if (toast.item.id === item.id) this.#remove(toast);
      this.#show(item);
      this.#play();
    }
  }

  /** Play the sound, once for all that comes while it is heard. A browser allows none before the user's first click. */
  #play() {
    const src = this.getAttribute('sound');
    if (!src) return;
    if (this.#sound?.getAttribute('src') !== src) this.#sound = new Audio(src);
    if (this.#sound.paused) this.#sound.play().catch(() => {});
  }

  /** Count what was missed: all of it, where at least one would have had a toast. */
  #gather(getsToast) {
    this.#missed += 1;
    this.#mattered ||= getsToast;
    this.#gathering ??= setTimeout(() => this.#sayMissed(), GATHER);
  }

  #sayMissed() {
    if (this.#mattered) {
      this.#summarise(this.words.say('arrived', { count: this.#missed }));
      this.#play();
    }
    this.#missed = 0;
    this.#mattered = false;
    this.#gathering = null;
  }

  #show(item) {
    const urgent = item.priority === 'urgent';
    if (this.#isShown(item)) {
      this.#say(item, urgent);
      return;
    }
    const most = Number(this.getAttribute('max')) || (matchMedia(SMALL).matches ? 1 : MOST);
    if (this.#toasts.size >= most && urgent) this.#makeRoom();
    if (this.#toasts.size < most) this.#add(item, urgent);
    else if (urgent) this.#waiting.push(item);
    else this.#countMore();
  }

  /** An urgent one takes the place of the oldest that is not. */
  #makeRoom() {
    const oldest = [...this.#toasts].find(({ item }) => item.priority !== 'urgent');
    if (!oldest) return;
    this.#remove(oldest);
    this.#countMore();
  }

  #countMore() {
    this.#more += 1;
    this.#summarise(this.words.say('more', { count: this.#more }));
  }

  #add(item, urgent) {
    const toast = { item, left: urgent ? Infinity : TOAST_TIME * (item.priority === 'high' ? 2 : 1) };
    toast.element = make('div', { part: 'toast', role: 'group', 'data-id': item.id, click: (event) => this.#onClick(event, toast),
      submit: (event) => toast.choices.submit(event, (id, text) => this.#answer(toast, id, text)),
      lapse: (event) => this.#summarise(lapsed(this.words, event), true) },
      make('i'), make('i'),
      iconButton('close', this.words.say('dismiss'), { part: 'dismiss', click: () => this.#remove(toast) }),
      !urgent && make('span', { className: 'timer', part: 'timer', 'aria-hidden': 'true' }));
    this.#fill(toast, item);
    toast.element.style.setProperty('--_time', `${toast.left}ms`);
    this.#put(toast);
    this.#say(item, urgent);
  }

  #put(toast) {
    this.#toasts.add(toast);
    this.stack.insertBefore(toast.element, this.#sum?.element ?? null);
    this.#start(toast);
  }

  /** Show what was sent. */
  #fill(toast, item) {
    const { element } = toast;
    const heading = title(item, 'p');
    toast.item = item;
    // What is typed stays.
    if (toast.choices?.key !== JSON.stringify(item.actions)) toast.choices = item.actions && new Choices(item, this.words);
    toast.choices?.paint(item);
    element.className = heading.querySelector('a') ? 'toast link' : 'toast';
    element.ariaLabel = item.title;
    element.dataset.priority = item.priority;
    element.children[0].replaceWith(glyph(item));
    element.children[1].replaceWith(make('div', {},
      priorityChip(item, this.words), heading, quote('p', 'body', item.body), toast.choices?.element));
  }

  /** Have it read out. */
  #say({ priority, title: heading, body }, urgent) {
    const said = [priority !== 'normal' && this.words.say(priority), heading, body];
    write(urgent ? this.assertive : this.polite, said.filter(Boolean).join('. '));
  }

  /** Say one thing about many, in a place of its own. */
  #summarise(text, mustBeSeen = false) {
    if (!mustBeSeen && this.#isShown()) {
      write(this.polite, text);
      return;
    }
    this.#sum ??= this.#addSum();
    clearTimeout(this.#sum.timer);
    const { opener, said } = this.#sum;
    const opens = !mustBeSeen && Boolean(this.#list());
    this.#sum.mustBeSeen = mustBeSeen;
    this.#sum.left = TOAST_TIME;
    opener.hidden = !opens;
    write(opener, opens ? text : '');
    write(said, opens ? '' : text);
    write(this.polite, text);
    this.#start(this.#sum);
  }

  #addSum() {
    const said = make('span');
    const opener = make('button', { className: 'link', part: 'open', click: () => this.#openList() });
    const what = make('div', {}, said, opener);
    const sum = { item: null, said, opener, element: make('div', { className: 'toast sum', part: 'toast summary' }, what,
      iconButton('close', this.words.say('dismiss'), { part: 'dismiss', click: () => this.#remove(sum) })) };
    this.stack.append(sum.element);
    return sum;
  }

  /** Return what shows the list that has what a sum is about: that of a bell, or of an inbox; none without one. */
  #list() {
    const shown = [...lists].filter(([one]) => one.client === this.client && one.checkVisibility());
    return (shown.find(([one]) => 'open' in one) ?? shown[0])?.[1];
  }

  #openList() {
    const show = this.#list();
    this.#remove(this.#sum);
    show?.();
  }

  // --- how they go -------------------------------------------------------------------------------------------

  #start(toast) {
    if (this.isPaused || toast.left === Infinity) return;
    toast.until = performance.now() + toast.left;
    toast.timer = setTimeout(() => this.#remove(toast), toast.left);
  }

  /** While the pointer is over them, or the focus in them, none goes: somebody reads. */
  #pause(isPaused) {
    if (!isPaused && this.stack.matches(':hover, :focus-within')) return;
    if (isPaused === this.isPaused) return;
    this.isPaused = isPaused;
    this.stack.classList.toggle('paused', isPaused);
    for (const toast of [...this.#toasts, this.#sum].filter(Boolean)) {
      clearTimeout(toast.timer);
      if (isPaused) toast.left = toast.until ? Math.max(toast.until - performance.now(), 0) : toast.left;
      else this.#start(toast);
    }
  }

  #onFocusIn(from) {
    if (from && !this.shadowRoot.contains(from)) this.#cameFrom = from;
    this.#pause(true);
  }

  #remove(toast) {
    const { element } = toast;
    const next = element.nextElementSibling ?? element.previousElementSibling;
    const isFocused = element.matches(':focus-within');
    clearTimeout(toast.timer);
    this.#toasts.delete(toast);
    if (toast === this.#sum) {
      this.#sum = null;
      this.#more = 0;
    }
    element.remove();
    if (isFocused) (next?.querySelector('[part=dismiss]') ?? this.#cameFrom)?.focus();
    this.#pause(false);
    if (toast.item && this.#waiting.length) this.#show(this.#waiting.shift());
  }

  /** What was read or removed elsewhere needs no toast here; what was edited is shown as it is. */
  #update(items) {
    const isDone = (item) => item.read_at || item.archived_at || item.deleted_at || item.snoozed_until;
    const latest = new Map(items.map((item) => [item.id, item]));
    this.#waiting = this.#waiting.map((item) => latest.get(item.id) ?? item).filter((item) => !isDone(item));
    for (const toast of [...this.#toasts]) {
      const item = latest.get(toast.item.id) ?? toast.item;
      if (isDone(item)) {
        this.#remove(toast);
        toast.choices?.leave(item);
      } else if (item.edited_at !== toast.item.edited_at) this.#fill(toast, item);
    }
  }

  #onKey(event) {
    const element = event.target.closest('.toast');
    const toast = [...this.#toasts, this.#sum].find((one) => one?.element === element);
    if (event.key !== 'Escape' || !toast) return;
    event.stopPropagation();
    if (!event.target.form) this.#remove(toast);
    else {
      toast.choices.open(null);
      toast.element.querySelector('[part=dismiss]').focus();
    }
  }

  #onClick(event, toast) {
    const { item, choices } = toast;
    const { target } = event;
    if (target.closest('[data-choice]')) choices.press(event, choices, (id) => this.#answer(toast, id));
    if (target.closest('button, .choices')) return;
    const link = target.closest('a');
    const other = !link && toast.element.querySelector('.title a');
    if (other) {
      other.click();
      return;
    }
    if (!this.announceOpening(item)) event.preventDefault();
    this.client?.read(item.id).catch((error) => this.#summarise(this.words.failed(error), true));
    this.#remove(toast);
  }

  #answer(toast, id, text) {
    this.client.act(toast.item.id, id, text).catch((error) => {
      this.#summarise(this.words.failed(error), true);
      // What was typed is not lost.
      if (text) this.#put(toast);
    });
    this.#remove(toast);
  }
}
