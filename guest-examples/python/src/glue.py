"""The glue between Gavel and the rule: it holds what every policy in Python needs. The rule is in rule.py."""

import traceback
from collections.abc import Callable

import wit_world
from wit_world.imports import log, types

import rule


class WitWorld(wit_world.WitWorld):
    def evaluate(self, request: types.Request) -> types.Verdict:
        return reported(rule.evaluate, request)

    def describe(self) -> types.Metadata:
        return reported(rule.describe)


def reported[T](call: Callable[..., T], *arguments: object) -> T:
    """An exception ends the policy, which denies the request. Its traceback reaches the log before that."""
    try:
        return call(*arguments)
    except BaseException as error:
        # The message first: Gavel shortens long lines.
        message = "".join(traceback.format_exception_only(error))
        log.write(log.Level.ERROR, message + "".join(traceback.format_tb(error.__traceback__)[1:]))
        raise
