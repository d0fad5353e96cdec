"""Locks in a forked child: whoever held one in the parent is not there to give it back."""

from __future__ import annotations

import os
import weakref
from typing import Any

_HOLDERS: "weakref.WeakSet[Any]" = weakref.WeakSet()


def renew_in_child(holder: Any) -> None:
    """Calls ``holder.renew()`` in every child that is forked while the holder lives."""
    _HOLDERS.add(holder)


def _renew() -> None:
    for holder in list(_HOLDERS):
        holder.renew()


os.register_at_fork(after_in_child=_renew)
