// What Gavel calls. The plugin is in notes.js.

import { exported } from './plugin.js';
import * as notes from './notes.js';

export const { describe, startup, preEvent, handleEvent, hearEvent, postEvent, shutdown } = exported(notes);
