// The wait before the next attempt: a random part of a time that doubles ("full jitter"), so that clients that were
// cut off together do not come back together.

/** @import { Platform } from './types.d.ts' */

const FIRST_WAIT = 1_000; // ms
const LONGEST_WAIT = 30_000; // ms

export class Backoff {
  failures = 0;
  /** @type {Platform} */
  #platform;
  /** There is reason to try at once. */
  wake = () => {};

  /** @param {Platform} platform */
  constructor(platform) {
    this.#platform = platform;
  }

  /** The time to wait after one more failure, in ms. */
  next() {
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures);
    this.failures += 1;
    return this.#platform.random() * longest;
  }

  /** Wait this long, until `wake`, or until the signal is aborted. @param {number} ms @param {AbortSignal} signal */
  async wait(ms, signal) {
    if (signal.aborted) return;
    await /** @type {Promise<void>} */ (new Promise((resolve) => {
      const timer = ms < Infinity && this.#platform.setTimeout(() => this.wake(), ms);
      this.wake = () => {
        this.#platform.clearTimeout(timer);
        signal.removeEventListener('abort', this.wake);
        this.wake = () => {};
        resolve();
      };
      signal.addEventListener('abort', this.wake);
    }));
  }
}
