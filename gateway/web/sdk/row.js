// One notification in a list.

import { icon, iconButton, make, nameButton, write } from './dom.js';
import { isOwn, safeLink } from './link.js';

let made = 0;

// What a category is about, by the words that most applications use.
const SIGNS = {
  chat: /chat|comment|mention|message|repl/, box: /deliver|order|parcel|ship/, card: /bill|invoice|pay/,
  lock: /auth|login|secur|sign/,
};

/** Return the sign of a notification: what it is about, in a colour of its category. */
export function glyph({ category, priority }) {
  const about = Object.keys(SIGNS).find((name) => SIGNS[name].test(category)) ?? 'bell';
  const sign = make('span', { className: 'glyph', part: 'glyph', 'aria-hidden': 'true' },
    icon(priority === 'urgent' ? 'alert' : about));
  const hue = [...category].reduce((sum, one) => (sum * 31 + one.codePointAt(0)) % 360, 7);
  if (category !== 'default') sign.style.setProperty('--_hue', hue);
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

/** A notification as an article of a feed. What was sent never changes; its state does. */
export class Row {
  /** @param {any} item @param {import('./texts.js').Words} words @param {boolean} showsData */
  constructor(item, words, showsData) {
    const id = `item-${(made += 1)}`;
    this.words = words;
    this.state = make('span', { className: 'unseen' });
    const created = words.dateTime(Date.parse(item.created_at));
    this.time = make('time', { part: 'time', dir: 'auto', dateTime: item.created_at, title: created });
    this.buttons = {
      read: iconButton('check', '', { 'data-action': 'read' }),
      archive: iconButton('archive', '', { 'data-action': 'archive' }),
      delete: iconButton('trash', '', { 'data-action': 'delete' }),
    };
    this.buttons.delete.classList.add('danger');
    this.menu = iconButton('more', '', { 'data-action': 'menu', 'aria-expanded': 'false' });
    nameButton(this.menu, words.say('moreActions'), item.title).classList.add('menu');
    this.body = quote('p', 'body', item.body);
    this.whole = make('button',
      { type: 'button', className: 'link whole', part: 'more', hidden: true, 'data-action': 'unfold' });
    const heading = title(item, 'h3', this.state);
    heading.id = id;
    this.texts = [heading, this.body].filter(Boolean);
    this.day = new Date(item.created_at).toDateString();
    this.actions = make('div', { className: 'actions', part: 'actions',
      beforetoggle: ({ newState }) => newState === 'closed' && this.#leaveMenu(),
      toggle: ({ newState }) => newState === 'closed' && this.actions.removeAttribute('popover') },
      ...Object.values(this.buttons));
    this.element = make('article',
      { className: 'item', part: 'item', 'aria-labelledby': id, 'data-id': item.id, 'data-priority': item.priority },
      glyph(item),
      make('div', { className: 'main' },
        make('div', { className: 'top' }, heading, this.time),
        this.body,
        this.whole,
        this.#meta(item, showsData)),
      this.menu, this.actions);
    this.element.row = this;
    this.setCurrent(false);
    this.paint(item);
    this.unfold(false);
  }

  #meta(item, showsData) {
    const { category } = item;
    const target = safeLink(item.url);
    return make('div', { className: 'meta', part: 'meta' },
      priorityChip(item, this.words),
      category !== 'default' && make('span', { className: 'chip', part: 'category', textContent: this.words.category(category) }),
      // Where it leads, when that is elsewhere: a path of this site tells people nothing.
      target && !isOwn(target) && make('span',
        { className: 'address', part: 'address', dir: 'ltr', textContent: target.host, title: target.href }),
      showsData && item.data && make('details', {},
        make('summary', { textContent: this.words.say('data') }),
        make('pre', { part: 'data', dir: 'ltr', tabIndex: 0, textContent: JSON.stringify(item.data, null, 2) })));
  }

  /** Show the item in this state. */
  paint(item) {
    const { words, buttons } = this;
    this.item = item;
    this.element.classList.toggle('new', !item.read_at);
    this.element.part.toggle('unread', !item.read_at);
    write(this.state, item.read_at ? '' : `${words.say('unread')}: `);
    nameButton(buttons.read, words.say(item.read_at ? 'markUnread' : 'markRead'), item.title);
    buttons.read.replaceChildren(icon(item.read_at ? 'dot' : 'check'));
    nameButton(buttons.archive, words.say(item.archived_at ? 'unarchive' : 'archive'), item.title);
    buttons.archive.replaceChildren(icon(item.archived_at ? 'inbox' : 'archive'));
    this.ask(false);
    this.tick();
  }

  /** Deleting cannot be undone, so it takes a second press while the question stands. */
  ask(asked) {
    const { words, buttons } = this;
    this.asked = asked;
    buttons.delete.classList.toggle('asked', asked);
    nameButton(buttons.delete, words.say(asked ? 'deleteNow' : 'delete'), this.item.title);
    buttons.delete.replaceChildren(icon('trash'), ...(asked ? [make('span', { textContent: words.say('deleteShort') })] : []));
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

  /** Say anew how long ago it was. */
  tick() { write(this.time, this.words.ago(Date.parse(this.item.created_at))); }

  /** Let the Tab key go to this item and into it, or past it. */
  setCurrent(isCurrent) {
    this.element.tabIndex = isCurrent ? 0 : -1;
    for (const inner of this.element.querySelectorAll('a, button, summary, pre')) inner.tabIndex = isCurrent ? 0 : -1;
  }
}
