// <notification-preferences>: which categories a user is told of, and when nothing alerts.

import { iconButton, make, nameButton, place, write } from './dom.js';
import { NotificationElement } from './element.js';
import { localTime } from './snooze.js';
import { PREFERENCES } from './theme.js';

const WEEK = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
const NIGHT = { days: WEEK, from: '22:00', until: '07:00' };
/** The labels of its ends. */
const ENDS = { from: 'quietFrom', until: 'quietTo' };
const MOST_TRIES = 3;
const MOST_HOURS = 20; // times of quiet
const LOOKED_AT = 200; // items of a list, which tell what categories there are
const PAUSE = 1_000; // ms without a keystroke, after which a time counts as typed

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const isRight = ({ days, from, until }) => days.length && from && until && from !== until;
/** Preferences as the gateway has them, of those whose windows have names. */
const unnamed = (named) => named && { ...named, quiet_hours: Object.values(named.quiet_hours) };

/** Return `theirs` with the changes that `mine` has made to `base`. */
function merge(base, mine, theirs) {
  if (same(base, mine)) return theirs;
  if ([base, mine, theirs].some((one) => one?.constructor !== Object)) return mine;
  const merged = Object.keys({ ...theirs, ...mine }).map((key) => [key, merge(base[key], mine[key], theirs[key])]);
  return Object.fromEntries(merged.filter(([, value]) => value !== undefined));
}

export class NotificationPreferences extends NotificationElement {
  static sheets = [PREFERENCES];
  static observedAttributes = [...NotificationElement.observedAttributes, 'category-labels'];
  /** As the gateway has them, but each window of `quiet_hours` with a name that survives its changes. @type {any} */
  #kept = null;
  /** As the user wants them, and as the fields show them. @type {any} */
  #draft = null;
  /** Requests run one after the other. */
  #queue = Promise.resolve();
  #requests = 0;
  #windows = 0;
  #seen = new Set(); // categories
  /** @type {any} */
  #parts = {};
  /** The labels of the categories and the groups of the windows. */
  #nodes = {};
  /** The field whose typed value the draft does not have yet. */
  #typed = null;
  #pause;

