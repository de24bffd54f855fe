// The copy of an inbox: what the gateway has told, in the order of the log, and over it what the user has just done.
// Nothing here waits, and nothing here knows where a message came from.
/** @import { Item, Message, Operation, Page, Snapshot, View } from './types.d.ts' */

// As many changes as the gateway replays.
const MOST_SKIPPED = 1_000;

const isHere = (item) => !item.archived_at && !item.deleted_at && !item.snoozed_until;
const isUnread = (item) => isHere(item) && !item.read_at;
const newestFirst = (one, other) => other.created_seq - one.created_seq;
const isMeant = (operation, item) => operation.ids?.has(item.id) || (item.created_seq <= operation.upTo && !item.snoozed_until);

const VARYING = ['seq', 'read_at', 'archived_at', 'deleted_at', 'snoozed_until', 'answer'];
const isSame = (one, other) => VARYING.every((name) => one[name] === other[name]);

/** An item as it is after an operation. One that is so already keeps its moment. */
function after(operation, item) {
  const { field, value } = operation;
  // A snoozed item can be given another time.
  const isSo = field === 'snoozed_until' ? item[field] === value : !item[field] === !value;
  if (!field || !isMeant(operation, item) || isSo) return item;
  const done = { ...item, [field]: value };
  // Whoever archives a snoozed item does not want it back, and whoever answers has read.
  if (field === 'archived_at') done.snoozed_until = null;
  if (field === 'answer') done.read_at ??= value.at;
  return done;
}

const afterAll = (operations, item) => [...operations].reduce((state, operation) => after(operation, state), item);

// Items that this client has read, and whose number in the log is not known yet: the answer may overtake the message.
const ownRead = new WeakSet();

/** The items that a message tells of. One of type `read` names none: `items` are those it may concern. */
const TOLD = {
  notification: ({ notification }) => [notification],
  changed: ({ items }) => items,
  read: ({ seq, up_to }, items) => items
    .filter((item) => item.created_seq <= up_to && (!item.read_at || ownRead.has(item)) && !item.deleted_at && !item.snoozed_until)
    .map((item) => ({ ...item, seq, read_at: item.read_at ?? new Date().toISOString() })),
};

/** Bring items that were read meanwhile up to what the messages have told. */
function caughtUp(items, messages) {
  return messages.reduce((those, message) => {
    const told = new Map(TOLD[message.type](message, those).map((item) => [item.id, item]));
    return those.map((item) => (told.get(item.id)?.seq > item.seq ? told.get(item.id) : item));
  }, items);
}

export class Replica {
  /** The log, or null: nothing is known, and the first page must be read. @type {string | null} */
  epoch = null;
  /** The position: the `seq` of the last message that was applied. */
  seq = 0;
  /** The cursor of the next older page. @type {string | null} */
  next = null;
  /** The log of the position. It outlives a `reset`: the page shows what is new since. @type {string | null} */
  #told = null;
  // The `created_seq` from which on everything is loaded.
  #floor = 0;
  // As the gateway has told them, and at which number.
  #counts = { seq: -1, unread: 0, unseen: 0 };
  // As the gateway has told them, also archived and deleted ones, so that no late page revives one.
  #known = new Map();
  #shown = new Map();
  /** @type {readonly Item[] | null} */
  #list = null;
  // Those the gateway has not answered.
  #operations = new Set();
  // Numbers that were passed by; an item that entered there may still come, as changed later.
  #untold = new Set();
  // For each page being read, the messages since.
  #records = new Set();

  /** @returns {readonly Item[]} newest first */
  get items() {
    this.#list ??= Object.freeze([...this.#shown.values()].sort(newestFirst));
    return this.#list;
  }

  get counts() {
    return this.#tally(this.#operations);
  }

  /** Whether there is no position to go on from. */
  get isNew() {
    return this.#told === null;
  }

  /** Forget everything. @returns {View} */
  clear() {
    this.#told = null;
    return this.restore({ epoch: null, seq: 0, next: null, floor: 0, counts: { seq: -1, unread: 0, unseen: 0 }, items: [] });
  }

