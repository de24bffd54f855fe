import assert from 'node:assert/strict';
import { test } from 'node:test';

import { packCommand, unpackMessage } from '../../../gateway/web/sdk/packing.js';
import { View } from '../../../gateway/web/sdk/view.js';
import { World, liveTab, problem, settle } from './world.js';

const LATER = '2026-01-02T09:00:00.000Z';
const SOONER = '2026-01-01T18:00:00.000Z';
const ACTIONS = [{ id: 'yes', label: 'Yes' }, { id: 'say', label: 'Say', reply: true }];
const counts = ({ client: { unread, unseen } }) => [unread, unseen];

/** Two tabs of one user: the first one leads. */
async function twoTabs(posts) {
  const { world, tab: leader, log } = await liveTab({ posts });
  const follower = await world.tab().start();
  return { world, log, leader, follower, tabs: [leader, follower] };
}

test('a snoozed item leaves the list and the counts of every tab, and null has it back in its place', async () => {
  const { log, leader, follower, tabs } = await twoTabs(['one', 'two', 'three']);
  await leader.client.snooze('n2', new Date(LATER));
  await settle();
  for (const tab of tabs) assert.deepEqual([tab.titles, ...counts(tab)], [['three', 'one'], 2, 2]);
  const { items } = await follower.client.listSnoozed();
  assert.deepEqual(items.map(({ title, snoozed_until }) => [title, snoozed_until]), [['two', LATER]]);
  await follower.client.snooze(['n2'], null);
  await settle();
  for (const tab of tabs) assert.deepEqual([tab.titles, ...counts(tab)], [['three', 'two', 'one'], 3, 3]);
  assert.deepEqual([log.counts.unread, leader.of('notification')], [3, []]);
});

test('a snoozed item can be given another time, and archiving it ends the snooze', async () => {
  const { tab, log } = await liveTab({ posts: ['one'] });
  await tab.client.snooze('n1', LATER);
  await tab.client.snooze('n1', SOONER);
  assert.equal(log.items.get('n1').snoozed_until, SOONER);
  const archived = tab.client.archive('n1');
  assert.equal(tab.of('items').at(-1).changed[0].snoozed_until, null);
  await archived;
  await settle();
  const { snoozed_until, archived_at } = log.items.get('n1');
  assert.deepEqual([snoozed_until, Boolean(archived_at)], [null, true]);
  assert.equal(tab.of('items').at(-1).changed[0].snoozed_until, null);
});

test('a refused snooze is taken back', async () => {
  const { world, tab } = await liveTab({ posts: ['one'] });
  world.oncommand = (socket, { ref }) => socket.say({ type: 'error', ref, code: 'validation_error', detail: 'Too soon.' });
  const asked = tab.client.snooze('n1', SOONER);
  assert.deepEqual(tab.titles, []);
  await assert.rejects(asked, { code: 'validation_error' });
  assert.deepEqual([tab.titles, tab.client.unread], [['one'], 1]);
  await assert.rejects(tab.client.snooze('n1', 'nonsense'), RangeError);
});

test('a snooze without a socket is a request', async () => {
  const world = new World();
  world.answers['GET /v1/stream'] = () => new Promise(() => {});
  const { tab } = await liveTab({ posts: ['one'], transport: 'stream', world });
  await tab.client.snooze('n1', LATER);
  assert.deepEqual(world.requests.at(-1).body, { snoozed_until: LATER });
  assert.deepEqual(tab.titles, []);
});

test('marking all read leaves the snoozed ones unread', async () => {
  const { tab, log } = await liveTab({ posts: ['one', 'two'] });
  await tab.client.snooze('n1', LATER);
  await settle();
  const view = new View(tab.client, { snoozed: true });
  tab.client.addEventListener('items', ({ detail }) => view.take(detail));
  await view.readMore();
  const asked = tab.client.read({ upTo: log.seq });
  assert.equal(view.items[0].read_at, null);
  await asked;
  await settle();
  assert.equal(view.items[0].read_at, null);
  log.post('three');
  log.readUpTo(log.seq);
  await settle();
  assert.equal(view.items[0].read_at, null);
  log.wake('n1');
  await settle();
  assert.deepEqual(tab.client.items.map(({ title, read_at }) => [title, Boolean(read_at)]), [['one', false], ['three', true], ['two', true]]);
  assert.deepEqual([...counts(tab)], [log.counts.unread, log.counts.unseen]);
});

