"""The Lua scripts of the Redis store. `migrations/redis/0001_layout.py` describes the keys."""

from __future__ import annotations

import hashlib

# A value is the version and then the blob. A shorter value is no bucket and may be overwritten.
SWAP = b"""
local answers = {}
for i, key in ipairs(KEYS) do
    local expected, value = ARGV[2 * i - 1], ARGV[2 * i]
    local stored = redis.call('GETRANGE', key, 0, 8)
    local version = #stored < 9 and string.rep('\\0', 8) or string.sub(stored, 1, 8)
    local new = value == '' and string.rep('\\0', 8) or string.sub(value, 1, 8)
    if version == new then
        answers[i] = 1
    elseif version ~= expected then
        answers[i] = redis.call('GET', key) or ''
    else
        if value == '' then redis.call('DEL', key) else redis.call('SET', key, value) end
        answers[i] = 1
    end
end
return answers
"""
VERSIONS = b"""
local versions = {}
for i, key in ipairs(KEYS) do
    local stored = redis.call('GETRANGE', key, 0, 8)
    versions[i] = #stored < 9 and string.rep('\\0', 8) or string.sub(stored, 1, 8)
end
return table.concat(versions)
"""
# A lease that ends later than the longest possible lease was written before the server's clock was set back.
# It is shortened to end in a minute.
RENEW = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local latest = now + 60000 + ARGV[2]
local held = redis.call('HGETALL', KEYS[1])
local was_held = 0
for i = 1, #held, 2 do
    if tonumber(string.match(held[i + 1], '^%d+') or '0') <= now then
        redis.call('HDEL', KEYS[1], held[i])
    else
        if held[i] == ARGV[1] then was_held = 1 end
        local until_, rest = string.match(held[i + 1], '^(%d+)( .*)$')
        if until_ and tonumber(until_) > latest then
            redis.call('HSET', KEYS[1], held[i], string.format('%.0f', latest) .. rest)
        end
    end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now + ARGV[2]) .. ARGV[3])
return was_held
"""
# One script reads both, because TIME has no key: on a Cluster it would give another node's clock.
MEMBERS = b"""
return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}
"""
SCRIPTS = (SWAP, VERSIONS, RENEW, MEMBERS)
SWAP_SHA, VERSIONS_SHA, RENEW_SHA, MEMBERS_SHA = (
    hashlib.sha1(script, usedforsecurity=False).hexdigest() for script in SCRIPTS
)
