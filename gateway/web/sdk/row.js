// One notification in a list.

import { Choices } from './choices.js';
import { icon, iconButton, make, nameButton, write } from './dom.js';
import { isOwn, safeLink } from './link.js';

let made = 0;

// What a category is about, by the words that most applications use.
const SIGNS = {
  chat: /chat|comment|mention|message|repl/, box: /deliver|order|parcel|ship/, card: /bill|invoice|pay/,
  lock: /auth|login|secur|sign/,
};

// Images that could not be loaded, or may not be.
const broken = new Set();

/** Return the sign of a notification: its image, else what it is about, in a colour of its category. */
export function glyph({ category, priority, icon: address }) {
  const about = Object.keys(SIGNS).find((name) => SIGNS[name].test(category)) ?? 'bell';
  const sign = make('span', { className: 'glyph', part: 'glyph', 'aria-hidden': 'true' },
    icon(priority === 'urgent' ? 'alert' : about));
  const hue = [...category].reduce((sum, one) => (sum * 31 + one.codePointAt(0)) % 360, 7);
  if (category !== 'default') sign.style.setProperty('--_hue', hue);
  const src = safeLink(address)?.href;
  // The sign stands until there is an image. The address comes last: what is set after it does not count any more.
  if (src && !broken.has(src)) {
    sign.append(make('img', { alt: '', width: 36, height: 36, loading: 'lazy', decoding: 'async', referrerPolicy: 'no-referrer',
      load: () => sign.classList.add('shown'),
      error: ({ target }) => {
        broken.add(src);
        target.remove();
      }, src }));
  }
  return sign;
}

/** Return a text of somebody else's: its direction is its own. */
export const quote = (tag, className, text, ...children) =>
  text && make(tag, { className, part: className, dir: 'auto' }, text, ...children);

/** Return a title, which is a link where the notification leads somewhere. */
export function title(item, tag, before) {
  const target = safeLink(item.url);
  const text = make('bdi', { dir: 'auto', textContent: item.title });
  const elsewhere = target && !isOwn(target) && { target: '_blank', rel: 'noopener noreferrer' };
  return make(tag, { className: 'title', part: 'title' }, before,
    target ? make('a', { href: target.href, ...elsewhere }, text) : text);
}

/** Return what marks a priority that is not the normal one. */
export const priorityChip = ({ priority }, words) =>
  priority !== 'normal'
  && make('span', { className: 'chip', part: 'priority', 'data-priority': priority }, words.say(priority));

/** A notification as an article of a feed. Its state changes, and what was sent only where its sender edits it. */
export class Row {
  #label = `item-${(made += 1)}`;
  #isCurrent = false;
  /** @type {Choices | null} */
  choices = null;

  /** @param {any} item @param {import('./texts.js').Words} words @param {boolean} showsData */
  constructor(item, words, showsData) {
    this.words = words;
    this.showsData = showsData;
    this.buttons = {
      read: iconButton('check', '', { 'data-action': 'read' }),
      archive: iconButton('archive', '', { 'data-action': 'archive' }),
      snooze: iconButton('clock', '', { 'data-action': 'snooze' }),
      delete: iconButton('trash', '', { className: 'icon danger', 'data-action': 'delete' }),
    };
    this.menu = iconButton('more', '', { className: 'icon menu', 'data-action': 'menu', 'aria-expanded': 'false' });
    /** When it came, or will: rows of one day stand below its name. */
    this.at = this.under = Date.parse(item.snoozed_until ?? item.created_at);
    this.actions = make('div', { className: 'actions', part: 'actions',
      beforetoggle: ({ newState }) => newState === 'closed' && this.#leaveMenu(),
      toggle: ({ newState }) => newState === 'closed' && this.actions.removeAttribute('popover') },
      ...Object.values(this.buttons));
    this.content = [make('i'), make('i')];
    this.element = make('article', { className: 'item', part: 'item', 'aria-labelledby': this.#label, 'data-id': item.id },
      ...this.content, this.menu, this.actions);
    this.element.row = this;
    this.#fill(item);
    this.paint(item);
    this.unfold(false);
  }

  /** The day below whose name it stands: that of `under`, which Feed moves. */
  get day() { return new Date(this.under).toDateString(); }

  /** Show what was sent. */
  #fill(item) {
    const { words } = this;
    this.item = item;
    this.state = make('span', { className: 'unseen' });
    this.time = make('time', { part: 'time', dir: 'auto' });
    this.body = quote('p', 'body', item.body);
    this.whole = make('button',
      { className: 'link whole', part: 'more', hidden: true, 'data-action': 'unfold' });
    const heading = title(item, 'h3', this.state);
    heading.id = this.#label;
    this.texts = [heading, this.body].filter(Boolean);
    const from = this.element.getRootNode().activeElement;
    const isWithin = this.content[1].matches(':focus-within');
    // What is typed stays.
    if (this.choices?.key !== JSON.stringify(item.actions)) {
      this.choices?.leave(item);
      this.choices = item.actions && new Choices(item, words);
    }
    nameButton(this.menu, words.say('moreActions'), item.title);
    this.element.dataset.priority = item.priority;
    const content = [glyph(item), make('div', { className: 'main' },
      make('div', { className: 'top' }, heading, item.edited_at && make('span', { className: 'edited', part: 'edited',
        title: words.dateTime(Date.parse(item.edited_at)), textContent: words.say('edited') }), this.time),
      this.body,
      this.whole,
      this.#meta(item),
      this.choices?.element)];
    for (const [index, part] of content.entries()) this.content[index].replaceWith(part);
    this.content = content;
    this.setCurrent(this.#isCurrent);
    if (isWithin) (from.isConnected ? from : this.element).focus();
  }

  #meta(item) {
    const target = safeLink(item.url);
    return make('div', { className: 'meta', part: 'meta' },
      priorityChip(item, this.words),
      item.category !== 'default' && make('span', { className: 'chip', part: 'category', textContent: this.words.category(item.category) }),
      // Where it leads, when that is elsewhere: a path of this site tells people nothing.
      target && !isOwn(target) && make('span',
        { className: 'address', part: 'address', dir: 'ltr', textContent: target.host, title: target.href }),
      this.showsData && item.data && make('details', {},
        make('summary', { textContent: this.words.say('data') }),
        make('pre', { part: 'data', dir: 'ltr', tabIndex: 0, textContent: JSON.stringify(item.data, null, 2) })));
  }