test('an item that enters again moves to the top of every tab, once, and is told as new', async () => {
  const { log, tabs } = await twoTabs(['one', 'two', 'three']);
  log.change('n1', { snoozed_until: LATER });
  log.wake('n1');
  log.edit('n2', { title: 'two!' }, true);
  await settle();
  for (const tab of tabs) {
    assert.deepEqual(tab.titles, ['two!', 'one', 'three']);
    assert.deepEqual(tab.told, ['one', 'two!']);
    assert.deepEqual(counts(tab), [3, 3]);
  }
  assert.deepEqual(tabs.map((tab) => tab.of('notification').filter(({ first }) => first).length), [2, 0]);
});

test('a filtered view holds an item that enters again once', async () => {
  const { tab, log } = await liveTab({ posts: ['one', 'two', 'three'] });
  const views = [new View(tab.client), new View(tab.client, { unread: true })];
  await views[1].readMore();
  for (const view of views) tab.client.addEventListener('items', ({ detail }) => view.take(detail));
  log.edit('n1', { title: 'one!' }, true);
  log.edit('n2', { title: 'two!' });
  await settle();
  for (const view of views) assert.deepEqual(view.items.map(({ title }) => title), ['one!', 'three', 'two!']);
});

test('a view of what is snoozed has the soonest first', async () => {
  const { tab, log } = await liveTab({ posts: ['one', 'two', 'three', 'four'] });
  log.change('n1', { snoozed_until: LATER });
  await settle();
  const view = new View(tab.client, { snoozed: true });
  tab.client.addEventListener('items', ({ detail }) => view.take(detail));
  await view.readMore();
  log.change(['n2', 'n4'], { snoozed_until: LATER });
  log.change('n3', { snoozed_until: SOONER });
  await settle();
  const shown = () => view.items.map(({ title }) => title);
  assert.deepEqual(shown(), (await tab.client.listSnoozed()).items.map(({ title }) => title));
  assert.deepEqual(shown(), ['three', 'one', 'two', 'four']);
  log.change('n3', { snoozed_until: '2026-01-03T09:00:00.000Z' });
  log.wake('n4');
  await settle();
  assert.deepEqual(shown(), ['one', 'two', 'three']);
});

test('an edited item changes in its place and in its state', async () => {
  const { log, tabs } = await twoTabs(['one', 'two']);
  log.change('n1', { read_at: SOONER });
  log.edit('n1', { title: 'one!' });
  await settle();
  for (const tab of tabs) {
    assert.deepEqual(tab.titles, ['two', 'one!']);
    assert.deepEqual([counts(tab), Boolean(tab.client.items[1].read_at), tab.told], [[1, 1], true, []]);
  }
});

test('an item that was unsent, has expired or was replaced is gone from every tab', async () => {
  const { log, tabs } = await twoTabs(['one', 'two', 'three']);
  for (const [index, reason] of ['unsent', 'expired', 'replaced'].entries()) log.withdraw(`n${index + 1}`, reason);
  log.post('four');
  await settle();
  for (const tab of tabs) {
    assert.deepEqual([tab.titles, ...counts(tab)], [['four'], 1, 1]);
    const gone = tab.of('items').flatMap(({ removed }) => removed);
    assert.deepEqual(gone.map(({ deleted_reason }) => deleted_reason), ['unsent', 'expired', 'replaced']);
  }
});

test('an answer is shown at once, stands in every tab, and reads the item', async () => {
  const { world, log, leader, follower, tabs } = await twoTabs([]);
  const id = log.post('one', { actions: ACTIONS });
  await settle();
  const asked = leader.client.act(id, 'say', 'Thanks');
  assert.equal(leader.client.items[0].answer.text, 'Thanks');
  assert.deepEqual([Boolean(leader.client.items[0].read_at), ...counts(leader)], [true, 0, 0]);
  await asked;
  await settle();
  for (const tab of tabs) {
    const [{ answer, read_at }] = tab.client.items;
    assert.deepEqual([answer.action, answer.text, Boolean(read_at), counts(tab)], ['say', 'Thanks', true, [0, 0]]);
  }
  await assert.rejects(follower.client.act(id, 'yes'), { code: 'already_answered', status: 409 });
  assert.equal(follower.client.items[0].answer.action, 'say');
  assert.deepEqual(follower.of('error').map(({ code }) => code), ['already_answered']);
  assert.deepEqual(world.requests.filter(({ method }) => method === 'POST').map(({ path, body }) => [path, body]),
    [[`/v1/inbox/${id}/actions/yes`, {}]]);
});

