// The tabs of one user on one gateway: one of them leads, which is to hold the connection; it holds a Web Lock, which
// the browser gives to the next tab when it is gone. They talk by a BroadcastChannel.

import { isEnvelope } from './envelope.js';

/** @import { Envelope, Platform } from './types.d.ts' */

const LEADER_TIME = 5_000; // ms after which a leader that does not answer is taken to be frozen

export class Tabs {
  /** This tab among the others. */
  id = crypto.getRandomValues(new Uint32Array(4)).join('-');
  #name = '';
  #platform;
  #on;
  /** @type {BroadcastChannel | null} */
  #channel = null;
  #withdraw = () => {};
  // Of the other tabs.
  #visible = new Set();
  /** @type {unknown} */
  #doubt = null;

  /**
   * @param {Platform} platform
   * @param {{ lead: () => void, lose: () => void, told: (envelope: Envelope) => void }} on
   */
  constructor(platform, on) {
    this.#platform = platform;
    this.#on = on;
  }

  /**
   * Stand for election among the tabs of an identity. Without one, and where the browser has no locks or channels,
   * each tab leads itself. @param {string | null} identity
   */
  join(identity) {
    const { locks, BroadcastChannel } = this.#platform;
    if (identity === null || !locks || !BroadcastChannel) {
      this.#on.lead();
      return;
    }
    this.#name = `notify ${identity}`;
    const channel = new BroadcastChannel(this.#name);
    channel.onmessage = ({ data }) => this.#hear(data);
    this.#channel = channel;
    this.#stand();
  }

  /** Leave, and let another tab lead. A tab that is frozen must have left: it would keep the lock, and do nothing. */
  leave() {
    this.post('bye');
    this.#settle();
    this.#withdraw();
    this.#channel?.close();
    this.#channel = null;
    this.#visible.clear();
  }

  #stand(steal = false) {
    const standing = new AbortController();
    /** @type {(value?: unknown) => void} */
    let release = () => {};
    let led = false;
    this.#withdraw();
    this.#withdraw = () => {
      standing.abort();
      release();
    };
    const hold = () => new Promise((resolve) => {
      release = resolve;
      if (standing.signal.aborted) {
        resolve(undefined);
        return;
      }
      led = true;
      this.#settle();
      this.#on.lead();
    });
    this.#platform.locks?.request(this.#name, steal ? { steal } : { signal: standing.signal }, hold).catch(() => {
      if (standing.signal.aborted) return;
      // It was taken away, because this tab did not answer. Or there are no locks to be had here at all.
      if (!led) this.#on.lead();
      else {
        this.#on.lose();
        this.#stand();
      }
    });
  }

  /**
   * Say that this tab is here, and whether it is looked at. With a position, the leader is to say how things stand.
   * @param {{ epoch: string | null, seq: number } | null} position
   */
  greet(position) {
    const visible = this.#platform.isVisible();
    this.post('here', { visible, position });
    if (position && visible) this.#doubt ??= this.#platform.setTimeout(() => this.#overthrow(), LEADER_TIME);
  }

  #overthrow() {
    this.#doubt = null;
    if (this.#platform.isVisible()) this.#stand(true);
  }

  #settle() {
    if (this.#doubt !== null) this.#platform.clearTimeout(this.#doubt);
    this.#doubt = null;
  }

  post(kind, fields = {}) {
    this.#channel?.postMessage({ ...fields, kind, from: this.id });
  }

  #hear(envelope) {
    if (!isEnvelope(envelope)) return;
    const { kind, from, visible } = envelope;
    if (kind === 'here' || kind === 'bye') this.#visible.delete(from);
    if (kind === 'here' && visible) this.#visible.add(from);
    if (kind === 'state' || kind === 'lead') this.#settle();
    this.#on.told(envelope);
  }

  /** The tab that is to show what is new: one that is looked at, where there is one. */
  first() {
    if (this.#platform.isVisible()) return this.id;
    return [...this.#visible].at(-1) ?? this.id;
  }
}
