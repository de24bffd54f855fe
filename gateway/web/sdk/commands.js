// What the user does: shown at once, sent, and taken back where it is refused.

// In one command: its frame stays below 16 KiB.
const MOST_IDS = 200;

export class Commands {
  #gateway;
  #inbox;
  #on;

  /** `on` has `request(command)` as Connection has it, `show(view)` and `refused(error)`. */
  constructor(gateway, inbox, on) {
    this.#gateway = gateway;
    this.#inbox = inbox;
    this.#on = on;
  }

  /** All of these reject with Failed, or SignedOut; then nothing is shown any more of what was refused. */
  async read(what) {
    const operation = { field: 'read_at', value: new Date().toISOString() };
    if (typeof what === 'object' && 'upTo' in what) {
      const { upTo } = what;
      await this.#carryOut({ ...operation, upTo }, () => this.#sayUpTo('read', upTo));
    } else {
      await this.#each(what, operation, 'read', (ids) => this.#post('read', { ids }));
    }
  }

  unread(ids) {
    return this.#each(ids, { field: 'read_at', value: null }, 'unread', this.#patch({ read: false }));
  }

  /** There is no command that brings an item back from the archive; a request does it. */
  archive(ids, archived) {
    const value = archived ? new Date().toISOString() : null;
    return this.#each(ids, { field: 'archived_at', value }, archived ? 'archive' : null, this.#patch({ archived }));
  }

  delete(ids) {
    const remove = (id) => this.#ask('DELETE', id).catch((error) => {
      // It is gone already.
      if (error.status !== 404) throw error;
    });
    const all = (some) => Promise.all(some.map(remove));
    return this.#each(ids, { field: 'deleted_at', value: new Date().toISOString() }, 'delete', all);
  }

  /** @param {string | number | Date | null} until null: as they were before */
  async snooze(ids, until) {
    const value = until === null ? null : new Date(until).toISOString();
    const operation = { field: 'snoozed_until', value };
    await this.#each(ids, operation, 'snooze', this.#patch({ snoozed_until: value }), { until: value });
  }

  /** Answer by an action. */
  act(id, action, text) {
    const answer = { action, text: text ?? null, at: new Date().toISOString() };
    const body = text === undefined ? {} : { text };
    const operation = { field: 'answer', value: answer, ids: new Set([id]) };
    return this.#carryOut(operation, () => this.#say({ type: 'act', id, action, ...body }, async () => {
      await this.#ask('POST', id, body, `/actions/${encodeURIComponent(action)}`).catch(async (error) => {
        if (error.code !== 'already_answered') throw error;
        // The command may have arrived before the connection ended.
        const { answer: given } = await this.#ask('GET', id);
        if (given?.action !== action || given.text !== answer.text) throw error;
      });
    }));
  }

  seen(upTo) {
    return this.#carryOut({ seenUpTo: upTo }, () => this.#sayUpTo('seen', upTo));
  }

  #each(what, operation, type, request, fields = {}) {
    const ids = [...new Set([what].flat())];
    return this.#carryOut({ ...operation, ids: new Set(ids) }, async () => {
      for (let from = 0; from < ids.length; from += MOST_IDS) {
        const some = ids.slice(from, from + MOST_IDS);
        await this.#say(type && { type, ids: some, ...fields }, () => request(some));
      }
    });
  }

  /** Send a command, or where the connection cannot tell its outcome a request: each may be carried out twice. */
  async #say(command, request) {
    if (!command || !await this.#on.request(command)) await request();
  }

  #sayUpTo(type, upTo) {
    const body = { up_to: upTo };
    return this.#say({ type, ...body }, () => this.#post(type, body));
  }

  async #carryOut(operation, work) {
    this.#on.show(this.#inbox.begin(operation));
    try {
      await work();
      this.#on.show(this.#inbox.commit(operation));
    } catch (error) {
      this.#on.show(this.#inbox.rollback(operation));
      this.#on.refused(error);
      throw error;
    }
  }

  async #post(what, body) {
    this.#inbox.count(await this.#gateway.call('POST', `v1/inbox/${what}`, { body }));
  }

  #patch(body) {
    return (ids) => Promise.all(ids.map((id) => this.#ask('PATCH', id, body)));
  }

  /** Send a request about an item, and show the item that is answered. */
  async #ask(method, id, body, what = '') {
    const item = await this.#gateway.call(method, `v1/inbox/${encodeURIComponent(id)}${what}`, { body });
    if (item.id) this.#on.show(this.#inbox.take([item]));
    return item;
  }
}