  /**
   * Begin with the first page. With `since` below its number the view is ahead of the position: what is replayed
   * in between tells what is new. @param {Page} page @returns {View}
   */
  load(page, since = page.seq) {
    const { epoch, next, items, seq, unread, unseen } = page;
    return this.restore({
      epoch, seq: Math.min(since, seq), next, floor: next ? items.at(-1)?.created_seq ?? 0 : 0,
      counts: { seq, unread, unseen }, items,
    });
  }

  /** What another tab needs to be where this one is. @returns {Snapshot} */
  snapshot() {
    const { epoch, seq, next } = this;
    const items = [...this.#known.values()];
    return { epoch, seq, next, floor: this.#floor, counts: this.#counts, items, untold: [...this.#untold] };
  }

  /** Be where a snapshot was taken. @param {Snapshot} snapshot @returns {View} */
  restore({ epoch, seq, next, floor, counts, items, untold = [] }) {
    const resumed = epoch !== null && epoch === this.#told;
    const isNew = ({ created_seq }) => created_seq <= seq && (created_seq > this.seq || this.#untold.has(created_seq));
    const news = resumed ? items.filter(isNew) : [];
    if (epoch !== null) this.#told = epoch;
    Object.assign(this, { epoch, seq, next });
    this.#floor = floor;
    this.#counts = { ...counts };
    this.#untold = new Set(untold);
    this.#known = new Map(items.map((item) => [item.id, item]));
    this.#shown = new Map();
    this.#list = null;
    this.#refresh(this.#known.keys());
    return view({ added: [...this.items], reset: true, news: news.filter(isHere).sort(newestFirst).reverse() });
  }

  /**
   * Apply a message, or return null where it was applied before.
   * @param {Message} message @returns {View | null}
   */
  apply(message) {
    const { type, seq = 0 } = message;
    if (!Object.hasOwn(TOLD, type)) {
      // `seen` has no number: its count is that of the position, and says nothing of counts that are ahead.
      if (type !== 'seen' || this.#counts.seq <= this.seq) this.count(message);
      if (type === 'live') {
        this.seq = Math.max(this.seq, seq);
        this.#untold.clear();
      }
      return view({});
    }
    if (seq <= this.seq) return null;
    const items = TOLD[type](message, [...this.#known.values()]);
    const entered = this.#pass(seq, items);
    const change = this.#merge(items);
    this.#note(message);
    this.count(message);
    const news = items.filter((item) => entered.has(item.created_seq));
    change.news = news.map((item) => this.#look(item.id) ?? item).filter(isHere);
    if (type === 'read') change.readUpTo = message.up_to;
    return change;
  }

  /** Move to a number, and return which of the items' own numbers were not told of before. */
  #pass(seq, items) {
    for (let passed = Math.max(this.seq + 1, seq - MOST_SKIPPED); passed <= seq; passed += 1) this.#untold.add(passed);
    const entered = new Set(items.map((item) => item.created_seq).filter((number) => this.#untold.delete(number)));
    if (items.length) this.#untold.delete(seq);
    this.seq = seq;
    return entered;
  }

  /** Take items that a request has answered; they are in their latest state. @param {Item[]} items @returns {View} */
  take(items) {
    this.#note({ type: 'changed', items });
    return this.#merge(items);
  }

  /** Take counts, unless they are older than those that are known. */
  count({ seq = this.#counts.seq, unread = this.#counts.unread, unseen = this.#counts.unseen }) {
    // At one number the seen mark only rises, so of two counts the lower one is newer: an answer may come late.
    if (seq === this.#counts.seq) unseen = Math.min(unseen, this.#counts.unseen);
    if (seq >= this.#counts.seq) this.#counts = { seq, unread, unseen };
  }

  /**
   * Read a page while messages arrive, so that neither undoes the other.
   * @param {() => Promise<Page>} read @returns {Promise<Page>} its items in the latest state that is known
   */
  async reading(read) {
    const record = [];
    this.#records.add(record);
    try {
      const page = await read();
      return { ...page, items: caughtUp(page.items, record) };
    } finally {
      this.#records.delete(record);
    }
  }

  #note(message) {
    for (const record of this.#records) record.push(message);
  }

  /** Take the next older page. @param {Page} page @returns {View} */
  extend({ items, next }) {
    this.next = next;
    this.#floor = next ? items.at(-1)?.created_seq ?? this.#floor : 0;
    return this.#merge(items);
  }

  /** Items as the user is to see them, with what has not been answered yet. @param {Item[]} items */
  overlaid(items) {
    return items.map((item) => afterAll(this.#operations, item));
  }

  #merge(items) {
    const older = [];
    for (const item of items) {
      const known = this.#known.get(item.id);
      if (known ? known.seq < item.seq : item.created_seq >= this.#floor) this.#known.set(item.id, item);
      else if (!known) older.push(item);
    }
    const change = this.#refresh(items.map(({ id }) => id));
    change.changed.push(...older);
    return change;
  }

  #look(id) {
    const item = this.#known.get(id);
    return item && afterAll(this.#operations, item);
  }

  /** Show some items as they are now, and return what that changes in the view. */
  #refresh(ids) {
    const change = view({});
    for (const id of new Set(ids)) {
      const was = this.#shown.get(id);
      const item = this.#look(id);
      if (!item || (was && isSame(was, item))) continue;
      const kind = isHere(item) ? (was ? 'changed' : 'added') : (was ? 'removed' : 'changed');
      change[kind].push(item);
      if (isHere(item)) this.#shown.set(id, item);
      else this.#shown.delete(id);
      this.#list = null;
    }
    return change;
  }

  // --- What the user does, before the gateway has answered ---------------------------------------------------

  /** @param {Operation} operation @returns {View} */
  begin(operation) {
    const meant = [...this.#known.values()].filter((item) => isMeant(operation, item));
    operation.seqs = new Map(meant.map(({ id, seq }) => [id, seq]));
    operation.countedAt = this.#counts.seq;
    this.#operations.add(operation);
    return this.#refresh(operation.seqs.keys());
  }

  /** It was carried out. What the gateway has told meanwhile is newer, and stands. @param {Operation} operation */
  commit(operation) {
    if (operation.countedAt === this.#counts.seq) Object.assign(this.#counts, this.#tally(new Set([operation])));
    for (const [id, seq] of operation.seqs ?? []) {
      const item = this.#known.get(id);
      if (item?.seq !== seq) continue;
      const done = after(operation, item);
      if (operation.field === 'read_at' && done !== item) ownRead.add(done);
      this.#known.set(id, done);
    }
    return this.rollback(operation);
  }

  /** It was refused: what the gateway has told stands. @param {Operation} operation @returns {View} */
  rollback(operation) {
    this.#operations.delete(operation);
    return this.#refresh(operation.seqs?.keys() ?? []);
  }

  /** The counts after some operations. They are exact for what is loaded; the rest the gateway will tell. */
  #tally(operations) {
    const { unread, unseen } = this.#counts;
    if (!operations.size) return { unread, unseen };
    const known = [...this.#known.values()];
    const before = known.filter(isUnread).sort(newestFirst);
    // The unseen items are the newest of the unread ones.
    let mark = unseen ? before[unseen - 1]?.created_seq ?? 0 : Infinity;
    let hidden = Math.max(0, unread - before.length);
    let hiddenUnseen = Math.max(0, unseen - before.length);
    for (const { field, upTo, seenUpTo } of operations) {
      if (field && upTo >= this.#floor - 1) hidden = hiddenUnseen = 0;
      if (seenUpTo >= this.#floor - 1) hiddenUnseen = 0;
      if (seenUpTo >= mark) mark = seenUpTo + 1;
    }
    const left = known.map((item) => afterAll(operations, item)).filter(isUnread);
    const leftUnseen = left.filter((item) => item.created_seq >= mark);
    return { unread: left.length + hidden, unseen: leftUnseen.length + hiddenUnseen };
  }
}

/** @returns {View} */
const view = (fields) => ({ added: [], changed: [], removed: [], reset: false, news: [], ...fields });
