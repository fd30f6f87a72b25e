import * as Effect from "effect/Effect"
import * as Redis from "effect/persistence/Redis"
import type { DeferredStore, Inserted, Row, State, StoreError } from "../DeferredStore.ts"

/** A deferred store in Redis. Each operation is one run of one script, which nothing can come between. */
export const make = (
  redis: Redis.Redis["Service"],
  prefix: string,
  failed: (operation: string) => (cause: unknown) => StoreError
): DeferredStore["Service"] => {
  const evaluate = redis.eval(script)
  const run = (operation: string, ...args: ReadonlyArray<string | number>): Effect.Effect<unknown, StoreError> =>
    Effect.mapError(evaluate(prefix, operation, ...args), failed(operation))
  const first = (operation: string, ...args: ReadonlyArray<string | number>) =>
    Effect.map(run(operation, ...args), (found) => rowOf(textsOf(found)))
  const changed = (operation: string, ...args: ReadonlyArray<string | number>) =>
    Effect.map(run(operation, ...args), (count) => Number(count) > 0)

  return {
    insert: ({ acceptedAt, expiresAt, key, priority, request, scope, ticket }, capacity) =>
      Effect.map(
        run("insert", ticket, maybe(key), maybe(scope), priority, request, acceptedAt, expiresAt, capacity),
        (told): Inserted => {
          const [what, known = ""] = textsOf(told)
          return what === "Duplicate" ? { _tag: what, ticket: known } : { _tag: what === "Full" ? what : "Inserted" }
        }
      ),
    claim: ({ leaseUntil, now, owner }) => first("claim", owner, now, leaseUntil),
    renew: ({ leaseUntil, owner, tickets }) => Effect.asVoid(run("renew", owner, leaseUntil, ...tickets)),
    release: ({ claim, note, refund, ticket, visibleAt }) =>
      changed("release", ticket, claim, visibleAt, refund ? 1 : 0, maybe(note)),
    settle: ({ claim, note, now, result, state, ticket }) =>
      changed("settle", ticket, claim, now, state, maybe(result), maybe(note)),
    cancel: ({ now, ticket }) => changed("cancel", ticket, now),
    expire: (now) => Effect.map(run("expire", now), textsOf),
    find: (ticket) => first("find", ticket),
    counts: Effect.map(run("counts"), (told) => {
      const [queued, running] = textsOf(told)
      return { queued: Number(queued), running: Number(running) }
    }),
    dead: (limit) =>
      Effect.map(run("dead", limit), (rows) =>
        (Array.isArray(rows) ? rows : []).flatMap((row: unknown) => rowOf(textsOf(row)) ?? [])
      ),
    requeue: ({ expiresAt, now, ticket }) => changed("requeue", ticket, now, expiresAt),
    claimDelivery: ({ leaseUntil, now, owner }) => first("claimDelivery", owner, now, leaseUntil),
    endDelivery: ({ owner, retryAt, ticket }) => Effect.asVoid(run("endDelivery", ticket, owner, retryAt ?? "")),
    prune: ({ before, keep }) => Effect.asVoid(run("prune", before, keep))
  }
}

// Redis knows no absent arguments, and an empty text is not an absent one.
const maybe = (text: string | undefined): string => (text === undefined ? "" : `=${text}`)

const textsOf = (told: unknown): ReadonlyArray<string> => (Array.isArray(told) ? told.map(String) : [])

const states: ReadonlySet<string> = new Set(["queued", "running", "answered", "expired", "cancelled", "dead"])
const isState = (text: string | undefined): text is State => text !== undefined && states.has(text)

// Names and values in turn, as Redis tells a hash.
const rowOf = (flat: ReadonlyArray<string>): Row | undefined => {
  const fields = new Map<string, string>()
  for (let at = 0; at + 1 < flat.length; at += 2) fields.set(flat[at] ?? "", flat[at + 1] ?? "")
  const state = fields.get("state")
  if (!isState(state)) return undefined
  const number = (name: string) => Number(fields.get(name))
  return {
    ticket: fields.get("ticket") ?? "",
    key: fields.get("key"),
    scope: fields.get("scope"),
    priority: number("priority"),
    request: fields.get("request") ?? "",
    acceptedAt: number("acceptedAt"),
    expiresAt: number("expiresAt"),
    state,
    claim: number("claim"),
    attempts: number("attempts"),
    result: fields.get("result"),
    note: fields.get("note")
  }
}

/**
 * An entry is a hash. Beside it there are sorted sets of those that are
 *
 * - due, by priority and then by `place`, which is when and as which they were accepted; later, by when they are due; leased, by how long;
 * - pending in any of these ways, by when they expire;
 * - settled, by when; dead likewise; of those to be delivered likewise, and those being delivered by how long they are leased.
 *
 * A queued entry is first among the later ones, and is moved when somebody looks for work.
 */
