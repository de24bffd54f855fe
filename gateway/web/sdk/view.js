// What a list of notifications holds: the client's own copy of the inbox, or a filtered part, which is read by pages.

/** @typedef {{ unread?: boolean, archived?: boolean, snoozed?: boolean, category?: string }} Filter */

/** The items of one filter, newest first; those that are snoozed, soonest first. */
export class View {
  #client;
  #filter;
  #cursor = null;
  #complete = false;
  /** The last item of the pages read so far; null: all of them are, undefined: none is. @type {import('./notifications.js').Item | null | undefined} */
  #floor;
  #kept = new Set();
  /** @type {import('./notifications.js').Item[]} */
  items = [];

  /** @param {import('./notifications.js').NotificationClient} client @param {Filter} filter */
  constructor(client, filter = {}) {
    this.#client = client;
    // The gateway takes `unread=false` as "only read ones": a field that restricts nothing is left out.
    this.#filter = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    this.isWhole = Object.keys(this.#filter).length === 0;
    if (this.isWhole) this.items = [...client.items];
  }

  /** Whether nothing older is left to load. */
  get isComplete() { return this.isWhole ? this.#client.complete : this.#complete; }

  /** Whether it has been read at all: before that, nothing in it does not mean that there is nothing. */
  get isRead() { return this.items.length > 0 || this.isComplete; }

  /** Read the next page, and return what is new of it. The client tells of its own items itself, by its event. */
  async readMore() {
    if (this.isWhole) {
      await this.#client.loadMore();
      return [];
    }
    const page = await this.#client.query({ ...this.#filter, ...(this.#cursor && { cursor: this.#cursor }) });
    this.#cursor = page.next;
    this.#complete = page.next === null;
    this.#floor = this.#complete ? null : page.items.at(-1) ?? this.#floor;
    return page.items.filter((item) => this.#put(item));
  }

  /** Keep an item that is opened here, also when it is read and so not unread any more. */
  keep(id) { this.#kept.add(id); }

  /** Take what the client has told of, and return which items are to be shown and which no longer. */
  take({ added, changed, removed, readUpTo = 0 }) {
    const put = [], drop = [];
    if (this.isWhole) this.#floor = this.#client.items.at(-1) ?? null;
    // Of many that were read at once, only those that the client holds are named.
    const read = this.items.filter((item) => !item.read_at && item.created_seq <= readUpTo && !item.snoozed_until);
    const others = read.map((item) => ({ ...item, read_at: new Date().toISOString() }));
    for (const item of [...others, ...added, ...changed, ...removed]) {
      if (!this.#matches(item)) {
        if (this.#take(item.id)) drop.push(item);
      } else if (this.#put(item)) put.push(item);
    }
    return { put, drop };
  }

  #matches(item) {
    const { unread, archived, snoozed, category } = this.#filter;
    return !item.deleted_at && Boolean(item.snoozed_until) === Boolean(snoozed)
      && (snoozed || Boolean(item.archived_at) === Boolean(archived))
      && !(unread && item.read_at && !this.#kept.has(item.id)) && !(category && item.category !== category);
  }

  #isBefore(one, other) {
    const soon = this.#filter.snoozed ? Date.parse(one.snoozed_until) - Date.parse(other.snoozed_until) : 0;
    return soon ? soon < 0 : this.#filter.snoozed ? one.created_seq < other.created_seq : one.created_seq > other.created_seq;
  }

  /** Where an item stands, or belongs. */
  #indexOf(item) {
    let low = 0, high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#isBefore(this.items[middle], item)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Keep an item in its latest state. What is older than the pages read so far comes with its page. */
  #put(item) {
    const index = this.#indexOf(item);
    let held = this.items[index]?.id === item.id ? index : -1;
    // One that has entered again stands elsewhere.
    if (held < 0) held = this.items.findIndex(({ id }) => id === item.id);
    if (held >= 0 && this.items[held].seq > item.seq) return false;
    if (held >= 0) this.items.splice(held, 1);
    const isHere = held >= 0 || this.#floor === null || (this.#floor && !this.#isBefore(this.#floor, item));
    if (isHere) this.items.splice(this.#indexOf(item), 0, item);
    return Boolean(isHere);
  }

  #take(id) {
    const index = this.items.findIndex((item) => item.id === id);
    if (index >= 0) this.items.splice(index, 1);
    return index >= 0;
  }
}
