// What a server that renders does, once: the page with what React makes of it where there is no DOM.

import { readFileSync, writeFileSync } from 'node:fs';
import { renderToString } from 'react-dom/server';
import { App } from './App';

const page = readFileSync('dist/index.html', 'utf8');
writeFileSync('dist/rendered.html', page.replace('<div id="root">', `$&${renderToString(<App bell />)}`));