const script = Redis.script((prefix: string, ...args: ReadonlyArray<string | number>) => [prefix, ...args], {
  numberOfKeys: 1,
  lua: `
    local P, op, a = KEYS[1], ARGV[1], {}
    for i = 2, #ARGV do a[i - 1] = ARGV[i] end
    local call = redis.call
    local due, later, leased, expiry = P .. 'due', P .. 'later', P .. 'leased', P .. 'expiry'
    local settled, dead, ready, delivering = P .. 'settled', P .. 'dead', P .. 'ready', P .. 'delivering'
    local keys = P .. 'keys'

    local function entry(ticket) return P .. 'entry:' .. ticket end
    local function get(ticket, field) return call('HGET', entry(ticket), field) end
    local function set(ticket, ...) call('HSET', entry(ticket), ...) end
    local function row(ticket) return call('HGETALL', entry(ticket)) end
    local function number(ticket, field) return tonumber(get(ticket, field) or 0) end
    local function pad(n) return string.format('%016.0f', tonumber(n)) end
    local function option(ticket, field, value)
      if value == '' then call('HDEL', entry(ticket), field) else set(ticket, field, string.sub(value, 2)) end
    end
    local function disown(ticket) call('HDEL', entry(ticket), 'owner') end
    local function own(ticket, owner, untilThen) set(ticket, 'owner', owner, 'leaseUntil', untilThen) end
    local function turn(ticket) return pad(get(ticket, 'ordinal')) .. ':' .. ticket end
    local function ofTurn(member) return string.sub(member, 18) end
    local function ofPlace(member) return string.sub(member, 35) end
    local function finish(ticket, state, now, result, note)
      local place, member = get(ticket, 'place'), turn(ticket)
      disown(ticket)
      set(ticket, 'state', state, 'settledAt', now, 'leaseUntil', 0)
      option(ticket, 'result', result)
      option(ticket, 'note', note)
      if state == 'dead' then call('ZADD', dead, now, member) else set(ticket, 'request', '') end
      call('ZREM', due, place)
      call('ZREM', later, place)
      call('ZREM', leased, ticket)
      call('ZREM', expiry, ticket)
      call('ZADD', settled, now, member)
      call('ZADD', ready, now, member)
    end
    local function unsettle(ticket)
      local member = turn(ticket)
      for _, key in ipairs({ settled, dead, ready, delivering }) do call('ZREM', key, member) end
      disown(ticket)
    end
    local function claimed(ticket, claim)
      return get(ticket, 'state') == 'running' and get(ticket, 'claim') == claim
    end
    local function forget(member)
      local ticket = ofTurn(member)
      unsettle(ticket)
      local key = get(ticket, 'key')
      if key then call('HDEL', keys, key) end
      call('DEL', entry(ticket))
    end

    if op == 'insert' then
      local ticket, key, scope, priority, request, acceptedAt, expiresAt, capacity = unpack(a)
      if key ~= '' then
        local known = call('HGET', keys, string.sub(key, 2))
        if known then return { 'Duplicate', known } end
      end
      local pending = call('ZCARD', due) + call('ZCARD', later) + call('ZCARD', leased)
      if pending >= tonumber(capacity) or call('EXISTS', entry(ticket)) == 1 then return { 'Full' } end
      local ordinal = call('INCR', P .. 'ordinal')
      local place = pad(acceptedAt) .. ':' .. pad(ordinal) .. ':' .. ticket
      set(ticket, 'ticket', ticket, 'priority', priority, 'request', request, 'acceptedAt', acceptedAt, 'expiresAt', expiresAt,
        'state', 'queued', 'claim', 0, 'attempts', 0, 'ordinal', ordinal, 'place', place, 'leaseUntil', 0)
      option(ticket, 'key', key)
      option(ticket, 'scope', scope)
      if key ~= '' then call('HSET', keys, string.sub(key, 2), ticket) end
      call('ZADD', later, acceptedAt, place)
      call('ZADD', expiry, expiresAt, ticket)
      return { 'Inserted' }
    end

    if op == 'claim' then
      local owner, now, leaseUntil = unpack(a)
      for _, place in ipairs(call('ZRANGEBYSCORE', later, '-inf', now)) do
        call('ZREM', later, place)
        call('ZADD', due, -number(ofPlace(place), 'priority'), place)
      end
      local best
      for _, ticket in ipairs(call('ZRANGEBYSCORE', leased, '-inf', now)) do
        if number(ticket, 'expiresAt') > tonumber(now) then
          best = ticket
          break
        end
      end
      local from = 0
      while not best do
        local places = call('ZRANGE', due, from, from + 99)
        if #places == 0 then return false end
        for _, place in ipairs(places) do
          if number(ofPlace(place), 'expiresAt') > tonumber(now) then
            best = ofPlace(place)
            call('ZREM', due, place)
            break
          end
        end
        from = from + 100
      end
      own(best, owner, leaseUntil)
      set(best, 'state', 'running')
      call('HINCRBY', entry(best), 'claim', 1)
      call('HINCRBY', entry(best), 'attempts', 1)
      call('ZADD', leased, leaseUntil, best)
      return row(best)
    end

    if op == 'renew' then
      for i = 3, #a do
        local ticket = a[i]
        if get(ticket, 'owner') == a[1] then
          set(ticket, 'leaseUntil', a[2])
          call('ZADD', leased, 'XX', a[2], ticket)
          call('ZADD', delivering, 'XX', a[2], turn(ticket))
        end
      end
      return 1
    end

    if op == 'release' then
      local ticket, claim, visibleAt, refund, note = unpack(a)
      if not claimed(ticket, claim) then return 0 end
      disown(ticket)
      set(ticket, 'state', 'queued', 'leaseUntil', 0)
      if refund == '1' then call('HINCRBY', entry(ticket), 'attempts', -1) end
      option(ticket, 'note', note)
      call('ZREM', leased, ticket)
      call('ZADD', later, visibleAt, get(ticket, 'place'))
      return 1
    end

    if op == 'settle' then
      local ticket, claim, now, state, result, note = unpack(a)
      if not claimed(ticket, claim) then return 0 end
      finish(ticket, state, now, result, note)
      return 1
    end

    if op == 'cancel' then
      local state = get(a[1], 'state')
      if state ~= 'queued' and state ~= 'running' then return 0 end
      finish(a[1], 'cancelled', a[2], '', '')
      return 1
    end

    if op == 'expire' then
      local ended = {}
      for _, ticket in ipairs(call('ZRANGEBYSCORE', expiry, '-inf', a[1])) do
        if get(ticket, 'state') == 'queued' or number(ticket, 'leaseUntil') <= tonumber(a[1]) then
          finish(ticket, 'expired', a[1], '', '')
          ended[#ended + 1] = ticket
        end
      end
      return ended
    end

    if op == 'find' then return row(a[1]) end

    if op == 'counts' then return { call('ZCARD', due) + call('ZCARD', later), call('ZCARD', leased) } end

    if op == 'dead' then
      local rows = {}
      for _, member in ipairs(call('ZRANGE', dead, 0, tonumber(a[1]) - 1)) do
        if #rows < tonumber(a[1]) then rows[#rows + 1] = row(ofTurn(member)) end
      end
      return rows
    end

    if op == 'requeue' then
      local ticket, now, expiresAt = unpack(a)
      if get(ticket, 'state') ~= 'dead' then return 0 end
      unsettle(ticket)
      set(ticket, 'state', 'queued', 'attempts', 0, 'expiresAt', expiresAt, 'leaseUntil', 0)
      call('HDEL', entry(ticket), 'note')
      call('ZADD', later, now, get(ticket, 'place'))
      call('ZADD', expiry, expiresAt, ticket)
      return 1
    end

    if op == 'claimDelivery' then
      local owner, now, leaseUntil = unpack(a)
      for _, member in ipairs(call('ZRANGEBYSCORE', delivering, '-inf', now)) do
        call('ZREM', delivering, member)
        call('ZADD', ready, number(ofTurn(member), 'settledAt'), member)
      end
      local member = call('ZRANGE', ready, 0, 0)[1]
      if not member then return false end
      call('ZREM', ready, member)
      call('ZADD', delivering, leaseUntil, member)
      own(ofTurn(member), owner, leaseUntil)
      return row(ofTurn(member))
    end

    if op == 'endDelivery' then
      local ticket, owner, retryAt = unpack(a)
      local member = get(ticket, 'owner') == owner and turn(ticket)
      if not member or not call('ZSCORE', delivering, member) then return 0 end
      disown(ticket)
      if retryAt == '' then call('ZREM', delivering, member) else call('ZADD', delivering, retryAt, member) end
      return 1
    end

    if op == 'prune' then
      for _, member in ipairs(call('ZRANGEBYSCORE', settled, '-inf', '(' .. a[1])) do forget(member) end
      local more = call('ZCARD', settled) - tonumber(a[2])
      if more > 0 then
        for _, member in ipairs(call('ZRANGE', settled, 0, more - 1)) do forget(member) end
      end
      return 1
    end
  `
}).withReturnType<unknown>()
