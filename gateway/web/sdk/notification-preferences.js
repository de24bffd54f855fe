// <notification-preferences>: which categories a user is told of, and when nothing alerts.

import { iconButton, make, nameButton, write } from './dom.js';
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

export class NotificationPreferences extends NotificationElement {
  static sheets = [PREFERENCES];
  static observedAttributes = [...NotificationElement.observedAttributes, 'category-labels'];
  /** As the gateway has them. @type {any} */
  #kept = null;
  #saving = Promise.resolve();
  #seen = new Set(); // categories
  #parts = {};

  handlers = {
    // What was changed without a connection is not told.
    state: ({ state }) => (state === 'live' ? this.#load() : state === 'signedout' && this.#take(null)),
    preferences: ({ preferences }) => this.#take(preferences),
    items: ({ added }) => this.#see(added),
  };

  begin() {
    this.#kept = null;
    this.#seen.clear();
    if (this.client?.epoch) this.#load();
  }

  build() {
    const heading = make('h2', { part: 'heading', textContent: this.words.say('preferences') });
    this.#parts = { form: make('div'), said: make('p', { className: 'said', part: 'said', role: 'status' }) };
    return [make('div', { className: 'head' }, heading, make('slot', { name: 'actions' })), this.#parts.form, this.#parts.said];
  }

  async #load() {
    const { client } = this;
    if (!this.#seen.size) this.#look(client);
    try {
      const preferences = await client.preferences();
      if (client === this.client) this.#take(preferences);
    } catch (error) {
      this.#sayFailed(error);
    }
  }

  /** See what categories there are, in what is shown, archived or snoozed. */
  #look(client) {
    for (const filter of [{}, { archived: true }, { snoozed: true }]) {
      client.query({ ...filter, limit: LOOKED_AT }).then(({ items }) => client === this.client && this.#see(items), () => {});
    }
  }

  #see(items) {
    for (const { category } of items) if (category) this.#seen.add(category);
    this.refresh();
  }

  #take(preferences) {
    this.#kept = preferences;
    // One that is muted no more stays to be chosen. What another user had is not shown.
    if (preferences) for (const name of Object.keys(preferences.categories)) this.#seen.add(name);
    else this.#seen.clear();
    this.refresh();
  }

  #sayFailed(error) { write(this.#parts.said, this.words.failed(error)); }

  /** Show what the gateway has. The focus stays in its field. */
  refresh() {
    const { form } = this.#parts;
    const drawn = this.#kept ? JSON.stringify([this.#kept, this.#categories()]) : '';
    if (form.drawn === drawn) return;
    form.drawn = drawn;
    const { name } = this.shadowRoot.activeElement ?? {};
    form.replaceChildren(...(drawn ? this.#draw() : []));
    if (name) [...form.querySelectorAll('[name]')].find((one) => one.name === name)?.focus();
  }

  /** Those that were seen, or that the page or the user knows. */
  #categories() { return [...new Set([...this.#seen, ...Object.keys(this.categoryLabels)])].sort(); }

  #draw() {
    const { words } = this;
    const { categories, quiet_hours: hours, quiet_until: until, timezone } = this.#kept;
    const group = (name, ...children) => make('fieldset', { part: 'group' }, make('legend', { textContent: words.say(name) }), ...children);
    const zone = make('select', { name: 'zone', change: () => this.#save((wanted) => { wanted.timezone = zone.value; }) },
      ...[...new Set([timezone ?? 'UTC', 'UTC', ...Intl.supportedValuesOf('timeZone')])].map((one) => new Option(one.replaceAll('_', ' '), one)));
    const quietUntil = make('input', { type: 'datetime-local', name: 'until', value: until ? localTime(Date.parse(until)) : '',
      change: () => {
        const time = quietUntil.value && new Date(quietUntil.value);
        if (time && time <= Date.now()) write(this.#parts.said, words.say('isPast'));
        else this.#save((wanted) => { wanted.quiet_until = time ? time.toISOString() : null; });
      } });
    const names = this.#categories();
    return [
      group('tellMe', !names.length && make('p', { textContent: words.say('noCategories') }), ...names.map((name) => make('label', {}, make('input', {
        type: 'checkbox', name: `category ${name}`, checked: !categories[name]?.muted,
        change: ({ target }) => this.#save((wanted) => {
          delete wanted.categories[name];
          if (!target.checked) wanted.categories[name] = { muted: true };
        }),
      }), words.category(name)))),
      group('quietHours', make('p', { textContent: words.say('quietHint') }),
        ...hours.map((window, index) => this.#window(window, index)),
        hours.length < MOST_HOURS && make('button', { name: 'add', textContent: words.say('addHours'), click: () => this.#save((wanted) => {
          wanted.quiet_hours.push(NIGHT);
          wanted.timezone ??= Intl.DateTimeFormat().resolvedOptions().timeZone;
        }) }),
        hours.length > 0 && make('label', {}, words.say('timeZone'), zone),
        make('label', {}, words.say('quietUntil'), quietUntil)),
    ];
  }

  /** The fields of one time of quiet. */
  #window(before, index) {
    const { words } = this;
    const replace = (...after) => this.#save(({ quiet_hours: hours }) => {
      // It may stand elsewhere meanwhile, or be gone.
      const place = hours.findIndex((one) => JSON.stringify(one) === JSON.stringify(before));
      hours.splice(place < 0 ? hours.length : place, 1, ...after);
    });
    const change = () => {
      const [from, until] = times.map(({ value }) => value);
      const days = WEEK.filter((_, day) => boxes[day].checked);
      if (!days.length || !from || !until || from === until) write(this.#parts.said, words.say('wrongHours'));
      else replace({ days, from, until });
    };
    const boxes = WEEK.map((day) => make('input', { type: 'checkbox', name: `${index} ${day}`, checked: before.days.includes(day), change }));
    const times = Object.keys(ENDS).map((name) => make('input', { type: 'time', name: `${index} ${name}`, required: true,
      value: before[name], change }));
    const label = `${before.from} – ${before.until}`;
    return make('div', { className: 'window', role: 'group', 'aria-label': label },
      ...boxes.map((box, day) => make('label', {}, box, words.weekday(day))),
      ...times.map((time, which) => make('label', {}, words.say(Object.values(ENDS)[which]), time)),
      nameButton(iconButton('trash', '', { click: () => replace() }), words.say('delete'), label));
  }

  /** Change what the gateway has, one change after the other. */
  #save(change) {
    this.#saving = this.#saving.then(() => this.#send(change));
  }

  /** Where another change was quicker, this one is made again, to what is there now. */
  async #send(change, tries = MOST_TRIES) {
    const { client } = this;
    const wanted = structuredClone(this.#kept);
    // The user has signed out meanwhile.
    if (!wanted) return;
    change(wanted);
    try {
      const kept = await client.setPreferences(wanted);
      if (client !== this.client || !this.#kept) return;
      this.#kept = kept;
      write(this.#parts.said, this.words.say('saved'));
    } catch (error) {
      if (error.status === 412 && tries > 1) {
        await this.#load();
        await this.#send(change, tries - 1);
        return;
      }
      this.#sayFailed(error);
      this.#parts.form.drawn = null;
    }
    this.refresh();
  }
}
