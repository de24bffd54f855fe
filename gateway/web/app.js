// The page: who is signed in, and the components with a client for them. What they show, they know themselves.

import { NotificationClient } from './sdk/components.js';
import { beginDemo } from './demo.js';
import {
  REASONS, SignedOut, accessToken, accessTokenAfter, forget, isSignedIn, signIn, signInByCode, signOut,
} from './session.js';

const $ = (id) => document.getElementById(id);
const STATES = {
  idle: '', connecting: 'Connecting', live: 'Live', offline: 'Offline', stopped: 'Disconnected', signedout: '',
};
const VIEWS = ['inbox', 'devices', 'send'];
const isDemo = 'demo' in document.documentElement.dataset;

/** Return what gets the access token for one client: null where only signing in again helps. */
function tokenGetter() {
  let given;
  return async (why) => {
    if (!isSignedIn()) return null;
    try {
      given = why === 'start' ? accessToken() : await accessTokenAfter(given);
      return given;
    } catch (error) {
      if (error instanceof SignedOut) return null;
      throw error;
    }
  };
}

// --- The client, and those of the devices ----------------------------------------------------------------

let client = null;
let devices = [];

/** Show the state of a client; a live region is written only when it changes. */
function showState(chip, { state }) {
  if (chip.textContent !== STATES[state]) chip.textContent = STATES[state];
  chip.dataset.state = state;
}

function start(chip, options = {}) {
  const started = new NotificationClient({ getToken: tokenGetter(), ...options });
  started.addEventListener('state', ({ detail }) => showState(chip, detail));
  started.start();
  showState(chip, started);
  return started;
}

function startDevices() {
  devices = [...document.querySelectorAll('.devices figure')].map((figure) => {
    const device = start(figure.querySelector('.connection'), { share: false });
    figure.querySelector('notification-inbox').client = device;
    return device;
  });
}

function stopDevices() {
  for (const device of devices) device.stop();
  for (const inbox of document.querySelectorAll('.devices notification-inbox')) inbox.client = null;
  devices = [];
}

// --- What is shown -----------------------------------------------------------------------------------------

/** Show the view that the address names. The devices hold connections only while they are looked at. */
function showView() {
  if (!client) return;
  const named = location.hash.slice(1);
  const view = VIEWS.includes(named) && (named !== 'send' || isDemo) ? named : 'inbox';
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.hash === `#${view}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (view === 'devices' && !devices.length) startDevices();
  if (view !== 'devices') stopDevices();
}

function enter() {
  client = start($('connection'));
  client.addEventListener('state', () => { $('user').textContent = client?.sub ?? ''; });
  client.addEventListener('signedout', ({ detail }) => {
    // The user signed out in another tab, which has ended its own session, and this tab may have another one.
    if (detail.code === 'signed_out') signOut();
    leave(REASONS[detail.code] ?? '');
  });
  for (const element of [$('bell'), $('list'), $('toasts')]) element.client = client;
  $('sign-in').hidden = true;
  $('app').hidden = false;
  showView();
  // On a low screen the header would be scrolled away.
  $('list').focus({ preventScroll: true });
}

/** Forget everything of this user, and show the sign-in with the reason where there is one. */
function leave(reason = '') {
  const left = client;
  client = null;
  stopDevices();
  for (const element of [$('bell'), $('list'), $('toasts')]) element.client = null;
  left?.signOut();
  forget();
  $('user').textContent = '';
  $('app').hidden = true;
  $('sign-in').hidden = false;
  showError(reason);
  $($('username').value ? 'password' : 'username').focus();
}

function showError(text) {
  $('sign-in-error').textContent = text;
  $('sign-in-error').hidden = !text;
}

async function onSignIn(event) {
  event.preventDefault();
  const { username, password } = event.target.elements;
  $('sign-in-button').disabled = true;
  showError('');
  try {
    await signIn(username.value, password.value);
    password.value = '';
    enter();
    scrollTo(0, 0);
  } catch (error) {
    showError(error.message);
    password.select();
  } finally {
    $('sign-in-button').disabled = false;
  }
}

/**
 * Take the code of a demo's link out of the address, before anything else can see it there, and sign in with it.
 * Return whether there was one. Who is signed in already stays so.
 */
function takeCode() {
  const code = isDemo && /^#code=([\w-]+)$/.exec(location.hash)?.[1];
  if (!code) return false;
  history.replaceState(null, '', location.pathname);
  if (client) showView();
  else signInByCode(code).then(enter, (error) => leave(error.status === 0 ? error.message
    : 'This link was used or is too old. Use the password that the terminal shows, or start the demo again.'));
  return true;
}

$('sign-in-form').addEventListener('submit', onSignIn);
$('sign-out').addEventListener('click', () => {
  signOut();
  leave();
});
window.addEventListener('hashchange', () => {
  if (takeCode()) return;
  showView();
  scrollTo(0, 0);
  document.querySelector('main.view:not([hidden])')?.focus({ preventScroll: true });
});
if (isDemo) beginDemo();

if (isSignedIn()) enter();
if (!takeCode() && !client) leave();
