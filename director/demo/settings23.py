"""dovecot.conf of Dovecot 2.3."""

from __future__ import annotations

from collections.abc import Sequence

from director.demo.ports import USUAL
from director.demo.settings import DOVEADM_PASSWORD, PROXYING, RELAY, Facts, Rule, services, unchrooted

COMMON = """# written by director demo; changes are lost at the next start
base_dir = {run}
state_dir = {run}
instance_name = {name}
listen = {address}
protocols = {protocols}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
log_path = {log}
log_timestamp = "%Y-%m-%d %H:%M:%S.%{{usecs}} "
login_greeting = {name} ready.
login_trusted_networks = 127.0.0.0/8
mail_location = maildir:~/Maildir
mail_max_userip_connections = 0
imap_id_send = name {name}
first_valid_uid = 1
default_vsz_limit = 0
default_internal_user = {users.internal}
default_internal_group = {users.internal_group}
default_login_user = {users.login}
doveadm_port = {ports.doveadm}
doveadm_password = {doveadm_password}
stats_writer_socket_path =

userdb {{
  driver = static
  args = uid={users.mail} gid={users.mail_group} home={mail}/%u
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
  service_count = 1000
  process_limit = 500
}}
service doveadm {{
  inet_listener doveadm {{
    port = {ports.doveadm}
  }}
}}
"""
LOGIN = """service {service}-login {{
  executable = {service}-login{argument}
  service_count = 0
  process_limit = 2
  inet_listener {listener} {{
    port = {port}
  }}
{others}}}
"""
WITH_DIRECTOR = """
login_proxy_notify_path = director/proxy-notify
protocol lmtp {
  auth_socket_path = director-userdb
}
protocol doveadm {
  auth_socket_path = director-userdb
}
service ipc {
  unix_listener ipc {
    mode = 0660
    group = $default_internal_group
  }
}
# without director_servers 2.3 starts no director of its own, but its master would still create director-admin
service director {
  unix_listener director-admin {
    mode = 0
  }
}
"""
WITHOUT_ROOT = (
    "anvil",
    "director",
    "imap-login",
    "imap-urlauth-login",
    "ipc",
    "old-stats",
    "pop3-login",
    "managesieve-login",
    "submission-login",
)


def proxy(facts: Facts, passdb: Sequence[Rule], *, director: bool) -> str:
    """Return dovecot.conf of a proxy. Its login processes ask the director if `director` is true."""
    text = _common(facts, " director/login" if director else "")
    text += "".join(_passdb(rule, facts) for rule in passdb) + PROXYING
    return text + WITH_DIRECTOR if director else text


def backend(facts: Facts) -> str:
    """Return dovecot.conf of a backend host that accepts any password."""
    return _common(facts, "") + RELAY.format(*facts.relay) + _passdb(Rule(proxy=False), facts)


def _common(facts: Facts, argument: str) -> str:
    text = COMMON.format(
        **facts._asdict() | {"protocols": " ".join(facts.protocols)}, doveadm_password=DOVEADM_PASSWORD
    )
    return text + services(facts, LOGIN, argument=argument) + unchrooted(facts, WITHOUT_ROOT)


def _passdb(rule: Rule, facts: Facts) -> str:
    words = [f"password={rule.password}" if rule.password else "nopassword=y"]
    if rule.proxy:
        words.append("proxy=y")
        if facts.ports != USUAL:
            # Dovecot proxies to the protocol's usual port unless told otherwise. %a is the port the client
            # came to, which here is the backend's too; a doveadm command has no client.
            words.append(f"port=%{{if;%s;eq;doveadm;{facts.ports.doveadm};%a}}")
    if rule.host:
        words.append(f"host={rule.host}")
    words += [f"{name}={value}" for name, value in rule.fields.items()]
    users = f"  username_filter = {rule.users}\n" if rule.users else ""
    return f"passdb {{\n  driver = static\n  args = {' '.join(words)}\n{users}}}\n"
