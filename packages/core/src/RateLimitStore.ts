/**
 * Where the meters of rate limits are kept: in memory, or in a Redis that several processes share.
 *
 * A call takes from several meters at once (requests, tokens), all or nothing, and is told how long to wait. What it would have to wait too
 * long for is not taken. What it did not need is given back.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import * as Schema from "effect/Schema"
import { monotonic } from "./internal/monotonic.ts"
import * as Meter from "./Meter.ts"
import * as ToldMeter from "./ToldMeter.ts"

/**
 * The meters: two limits of our own, and four that providers report.
 *
 * @category models
 * @since 0.1.0
 */
export type Name = "requests" | "tokens" | `told.${"requests" | "tokens" | "inputTokens" | "outputTokens"}`

/**
 * What a call takes of one meter. A meter of our own says how it is filled; of what was never reported nothing is taken. `mark` is what the
 * store answered when it was taken, for giving it back.
 *
 * @category models
 * @since 0.1.0
 */
export interface Part {
  readonly name: Name
  readonly amount: number
  readonly perMinute?: number | undefined
  readonly mark?: number | undefined
}

/**
 * The answer to a call: whether it took, how many milliseconds it has to wait (or would have had to), for which meter, and for each of its
 * parts what is left and the mark of a learnt meter, as far as its meter is known.
 *
 * @category models
 * @since 0.1.0
 */
export interface Taken {
  readonly taken: boolean
  readonly wait: number
  readonly by: Name | undefined
  readonly left: ReadonlyArray<number | undefined>
  readonly marks: ReadonlyArray<number | undefined>
}

/**
 * Service that keeps meters under keys.
 *
 * **Details**
 *
 * - `take` takes all parts, unless one makes the call wait longer than `maxWait` milliseconds: then it takes nothing.
 * - `give` gives amounts back; negative ones are taken in addition, without waiting.
 * - `tell` reports what the provider says about a limit.
 * - `peek` returns the milliseconds that a call would wait at `now`, in monotonic milliseconds, as far as they are known without asking anybody.
 *
 * @category services
 * @since 0.1.0
 */
export class RateLimitStore extends Context.Service<
  RateLimitStore,
  {
    readonly take: (
      key: string,
      parts: ReadonlyArray<Part>,
      maxWait: number
    ) => Effect.Effect<Taken, RateLimitStoreError>
    readonly give: (key: string, parts: ReadonlyArray<Part>) => Effect.Effect<void, RateLimitStoreError>
    readonly tell: (key: string, name: Name, report: ToldMeter.Report) => Effect.Effect<void, RateLimitStoreError>
    readonly peek: (key: string, parts: ReadonlyArray<Part>, now: number) => number
  }
>()("@llm-resilience/core/RateLimitStore") {}

/**
 * Error raised when a store could not do what it was asked. The rate limit reports it and lets the call pass.
 *
 * @category errors
 * @since 0.1.0
 */
export class RateLimitStoreError extends Schema.TaggedError<RateLimitStoreError>(
  "@llm-resilience/core/RateLimitStore/RateLimitStoreError"
)("RateLimitStoreError", {
  operation: Schema.Literals(["take", "give", "tell"]),
  cause: Schema.Defect()
}) {
  override readonly message = "The store of the rate limits failed"
}

// A report without a size says only when the limit opens again. Nobody is believed for longer than this.
const longestPause = 60_000

