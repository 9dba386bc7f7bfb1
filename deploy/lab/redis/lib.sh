# Functions for the other scripts of this folder. Passwords come from files, never from arguments.

SENTINELS='sentinel1 sentinel2 sentinel3'
SERVICE=lab

secret() {
    cat "/run/secrets-of-lab/redis-$1.password"
}

# ask HOST WORD…: sends one command to a server or Sentinel, as the user with all rights. It has one second to answer.
ask() {
    host=$1 port=6379
    shift
    case $host in sentinel*) port=26379 ;; esac
    REDISCLI_AUTH=$(secret admin) timeout 1 redis-cli --user admin -h "$host" -p "$port" "$@" 2>/dev/null
}

# Prints the primary according to the Sentinels: the answer with the highest epoch, because a Sentinel that was
# partitioned off may give an old answer. Prints nothing if no Sentinel answers.
primary_says_sentinel() {
    for sentinel in $SENTINELS; do
        ask "$sentinel" SENTINEL MASTER $SERVICE \
            | awk 'name == "ip" { ip = $0 } name == "config-epoch" { print $0, ip } { name = $0 }' || :
    done | sort -n | awk 'END { print $2 }'
}

# Prints the primary according to the other server: that server itself, or the server that it replicates. Prints nothing
# if it does not answer.
primary_says_server() {
    for server in redis1 redis2; do
        [ "$server" = "$me" ] || ask "$server" ROLE | awk -v me="$server" '
            NR == 1 { role = $0 } NR == 2 && role == "slave" { me = $0 } END { if (role) print me }' || :
    done | head -n 1
}

# Prints the users of a server or node. $1: rights of the director beyond those of a single server in docs/state-redis.md.
users() {
    cat <<END
user default off ~* &* +@all
user admin on >$(secret admin) ~* &* +@all
user director on >$(secret director) ~dd:* ~lock:dd:* ~lock-signal:dd:* +info +get +set +del +getrange +mget +hget +hmget +hset +hsetnx +hgetall +hdel +time +xadd +xrevrange +evalsha +script|load +blpop +lpush +ttl +expire +pexpire +scan $1
masteruser admin
masterauth $(secret admin)
END
}
