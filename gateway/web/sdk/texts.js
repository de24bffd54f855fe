// The words of the components, and what Intl makes of numbers and times. Each text can be replaced by `element.texts`.

/** In English. A text that counts has a form for each category of the plural rules, and one with reasons for each of them; `{name}` is filled in. */
export const TEXTS = {
  notifications: 'Notifications',
  all: 'All',
  unread: 'Unread',
  snoozed: 'Snoozed',
  archived: 'Archived',
  category: 'Category',
  general: 'General',
  anyCategory: 'All categories',
  markRead: 'Mark read',
  markUnread: 'Mark unread',
  snooze: 'Snooze',
  wakeNow: 'Wake now',
  laterToday: 'Later today',
  tomorrow: 'Tomorrow',
  nextWeek: 'Next week',
  pickTime: 'Date and time',
  wrongTime: 'Choose a time within a year, and not in the past.',
  until: 'until {time}',
  edited: 'edited',
  actions: 'Actions',
  send: 'Send',
  confirm: 'Press again: {label}',
  answeredBy: 'You answered: {label}',
  repliedBy: 'You answered: {label} – {text}',
  replyLost: {
    answered: 'Your reply was not sent: this is answered already.', expired: 'Your reply was not sent: this has expired.',
    replaced: 'Your reply was not sent: something newer has replaced this.',
    unsent: 'Your reply was not sent: the sender has withdrawn this.', other: 'Your reply was not sent: this has changed.',
  },
  youWrote: 'You wrote: {text}',
  archive: 'Archive',
  unarchive: 'Move to inbox',
  delete: 'Delete',
  deleteNow: 'Press again to delete',
  deleteShort: 'Delete?',
  markAllRead: 'Mark all read',
  undo: 'Undo',
  dismiss: 'Dismiss',
  close: 'Close',
  back: 'Back',
  preferences: 'Preferences',
  tellMe: 'Notify me about',
  noCategories: 'The categories of your notifications appear here.',
  quietHours: 'Quiet hours',
  quietHint: 'Urgent notifications still alert.',
  addHours: 'Add quiet hours',
  quietFrom: 'From',
  quietTo: 'To',
  timeZone: 'Time zone',
  quietUntil: 'Quiet until',
  wrongHours: 'Choose a day, and two different times.',
  isPast: 'This time has passed.',
  saved: 'Saved',
  moreActions: 'More actions',
  showAll: 'Show all',
  showArchived: 'Show archived',
  showCategories: 'Show all categories',
  seeAll: 'See all',
  tryNow: 'Try now',
  tryAgain: 'Try again',
  data: 'Data',
  showMore: 'Show more',
  showLess: 'Show less',
  newer: '{count} new',
  low: 'Low priority',
  high: 'High priority',
  urgent: 'Urgent',
  justNow: 'just now',
  loading: 'Loading notifications',
  emptyAll: 'You’re all caught up',
  emptyAllMore: 'New notifications appear here the moment they are sent.',
  emptyUnread: 'Nothing unread',
  emptyUnreadMore: 'You have read everything there is.',
  emptySnoozed: 'Nothing snoozed',
  emptySnoozedMore: 'What you snooze comes back when it is time.',
  emptyArchived: 'Nothing archived',
  emptyArchivedMore: 'What you archive is kept here.',
  emptyCategory: 'Nothing in {category}',
  offline: 'There is no connection. Nothing sent meanwhile is lost.',
  unavailable: 'Your notifications cannot be opened at the moment.',
  retryIn: 'Trying again in {time}.',
  retrying: 'Trying again …',
  stopped: 'This inbox is not connected.',
  signedOut: 'You are signed out',
  signedOutMore: 'Sign in again to see your notifications.',
  failedToLoad: 'The notifications could not be loaded.',
  failed: 'That did not work: {detail}',
  shortcuts: 'Keyboard shortcuts',
  keyNext: 'Next notification',
  keyPrevious: 'Previous notification',
  keyOpen: 'Open',
  keyRead: 'Mark read or unread',
  keySnooze: 'Snooze, or wake now',
  keyArchive: 'Archive, or move to the inbox',
  keyDelete: 'Delete: press twice; Escape cancels',
  keyHelp: 'Show these shortcuts',
  archivedNow: 'Archived',
  snoozedNow: 'Snoozed until {time}',
  unarchivedNow: 'Moved to inbox',
  deletedNow: 'Deleted',
  noUndo: 'There is nothing to undo. Deleting is for good.',
  readNow: { one: '{count} notification marked read', other: '{count} notifications marked read' },
  bellNew: 'Notifications, {count} new',
  arrived: { one: '{count} notification while you were away', other: '{count} notifications while you were away' },
  more: { one: '{count} more notification', other: '{count} more notifications' },
  systemAsk: 'Turn on',
  systemOn: 'Notifications on this device are on while this page is open',
  systemHow: 'Get notifications on this device while this page is open',
  systemOff: 'Turn off',
  systemDenied: 'Your browser blocks notifications of this site.',
};

