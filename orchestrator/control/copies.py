"""The keys of the copies of checkpoints: who copies to whom in an attempt, and how they know each other.

Each attempt has an authority of its own. It signs a certificate for each host as the attempt is started, and
is then forgotten: its key is in this process's memory and nowhere else, so that no certificate can be added,
and none of another attempt is worth anything.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.core.codec import dumps
from orchestrator.core.copier_config import CONFIG_NAME, KEY_NAME, CopierConfig, identity_uri
from orchestrator.core.errors import PreflightError
from orchestrator.core.records import Attempt
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["Authority", "copier_files"]

# A host's clock may show anything: the certificate is bound to an attempt, not to a time.
_FROM = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class Authority:
    """What the copiers of one attempt know each other by."""

    def __init__(self, run_id: str, attempt: Attempt) -> None:
        self._run_id = run_id
        self._attempt = attempt
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "orchestrate copies")])
        usage = _usage(key_cert_sign=True)
        self._certificate = self._signed(
            self._name,
            self._key.public_key(),
            [
                (x509.BasicConstraints(ca=True, path_length=0), True),
                (usage, True),
            ],
        )

    @property
    def certificate(self) -> str:
        """What the hosts are to trust, as PEM."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, host: str) -> str:
        """A new key of this host and its certificate, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        uri = identity_uri(self._run_id, self._attempt, host)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        both_ways = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = self._signed(
            name,
            key.public_key(),
            [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_usage(digital_signature=True), True),
                (x509.ExtendedKeyUsage(both_ways), False),
                (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False),
            ],
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (private + certificate.public_bytes(Encoding.PEM)).decode()

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        own = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), critical=False)
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(self._key, hashes.SHA256())


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def copier_files(plan: LaunchPlan, fleet: Fleet) -> dict[str, dict[str, str]]:
    """What each host's copier is given, by host and name of its file; nothing where the job wants no copies.

    The hosts are asked for their addresses in the network of the copies. PreflightError, or HostsFailed of
    several: one has none there.
    """
    ring = plan.copies
    if ring is None or not ring.keepers:
        return {}
    network = ring.network
    found = fleet.each(lambda agent: agent.copy_addresses(network)).raise_on_error()
    for host, addresses in found.items():
        if not addresses:
            what, remedy = f"has no address in {network}", "mend `copy: {network}` of the inventory"
            raise PreflightError(what, where=host, remedy=remedy)
    return _files(plan, {host: addresses[0] for host, addresses in found.items()})


def _files(plan: LaunchPlan, addresses: Mapping[str, str]) -> dict[str, dict[str, str]]:
    ring = plan.copies
    assert ring is not None
    authority = Authority(plan.run_id, plan.attempt)
    ranks: dict[str, tuple[int, ...]] = {}
    for item in plan.placements:
        ranks[item.host] = (*ranks.get(item.host, ()), item.rank)
    common = CopierConfig(
        plan.run_id,
        "",
        attempt=plan.attempt,
        ports=ring.ports,
        authority=authority.certificate,
        keep=ring.keep,
        inside=plan.task == MINDFORMERS,
    )
    files = {}
    for host, keeper in ring.keepers.items():
        config = dataclasses.replace(
            common,
            host=host,
            address=addresses[host],
            keeper=keeper,
            keeper_address=addresses[keeper],
            owners={owner: ranks[owner] for owner in ring.owners_of(host)},
            ranks=ranks[host],
        )
        files[host] = {CONFIG_NAME: dumps(config), KEY_NAME: authority.issue(host)}
    return files
