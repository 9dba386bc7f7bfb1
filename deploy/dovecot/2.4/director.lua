-- A passdb of Dovecot 2.4 (and 2.3) that asks a director for the backend of each user whose password was accepted.
--
-- It is for proxies without a director on their machine. It needs the package dovecot-auth-lua, and [lookups] http = true
-- in the director.toml of the director. In dovecot.conf, write it after the passdb that checks passwords:
--
--   passdb ... {                       # your passdb; it must return neither proxy nor host
--     result_success = continue
--   }
--   passdb director {
--     driver = lua
--     skip = unauthenticated
--     lua_file = /etc/dovecot/director.lua
--     lua_settings {
--       url = http://10.0.0.1:9092      # [http] listen of the director
--       token_file = /etc/dovecot/director.token
--     }
--   }
--
-- Settings: url; token_file (not needed for a director on this machine); timeout in seconds (default 15; it must be
-- longer than [lookups] timeout of the director). The first passdb may return director_tag (the pool of backends), and
-- director_proxy_maybe=y (log in on this server a user whose backend is this server).
--
-- Disadvantages compared with login_socket_path: each look-up occupies an auth worker, also while a user is moved.
-- Logins fail temporarily while the director is unreachable. And unless a director runs on the proxy's machine, sessions
-- do not refresh the assignments of their users, and the director cannot end sessions.

-- Dovecot 2.3.19 can use this file, too. It passes no settings to scripts: write them here,
local settings = { url = nil, token_file = nil, timeout = nil }
--
-- and in dovecot.conf write this after a passdb with result_success = continue:
--
--   passdb {
--     driver = lua
--     skip = unauthenticated
--     args = file=/etc/dovecot/director.lua
--   }
--
-- Leave auth_cache_size at 0 in 2.3: otherwise auth caches the director's answers. (2.4 does not cache them.)

local url, token, client

local function url_encoded(text)
  return (text:gsub("[^%w._~-]", function(char) return ("%%%02X"):format(char:byte()) end))
end

local function new_client(seconds, has_settings)
  if has_settings then -- 2.4
    return dovecot.http.client { request_absolute_timeout = seconds .. "s", auto_retry = "no" }
  end
  return dovecot.http.client { request_absolute_timeout_msecs = seconds * 1000, no_auto_retry = true }
end

local function read_token()
  local file, problem = io.open(settings.token_file)
  if file == nil then
    return nil, problem
  end
  local line = file:read("*l")
  file:close()
  if line == nil or line == "" then
    return nil, settings.token_file .. " is empty"
  end
  return line
end

function script_init(args)
  for name, value in pairs(args or {}) do
    settings[name] = value
  end
  if settings.url == nil then
    dovecot.i_error("director.lua: url = http://ADDRESS:PORT is not set")
    return -1
  end
  url = settings.url:gsub("/+$", "") .. "/v1/lookup?user="
  if settings.token_file ~= nil then
    local problem
    token, problem = read_token()
    if token == nil then
      dovecot.i_error("director.lua: token_file: " .. problem)
      return -1
    end
  end
  client = new_client(tonumber(settings.timeout or 15), args ~= nil)
  return 0
end

local function ask(address)
  local request = client:request { url = address, method = "GET" }
  if token ~= nil then
    request:add_header("Authorization", "Bearer " .. token)
  end
  return request:submit()
end

function auth_passdb_lookup(req)
  local user = req.passdb.destuser or req.user
  local address = url .. url_encoded(user)
  local tag = req.passdb.director_tag
  if tag ~= nil and tag ~= "" then
    address = address .. "&tag=" .. url_encoded(tag)
  end
  local answer = ask(address)
  if answer:status() == 401 and settings.token_file ~= nil then -- the token may have changed
    local again, problem = read_token()
    if again == nil then
      dovecot.i_error("director.lua: token_file: " .. problem .. "; using the token that was read before")
    elseif again ~= token then
      token = again
      answer = ask(address)
    end
  end
  if answer:status() ~= 200 then
    local reason = answer:payload():match('"detail":"([^"]*)"') or answer:reason()
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, ("director: %s %s"):format(answer:status(), reason)
  end
  -- A flat object of texts without escapes and of numbers.
  local fields = { nopassword = "y" }
  for name, value in answer:payload():gmatch('"([%w_]+)":"?([^",}]+)') do
    fields[name] = value
  end
  fields.address = nil
  if fields.host == nil then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "director: its answer names no host"
  end
  fields[req.passdb.director_proxy_maybe ~= nil and "proxy_maybe" or "proxy"] = "y"
  return dovecot.auth.PASSDB_RESULT_OK, fields
end
