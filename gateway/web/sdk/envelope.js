// What tabs tell each other. Any script of the origin can write to the channel: what does not look right is not taken.

const STATES = new Set(['idle', 'connecting', 'live', 'offline', 'stopped', 'signedout']);
const isObject = (value) => value !== null && typeof value === 'object';
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const areCounts = (...all) => all.every(isCount);
const isItem = (item) => typeof item?.id === 'string' && areCounts(item.seq, item.created_seq);
const areItems = (items) => Array.isArray(items) && items.every(isItem);
const isStatus = ({ status, sub }) => STATES.has(status?.state) && (sub === null || typeof sub === 'string');
const isCounts = (counts) => areCounts(counts?.unread, counts?.unseen, counts?.seq);

const MESSAGES = {
  hello: () => true,
  live: ({ seq }) => isCount(seq),
  heartbeat: () => true,
  seen: () => true,
  preferences: ({ preferences }) => isObject(preferences),
  notification: ({ seq, notification }) => isCount(seq) && isItem(notification),
  changed: ({ seq, items }) => isCount(seq) && areItems(items),
  read: ({ seq, up_to }) => isCount(seq) && isCount(up_to),
};

/** Whether it is a message of the gateway that concerns every tab. */
export const isTold = (message) => isObject(message) && Object.hasOwn(MESSAGES, message.type)
  && MESSAGES[message.type](message);

const isSnapshot = (snapshot) => isObject(snapshot) && typeof snapshot.epoch === 'string' && isCount(snapshot.seq)
  && isCount(snapshot.floor) && isCounts(snapshot.counts) && areItems(snapshot.items) && Array.isArray(snapshot.untold);

const KINDS = {
  lead: () => true,
  here: () => true,
  bye: () => true,
  wake: () => true,
  signout: () => true,
  status: isStatus,
  state: (told) => isStatus(told) && (told.snapshot === null || isSnapshot(told.snapshot)),
  message: ({ message, epoch, prev }) => isTold(message) && typeof epoch === 'string' && isCount(prev),
};

/** Whether it is what a tab tells. */
export const isEnvelope = (value) => isObject(value) && typeof value.from === 'string'
  && Object.hasOwn(KINDS, value.kind) && KINDS[value.kind](value);
