// <notification-inbox>: a user's notifications, and what can be done with them.

import { askNoMore, lapsed } from './choices.js';
import { icon, iconButton, make, write } from './dom.js';
import { FIELDS, NotificationElement, holdKeys, inView, lists, views } from './element.js';
import { Feed } from './feed.js';
import { Snack } from './snack.js';
import { choices } from './snooze.js';
import { STATES } from './states.js';
import { Steady } from './steady.js';
import { INBOX, ITEM } from './theme.js';
import { View } from './view.js';

const TABS = ['all', 'unread', 'snoozed', 'archived'];
const UNDO_AT_MOST = 1_000; // items that "mark all read" can be undone for.
const AT_ONCE = 200; // ids in one call.
const TICK = 30_000; // ms
const DRAG = 4; // px
const CONTROLS = 'button, a, summary, pre';
// What each key is for, in the words of the help. Enter, Escape and Home are the browser's, or those of the list.
const KEYS = {
  j: 'keyNext', k: 'keyPrevious', Enter: 'keyOpen', u: 'keyRead', s: 'keySnooze', e: 'keyArchive', '#': 'keyDelete', z: 'undo', '?': 'keyHelp',
};

/** The parts of an inbox that a page may style: the bell hands them on. */
export const PARTS = 'head, heading, tabs, tab, count, filter, banner, panel, list, day, item, unread, glyph, title, time, '
  + 'body, more, meta, priority, category, address, data, actions, edited, choices, choice, reply, answer, newer, state, snack, '
  + 'snooze, help';

export class NotificationInbox extends NotificationElement {
  static sheets = [ITEM, INBOX];
  static observedAttributes = [...NotificationElement.observedAttributes, 'category-labels', 'no-shortcuts', 'show-data'];
  #tab = 'all';
  #category = '';
  #categories = new Set();
  #view = null;
  #feed = null;
  #snack = null;
  #steady = null;
  /** @type {AbortController | null} */
  #unsteady = null;
  #unfolded = new Set(); // ids
  #own = new Set(); // ids of what the user takes from the list, or has back
  /** Where a press, or the first of several clicks, began. @type {{ target?: Element, x?: number, y?: number }} */
  #press = {};
  #clicked = null;
  #reading = null;
  #failed = false;
  #parts = {};
  #nearEnd;
  #watching;

  handlers = {
    state: () => this.#onState(),
    counts: () => this.#onState(),
    items: (detail) => this.#onItems(detail),
  };