  /** Show the item in this state. Return whether its texts are others now. */
  paint(item) {
    const { words, buttons } = this;
    const isEdited = item.edited_at !== this.item.edited_at;
    if (isEdited) {
      this.#fill(item);
      this.unfold(this.isUnfolded);
    }
    this.item = item;
    this.element.classList.toggle('new', !item.read_at);
    this.element.part.toggle('unread', !item.read_at);
    write(this.state, item.read_at ? '' : `${words.say('unread')}: `);
    const show = (button, name, sign) => nameButton(button, words.say(name), item.title).replaceChildren(icon(sign));
    show(buttons.read, item.read_at ? 'markUnread' : 'markRead', item.read_at ? 'dot' : 'check');
    show(buttons.archive, item.archived_at ? 'unarchive' : 'archive', item.archived_at ? 'inbox' : 'archive');
    show(buttons.snooze, item.snoozed_until ? 'wakeNow' : 'snooze', item.snoozed_until ? 'bell' : 'clock');
    buttons.snooze.hidden = Boolean(item.archived_at && !item.snoozed_until);
    const time = item.snoozed_until ?? item.created_at;
    Object.assign(this.time, { dateTime: time, title: words.dateTime(Date.parse(time)) });
    this.ask(null);
    this.tick();
    return isEdited;
  }

  /**
   * What cannot be undone takes a second press while the question stands: deleting, and some actions, by their ids.
   * Nothing is asked with null, and with '' it is deleting.
   */
  ask(asked) {
    const { words, buttons } = this;
    this.asked = asked;
    const deletes = asked === '';
    buttons.delete.classList.toggle('asked', deletes);
    nameButton(buttons.delete, words.say(deletes ? 'deleteNow' : 'delete'), this.item.title);
    buttons.delete.replaceChildren(icon('trash'), deletes ? make('span', { textContent: words.say('deleteShort') }) : '');
    this.choices?.ask(asked);
  }

  /** Where nothing hovers, the buttons are a menu of their own. */
  openMenu() {
    const { actions, menu } = this;
    actions.popover = 'auto';
    actions.showPopover();
    menu.setAttribute('aria-expanded', 'true');
    actions.firstChild.focus();
  }

  closeMenu() { if (this.actions.popover) this.actions.hidePopover(); }

  #leaveMenu() {
    this.menu.setAttribute('aria-expanded', 'false');
    if (this.actions.matches(':focus-within')) this.menu.focus();
  }

  /** Show the whole title and body, or their first lines. */
  unfold(isUnfolded) {
    this.isUnfolded = isUnfolded;
    this.element.classList.toggle('unfolded', isUnfolded);
    this.whole.setAttribute('aria-expanded', isUnfolded);
    const label = this.words.say(isUnfolded ? 'showLess' : 'showMore');
    write(nameButton(this.whole, label, this.item.title), label);
  }

  /** Offer the rest of what is cut off. */
  measure() {
    const { texts, whole } = this;
    whole.hidden = !this.isUnfolded && texts.every((one) => one.scrollHeight <= one.clientHeight + 1);
  }

  /** Say anew how long ago it was, or until when it is snoozed, and whether it can still be answered. */
  tick() {
    const { item, words } = this;
    const until = item.snoozed_until && words.say('until', { time: words.moment(Date.parse(item.snoozed_until)) });
    write(this.time, until ?? words.ago(Date.parse(item.created_at)));
    this.choices?.paint(item);
  }

  /** Let the Tab key go to this item and into it, or past it. */
  setCurrent(isCurrent) {
    this.#isCurrent = isCurrent;
    this.element.tabIndex = isCurrent ? 0 : -1;
    for (const inner of this.element.querySelectorAll('a, button, input, summary, pre')) inner.tabIndex = isCurrent ? 0 : -1;
  }
}
