// <notification-preferences>: which categories a user is told of, and when nothing alerts.

import { iconButton, make, write } from './dom.js';
import { NotificationElement } from './element.js';
import { localTime } from './snooze.js';
import { PREFERENCES } from './theme.js';

const WEEK = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'];
const NIGHT = { days: WEEK, from: '22:00', until: '07:00' };
/** The labels of its ends. */
const ENDS = { from: 'quietFrom', until: 'quietTo' };
const MOST_TRIES = 3;

export class NotificationPreferences extends NotificationElement {
  static sheets = [PREFERENCES];
  static observedAttributes = [...NotificationElement.observedAttributes, 'category-labels'];
  /** As the gateway has them. @type {any} */
  #kept = null;
  #saving = Promise.resolve();
  #parts = {};

  handlers = {
    // What was changed without a connection is not told.
    state: ({ state }) => (state === 'live' ? this.#load() : state === 'signedout' && this.#take(null)),
    preferences: ({ preferences }) => this.#take(preferences),
    items: () => this.refresh(),
  };

  begin() {
    this.#kept = null;
    if (this.client?.epoch) this.#load();
  }

  build() {
    const heading = make('h2', { part: 'heading', textContent: this.words.say('preferences') });
    this.#parts = { form: make('div'), said: make('p', { className: 'said', part: 'said', role: 'status' }) };
    return [make('div', { className: 'head' }, heading, make('slot', { name: 'actions' })), this.#parts.form, this.#parts.said];
  }

  async #load() {
    const { client } = this;
    try {
      const preferences = await client.preferences();
      if (client === this.client) this.#take(preferences);
    } catch (error) {
      this.#sayFailed(error);
    }
  }

  #take(preferences) {
    this.#kept = preferences;
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
  #categories() {
    const seen = this.client.items.map(({ category }) => category);
    const all = new Set([...seen, ...Object.keys(this.categoryLabels), ...Object.keys(this.#kept.categories)]);
    return [...all].sort();
  }

  #draw() {
    const { words } = this;
    const { categories, quiet_hours: hours, quiet_until: until, timezone } = this.#kept;
    const group = (name, ...children) => make('fieldset', { part: 'group' }, make('legend', { textContent: words.say(name) }), ...children);
    const zone = make('select', { name: 'zone', change: () => this.#save((wanted) => { wanted.timezone = zone.value; }) },
      ...[...new Set([timezone ?? 'UTC', 'UTC', ...Intl.supportedValuesOf('timeZone')])].map((one) => new Option(one.replaceAll('_', ' '), one)));
    const quietUntil = make('input', { type: 'datetime-local', name: 'until', value: until ? localTime(Date.parse(until)) : '',
      change: () => this.#save((wanted) => {
        wanted.quiet_until = quietUntil.value ? new Date(quietUntil.value).toISOString() : null;
      }) });
    return [
      group('tellMe', ...this.#categories().map((name) => make('label', {}, make('input', {
        type: 'checkbox', name: `category ${name}`, checked: !categories[name]?.muted,
        change: ({ target }) => this.#save((wanted) => { wanted.categories[name] = { muted: !target.checked }; }),
      }), words.category(name)))),
      group('quietHours', make('p', { textContent: words.say('quietHint') }),
        ...hours.map((window, index) => this.#window(window, index)),
        make('button', { name: 'add', textContent: words.say('addHours'), click: () => this.#save((wanted) => {
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
    return make('div', { className: 'window', role: 'group', 'aria-label': `${before.from} – ${before.until}` },
      ...boxes.map((box, day) => make('label', {}, box, words.weekday(day))),
      ...times.map((time, which) => make('label', {}, words.say(Object.values(ENDS)[which]), time)),
      iconButton('trash', words.say('delete'), { click: () => replace() }));
  }

  /** Change what the gateway has, one change after the other. */
  #save(change) {
    this.#saving = this.#saving.then(() => this.#send(change));
  }

  /** Where another change was quicker, this one is made again, to what is there now. */
  async #send(change, tries = MOST_TRIES) {
    const wanted = structuredClone(this.#kept);
    change(wanted);
    try {
      this.#kept = await this.client.setPreferences(wanted);
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
