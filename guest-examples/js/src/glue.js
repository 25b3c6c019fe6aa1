// The glue between Gavel and the rule: it holds what every policy in JavaScript needs. The rule is in rule.js.

import { write } from 'gavel:policy/log@0.1.0';
import * as rule from './rule.js';

export const evaluate = reported(rule.evaluate);
export const describe = reported(rule.describe);

// An exception ends the policy, which denies the request. Its message and stack reach the log before that.
function reported(call) {
  return (...args) => {
    try {
      return call(...args);
    } catch (error) {
      write('error', error instanceof Error ? `${error}\n${error.stack}` : `thrown: ${String(error)}`);
      throw error;
    }
  };
}
