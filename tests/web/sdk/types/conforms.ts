// The class is what its declaration says.

import { NotificationClient as Made } from '../../../../gateway/web/sdk/notifications.js';
import type { NotificationClient as Declared } from '../../../../gateway/web/sdk/notifications.d.ts';

const constructor: typeof Declared = Made;
const client: Declared = new Made({ getToken: () => null });
console.log(constructor, client);
