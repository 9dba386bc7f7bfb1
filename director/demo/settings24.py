"""dovecot.conf of Dovecot 2.4."""

from __future__ import annotations

from collections.abc import Sequence

from director.demo.ports import USUAL
from director.demo.settings import DOVEADM_PASSWORD, PROXYING, RELAY, Facts, Rule, services, unchrooted

COMMON = """# written by director demo; changes are lost at the next start
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
base_dir = {run}
state_dir = {run}
instance_name = {name}
listen = {address}
protocols = {protocols}
ssl = no
auth_allow_cleartext = yes
auth_mechanisms = plain login
auth_failure_delay = 0
log_path = {log}
log_timestamp = "%Y-%m-%d %H:%M:%S.%{{usecs}} "
login_greeting = {name} ready.
login_trusted_networks = 127.0.0.0/8
mail_driver = maildir
mail_path = ~/Maildir
mail_max_userip_connections = 0
imap_id_send {{
  name = {name}
}}
first_valid_uid = 1
default_vsz_limit = unlimited
default_internal_user = {users.internal}
default_internal_group = {users.internal_group}
default_login_user = {users.login}
doveadm_port = {ports.doveadm}
doveadm_password = {doveadm_password}

userdb static {{
  fields {{
    uid = {users.mail}
    gid = {users.mail_group}
    home = {mail}/%{{user}}
  }}
}}
namespace inbox {{
  inbox = yes
  mailbox "served by {name}" {{
    auto = create
  }}
}}

# one user's wrong password must not slow down the others: here they all come from 127.0.0.1
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap {{
  restart_request_count = 1000
  process_limit = 500
}}
service doveadm {{
  inet_listener doveadm {{
    port = {ports.doveadm}
  }}
}}
"""
LOGIN = """service {service}-login {{
  restart_request_count = unlimited
  process_limit = 2
  inet_listener {listener} {{
    port = {port}
  }}
{others}}}
"""
SCRIPTS = """sieve_script personal {
  driver = file
  path = ~/sieve
  active_path = ~/.dovecot.sieve
}
"""
WITH_DIRECTOR = """
login_socket_path = director/login
login_proxy_notify_path = director/proxy-notify
protocol lmtp {{
  auth_socket_path = director-userdb
}}
protocol doveadm {{
  auth_socket_path = director-userdb
}}
service anvil {{
  unix_listener anvil {{
    mode = 0660
    group = {users.internal_group}
  }}
}}
"""
WITHOUT_ROOT = (
    "anvil",
    "imap-login",
    "imap-urlauth-login",
    "pop3-login",
    "managesieve-login",
    "submission-login",
    "stats",
)


def proxy(facts: Facts, passdb: Sequence[Rule], *, director: bool) -> str:
    """Return dovecot.conf of a proxy. Its login processes ask the director if `director` is true."""
    text = _common(facts) + "".join(_passdb(n, rule, facts) for n, rule in enumerate(passdb, 1)) + PROXYING
    return text + WITH_DIRECTOR.format(**facts._asdict()) if director else text


def backend(facts: Facts) -> str:
    """Return dovecot.conf of a backend host that accepts any password."""
    text = _common(facts) + RELAY.format(*facts.relay) + _passdb(1, Rule(proxy=False), facts)
    return text + SCRIPTS if "sieve" in facts.protocols else text


def _common(facts: Facts) -> str:
    text = COMMON.format(
        **facts._asdict() | {"protocols": " ".join(facts.protocols)}, doveadm_password=DOVEADM_PASSWORD
    )
    return text + services(facts, LOGIN) + unchrooted(facts, WITHOUT_ROOT)


def _passdb(number: int, rule: Rule, facts: Facts) -> str:
    fields = {} if rule.password else {"nopassword": "y"}
    if rule.proxy:
        fields["proxy"] = "y"
        if facts.ports != USUAL:
            # Dovecot proxies to the protocol's usual port unless told otherwise. The port the client came to
            # is the backend's too; a doveadm command has no client.
            fields["port"] = f"%{{protocol | if('eq', 'doveadm', '{facts.ports.doveadm}', local_port)}}"
    if rule.host:
        fields["host"] = rule.host
    fields |= rule.fields
    lines = ["driver = static"]
    if rule.password:
        lines.append(f"static_password = {rule.password}")
    if rule.users:
        lines.append(f"username_filter = {rule.users}")
    lines += ["fields {", *(f"  {name} = {value}" for name, value in fields.items()), "}"]
    return f"passdb static{number} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
