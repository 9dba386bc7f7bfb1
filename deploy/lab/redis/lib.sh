# For the other scripts here: who knows what, and how they are asked. Passwords come from files, never as
# arguments.

SENTINELS='sentinel1 sentinel2 sentinel3'
SERVICE=lab

secret() {
    cat "/run/secrets-of-lab/redis-$1.password"
}

# ask HOST WORD…: one command to a server or a sentinel, as the user with all rights; a second for the answer
ask() {
    host=$1 port=6379
    shift
    case $host in sentinel*) port=26379 ;; esac
    REDISCLI_AUTH=$(secret admin) timeout 1 redis-cli --user admin -h "$host" -p "$port" "$@" 2>/dev/null
}

# Who is the primary: the sentinels' answer with the latest epoch, as one that was cut off may be behind;
# nothing if none answers.
primary_says_sentinel() {
    for sentinel in $SENTINELS; do
        ask "$sentinel" SENTINEL MASTER $SERVICE \
            | awk 'name == "ip" { ip = $0 } name == "config-epoch" { print $0, ip } { name = $0 }' || :
    done | sort -n | awk 'END { print $2 }'
}

# A server that says itself that it is the primary; nothing if none does.
primary_says_server() {
    for server in redis1 redis2; do
        [ "$server" != "$me" ] && [ "$(ask "$server" ROLE | head -n 1)" = master ] && echo "$server" && return
    done || :
}

# The users of a server or a node. $1: rights besides those of docs/state-redis.md for every server.
users() {
    cat <<END
user default off ~* &* +@all
user admin on >$(secret admin) ~* &* +@all
user director on >$(secret director) ~dd:* ~lock:dd:* ~lock-signal:dd:* +info +get +set +del +getrange +mget +hget +hmget +hset +hsetnx +hgetall +hdel +time +xadd +xrevrange +evalsha +script|load +blpop +lpush +ttl +expire +pexpire +scan $1
masteruser admin
masterauth $(secret admin)
END
}