/**
 * Creates a store in memory.
 *
 * **Details**
 *
 * `maxKeys` bounds the keys, 1000 by default; beyond it the one that was not used for longest is forgotten.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeMemory = (options?: { readonly maxKeys?: number | undefined }): RateLimitStore["Service"] => {
  const maxKeys = options?.maxKeys ?? 1000
  if (!Number.isInteger(maxKeys) || maxKeys < 1) {
    throw new RangeError(`RateLimitStore.makeMemory: maxKeys must be an integer >= 1, got ${maxKeys}`)
  }
  const keys = new Map<string, Meters>()

  const metersOf = (key: string): Meters => {
    const known = keys.get(key)
    if (known !== undefined && keys.size === 1) return known
    const meters = known ?? { own: new Map(), told: new Map() }
    keys.delete(key)
    keys.set(key, meters)
    if (keys.size > maxKeys) {
      const oldest = keys.keys().next()
      if (oldest.done !== true) keys.delete(oldest.value)
    }
    return meters
  }
  const atNow = <A>(use: (now: number) => A): Effect.Effect<A> =>
    Clock.clockWith((clock) => Effect.succeed(use(monotonic(clock))))

  return {
    take: (key, parts, maxWait) =>
      atNow((now) => {
        const meters = metersOf(key)
        const { by, wait } = longest(meters, parts, now)
        const taken = wait <= maxWait
        const left: Array<number | undefined> = []
        const marks: Array<number | undefined> = []
        for (const part of parts) {
          const own = ownOf(meters, part)
          const told = own === undefined ? meters.told.get(part.name) : undefined
          if (own !== undefined) {
            const after = taken ? Meter.take(own, part.amount, now) : own
            meters.own.set(part.name, after)
            left.push(Meter.left(after, now))
          } else if (told !== undefined) {
            const after = taken ? ToldMeter.take(told, part.amount, now) : told
            meters.told.set(part.name, after)
            left.push(ToldMeter.left(after, now))
            if (taken) marks[left.length - 1] = after.taken
          } else left.push(undefined)
        }
        return { taken, wait, by, left, marks }
      }),
    give: (key, parts) =>
      atNow((now) => {
        const meters = metersOf(key)
        for (const part of parts) {
          const own = ownOf(meters, part)
          const told = own === undefined ? meters.told.get(part.name) : undefined
          if (own !== undefined) meters.own.set(part.name, Meter.take(own, -part.amount, now))
          else if (told !== undefined) meters.told.set(part.name, ToldMeter.give(told, part.amount, part.mark, now))
        }
      }),
    tell: (key, name, report) =>
      atNow((now) => {
        const { told } = metersOf(key)
        const meter = ToldMeter.learn(told.get(name), report, longestPause, now)
        if (meter !== undefined) told.set(name, meter)
      }),
    peek: (key, parts, now) => longest(keys.get(key) ?? none, parts, now).wait
  }
}

interface Meters {
  readonly own: Map<Name, Meter.Meter>
  readonly told: Map<Name, ToldMeter.ToldMeter>
}

const none: Meters = { own: new Map(), told: new Map() }

const ownOf = ({ own }: Meters, part: Part): Meter.Meter | undefined => {
  if (part.perMinute === undefined) return undefined
  const known = own.get(part.name)
  const fresh = Meter.perMinute(part.perMinute)
  // Somebody else with the same key may have another limit.
  return known === undefined || known.interval === fresh.interval
    ? (known ?? fresh)
    : { ...fresh, fullAt: known.fullAt }
}

const longest = (
  meters: Meters,
  parts: ReadonlyArray<Part>,
  now: number
): { readonly wait: number; readonly by: Name | undefined } => {
  let wait = 0
  let by: Name | undefined
  for (const part of parts) {
    const own = ownOf(meters, part)
    const told = own === undefined ? meters.told.get(part.name) : undefined
    const millis =
      own !== undefined
        ? Meter.waitFor(own, part.amount, now)
        : told !== undefined
          ? ToldMeter.waitFor(told, part.amount, now)
          : 0
    if (millis > wait) {
      wait = millis
      by = part.name
    }
  }
  return { wait, by }
}

/**
 * Layer that keeps meters in memory.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options?: { readonly maxKeys?: number | undefined }): Layer.Layer<RateLimitStore> =>
  Layer.sync(RateLimitStore, () => makeMemory(options))

/**
 * Layer that keeps meters in Redis, where all processes that name the same keys share them.
 *
 * **Details**
 *
 * One script for each operation, so that two processes never see half of a call. The time is that of the server: clocks of processes
 * that differ do not matter. What is full again is forgotten by itself, the size of a learnt limit an hour later. `prefix` is put before each key, `"llm-resilience:limits:"` by default.
 *
 * **Gotchas**
 *
 * `peek` knows nothing, so a chain finds out that a step is saturated by asking the server.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRedis = (options?: {
  readonly prefix?: string | undefined
}): Layer.Layer<RateLimitStore, never, Redis.Redis> =>
  Layer.effect(
    RateLimitStore,
    Effect.map(Redis.Redis, (redis) => {
      const prefix = options?.prefix ?? "llm-resilience:limits:"
      const [take, give, tell] = [redis.eval(takeScript), redis.eval(giveScript), redis.eval(tellScript)]
      const failed = (operation: RateLimitStoreError["operation"]) => (error: Redis.RedisError) =>
        new RateLimitStoreError({ operation, cause: error.cause })
      return {
        take: (key, parts, maxWait) =>
          Effect.mapBoth(take(prefix + key, maxWait, parts), {
            onFailure: failed("take"),
            onSuccess: ([taken, wait, by, ...rest]) => ({
              taken: taken === "1",
              wait: Number(wait),
              by: parts.find((part) => part.name === by)?.name,
              left: parts.map((_, index) => unitsOf(rest[2 * index])),
              marks: parts.map((_, index) => unitsOf(rest[2 * index + 1]))
            })
          }),
        give: (key, parts) => Effect.mapError(Effect.asVoid(give(prefix + key, parts)), failed("give")),
        tell: (key, name, report) => Effect.mapError(Effect.asVoid(tell(prefix + key, name, report)), failed("tell")),
        peek: () => 0
      }
    })
  )

const unitsOf = (text: string | undefined): number | undefined =>
  text === undefined || text === "" ? undefined : text === "all" ? Infinity : Number(text)

// Each meter is a field of one hash: `fullAt`, or the numbers of a `ToldMeter`. The rules are those of `Meter` and `ToldMeter`, and one suite holds both.
const shared = `
local key = KEYS[1]
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local function number(value) return string.format("%.17g", value) end
local function numbers(text)
  local all = {}
  for each in string.gmatch(text, "%S+") do all[#all + 1] = tonumber(each) end
  return all
end
local function keep(name, text, millis)
  redis.call("HSET", key, name, text)
  redis.call("PEXPIRE", key, math.max(redis.call("PTTL", key), math.ceil(millis), 1))
end

local own = {}
function own.read(name, perMinute)
  local kept = redis.call("HGET", key, name)
  local fullAt = tonumber(kept or now)
  return { rules = own, name = name, fullAt = math.max(fullAt, now), interval = 60000 / perMinute, window = 60000 }
end
function own.write(m)
  keep(m.name, number(m.fullAt), m.fullAt - now)
end
function own.wait(m, amount)
  return math.max(0, m.fullAt + math.min(amount * m.interval, m.window) - m.window - now)
end
function own.take(m, amount) m.fullAt = m.fullAt + amount * m.interval end
function own.give(m, amount) own.take(m, -amount) end
function own.left(m) return number((m.window - (math.max(m.fullAt, now) - now)) / m.interval) end

local told = {}
local fields = { "limit", "remaining", "at", "reset", "longest", "taken", "mark", "since", "credit", "next" }
local function pending(m) return m.taken - m.since - m.credit end
local function interval(m)
  if m.remaining < m.limit then return m.reset / (m.limit - m.remaining) end
  return m.reset / m.limit
end
function told.read(name)
  local kept = redis.call("HGET", key, name)
  if not kept then return nil end
  local m = { rules = told, name = name }
  for i, value in ipairs(numbers(kept)) do m[fields[i]] = value end
  m.toldAt = m.at
  if m.limit > 0 and (now >= m.at + m.reset or (m.remaining == m.limit and pending(m) <= 0)) then
    m.since = m.taken - math.min(m.next, math.max(0, pending(m)))
    m.remaining, m.at, m.reset, m.credit, m.next = m.limit, now, m.longest, 0, 0
  end
  return m
end
function told.write(m)
  local all = {}
  for i, field in ipairs(fields) do all[i] = number(m[field]) end
  keep(m.name, table.concat(all, " "), math.max(0, m.at + m.reset - now) + 3600000)
end
function told.wait(m, amount)
  local untilReset = m.at + m.reset - now
  if m.limit == 0 then return math.max(0, untilReset) end
  local cost = math.min(amount, m.limit)
  local missing = cost + pending(m) - m.remaining
  if missing <= 0 then return 0 end
  local evenly = missing * interval(m) - (now - m.at)
  local atOnce = untilReset + math.max(0, m.next + cost - m.limit) * m.longest / m.limit
  return math.max(0, math.min(evenly, atOnce))
end
function told.take(m, amount)
  local wait = told.wait(m, amount)
  if wait > 0 and now + wait >= m.at + m.reset then m.next = m.next + amount end
  m.taken = m.taken + amount
end
function told.give(m, amount, mark)
  if not mark or mark <= m.since then return end
  m.credit = m.credit + amount
  m.next = math.max(0, m.next - math.max(0, amount))
end
function told.left(m)
  if m.limit == 0 then return now < m.at + m.reset and "0" or "all" end
  local each = interval(m)
  if each == 0 then return number(m.limit) end
  return number(math.min(m.limit, m.remaining + (now - m.at) / each - pending(m)))
end

local function read(name, perMinute)
  if perMinute == "" then return told.read(name) end
  return own.read(name, tonumber(perMinute))
end
`

const fieldsOf = (parts: ReadonlyArray<Part>): ReadonlyArray<string | number> =>
  parts.flatMap(({ amount, mark, name, perMinute }) => [name, amount, perMinute ?? "", mark ?? ""])

const takeScript = Redis.script(
  (key: string, maxWait: number, parts: ReadonlyArray<Part>) => [
    key,
    // Lua reads no word for it.
    Math.min(maxWait, Number.MAX_SAFE_INTEGER),
    ...fieldsOf(parts)
  ],
  {
    numberOfKeys: 1,
    lua: `${shared}
local maxWait = tonumber(ARGV[1])
local wait, by, meters = 0, "", {}
for i = 2, #ARGV, 4 do
  local meter = read(ARGV[i], ARGV[i + 2])
  if meter then
    meter.amount = tonumber(ARGV[i + 1])
    local millis = meter.rules.wait(meter, meter.amount)
    if millis > wait then wait, by = millis, meter.name end
  end
  meters[#meters + 1] = meter or false
end
local taken = wait <= maxWait
local reply = { taken and "1" or "0", number(wait), by }
for _, meter in ipairs(meters) do
  local left, mark = "", ""
  if meter then
    if taken then
      meter.rules.take(meter, meter.amount)
      if meter.amount ~= 0 then meter.rules.write(meter) end
      mark = meter.taken and number(meter.taken) or ""
    end
    left = meter.rules.left(meter)
  end
  reply[#reply + 1] = left
  reply[#reply + 1] = mark
end
return reply
`
  }
).withReturnType<readonly [taken: string, wait: string, by: string, ...leftAndMarks: ReadonlyArray<string>]>()

const giveScript = Redis.script((key: string, parts: ReadonlyArray<Part>) => [key, ...fieldsOf(parts)], {
  numberOfKeys: 1,
  lua: `${shared}
for i = 1, #ARGV, 4 do
  local meter = read(ARGV[i], ARGV[i + 2])
  if meter then
    meter.rules.give(meter, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 3]))
    meter.rules.write(meter)
  end
end
return 0
`
}).withReturnType<number>()

const tellScript = Redis.script(
  (key: string, name: Name, { ageMillis = 0, limit, mark, remaining, resetMillis }: ToldMeter.Report) => [
    key,
    name,
    limit ?? "",
    remaining ?? "",
    resetMillis ?? "",
    ageMillis,
    mark ?? "",
    longestPause
  ],
  {
    numberOfKeys: 1,
    lua: `${shared}
local limit, remaining, reset = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local age, mark, longestPause = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local known = told.read(ARGV[1])
local at = now - age
if not remaining then return 0 end
if known and ((mark and mark < known.mark) or (not mark and at < known.toldAt)) then return 0 end
limit = limit or (known and known.limit) or 0
local sameLimit = known and known.limit == limit
local isFull = remaining >= limit and limit > 0
reset = reset or (sameLimit and limit > 0 and known.longest) or (isFull and 0) or nil
if not reset then return 0 end
local from = mark or (known and known.since) or 0
mark = mark or (known and known.mark) or 0
local meter = known or { rules = told, name = ARGV[1], taken = 0, since = 0, credit = 0, next = 0 }
if limit == 0 then
  if remaining > 0 then
    if not known then return 0 end
    meter.reset = 0
  else
    reset = math.min(reset, longestPause)
    meter.limit, meter.remaining, meter.at, meter.reset, meter.longest = 0, 0, at, reset, reset
  end
  meter.mark = mark
  told.write(meter)
  return 0
end
if known and not isFull and at + reset < known.at then return 0 end
local longest = sameLimit and math.max(known.longest, reset) or reset
if from > meter.since and meter.taken > meter.since then
  meter.credit = meter.credit * math.max(0, meter.taken - from) / (meter.taken - meter.since)
end
meter.limit, meter.remaining, meter.at = limit, math.min(limit, math.max(0, remaining)), at
meter.reset, meter.longest = isFull and longest or reset, longest
meter.taken, meter.mark, meter.since = math.max(meter.taken, mark), mark, from
told.write(meter)
return 0
`
  }
).withReturnType<number>()
