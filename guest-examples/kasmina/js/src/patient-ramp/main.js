// What Gavel calls. The rule is in ramp.js.

import { reported } from '../reported.js';
import * as ramp from './ramp.js';

export const step = reported(ramp.step);
export const describe = reported(ramp.describe);
