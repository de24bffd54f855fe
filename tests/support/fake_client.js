// A client of notifications that has no gateway: the components are shown each state by it.

const COUNTED = { read: 'read_at', archived: 'archived_at', deleted: 'deleted_at' };

export function item(number, fields = {}) {
  const created_at = new Date(Date.now() - (fields.age ?? 0) * 60_000).toISOString();
  return {
    id: `id-${number}`, created_seq: number, seq: number, title: `Title ${number}`, body: null, category: 'default',
    priority: 'normal', url: null, data: null, created_at, read_at: null, archived_at: null, deleted_at: null,
    ...fields,
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
    return this.all.filter((one) => !one.archived_at && !one.deleted_at).sort((a, b) => b.created_seq - a.created_seq);
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

  arrive(one, { missed = false, first = true } = {}) {
    this.all.push(one);
    this.shown += 1;
    this.tell('items', { added: [one], changed: [], removed: [], reset: false });
    this.tell('counts', { unread: this.unread, unseen: this.unseen });
    this.tell('notification', { item: one, missed, first });
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
    const asked = [ids].flat();
    const seq = this.seq + 1;
    const changed = [];
    this.all = this.all.map((one) => {
      if (!asked.includes(one.id)) return one;
      const now = { ...one, ...fields, seq };
      changed.push(now);
      return now;
    });
    const isGone = (one) => one.archived_at || one.deleted_at;
    const here = changed.filter((one) => !isGone(one));
    this.tell('items', { added: [], changed: here, removed: changed.filter(isGone), reset: false });
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
    return this.#change(['archive', ids, archived], ids, { [COUNTED.archived]: archived ? this.#now() : null });
  }

  delete(ids) { return this.#change(['delete', ids], ids, { [COUNTED.deleted]: this.#now() }); }

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

  async query({ unread, archived, category, cursor, limit = 50 }) {
    this.calls.push(['query', { unread, archived, category, cursor }]);
    await null;
    if (this.refuse) throw new Error('refused');
    // As strict as the gateway: `tests/web/test_doubles.py` compares the two.
    if (category === '' || cursor === '') throw Object.assign(new Error('refused'), { code: 'validation_error' });
    const found = this.all
      .filter((one) => !one.deleted_at && Boolean(one.archived_at) === Boolean(archived)
        && (unread === undefined || Boolean(one.read_at) !== unread)
        && (category === undefined || one.category === category))
      .sort((a, b) => b.created_seq - a.created_seq);
    const from = Number(cursor ?? 0);
    return { items: found.slice(from, from + limit), next: from + limit < found.length ? String(from + limit) : null };
  }

  retry() { this.calls.push(['retry']); }
}
