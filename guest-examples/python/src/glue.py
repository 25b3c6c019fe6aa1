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
        # Not traceback.format_exception(): it opens the source files, and there are none in the sandbox.
        lines = [f"{type(error).__name__}: {error}"]
        for frame, line in reversed([*traceback.walk_tb(error.__traceback__)][1:]):
            lines.append(f"  {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{line})")
        log.write(log.Level.ERROR, "\n".join(lines))
        raise
