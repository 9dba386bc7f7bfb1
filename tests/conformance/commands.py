"""Commands that an operator types after `doveadm`: every subcommand of `director`, every option, every error.

They run in this order. <names> stands for a file of user names, <ring> for the beginning of the addresses of
the ring, <port> for its port.
"""

from __future__ import annotations

ADDRESSES = ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"]
NAMES = ["alice", "bob", "carol@example.com", "DAVE", "4242x"]
"""Users who log in before the first command."""

LOOKING = """
director status
director status alice
director status Alice
director status 2677887420
director status 0
director status 4294967295
director status 4294967296
director status -- -1
director status nobody-yet
director status nobody-yet notag
director status alice ''
director status alice notag more
director status ''
director status j\udcfcrgen
director status jürgen
director status 'a b'
director map
director map 127.0.1.2
director map 127.0.9.9
director map localhost
director map no-such-name.invalid
director map 127.0.1.1 127.0.1.2
director map -f <names>
director map -f <names> 127.0.1.2
director map -f <names> -h 1669653170
director map -f <names> -h 12345
director map -f <names> -u alice
director map -f /no/such/file
director map -u alice
director map -u ''
director map -u
director map -h 127.0.1.1
director map -h 1669653170
director map -h
director dump
"""

FORMATS = """
-f flow director status
-f pager director status
-f tab director status
-f table director status
-f json director status
-f tab director status alice
-f flow director map -f <names>
-f pager director map -f <names>
-f tab director map -f <names>
-f json director map -f <names>
-f tab director dump
-v director status
-v director status alice
-v director map -f <names>
-v director dump
-f nonsense director status
"""

USAGE = """
director
director bogus
director status --bogus
director status -a
director map --bogus
director map -f
director map -x
director add --bogus
director add -t
director update --bogus
director up --bogus
director down --bogus
director remove --bogus
director move --bogus
director kick --bogus
director kick -f
director flush --bogus
director flush --max-parallel
director dump --bogus
director dump more
director ring
director ring bogus
director ring add --bogus
director ring remove --bogus
director ring status --bogus
director ring status more
director add 127.0.1.5 20 more
director update 127.0.1.1 20 more
director up 127.0.1.1 more
director down 127.0.1.1 more
director remove 127.0.1.1 more
director move alice 127.0.1.1 more
director kick alice more
director flush all more
director up
director move alice no-such-name.invalid
director add no-such-name.invalid
director update no-such-name.invalid 5
director up no-such-name.invalid
director down no-such-name.invalid
director remove no-such-name.invalid
director flush no-such-name.invalid
"""

CHANGING = """
director add 127.0.1.5
director add 127.0.1.5
director add -t t1 127.0.1.6 50
director add -t t2 127.0.1.6 50
director add -t t1 127.0.1.6 55
director add -t '' 127.0.1.6 56
director add -t t1 127.0.1.6@t1 57
director add -t t1 127.0.1.6@t2 57
director add 127.0.1.6 60
director add 127.0.1.7@t2 0
director add 127.0.1.7@ 5
director add @t2 5
director add 127.0.1.8 1000
director add 127.0.1.8 1001
director add 127.0.1.9 4294967295
director add 127.0.1.9 4294967296
director add 127.0.1.9 abc
director add 127.0.1.9 ''
director add 127.0.1.9 -1
director add -- 127.0.1.9 -1
director add
director add ''
director add 17
director add 127.0.1.5:143
director add ::1
director add 0:0:0:0:0:0:0:2 7
director add localhost 3
-v director add 127.0.1.10
-v director add -t t3 127.0.1.11 9
director status
director status alice t1
director status alice t2
director status alice t3
director update 127.0.1.5 20
director update 127.0.1.5 20
-v director update 127.0.1.5 21
director update 127.0.1.77 20
director update 127.0.1.77 1001
director update 127.0.1.5
director update 127.0.1.5 1001
director update 127.0.1.5 x
director update 127.0.1.6@t2 10
director update 127.0.1.6@t1 11
director down 127.0.1.5
director down 127.0.1.5
-v director down 127.0.1.5
director down 127.0.1.77
director down 127.0.1.6@t1
director down 17
director down
director status
director up 127.0.1.5
director up 127.0.1.5
-v director up 127.0.1.5
director up 127.0.1.77
director update 127.0.1.5 0
director down 127.0.1.10
director remove 127.0.1.10
director add 127.0.1.10
director down 127.0.1.1
director status alice
director status erin
director dump
-v director remove 127.0.1.11
director remove localhost
director remove 127.0.1.5
director remove 127.0.1.5
director remove 127.0.1.6
director remove 127.0.1.1
director remove ::1
director remove ::2
director remove 17
director remove
director status alice
director status
director dump
director add 127.0.1.1
director remove 127.0.1.7
director remove 127.0.1.8
director remove 127.0.1.9
director remove 127.0.1.10
director dump
director status alice
director map -f <names>
"""