  /** Focus the list, or its heading where it is empty. */
  focus(options) {
    (this.#feed?.element.querySelector('[tabindex="0"]') ?? this.#parts.heading)?.focus(options);
  }

  attributeChangedCallback(name, before, now) {
    super.attributeChangedCallback(name, before, now);
    if (name === 'show-data' && this.#view && before !== now) this.#restart();
  }

  /** Watch what makes it tick: the end of the list coming near, the inbox being seen, and time. */
  begin(signal) {
    this.#view = null;
    this.#categories.clear();
    this.#nearEnd = new IntersectionObserver((entries) => entries.at(-1).isIntersecting && this.#readMore(),
      { rootMargin: '600px', scrollMargin: '600px' });
    this.#watching = new IntersectionObserver((entries) => {
      if (entries.at(-1).isIntersecting) inView.set(this, (sub, item) => this.#shows(sub, item));
      else inView.delete(this);
      views.dispatchEvent(new Event('change'));
      this.#markSeen();
    });
    this.#watching.observe(this);
    lists.set(this, () => {
      this.scrollIntoView({ block: 'nearest' });
      this.focus();
    });
    this.addEventListener('keydown', (event) => this.#onShortcut(event), { signal });
    document.addEventListener('visibilitychange', () => this.#markSeen(), { signal });
    const ticking = setInterval(() => this.#feed?.tick(), TICK);
    const counting = setInterval(() => this.#countDown(), 1_000);
    signal.addEventListener('abort', () => {
      clearInterval(ticking);
      clearInterval(counting);
      this.#unsteady?.abort();
      this.#nearEnd.disconnect();
      this.#watching.disconnect();
      inView.delete(this);
      lists.delete(this);
    });
  }

  build() {
    const { words } = this;
    const parts = (this.#parts = {});
    this.#snack = new Snack(words);
    parts.heading = make('div', { className: 'heading', tabIndex: -1 },
      make('slot', { name: 'heading' }, make('h2', { part: 'heading', textContent: words.say('notifications') })));
    parts.readAll = make('button',
      { className: 'link', textContent: words.say('markAllRead'), click: () => this.#readAll() });
    parts.tabs = TABS.map((name) => this.#buildTab(name));
    parts.filter = make('select', { part: 'filter', 'aria-label': words.say('category'),
      change: () => this.#choose(this.#tab, parts.filter.value) });
    parts.why = make('span', { role: 'status' });
    parts.when = make('span');
    parts.retry = make('button', { click: () => this.client.retry() });
    parts.banner = make('div', { className: 'banner', part: 'banner', hidden: true }, icon('cloud'),
      make('p', {}, parts.why, ' ', parts.when), parts.retry);
    parts.list = make('div', {
      pointerdown: ({ target, x, y }) => { this.#press = { target, x, y }; },
      click: (event) => this.#onClick(event),
      keydown: (event) => this.#onRowKey(event),
      submit: (event) => this.#onReply(event),
      lapse: (event) => this.#own.has(event.item.id) || this.#snack.say(lapsed(this.words, event)),
    });
    parts.state = make('div', { className: 'rest' });
    parts.tail = make('div', { className: 'tail' });
    parts.panel = make('div', { className: 'panel', id: 'panel', role: 'tabpanel', part: 'panel' });
    this.#unsteady?.abort();
    this.#unsteady = new AbortController();
    this.#steady = new Steady(parts.panel, words, () => this.#markSeen());
    this.#steady.watch(this.#unsteady.signal);
    parts.panel.append(parts.list, parts.state, parts.tail);
    parts.head = make('div', { className: 'head', part: 'head' },
      parts.heading, parts.readAll, make('slot', { name: 'actions' }));
    parts.bar = make('div', { className: 'bar' },
      make('div', { role: 'tablist', part: 'tabs', 'aria-label': words.say('notifications'),
        keydown: (event) => this.#onTabKey(event) }, ...parts.tabs),
      parts.filter);
    this.#restart();
    // Pages give the element another `display`: this one makes the list scroll, and it is not theirs.
    return [make('div', { className: 'frame' }, parts.head, parts.bar, parts.banner, this.#steady.element, parts.panel,
      make('slot', { name: 'footer' }), this.#snack.element)];
  }

  #buildTab(name) {
    return make('button', { role: 'tab', part: 'tab', id: `tab-${name}`, 'aria-controls': 'panel',
      'data-tab': name, click: () => this.#choose(name, this.#category) }, this.words.say(name),
      name === 'unread' && make('span', { className: 'count', part: 'count', hidden: true }));
  }

  #onTabKey(event) {
    const forward = this.matches(':dir(rtl)') ? 'ArrowLeft' : 'ArrowRight';
    const step = event.key === forward ? 1 : /^Arrow(Left|Right)$/.test(event.key) ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    this.#choose(TABS.at((TABS.indexOf(this.#tab) + step) % TABS.length), this.#category);
    this.#parts.tabs[TABS.indexOf(this.#tab)].focus();
  }

  // --- what is shown -------------------------------------------------------------------------------------

  #choose(tab, category) {
    this.#tab = tab;
    this.#category = category;
    this.#restart();
    this.refresh();
  }

  /** Begin the list anew: another tab, another category, another client, or a log that was not the one we knew. */
  #restart() {
    const { client, words } = this;
    const filter = { unread: this.#tab === 'unread', snoozed: this.#tab === 'snoozed', archived: this.#tab === 'archived',
      category: this.#category };
    this.#view = client && new View(client, filter);
    this.#reading = null;
    this.#failed = false;
    this.#feed = new Feed(words,
      { label: words.say('notifications'), showsData: this.hasAttribute('show-data'), unfolded: this.#unfolded });
    this.#steady.take(this.#feed);
    this.#parts.list.replaceChildren(this.#feed.element);
    this.#parts.panel.scrollTop = 0;
    if (this.#view) this.#put(this.#view.items);
    this.#watchEnd();
    this.#tellToasts();
  }

  #put(items) {
    for (const { category } of items) if (category) this.#categories.add(category);
    this.#feed.isComplete = this.#view.isComplete;
    return this.#feed.put(items, this.#view.items);
  }

  /** Ask again whether the end of the list is near: an observer tells only of changes. */
  #watchEnd() {
    this.#nearEnd.disconnect();
    this.#nearEnd.observe(this.#parts.tail);
  }

  async #readMore() {
    const view = this.#view;
    if (!view || this.#reading || this.#failed || view.isComplete || !this.#isSignedIn()) return;
    if (view.isWhole && !view.isRead) return; // The client reads the first page by itself.
    this.#reading = view;
    this.refresh();
    try {
      const items = await view.readMore();
      if (view === this.#view) this.#put(items);
    } catch {
      if (view === this.#view) this.#failed = true;
    }
    if (view !== this.#view) return;
    this.#reading = null;
    this.refresh();
    if (!this.#failed) this.#watchEnd();
  }

  #onItems(detail) {
    if (detail.reset) {
      this.#feed.leave();
      this.#restart();
    } else if (this.#view) {
      const newest = this.#view.items[0]?.created_seq ?? Infinity;
      const { put, drop } = this.#view.take(detail);
      const { activeElement: from } = this.shadowRoot;
      const around = from?.closest('article');
      this.#steady.change(() => {
        if (!this.#feed.drop(drop)) this.#parts.heading.focus();
        const made = this.#put(put);
        for (const row of made) row.element.classList.toggle('fresh', row.item.created_seq > newest);
        return made;
      }, ({ dataset }) => this.#own.has(dataset.id), drop.some(({ id }) => this.#own.has(id)));
      // A button that goes may be about to be pressed.
      const to = this.shadowRoot.activeElement;
      if (around && around !== from && !this.#own.has(around.dataset.id) && from !== to) holdKeys(null, to);
      for (const { id } of [...put, ...drop]) this.#own.delete(id);
    }
    this.refresh();
    if (this.#view?.isWhole) this.#watchEnd();
  }

  #onState() {
    this.refresh();
    this.#markSeen();
    this.#tellToasts();
    // What could not be loaded without a connection can be now.
    if (this.#failed && this.client.state === 'live') this.#tryAgain();
  }

  /** What is in view may be another list now, or that of a user who was not known before. */
  #tellToasts() { if (inView.has(this)) views.dispatchEvent(new Event('change')); }

  /** What stands in view has been seen, where somebody looks. */
  #markSeen() {
    const { client } = this;
    if (!client?.unseen || client.state !== 'live' || !inView.has(this) || this.#steady?.holds
      || document.visibilityState !== 'visible') return;
    if (this.#isDrawn()) client.seen().catch(() => {});
    else {
      // An observer hears nothing of what is hidden and back within a frame, unless it begins anew.
      this.#watching.unobserve(this);
      this.#watching.observe(this);
    }
  }

  /** Whether what comes for a user is shown here, in the list that is chosen. */
  #shows(sub, item) {
    return this.#isDrawn() && this.#isSignedIn() && this.client.sub === sub && !this.#isElsewhere()
      && (!this.#category || this.#category === item?.category);
  }

  /** Whether the chosen list holds what is not in the inbox. */
  #isElsewhere() { return this.#tab === 'archived' || this.#tab === 'snoozed'; }

  /** Whether it has a place in the page. What watches it hears a frame later that it is hidden. */
  #isDrawn() { return this.getClientRects().length; }

  #isSignedIn() { return this.client && this.client.state !== 'signedout'; }

  // --- the state around the list ---------------------------------------------------------------------------

  /** Show the state of the client and of this list. */
  refresh() {
    const { client, words } = this;
    const parts = this.#parts;
    if (!parts.head) return;
    const signedIn = this.#isSignedIn();
    const unread = client?.unread ?? 0;
    for (const tab of parts.tabs) {
      const selected = tab.dataset.tab === this.#tab;
      tab.setAttribute('aria-selected', selected);
      tab.tabIndex = selected ? 0 : -1;
      if (tab.dataset.tab !== 'unread') continue;
      tab.lastChild.hidden = !unread || !signedIn;
      write(tab.lastChild, words.badge(unread, 999));
    }
    parts.panel.setAttribute('aria-labelledby', `tab-${this.#tab}`);
    parts.readAll.disabled = !unread || this.#isElsewhere();
    parts.readAll.hidden = !signedIn;
    parts.bar.hidden = !signedIn;
    parts.list.hidden = !signedIn || this.#feed.size === 0;
    this.#feed.element.setAttribute('aria-busy', Boolean(this.#reading));
    this.#showFilter();
    this.#showBanner();
    this.#showState();
  }

  #showFilter() {
    const { filter } = this.#parts;
    const names = [...this.#categories].map((name) => [this.words.category(name), name]).sort();
    filter.hidden = names.length < 2 && !this.#category;
    if (filter.options.length === names.length + 1) return;
    const all = new Option(this.words.say('anyCategory'), '');
    filter.replaceChildren(all, ...names.map(([label, name]) => new Option(label, name)));
    filter.value = this.#category;
  }

  #showBanner() {
    const { client, words } = this;
    const { banner, why, retry } = this.#parts;
    const state = client?.state;
    banner.hidden = state !== 'offline' && state !== 'stopped';
    if (banner.hidden) return;
    const isUnreachable = (client.problem?.code ?? 'unreachable') === 'unreachable';
    write(why, state === 'offline' ? words.say(isUnreachable ? 'offline' : 'unavailable')
      : client.problem?.detail || words.say('stopped'));
    write(retry, words.say(state === 'offline' ? 'tryNow' : 'tryAgain'));
    this.#countDown();
  }

  /** Say when the next try is. It stands outside of the live region: a count-down is not to be read out. */
  #countDown() {
    const { client, words } = this;
    if (client?.state !== 'offline' && !this.#parts.when?.textContent) return;
    const left = Math.ceil((client.retryAt - Date.now()) / 1000);
    const text = left > 0 ? words.say('retryIn', { time: words.seconds(left) }) : words.say('retrying');
    write(this.#parts.when, client.state === 'offline' ? text : '');
  }

  /** Show what there is instead of notifications, or below them. */
  #showState() {
    const kind = this.#kindOfState();
    const { state } = this.#parts;
    const tab = this.#tab, category = this.#category;
    const key = `${kind} ${tab} ${category}`;
    if (state.dataset.kind === key) return;
    state.dataset.kind = key;
    // An empty list offers one that holds more.
    const other = category ? tab : tab === 'all' ? 'archived' : 'all';
    state.replaceChildren(...STATES[kind](this.words, tab, category, () => this.#tryAgain(), () => {
      this.#choose(other, '');
      this.#parts.filter.value = '';
      this.#parts.tabs[TABS.indexOf(other)].focus();
    }));
  }

  #kindOfState() {
    if (!this.#isSignedIn()) return this.client ? 'signedOut' : 'loading';
    const isEmpty = this.#feed.size === 0;
    if (this.#failed) return isEmpty ? 'failed' : 'failedMore';
    if (!isEmpty) return this.#reading ? 'more' : 'nothing';
    return this.#view.isRead ? 'empty' : this.client.state === 'stopped' ? 'nothing' : 'loading';
  }

  #tryAgain() {
    this.#failed = false;
    this.#readMore();
  }

  // --- what the user does ----------------------------------------------------------------------------------

  #onClick(event) {
    const { target, detail } = event;
    const row = target.closest('article')?.row;
    if (!row) return;
    if (this.#isStray(event)) {
      event.preventDefault();
      return;
    }
    const button = target.closest('[data-action]');
    if (button) {
      // The second click of two is not meant for the row that has taken the place of the first one.
      if (detail < 2) this.#clicked = row;
      if (button.dataset.choice) row.choices.press(event, row, (id) => this.#answer(row, id));
      else if (this.#clicked === row) this.#act(button.dataset.action, row);
    } else if (target.closest('a')) this.#open(row, event);
    // The menu reaches over the whole window: a tap beside its buttons closes it, and presses nothing below.
    else if (target === row.actions) row.closeMenu();
    else if (!target.closest('details, .actions, .choices')) this.#activate(row);
  }

  /** Whether a click is the end of something else: a press that began elsewhere, or text being selected. */
  #isStray({ target, detail, x, y }) {
    if (detail === 0) return false; // By the keyboard, or by a script.
    const { target: from, x: left, y: top } = this.#press;
    if (from && from.closest(CONTROLS) !== target.closest(CONTROLS)) return true;
    const isDrag = Math.hypot(x - left, y - top) > DRAG || detail > 1;
    return isDrag && !target.closest(CONTROLS) && !getSelection().isCollapsed;
  }

  #onRowKey(event) {
    const { key, target, repeat } = event;
    const around = target.closest('article')?.row;
    const replies = Boolean(target.closest('.reply'));
    if (key === 'Escape' && (replies || (around?.asked ?? null) !== null)) {
      // It takes the question back, and closes nothing.
      event.preventDefault();
      around.ask(null);
      if (!replies) return;
      around.choices.open(null);
      around.element.focus();
    }
    const row = target.row;
    if (!row || repeat) return;
    if (key === 'Enter') this.#activate(row);
    else if (key === 'Delete') this.#act('delete', row);
  }

  /** Keys of one letter, for who is in the list or beside it, and never for who types. */
  #onShortcut(event) {
    const { key, ctrlKey, metaKey, altKey, repeat } = event;
    const [from] = event.composedPath();
    if (event.defaultPrevented || this.hasAttribute('no-shortcuts') || !Object.hasOwn(KEYS, key) || key === 'Enter'
      || ctrlKey || metaKey || altKey || from.closest?.(FIELDS) || !this.#isSignedIn()) return;
    event.preventDefault();
    const row = this.#feed.focused;
    if (key === 'j' || key === 'k') {
      if (row) this.#feed.step(key === 'j' ? 1 : -1);
      else this.focus();
    } else if (repeat) return;
    else if (key === '?') this.#help();
    else if (key === 'z') this.#snack.takeBack() || this.#snack.say(this.words.say('noUndo'));
    else if (row) this.#act({ u: 'read', s: 'snooze', e: 'archive', '#': 'delete' }[key], row);
  }

  #help() {
    const { words } = this;
    const keys = Object.entries(KEYS).map(([key, name]) => make('div', {},
      make('dt', {}, make('kbd', { textContent: key }), key === '#' && ' ', key === '#' && make('kbd', { textContent: 'Delete' })),
      make('dd', { textContent: words.say(name) })));
    this.#ask({ part: 'help' }, words.say('shortcuts'), () => [make('dl', {}, ...keys)]);
  }

  /** Open a dialog; `fill` is given what closes it, and the focus goes back where it was. */
  #ask(properties, label, fill) {
    const from = this.shadowRoot.activeElement;
    const close = () => dialog.hidePopover();
    const dialog = make('div', { className: 'help', popover: 'auto', role: 'dialog', tabIndex: -1, 'aria-label': label,
      beforetoggle: ({ newState }) => newState === 'closed' && dialog.matches(':focus-within') && from?.focus(),
      toggle: ({ newState }) => newState === 'closed' && dialog.remove(), ...properties },
      make('h3', { textContent: label }), ...fill(close),
      iconButton('close', this.words.say('close'), { click: close }));
    this.shadowRoot.append(dialog);
    // It stands over its own list: there may be others.
    const { left, right, width } = this.getBoundingClientRect();
    Object.assign(dialog.style, { insetInline: 'auto', left: `${left}px`, right: `${innerWidth - right}px`, maxWidth: `${width - 16}px` });
    dialog.showPopover();
    dialog.focus();
  }

  #activate(row) {
    const link = row.element.querySelector('.title a');
    if (link) link.click();
    else this.#open(row);
  }

  /** Opening is reading. Whoever cancels the event goes there by other means. */
  #open(row, event) {
    const { item } = row;
    if (!this.announceOpening(item)) event?.preventDefault();
    this.#view.keep(item.id);
    if (!row.whole.hidden) this.#unfold(row, true);
    if (!item.read_at) this.#try(this.client.read(item.id));
  }

  #unfold(row, isUnfolded) {
    row.unfold(isUnfolded);
    this.#unfolded[isUnfolded ? 'add' : 'delete'](row.item.id);
  }

  #act(action, row) {
    const { client, words } = this;
    const { item } = row;
    if (action === 'unfold') this.#unfold(row, !row.isUnfolded);
    else if (action === 'menu') row.openMenu();
    else this.#own.add(item.id);
    if (action !== 'menu' && (action !== 'delete' || row.asked === '')) row.closeMenu();
    if (action === 'read') {
      this.#view.keep(item.id);
      this.#try(item.read_at ? client.unreadAgain(item.id) : client.read(item.id));
    }
    if (action === 'archive') {
      const archived = !item.archived_at;
      this.#try(client.archive(item.id, archived), words.say(archived ? 'archivedNow' : 'unarchivedNow'),
        (isLeft) => {
          this.#own.add(item.id);
          const undoing = this.#try(client.archive(item.id, !archived));
          if (isLeft) this.#goOn(undoing, item.id);
        });
    }
    if (action === 'snooze') this.#snooze(row);
    if (action === 'delete') this.#delete(row);
  }

  /** Take an item out of the inbox until a time that the user chooses, or have it back. */
  #snooze({ item }) {
    const { client, words } = this;
    if (item.archived_at && !item.snoozed_until) return;
    const snooze = (until, done, undone) => {
      this.#own.add(item.id);
      return this.#try(client.snooze(item.id, until), done, undone === undefined ? null : () => snooze(undone));
    };
    if (item.snoozed_until) {
      snooze(null, words.say('unarchivedNow'), item.snoozed_until);
      return;
    }
    this.#own.delete(item.id);
    this.#ask({ part: 'snooze' }, words.say('snooze'), (close) => choices(words, (time) => {
      close();
      snooze(time.toISOString(), words.say('snoozedNow', { time: words.moment(time) }), null);
    }));
  }

  #onReply(event) {
    const { row } = event.target.closest('article');
    row.choices.submit(event, (id, text) => {
      row.element.focus();
      this.#answer(row, id, text);
    });
  }

  #answer({ item }, id, text) {
    this.#view.keep(item.id);
    this.#try(this.client.act(item.id, id, text));
  }

  #delete(row) {
    if (row.asked === '') {
      this.#try(this.client.delete(row.item.id), this.words.say('deletedNow'));
      return;
    }
    this.#own.clear();
    row.ask('');
    askNoMore(row);
  }

  /** Mark read what the list has: all that is unread, or those of the category that is chosen. */
  async #readAll() {
    const { client, words } = this;
    const category = this.#category;
    this.#snack.say('');
    const upTo = client.seq;
    const all = client.unread;
    const found = this.#unreadIds(category);
    const ids = await found.catch(() => []);
    const count = category ? ids.length : all;
    const undo = ids.length === count && (async (isLeft) => {
      if (isLeft) this.#goOn();
      for (let from = 0; from < ids.length; from += AT_ONCE) {
        await this.#try(client.unreadAgain(ids.slice(from, from + AT_ONCE)));
      }
    });
    const reading = category ? found.then(() => client.read(ids)) : client.read({ upTo });
    await this.#try(reading, words.say('readNow', { count }), undo || null);
  }