test('an answer whose outcome was lost is not taken for that of somebody else', async () => {
  const { world, tab, log } = await liveTab();
  const id = log.post('one', { actions: ACTIONS });
  await settle();
  world.oncommand = (socket, { action, text }) => {
    log.onmessage = () => {};
    log.answer(id, action, text);
    socket.end();
  };
  await tab.client.act(id, 'say', 'Thanks');
  assert.equal(tab.client.items[0].answer.text, 'Thanks');
  assert.deepEqual(tab.of('error'), []);
});

test('a refused answer is taken back', async () => {
  const { world, tab, log } = await liveTab({ transport: 'websocket' });
  const id = log.post('one', { actions: ACTIONS });
  await settle();
  world.oncommand = (socket, { ref }) => socket.say({ type: 'error', ref, code: 'not_found', detail: 'Gone.' });
  await assert.rejects(tab.client.act(id, 'yes'), { code: 'not_found' });
  const [{ answer, read_at }] = tab.client.items;
  assert.deepEqual([answer, read_at, tab.client.unread], [null, null, 1]);
});

test('a notification in quiet hours says that it must not alert', async () => {
  const { log, tabs } = await twoTabs(['one']);
  log.change('n1', { snoozed_until: LATER });
  log.wake('n1', { alert: false });
  log.post('two');
  await settle();
  for (const tab of tabs) assert.deepEqual(tab.of('notification').map(({ alert }) => alert), [false, true]);
});

test('preferences are replaced only where they are as they were read', async () => {
  const { world, log, leader, follower, tabs } = await twoTabs([]);
  const mine = await leader.client.preferences();
  await follower.client.preferences();
  const muted = { ...mine, categories: { promo: { muted: true } } };
  assert.deepEqual(await leader.client.setPreferences(muted), muted);
  await settle();
  for (const tab of tabs) assert.deepEqual(tab.of('preferences').map(({ preferences }) => preferences), [muted]);
  await assert.rejects(follower.client.setPreferences(mine), { status: 412 });
  await follower.client.preferences();
  await follower.client.setPreferences(mine);
  await leader.client.setPreferences(mine).catch(() => leader.client.preferences());
  assert.deepEqual([log.preferences, log.versions], [mine, 2]);
  world.answers['GET /v1/inbox/preferences'] = () => problem(503, 'unavailable');
  await assert.rejects(leader.client.preferences(), { code: 'unavailable', status: 503 });
});

test('what is no preferences is not taken from another tab', async () => {
  const { world, tab } = await liveTab({ posts: ['one'] });
  world.socket.say({ type: 'preferences', preferences: 'nonsense' });
  world.socket.say({ type: 'preferences' });
  await settle();
  assert.deepEqual(tab.of('preferences'), []);
});

test('MessagePack has the time and the id of a command in its own kinds', () => {
  const hex = (command) => Buffer.from(packCommand(command)).toString('hex');
  const id = '01936f00-0000-7000-8000-0000000000ff';
  assert.ok(hex({ type: 'snooze', until: new Date(7).toISOString() }).endsWith('cf0000000000000007'));
  assert.ok(hex({ type: 'snooze', until: null }).endsWith('c0'));
  assert.ok(hex({ type: 'act', id }).endsWith(`c410${id.replaceAll('-', '')}`));
});

test('MessagePack has the time of preferences in milliseconds', () => {
  const text = (value) => [0xa0 | value.length, ...Buffer.from(value)];
  const bytes = [0x81, ...text('preferences'), 0x81, ...text('quiet_until'), 7];
  assert.deepEqual(unpackMessage(Uint8Array.from(bytes).buffer), { preferences: { quiet_until: new Date(7).toISOString() } });
});

test('MessagePack has the times of an item and of its answer in milliseconds', () => {
  const text = (value) => [0xa0 | value.length, ...Buffer.from(value)];
  const names = ['expires_at', 'edited_at', 'snoozed_until'];
  const answer = [...text('answer'), 0x81, ...text('at'), 7];
  const bytes = [0x81, ...text('notification'), 0x84, ...names.flatMap((name) => [...text(name), 7]), ...answer];
  const time = new Date(7).toISOString();
  assert.deepEqual(unpackMessage(Uint8Array.from(bytes).buffer), {
    notification: { ...Object.fromEntries(names.map((name) => [name, time])), answer: { at: time } },
  });
});
