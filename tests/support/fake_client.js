// A client of notifications that has no gateway: the components are shown each state by it.

const isHere = (one) => !one.archived_at && !one.deleted_at && !one.snoozed_until;

const COUNTED = { read: 'read_at', archived: 'archived_at', deleted: 'deleted_at' };

export function item(number, fields = {}) {
  const created_at = new Date(Date.now() - (fields.age ?? 0) * 60_000).toISOString();
  return {
    id: `id-${number}`, created_seq: number, seq: number, title: `Title ${number}`, body: null, category: 'default',
    priority: 'normal', url: null, data: null, created_at, icon: null, actions: null, expires_at: null, edited_at: null,
    read_at: null, archived_at: null, deleted_at: null, snoozed_until: null, answer: null, deleted_reason: null, ...fields,
  };
}

/** The interface of NotificationClient; `calls` is what was asked of it, and `refuse` makes it refuse. */
export class FakeClient extends EventTarget {
  state = 'live';
  problem = null;
  retryAt = null;
  loading = false;
  sub = 'ada';
  epoch = 'epoch';
  calls = [];
  refuse = false;
  shown = 50;
  seenUpTo = 0;

  constructor(items = [], fields = {}) {
    super();
    this.all = items;
    Object.assign(this, fields);
  }

  get #inbox() {
    return this.all.filter(isHere).sort((a, b) => b.created_seq - a.created_seq);
  }

  get items() { return this.epoch === null ? [] : this.#inbox.slice(0, this.shown); }

  get complete() { return this.epoch !== null && this.items.length === this.#inbox.length; }

  get unread() { return this.#inbox.filter((one) => !one.read_at).length; }

  get unseen() { return this.#inbox.filter((one) => !one.read_at && one.created_seq > this.seenUpTo).length; }

  get seq() { return Math.max(0, ...this.all.map((one) => one.seq)); }

  tell(type, detail = {}) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  become(state, fields = {}) {
    Object.assign(this, { state, ...fields });
    this.tell('state', { state, problem: this.problem, retryAt: this.retryAt });
  }

  arrive(one, { missed = false, first = true, alert = true } = {}) {
    this.all.push(one);
    this.shown += 1;
    this.tell('items', { added: [one], changed: [], removed: [], reset: false });
    this.tell('counts', { unread: this.unread, unseen: this.unseen });
    this.tell('notification', { item: one, missed, first, alert });
  }

  #find(id) { return this.all.find((one) => one.id === id); }

  /** Its sender, its time or its successor takes an item away. */
  withdraw(id, deleted_reason = 'unsent') { this.#apply([id], { deleted_at: this.#now(), deleted_reason }); }

  edit(id, fields) { this.#apply([id], { ...fields, edited_at: this.#now() }); }

  /** An item enters again, as a woken one does. */
  enter(id, fields = {}, { alert = true } = {}) {
    const wasHere = isHere(this.#find(id));
    const seq = this.seq + 1;
    const now = { ...this.#find(id), read_at: null, archived_at: null, snoozed_until: null, ...fields, created_seq: seq, seq };
    this.all = this.all.map((one) => (one.id === id ? now : one));
    this.tell('items', { added: wasHere ? [] : [now], changed: wasHere ? [now] : [], removed: [], reset: false });
    this.tell('counts', { unread: this.unread, unseen: this.unseen });
    this.tell('notification', { item: now, missed: false, first: true, alert });
  }

  reset(items) {
    this.all = items;
    this.tell('items', { added: [], changed: [], removed: [], reset: true });
    this.tell('counts', { unread: this.unread, unseen: this.unseen });
  }

  async #change(call, ids, fields) {
    this.calls.push(call);
    await null;
    if (this.refuse) throw Object.assign(new Error('refused'), { code: 'refused', detail: 'It was refused.' });
    this.#apply([ids].flat(), fields);
  }

  #apply(asked, fields) {
    const seq = this.seq + 1;
    const changed = [];
    const before = new Set(this.all.filter(isHere).map(({ id }) => id));
    this.all = this.all.map((one) => {
      if (!asked.includes(one.id)) return one;
      const now = { ...one, ...fields, seq };
      changed.push(now);
      return now;
    });
    const isGone = (one) => !isHere(one);
    const back = changed.filter((one) => isHere(one) && !before.has(one.id));
    const here = changed.filter((one) => isHere(one) && before.has(one.id));
    this.tell('items', { added: back, changed: here, removed: changed.filter(isGone), reset: false });
    this.tell('counts', { unread: this.unread, unseen: this.unseen });
  }

  #now = () => new Date().toISOString();

  read(what) {
    const upTo = what.upTo;
    const isMeant = (one) => !one.read_at && one.created_seq <= upTo;
    const ids = upTo === undefined ? what : this.#inbox.filter(isMeant).map(({ id }) => id);
    return this.#change(['read', what], ids, { [COUNTED.read]: this.#now() });
  }

  unreadAgain(ids) { return this.#change(['unreadAgain', ids], ids, { [COUNTED.read]: null }); }

  archive(ids, archived = true) {
    const fields = archived ? { archived_at: this.#now(), snoozed_until: null } : { archived_at: null };
    return this.#change(['archive', ids, archived], ids, fields);
  }

  delete(ids) { return this.#change(['delete', ids], ids, { [COUNTED.deleted]: this.#now(), deleted_reason: 'user' }); }

  snooze(ids, until) {
    return this.#change(['snooze', ids, until], ids, { snoozed_until: until === null ? null : new Date(until).toISOString() });
  }

  async act(id, action, text) {
    const call = ['act', id, action, ...(text === undefined ? [] : [text])];
    const one = this.#find(id);
    const at = this.#now();
    const found = one.actions?.find(({ id: known }) => known === action);
    const code = one.answer ? 'already_answered' : !found ? 'unknown_action'
      : Boolean(found.reply) !== (text !== undefined) ? 'validation_error' : '';
    if (code) {
      this.calls.push(call);
      throw Object.assign(new Error('refused'), { code, detail: 'It is answered already.' });
    }
    await this.#change(call, id, { answer: { action, text: text ?? null, at }, read_at: one.read_at ?? at });
  }

  listSnoozed(filter = {}) { return this.query({ ...filter, snoozed: true }); }

  kept = { categories: {}, timezone: null, quiet_hours: [], quiet_until: null };
  conflicts = 0;

  async preferences() {
    this.calls.push(['preferences']);
    await null;
    if (this.refuse) throw Object.assign(new Error('refused'), { code: 'refused', detail: 'It was refused.' });
    return structuredClone(this.kept);
  }

  /** `conflicts`: how many of them come too late, because another change was quicker. */
  async setPreferences(preferences) {
    this.calls.push(['setPreferences', structuredClone(preferences)]);
    await null;
    const status = this.conflicts > 0 ? 412 : this.refuse ? 422 : 0;
    this.conflicts = Math.max(0, this.conflicts - 1);
    if (status) throw Object.assign(new Error('refused'), { code: 'refused', detail: 'It was refused.', status });
    this.kept = structuredClone(preferences);
    return structuredClone(preferences);
  }

  async seen(upTo = this.seq) {
    this.calls.push(['seen', upTo]);
    this.seenUpTo = upTo;
    this.tell('counts', { unread: this.unread, unseen: this.unseen });
  }

  async loadMore() {
    this.calls.push(['loadMore']);
    await null;
    if (this.refuse) throw new Error('refused');
    const before = this.items.length;
    this.shown += 50;
    this.tell('items', { added: this.items.slice(before), changed: [], removed: [], reset: false });
  }

  async query({ unread, archived, snoozed, category, cursor, limit = 50 }) {
    this.calls.push(['query', { unread, archived, ...(snoozed && { snoozed }), category, cursor }]);
    await null;
    if (this.refuse) throw new Error('refused');
    // As strict as the gateway: `tests/web/test_doubles.py` compares the two.
    if (category === '' || cursor === '') throw Object.assign(new Error('refused'), { code: 'validation_error' });
    if (snoozed && (archived || unread !== undefined)) {
      throw Object.assign(new Error('refused'), { code: 'validation_error' });
    }
    const found = this.all
      .filter((one) => !one.deleted_at && Boolean(one.snoozed_until) === Boolean(snoozed)
        && (snoozed || Boolean(one.archived_at) === Boolean(archived))
        && (unread === undefined || Boolean(one.read_at) !== unread)
        && (category === undefined || one.category === category))
      .sort((a, b) => (snoozed ? Date.parse(a.snoozed_until) - Date.parse(b.snoozed_until) || a.created_seq - b.created_seq
        : b.created_seq - a.created_seq));
    const from = Number(cursor ?? 0);
    return { items: found.slice(from, from + limit), next: from + limit < found.length ? String(from + limit) : null };
  }

  retry() { this.calls.push(['retry']); }
}