  /** Return which items are unread: those of a category, or all, where they are few enough to be told apart again. */
  async #unreadIds(category) {
    const { client } = this;
    const here = client.items.filter((item) => !item.read_at);
    if (here.length === client.unread) return here.filter((item) => !category || item.category === category).map(({ id }) => id);
    if (!category && client.unread > UNDO_AT_MOST) return [];
    const ids = [];
    for (let cursor = ''; cursor !== null;) {
      const page = await client.query({ unread: true, limit: AT_ONCE, ...(category && { category }), ...(cursor && { cursor }) });
      ids.push(...page.items.map(({ id }) => id));
      cursor = page.next;
    }
    return ids;
  }

  /**
   * Await what was asked of the client, and say how it went. What fails, the client has rolled back.
   *
   * What was done before can be undone no more: the user would take that "Undo" for this.
   */
  async #try(promise, done, undo) {
    if (done) this.#snack.say('');
    try {
      await promise;
      if (done) this.#snack.say(done, undo);
    } catch (error) {
      this.sayFailed(error);
    }
  }

  /** The focus is on a button that goes: give it to the row that an undo restores, and until that is here to the list. */
  async #goOn(undoing, id) {
    const row = () => this.#feed.get(id)?.element;
    if (row()) return row().focus();
    this.focus({ preventScroll: true });
    const { activeElement } = this.shadowRoot;
    await undoing;
    if (activeElement === this.shadowRoot.activeElement) row()?.focus();
  }

  /** Say that a command was refused, and why. @param {{ detail?: string, message: string }} error */
  sayFailed(error) { this.#snack.say(this.words.failed(error)); }
}
