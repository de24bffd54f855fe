// The tabs of one user on one gateway: one of them leads, which is to hold the connection; it holds a Web Lock, which
// the browser gives to the next tab when it is gone. They talk by a BroadcastChannel.

import { isEnvelope } from './envelope.js';

/** @import { Envelope, Platform } from './types.d.ts' */

const LEADER_TIME = 5_000; // ms after which a leader that does not answer is taken to be frozen
const SILENCE = 10_000; // ms after which a leader that says nothing is asked whether it still runs
const TICK = 2_000; // ms
const TELLS = new Set(['lead', 'message', 'state', 'status']); // what only a leader says

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
  #leads = false;
  // Only while this tab is looked at: a timer of any other is late anyway.
  /** @type {unknown} */
  #ticking = null;
  #beat = 0; // When it ticked last,
  #woke = -Infinity; // when that was far too late,
  #heard = 0; // and when a leader has said something last.

  /**
   * @param {Platform} platform
   * @param {{ lead: () => void, lose: () => void, silent: () => void, told: (envelope: Envelope) => void }} on
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
    this.#leads = false;
    this.#platform.clearTimeout(this.#ticking);
    this.#ticking = null;
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
      led = this.#leads = true;
      this.#settle();
      this.#on.lead();
    });
    this.#platform.locks?.request(this.#name, steal ? { steal } : { signal: standing.signal }, hold).catch(() => {
      if (standing.signal.aborted) return;
      // It was taken away, because this tab did not answer. Or there are no locks to be had here at all.
      if (!led) this.#on.lead();
      else {
        this.#leads = false;
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
    if (visible && this.#channel && this.#ticking === null) {
      this.#beat = this.#heard = this.#platform.now();
      this.#tick();
    }
    if (position && visible) this.#doubt ??= this.#platform.setTimeout(() => this.#overthrow(), LEADER_TIME);
  }

  /** A page that hangs (in `alert`, in a loop) tells nobody: a leader that is silent is asked. */
  #tick() {
    const now = this.#platform.now();
    if (this.#late(now)) this.#woke = now;
    this.#beat = now;
    if (!this.#leads && now - this.#heard >= SILENCE) {
      this.#heard = now;
      this.#on.silent();
    }
    this.#ticking = this.#platform.isVisible() ? this.#platform.setTimeout(() => this.#tick(), TICK) : null;
  }

  #late(now) { return this.#ticking !== null && now - this.#beat > LEADER_TIME; }

  #overthrow() {
    this.#doubt = null;
    if (this.#platform.isVisible()) this.#stand(true);
  }

  #settle() {
    this.#platform.clearTimeout(this.#doubt);
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
    if (TELLS.has(kind)) this.#heard = this.#platform.now();
    this.#on.told(envelope);
  }

  /** The tab that is to show what is new: one that is looked at, where there is one. */
  first() {
    const now = this.#platform.now();
    // One that hung has been replaced meanwhile, perhaps: what it finds now, the other has shown.
    const hung = this.#late(now) || now - this.#woke < TICK;
    if (this.#platform.isVisible() && !hung) return this.id;
    return [...this.#visible].at(-1) ?? this.id;
  }
}
