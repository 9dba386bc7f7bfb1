"""Certificates for directors, from authorities that exist for one test run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme

from director.net.tls import RingTls


class Pems(NamedTuple):
    """Three files, as `ring.tls` names them."""

    cert: Path
    key: Path
    ca: Path


class Authority:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._ca = trustme.CA()
        self._made: dict[tuple[str, int], Pems] = {}
        self._ca.cert_pem.write_to_path(self.ca)

    def pems(self, address: str, *, days: int = 1) -> Pems:
        """Return the files for the director at `address`, valid for `days` from now."""
        if (address, days) not in self._made:
            issued = self._ca.issue_cert(address, not_after=datetime.now(UTC) + timedelta(days=days))
            name = f"{address}.{days}"
            cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
            issued.cert_chain_pems[0].write_to_path(cert)
            key.touch(0o600)
            issued.private_key_pem.write_to_path(key)
            self._made[address, days] = Pems(cert, key, self.ca)
        return self._made[address, days]

    def tls(self, address: str, *, days: int = 1, believes: Authority | None = None) -> RingTls:
        """Return the TLS of the director at `address`.

        `believes`: the authority that it trusts; None: this one.
        """
        cert, key, _ = self.pems(address, days=days)
        return RingTls(str(cert), str(key), str((believes or self).ca))
