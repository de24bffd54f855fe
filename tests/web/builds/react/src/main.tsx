import { createRoot, hydrateRoot } from 'react-dom/client';
import { App } from './App';

const root = document.querySelector('#root')!;
const app = <App bell={location.search !== '?hooks'} />;
if (root.firstChild) hydrateRoot(root, app);
else createRoot(root).render(app);
