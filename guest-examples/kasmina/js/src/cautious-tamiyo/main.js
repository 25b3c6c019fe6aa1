// What Gavel calls. The rule is in rule.js.

import { reported } from '../reported.js';
import * as rule from './rule.js';

export const decide = reported(rule.decide);
export const describe = reported(rule.describe);