MOVING = """
director move alice 127.0.1.3
director status alice
director move alice 127.0.1.4
director move bob 127.0.1.77
director move bob 17
director move bob
director move
-v director move bob 127.0.1.1
-v director move bob 127.0.1.1
director kick bob
director kick no-such-user
director kick 'b*'
director kick ''
director kick -f class beta
director kick -f '' beta
-v director kick DAVE
director kick
director flush 127.0.1.77
director flush -F 127.0.1.77
director flush 127.0.1.4
director flush --max-parallel 3 127.0.1.4
director flush --max-parallel x 127.0.1.4
director flush --max-parallel 0 127.0.1.4
director flush --max-parallel=-1 127.0.1.4
director flush --max-parallel=5 all
director flush 17
director flush
-v director flush 127.0.1.4
-v director flush -F 127.0.1.3
director map
director flush all
director flush -F all
-v director flush -F all
director map
"""

RING = """
director ring status
-f tab director ring status
-f flow director ring status
-v director ring status
director ring add <ring>99
director ring add <ring>99
director ring add <ring>98 1234
director ring add <ring>98 0
director ring add <ring>98 x
director ring add <ring>98 65536
director ring add bogus
director ring add localhost
director ring add
director ring status
director ring remove <ring>99 1
director ring remove <ring>99 <port>
director ring remove <ring>99
director ring remove <ring>98
director ring remove <ring>98 1234
director ring remove bogus
director ring remove <ring>97 x
director ring remove
director ring status
"""

UNKNOWN = """
director move alice 127.0.1.3
director status alice
director map -f <names>
director move never-seen 127.0.1.2
director status never-seen
director move 4242 127.0.1.2
director move '' 127.0.1.2
director flush -F all
"""

NOT_BY_HASH = (
    "doveadm sends the 32-bit hash only, and two users may share one: a user whose name the director does not"
    " know is not assigned; `director move NAME HOST` assigns the user"
)
DIFFERENT = {
    "director move never-seen 127.0.1.2": NOT_BY_HASH,
    "director status never-seen": "the command before moved no user",
    "director move 4242 127.0.1.2": NOT_BY_HASH,
    "director move '' 127.0.1.2": NOT_BY_HASH,
}
"""The commands that print or exit differently on purpose, with the reason."""

NOT_COMPARED = [
    "the order of users in `map`: by age with Dovecot 2.3's director, by hash here",
    "times of day, and in `ring status` milliseconds and bytes",
    "how long `flush` takes: until the users are moved here, until the last move has begun with Dovecot 2.3's"
    " director",
]

IMPROVED = {
    "lines that follow one that waits for the ring are not lost": (
        b"HOST-UPDATE\t127.0.1.1\t90\nHOST-UPDATE\t127.0.1.2\t80\nHOST-UPDATE\t127.0.1.9\t70\n",
        b"OK\nOK\nNOTFOUND\n",
    ),
    "invalid parameters are answered with the reason": (
        b"HOST-UP\tx\n",
        b"doveadm sent invalid HOST-UP parameters: 'x' is not an IP address\n",
    ),
    "an unknown command is answered with the reason": (
        b"BOGUS\n",
        b"doveadm sent unknown command: 'BOGUS'\n",
    ),
}
"""Replies that scripts on the socket get from this director only: title -> (request, reply)."""

ALL = LOOKING + FORMATS + USAGE + CHANGING + MOVING + RING + UNKNOWN


def lines(commands: str) -> list[str]:
    return [line for line in commands.splitlines() if line]
