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

/**
 * The meters: two limits of our own, and four that providers report.
 *
 * @category models
 * @since 0.1.0
 */
export type Name = "requests" | "tokens" | `told.${"requests" | "tokens" | "inputTokens" | "outputTokens"}`

/**
 * What a call takes of one meter. A meter of our own says how it is filled; what was never reported takes nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Part {
  readonly name: Name
  readonly amount: number
  readonly perMinute?: number | undefined
}

/**
 * The answer to a call: whether it took, how many milliseconds it has to wait (or would have had to), for which meter, and what is
 * left for each of its parts, as far as its meter is known.
 *
 * @category models
 * @since 0.1.0
 */
export interface Taken {
  readonly taken: boolean
  readonly wait: number
  readonly by: Name | undefined
  readonly left: ReadonlyArray<number | undefined>
}

/**
 * Service that keeps meters under keys.
 *
 * **Details**
 *
 * - `take` takes all parts, unless one makes the call wait longer than `maxWait` milliseconds: then it takes nothing.
 * - `give` gives amounts back; negative ones are taken in addition, without waiting.
 * - `tell` reports what the provider says about a limit.
 * - `peek` returns the milliseconds that a call would wait, as far as they are known without asking anybody.
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
    readonly tell: (key: string, name: Name, report: Meter.Report) => Effect.Effect<void, RateLimitStoreError>
    readonly peek: (key: string, parts: ReadonlyArray<Part>) => Effect.Effect<number>
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
  const keys = new Map<string, Map<Name, Meter.Meter>>()

  const metersOf = (key: string): Map<Name, Meter.Meter> => {
    const known = keys.get(key)
    if (known !== undefined && keys.size === 1) return known
    const meters = known ?? new Map<Name, Meter.Meter>()
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
        const left = parts.map((part) => {
          const meter = meterOf(meters, part)
          if (meter === undefined) return undefined
          const after = taken ? Meter.take(meter, part.amount, now) : meter
          meters.set(part.name, after)
          return Meter.left(after, now)
        })
        return { taken, wait, by, left }
      }),
    give: (key, parts) =>
      atNow((now) => {
        const meters = metersOf(key)
        for (const part of parts) {
          const meter = meterOf(meters, part)
          if (meter !== undefined) meters.set(part.name, Meter.take(meter, -part.amount, now))
        }
      }),
    tell: (key, name, report) =>
      atNow((now) => {
        const meters = metersOf(key)
        const meter = Meter.learn(meters.get(name), report, longestPause, now)
        if (meter !== undefined) meters.set(name, meter)
      }),
    peek: (key, parts) => atNow((now) => longest(keys.get(key) ?? none, parts, now).wait)
  }
}

const none: ReadonlyMap<Name, Meter.Meter> = new Map()

const meterOf = (meters: ReadonlyMap<Name, Meter.Meter>, part: Part): Meter.Meter | undefined => {
  const known = meters.get(part.name)
  if (part.perMinute === undefined) return known
  const fresh = Meter.perMinute(part.perMinute)
  // Somebody else with the same key may have another limit.
  return known === undefined || known.interval === fresh.interval
    ? (known ?? fresh)
    : { ...fresh, fullAt: known.fullAt }
}

const longest = (
  meters: ReadonlyMap<Name, Meter.Meter>,
  parts: ReadonlyArray<Part>,
  now: number
): { readonly wait: number; readonly by: Name | undefined } => {
  let wait = 0
  let by: Name | undefined
  for (const part of parts) {
    const meter = meterOf(meters, part)
    const millis = meter === undefined ? 0 : Meter.waitFor(meter, part.amount, now)
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
 * that differ do not matter. What is full again is forgotten by itself. `prefix` is put before each key, `"llm-resilience:limits:"` by default.
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
            onSuccess: ([taken, wait, by, ...left]) => ({
              taken: taken === "1",
              wait: Number(wait),
              by: parts.find((part) => part.name === by)?.name,
              left: left.map((units) => (units === "" ? undefined : units === "all" ? Infinity : Number(units)))
            })
          }),
        give: (key, parts) => Effect.mapError(Effect.asVoid(give(prefix + key, parts)), failed("give")),
        tell: (key, name, report) => Effect.mapError(Effect.asVoid(tell(prefix + key, name, report)), failed("tell")),
        peek: () => Effect.succeed(0)
      }
    })
  )

// Each meter is a field of one hash: "fullAt interval window". The rules are those of `Meter`, and one suite holds both.
const shared = `
local key = KEYS[1]
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local function read(name, perMinute)
  local kept = redis.call("HGET", key, name)
  local fullAt, interval, window
  if kept then
    fullAt, interval, window = string.match(kept, "(%S+) (%S+) (%S+)")
    fullAt, interval, window = tonumber(fullAt), tonumber(interval), tonumber(window)
  end
  if perMinute ~= "" then
    interval = 60000 / tonumber(perMinute)
    window = 60000
    fullAt = fullAt or now
  end
  if not fullAt then return nil end
  return { name = name, fullAt = math.max(fullAt, now), interval = interval, window = window }
end
local function write(meter)
  local text = string.format("%.17g %.17g %.17g", meter.fullAt, meter.interval, meter.window)
  redis.call("HSET", key, meter.name, text)
  local ttl = math.max(redis.call("PTTL", key), math.ceil(meter.fullAt - now), 1)
  redis.call("PEXPIRE", key, ttl)
end
`

const fieldsOf = (parts: ReadonlyArray<Part>): ReadonlyArray<string | number> =>
  parts.flatMap(({ amount, name, perMinute }) => [name, amount, perMinute ?? ""])

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
for i = 2, #ARGV, 3 do
  local meter = read(ARGV[i], ARGV[i + 2])
  if meter then
    meter.cost = tonumber(ARGV[i + 1]) * meter.interval
    local millis = meter.fullAt + math.min(meter.cost, meter.window) - meter.window - now
    if millis > wait then wait, by = millis, meter.name end
  end
  meters[#meters + 1] = meter or false
end
local reply = { wait <= maxWait and "1" or "0", string.format("%.17g", wait), by }
for _, meter in ipairs(meters) do
  if not meter then
    reply[#reply + 1] = ""
  else
    if wait <= maxWait then
      meter.fullAt = meter.fullAt + meter.cost
      if meter.cost ~= 0 then write(meter) end
    end
    if meter.interval == 0 then
      reply[#reply + 1] = meter.fullAt > now and "0" or "all"
    else
      reply[#reply + 1] = string.format("%.17g", (meter.window - (meter.fullAt - now)) / meter.interval)
    end
  end
end
return reply
`
  }
).withReturnType<readonly [taken: string, wait: string, by: string, ...left: ReadonlyArray<string>]>()

const giveScript = Redis.script((key: string, parts: ReadonlyArray<Part>) => [key, ...fieldsOf(parts)], {
  numberOfKeys: 1,
  lua: `${shared}
for i = 1, #ARGV, 3 do
  local meter = read(ARGV[i], ARGV[i + 2])
  if meter then
    meter.fullAt = meter.fullAt - tonumber(ARGV[i + 1]) * meter.interval
    write(meter)
  end
end
return 0
`
}).withReturnType<number>()

const tellScript = Redis.script(
  (key: string, name: Name, { limit, remaining, resetMillis }: Meter.Report) => [
    key,
    name,
    limit ?? "",
    remaining ?? "",
    resetMillis ?? "",
    longestPause
  ],
  {
    numberOfKeys: 1,
    lua: `${shared}
local limit, remaining, reset = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if not remaining or not reset or reset <= 0 then return 0 end
if not limit and remaining > 0 then return 0 end
if limit and remaining >= limit then return 0 end
local known = read(ARGV[1], "")
local interval = limit and reset / (limit - math.max(0, remaining)) or 0
local untilThen = now + (limit and reset or math.min(reset, tonumber(ARGV[5])))
write({
  name = ARGV[1],
  fullAt = math.max(known and known.fullAt or untilThen, untilThen),
  interval = interval,
  window = (limit or 0) * interval
})
return 0
`
  }
).withReturnType<number>()