  handlers = {
    // What was changed without a connection is not told.
    state: ({ state }) => (state === 'live' ? this.#enqueue(() => this.#load()) : state === 'signedout' && this.#take(null)),
    preferences: ({ preferences }) => {
      const before = this.#requests;
      this.#enqueue(() => same(unnamed(this.#kept), preferences)
        // It may be older than the answer to a request that ran meanwhile.
        || (before === this.#requests ? this.#take(preferences) : this.#load()));
    },
    items: ({ added }) => this.#see(added),
  };

  begin() {
    this.#kept = this.#draft = null;
    this.#seen.clear();
    if (this.client?.epoch) this.#enqueue(() => this.#load());
  }

  build() {
    const { words } = this;
    const text = (tag, name, properties) => make(tag, { textContent: words.say(name), ...properties });
    const group = (name, ...children) => make('fieldset', { part: 'group' }, text('legend', name), ...children);
    const categories = make('div');
    const none = text('p', 'noCategories');
    const add = text('button', 'addHours', { type: 'button', click: () => this.#change((draft) => {
      draft.quiet_hours[this.#newName()] = { ...NIGHT };
      draft.timezone ??= Intl.DateTimeFormat().resolvedOptions().timeZone;
    }) });
    const windows = make('div');
    const zone = make('label', {}, words.say('timeZone'), this.#zone());
    const form = make('div', {
      input: ({ target }) => this.#type(target),
      keydown: ({ key }) => key === 'Enter' && this.#takeTyped(),
      focusout: () => {
        this.#takeTyped();
        setTimeout(() => this.refresh()); // The removal of a field that has the focus fires this, too.
      },
    }, group('tellMe', none, categories), group('quietHours', text('p', 'quietHint'), windows, add, zone, make('label', {}, words.say('quietUntil'), this.#until())));
    this.#nodes = {};
    this.#parts = { form, none, categories, windows, add, zone, said: make('p', { className: 'said', part: 'said', role: 'status' }) };
    return [make('div', { className: 'head' }, text('h2', 'preferences', { part: 'heading' }), make('slot', { name: 'actions' })),
      form, this.#parts.said];
  }

  #enqueue(work) {
    this.#queue = this.#queue.then(work);
  }

  async #load() {
    const { client } = this;
    if (!this.#seen.size) this.#look(client);
    try {
      const preferences = await client?.preferences();
      if (preferences && client === this.client) this.#take(preferences);
    } catch (error) {
      this.#say(this.words.failed(error));
    }
    this.#requests += 1;
  }

  /** See what categories there are, in what is shown, archived or snoozed. */
  #look(client) {
    for (const filter of [{}, { archived: true }, { snoozed: true }]) {
      client?.query({ ...filter, limit: LOOKED_AT }).then(({ items }) => client === this.client && this.#see(items), () => {});
    }
  }

  #see(items) {
    for (const { category } of items) if (category) this.#seen.add(category);
    this.refresh();
  }

  #say(text) { write(this.#parts.said, text); }

  /** Take what the gateway has. The draft keeps its changes since `base`. */
  #take(preferences, base = this.#kept) {
    this.#rebase(base, preferences && { ...preferences, quiet_hours: this.#name(preferences.quiet_hours, base?.quiet_hours) });
  }

  #rebase(base, theirs) {
    // One that is muted no more stays to be chosen. What another user had is not shown.
    if (theirs) for (const name of Object.keys(theirs.categories)) this.#seen.add(name);
    else this.#seen.clear();
    this.#draft = theirs && structuredClone(merge(base, this.#draft, theirs));
    this.#kept = theirs;
    this.refresh();
  }

  /** Give each window the name that it had: an equal one's, else that of the first which is left over. */
  #name(hours, before) {
    const left = { ...before };
    const find = (test) => {
      const name = Object.keys(left).find(test);
      delete left[name];
      return name;
    };
    const equal = hours.map((one) => find((name) => same(left[name], one)));
    return Object.fromEntries(hours.map((one, index) => [equal[index] ?? find(() => true) ?? this.#newName(), one]));
  }

  #newName() { return `w${(this.#windows += 1)}`; }

  /** Show the draft. A field keeps what is typed into it until it loses the focus. */
  refresh() {
    const { form, none, categories, windows, add, zone } = this.#parts;
    const { activeElement } = this.shadowRoot;
    const draft = this.#draft;
    form.hidden = !draft;
    const names = draft ? [...new Set([...this.#seen, ...Object.keys(this.categoryLabels)])].sort() : [];
    place(categories, names.map((name) => (this.#nodes[`category ${name}`] ??= this.#category(name))));
    none.hidden = names.length > 0;
    const shown = draft ? Object.keys(draft.quiet_hours).map((name) => this.#window(name)) : [];
    // A window that is removed elsewhere stays while one of its fields has the focus.
    const focused = draft && activeElement?.closest('.window label')?.parentNode;
    place(windows, focused && !shown.includes(focused) ? [...shown, focused] : shown);
    zone.hidden = !shown.length;
    add.hidden = shown.length >= MOST_HOURS;
    if (!draft) return;
    for (const field of form.querySelectorAll('input, select')) {
      if (field.type === 'checkbox' || field !== activeElement) field.dispatchEvent(new Event('draw'));
    }
  }

  #category(name) {
    return make('label', {}, make('input', { type: 'checkbox', name: `category ${name}`,
      draw: ({ target }) => { target.checked = !this.#draft.categories[name]?.muted; },
      change: ({ target: { checked } }) => this.#change(({ categories }) => {
        delete categories[name];
        if (!checked) categories[name] = { muted: true };
      }),
    }), this.words.category(name));
  }

  #zone() {
    const option = (zone) => new Option(zone.replaceAll('_', ' '), zone);
    return make('select', { name: 'zone',
      draw: ({ target }) => {
        const zone = this.#draft.timezone ?? 'UTC';
        target.value = zone;
        // The browser may know fewer zones than the gateway.
        if (!target.value) target.append(option(zone));
        target.value = zone;
      },
      change: ({ target: { value } }) => this.#change((draft) => { draft.timezone = value; }),
    }, ...[...new Set(['UTC', ...Intl.supportedValuesOf('timeZone')])].map(option));
  }

  #until() {
    return make('input', { type: 'datetime-local', name: 'until', min: localTime(Date.now()),
      draw: ({ target }) => {
        const { quiet_until: until } = this.#draft;
        target.value = until ? localTime(Date.parse(until)) : '';
      },
      typed: ({ target: { value, validity } }) => {
        const time = value && new Date(value);
        if (validity.badInput) return;
        if (time && time <= Date.now()) this.#say(this.words.say('isPast'));
        else this.#change((draft) => { draft.quiet_until = time ? time.toISOString() : null; });
      },
    });
  }

  /** Return the fields of one time of quiet, which are made once. */
  #window(name) {
    const node = (this.#nodes[name] ??= this.#newWindow(name));
    node.shown = this.#draft.quiet_hours[name];
    const label = `${node.shown.from} – ${node.shown.until}`;
    node.setAttribute('aria-label', label);
    nameButton(node.lastChild, this.words.say('delete'), label);
    return node;
  }

  #newWindow(name) {
    const { words } = this;
    const change = (fields) => this.#change(({ quiet_hours: hours }) => Object.assign((hours[name] ??= node.shown), fields));
    const boxes = WEEK.map((day) => make('input', { type: 'checkbox', name: `${name} ${day}`,
      draw: ({ target }) => { target.checked = node.shown.days.includes(day); },
      change: () => change({ days: WEEK.filter((_, which) => boxes[which].checked) }) }));
    const times = Object.keys(ENDS).map((end) => make('label', {}, words.say(ENDS[end]), make('input', {
      type: 'time', name: `${name} ${end}`, required: true,
      // The same value again would empty a field that is half filled.
      draw: ({ target }) => target.value === node.shown[end] || (target.value = node.shown[end]),
      typed: ({ target: { value } }) => change({ [end]: value }) })));
    const node = make('div', { className: 'window', role: 'group' },
      ...boxes.map((box, day) => make('label', {}, box, words.weekday(day))),
      ...times,
      iconButton('trash', words.say('delete'), { click: () => {
        this.#change(({ quiet_hours: hours }) => { delete hours[name]; });
        this.#parts.add.focus();
      } }));
    return node;
  }

  /** A time that is typed counts once its field is left, or typing pauses. */
  #type(field) {
    if (!/time/.test(field.type)) return;
    this.#typed = field;
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => (field.validity.valid || field.validity.rangeUnderflow) && this.#takeTyped(), PAUSE);
  }

  #takeTyped() {
    const field = this.#typed;
    this.#typed = null;
    field?.dispatchEvent(new Event('typed'));
  }

  /** Change the draft, and save it. */
  #change(change) {
    this.#takeTyped();
    if (!this.#draft || !this.client) return;
    change(this.#draft);
    this.#say(this.#isRight() ? '' : this.words.say('wrongHours'));
    this.refresh();
    this.#enqueue(() => this.#send());
  }

  #isRight() { return !this.#draft || Object.values(this.#draft.quiet_hours).every(isRight); }

  /** Return the draft as it can be saved. A window that is wrong stays as it was. */
  #wanted() {
    const wanted = structuredClone(this.#draft);
    const hours = Object.entries(wanted.quiet_hours).map(([name, one]) => [name, isRight(one) ? one : this.#kept.quiet_hours[name]]);
    return { ...wanted, quiet_hours: Object.fromEntries(hours.filter(([, one]) => one)) };
  }

  /** Save the draft, until the gateway has it. Where another change was quicker, it is saved on top of that. */
  async #send() {
    const { client } = this;
    const isCurrent = () => client && client === this.client && this.#kept;
    let tries = MOST_TRIES;
    let text;
    while (isCurrent()) {
      const wanted = this.#wanted();
      if (same(wanted, this.#kept)) break;
      try {
        const answer = await client.setPreferences(unnamed(wanted));
        if (isCurrent()) this.#take(answer, wanted);
        text ??= this.words.say('saved');
        tries = MOST_TRIES;
      } catch (error) {
        tries -= 1;
        if (error.status === 412 && tries) await this.#load();
        else {
          text = this.words.failed(error);
          if (isCurrent()) this.#rebase(wanted, this.#kept);
        }
      }
      this.#requests += 1;
    }
    if (text && this.#isRight()) this.#say(text);
  }
}
