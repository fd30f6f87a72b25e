import { LlmRequest, type Provider, ProviderError } from "@llm-resilience/core"
import { Effect, Exit, Option, Redacted, Stream } from "effect"
import { HttpClient } from "effect/http"
import { parseArgs } from "node:util"
import { adapters, type Protocol, protocols } from "./adapters.ts"
import { answering, isSound, sources, type Event, written } from "./streams.ts"

// `npm run fuzz -- --seconds 60 --seed 1` sends broken answers to every adapter: events out of order, twice or not at all, fields of the wrong
// type, depths and lengths beyond reason, bytes that are noise, and cuts anywhere. Each has to end within its time, with an answer or a
// typed error. It says how many it tried, and fails with the seed of the first that did not.

const { values } = parseArgs({
  options: { seconds: { type: "string", default: "20" }, seed: { type: "string", default: "1" } }
})
const seconds = Number(values.seconds)
const firstSeed = Number(values.seed)

/** Mulberry32: small, and good enough to reach everything. */
const random = (seed: number) => {
  let state = seed
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
  const below = (limit: number): number => Math.floor(next() * limit)
  const pick = <A>(values: ReadonlyArray<A>): A => values[below(values.length)] as A
  return { next, below, pick }
}

type Random = ReturnType<typeof random>

const nested = (depth: number): string => `${'{"a":['.repeat(depth)}1${"]}".repeat(depth)}`

const oddities: ReadonlyArray<(random: Random) => unknown> = [
  () => null,
  () => true,
  () => -1,
  () => 1e308,
  () => "",
  () => "\ud800",
  () => [],
  () => ({}),
  () => [null],
  ({ below }) => below(10),
  ({ below }) => "x".repeat(below(100_000)),
  ({ below }) => JSON.parse(nested(below(2000))),
  () => ({ error: { message: "?" } }),
  () => ({ type: "error" })
]

/** The same JSON with one value somewhere in it replaced, left out or given a second name. */
const mutated = (json: unknown, random: Random): unknown => {
  const isContainer = typeof json === "object" && json !== null
  if (!isContainer || random.below(4) === 0) return random.pick(oddities)(random)
  if (Array.isArray(json)) {
    const at = random.below(json.length + 1)
    return [...json.slice(0, at), mutated(json[at], random), ...json.slice(at + 1)]
  }
  const entries = Object.entries(json)
  const [name, value] = entries.length === 0 ? ["type", undefined] : random.pick(entries)
  switch (random.below(4)) {
    case 0:
      return Object.fromEntries(entries.filter(([key]) => key !== name))
    case 1:
      return { ...json, [`${name}_new`]: value }
    default:
      return { ...json, [name]: mutated(value, random) }
  }
}

const rearranged = (events: ReadonlyArray<Event>, random: Random): ReadonlyArray<Event> => {
  const at = random.below(events.length)
  const event = events[at]
  if (event === undefined) return events
  const before = events.slice(0, at)
  const after = events.slice(at + 1)
  switch (random.below(7)) {
    case 0:
      return [...before, ...after]
    case 1:
      return [...before, event, event, ...after]
    case 2:
      return [...after, event, ...before]
    case 3:
      return [...before, ...Array.from({ length: random.below(500) }, () => event), ...after]
    case 4: {
      const other = random.pick(protocols)
      return [...before, random.pick(sources[other]), ...after]
    }
    default:
      return [...before, { ...event, body: mutated(event.body, random) }, ...after]
  }
}

const damaged = (bytes: Buffer, random: Random): Buffer => {
  const at = random.below(bytes.length + 1)
  switch (random.below(6)) {
    case 0:
      return bytes.subarray(0, at)
    case 1: {
      const copy = Buffer.from(bytes)
      for (let flips = 0; flips <= random.below(8); flips++) copy[random.below(copy.length)] = random.below(256)
      return copy
    }
    case 2: {
      const noise = Buffer.from(Array.from({ length: random.below(64) }, () => random.below(256)))
      return Buffer.concat([bytes.subarray(0, at), noise, bytes.subarray(at)])
    }
    case 3:
      return Buffer.concat([bytes.subarray(at), bytes.subarray(0, at)])
    default:
      return bytes
  }
}

/** One broken answer, which its seed decides in full. */
const inputOf = (protocol: Protocol, seed: number) => {
  const draw = random(seed)
  let events = sources[protocol]
  for (let times = draw.below(4); times > 0; times--) events = rearranged(events, draw)
  let bytes: Buffer
  switch (draw.below(12)) {
    case 0:
      bytes = Buffer.from(JSON.stringify(events.map(({ body }) => body)))
      break
    case 1:
      bytes = Buffer.from(JSON.stringify(mutated(events.at(-1)?.body, draw)))
      break
    case 2:
      bytes = Buffer.from(nested(draw.below(20_000)))
      break
    case 3:
      bytes = Buffer.from(`data: ${"x".repeat(draw.below(300_000))}`)
      break
    default:
      bytes = Buffer.concat(events.map((event) => written(protocol, event)))
  }
  return {
    bytes: damaged(bytes, draw),
    cuts: Array.from({ length: draw.below(8) }, () => draw.below(1_000_000)),
    status: draw.below(8) === 0 ? draw.pick([400, 404, 429, 500, 503]) : 200,
    whole: draw.below(4) === 0
  }
}

const request = LlmRequest.make({ prompt: "Hi" })

const attempt = (protocol: Protocol, seed: number) => {
  const { bytes, cuts, status, whole } = inputOf(protocol, seed)
  const options = { model: "model-1", apiKey: Redacted.make("key"), maxEventBytes: 200_000, maxStreamBytes: 8_000_000 }
  return Effect.gen(function* () {
    const provider = yield* Effect.provideService(
      adapters[protocol](options),
      HttpClient.HttpClient,
      answering(bytes, cuts, status)
    )
    const call: Effect.Effect<unknown, Provider.Failure> = whole
      ? provider.generate(request)
      : Stream.runDrain(provider.stream(request))
    return yield* Effect.timeoutOption(Effect.exit(call), "10 seconds")
  })
}

const label = (exit: Exit.Exit<unknown, unknown>): string => {
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  return ProviderError.isProviderError(error) ? ProviderError.kind(error) : "answer"
}

const fuzz = Effect.fnUntraced(function* (protocol: Protocol) {
  const until = performance.now() + (seconds * 1000) / protocols.length
  const outcomes = new Map<string, number>()
  let tried = 0
  for (let seed = firstSeed; performance.now() < until; seed++) {
    const exit = Option.getOrUndefined(yield* attempt(protocol, seed))
    tried++
    if (exit === undefined || !isSound(exit)) {
      process.exitCode = 1
      console.log(`${protocol}: seed ${seed} ${exit === undefined ? "hangs" : `is not sound: ${String(exit)}`}`)
      break
    }
    outcomes.set(label(exit), (outcomes.get(label(exit)) ?? 0) + 1)
  }
  const found = [...outcomes].toSorted(([, left], [, right]) => right - left).map(([name, count]) => `${name} ${count}`)
  console.log(`${protocol}: ${tried} inputs (${found.join(", ")})`)
  return tried
})

const tried = await Effect.runPromise(Effect.forEach(protocols, fuzz))
// What is still being drained has its moment to end.
await Effect.runPromise(Effect.sleep("1 second"))
globalThis.gc?.()
const heap = Math.round(process.memoryUsage().heapUsed / 1e6)
console.log(`${tried.reduce((sum, some) => sum + some, 0)} inputs in all; ${heap} MB of heap in use at the end`)
