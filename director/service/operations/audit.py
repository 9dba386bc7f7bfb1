"""The audit of operators' changes, which the store keeps."""

from __future__ import annotations

import time

from director.service.persistence.persist import Persistence
from director.types import MemberId
from state.base import AuditEntry


class Audit:
    def __init__(self, me: MemberId, persistence: Persistence) -> None:
        self._me, self._persistence = me, persistence

    def add(self, what: str, target: str, reason: str, detail: str) -> None:
        """Store an entry.

        Args:
            reason: the operator's words.
            detail: the result of the change, as `key=value key=value`.
        """
        self._persistence.audit(
            AuditEntry(at=time.time(), who=self._me, what=what, target=target, detail=detail, reason=reason)
        )
