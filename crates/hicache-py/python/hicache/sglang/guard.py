"""Nothing is raised into SGLang's threads: what goes wrong is a miss, a count and a log line."""

from __future__ import annotations

import functools
import logging
from typing import Any, Callable


def misses(answer: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a method answer ``answer(*arguments)`` where it would raise, and tells why."""

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            try:
                self._reports.pass_on()
                return method(self, *arguments, **named)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # A panic of the native half is no `Exception`.
                self._counters.add(failed_calls=1)
                self._reports.tell(
                    logging.ERROR,
                    f"{method.__name__} {type(error).__name__}",
                    f"{method.__name__} failed and counts as a miss: {error}",
                )
                return answer(*arguments, **named)

        return call

    return wrap


def no_pages(keys: Any = (), *_: Any, **__: Any) -> list:
    """Every page of ``keys`` is a miss."""
    try:
        return [False] * len(keys)
    except TypeError:
        return []


def no_transfers(transfers: Any = (), *_: Any, **__: Any) -> dict:
    """Every page of every transfer is a miss."""
    try:
        return {transfer.name: [False] * len(transfer.keys or []) for transfer in transfers}
    except Exception:  # Whatever was passed is no list of transfers.
        return {}
