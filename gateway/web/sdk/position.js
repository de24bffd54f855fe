// Where a user's log was left, kept through reloads. Several tabs may keep it: it only moves forward.

/** @import { Platform } from './types.d.ts' */

export class Position {
  #storage;
  #key;

  /** @param {Platform['storage']} storage null where the browser has none to give @param {string} identity */
  constructor(storage, identity) {
    this.#storage = storage;
    this.#key = `notify.position ${identity}`;
  }

  /** @returns {{ epoch: string, seq: number } | null} */
  read() {
    try {
      const { epoch, seq } = JSON.parse(this.#storage?.getItem(this.#key) ?? '{}');
      return typeof epoch === 'string' && Number.isSafeInteger(seq) ? { epoch, seq } : null;
    } catch {
      // Never kept, or spoilt, or the browser keeps nothing.
      return null;
    }
  }

  keep(epoch, seq) {
    const kept = this.read();
    if (kept && kept.epoch === epoch && kept.seq >= seq) return;
    try {
      this.#storage?.setItem(this.#key, JSON.stringify({ epoch, seq }));
    } catch {
      // Full, or forbidden: the position lives as long as this tab.
    }
  }

  forget() {
    try {
      this.#storage?.removeItem(this.#key);
    } catch {
      // As above.
    }
  }
}