export const MINUTE = 60_000; // ms
const HOUR = 60 * MINUTE, DAY = 24 * HOUR;

/** Return the locale where Intl knows it, else English: a wrong attribute is no reason to show nothing. */
function known(locale) {
  try {
    return Intl.getCanonicalLocales(locale)[0] ?? 'en';
  } catch {
    return 'en';
  }
}

/** The texts of an element in its locale. */
export class Words {
  #texts;
  #locale;
  #plural;
  #ago;
  #date;
  #labels;

  /**
   * @param {string} locale BCP 47 @param {Partial<typeof TEXTS>} overrides
   * @param {Record<string, string>} labels of categories
   */
  constructor(locale, overrides = {}, labels = {}) {
    const language = known(locale);
    this.#texts = { ...TEXTS, ...overrides };
    this.#labels = labels;
    this.#locale = language;
    this.#plural = new Intl.PluralRules(language);
    this.#ago = new Intl.RelativeTimeFormat(language, { numeric: 'auto', style: 'short' });
    this.number = new Intl.NumberFormat(language).format;
    this.seconds = new Intl.NumberFormat(language, { style: 'unit', unit: 'second', unitDisplay: 'short' }).format;
    this.#date = new Intl.DateTimeFormat(language, { day: 'numeric', month: 'short' }).format;
    this.dateTime = new Intl.DateTimeFormat(language, { dateStyle: 'full', timeStyle: 'short' }).format;
    /** A moment of the next days. */
    this.moment = new Intl.DateTimeFormat(language, { weekday: 'short', day: 'numeric', month: 'short', hour: 'numeric', minute: 'numeric' }).format;
  }

  /** Return a text with its values filled in. `count` chooses the form, and is written as a number of the locale. */
  say(name, values = {}) {
    const text = this.#texts[name];
    const form = typeof text === 'object' ? text[values.why ?? this.#plural.select(values.count)] ?? text.other : text;
    return form.replace(/\{(\w+)\}/g, (_, key) => (key === 'count' ? this.number(values.count) : values[key]));
  }

  /** Return that something failed, and why. @param {{ detail?: string, message: string }} error */
  failed({ detail, message }) { return this.say('failed', { detail: detail ?? message }); }

  /** Return a count as short as a badge is. */
  badge(value, most = 99) { return value > most ? `${this.number(most)}+` : this.number(value); }

  /** Return the short name of a day of the week, 0 for Monday. */
  weekday(day) { return new Date(2024, 0, 1 + day).toLocaleDateString(this.#locale, { weekday: 'short' }); }

  /** Return the label of a category: the page's own, else the words that its name is made of. */
  category(name) {
    if (Object.hasOwn(this.#labels, name)) return String(this.#labels[name]);
    if (name === 'default') return this.say('general');
    const text = name.replace(/[._-]+/g, ' ').trim() || name;
    // Two letters are an abbreviation: CI, HR, QA.
    return text.length < 3 ? text.toUpperCase() : text[0].toUpperCase() + text.slice(1);
  }

  /** Return the day of a time: today, yesterday, tomorrow, or its date. */
  day(ms) {
    const day = new Date(ms), today = new Date();
    // By midnights: a day may have 23 or 25 hours.
    const [from, to] = [day, today].map((one) => Date.UTC(one.getFullYear(), one.getMonth(), one.getDate()));
    const past = (to - from) / DAY;
    if (past >= -1 && past <= 1) {
      const text = new Intl.RelativeTimeFormat(this.#locale, { numeric: 'auto' }).format(0 - past, 'day');
      return text[0].toLocaleUpperCase(this.#locale) + text.slice(1);
    }
    const year = day.getFullYear() === today.getFullYear() ? undefined : 'numeric';
    return day.toLocaleDateString(this.#locale, { weekday: 'long', day: 'numeric', month: 'long', year });
  }

  /** Return how long ago a time was, and the date of what is older than a week. */
  ago(ms) {
    const past = Date.now() - ms;
    if (past < MINUTE) return this.say('justNow');
    if (past < HOUR) return this.#ago.format(-Math.floor(past / MINUTE), 'minute');
    if (past < DAY) return this.#ago.format(-Math.floor(past / HOUR), 'hour');
    if (past < 7 * DAY) return this.#ago.format(-Math.floor(past / DAY), 'day');
    return this.#date(ms);
  }
}
