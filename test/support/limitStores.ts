/** What every store of rate limits must do. */
import { assert, describe, it } from "@effect/vitest"
import { Meter, RateLimitStore, ToldMeter } from "@llm-resilience/core"
import { Effect, type Layer, Schema } from "effect"

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const names = ["requests", "tokens", "told.requests", "told.tokens"] as const

const Parts = Schema.Array(Schema.Struct({ name: Schema.Literals(names), amount: between(0, 8) })).check(
  Schema.isMaxLength(4)
)

const Move = Schema.Union([
  Schema.TaggedStruct("Take", { parts: Parts, maxWait: Schema.Literals([5000, 25_000, 1e9]) }),
  Schema.TaggedStruct("Give", { parts: Parts, sign: Schema.Literals([1, -1]), call: between(0, 5) }),
  Schema.TaggedStruct("Tell", {
    name: Schema.Literals(["told.requests", "told.tokens"]),
    limit: Schema.UndefinedOr(Schema.Literal(12)),
    remaining: Schema.UndefinedOr(Schema.Literals([0, 6, 12])),
    resetMillis: Schema.UndefinedOr(Schema.Literals([0, 120_000])),
    ageMillis: Schema.Literals([0, 40_000, 240_000]),
    call: between(0, 5)
  })
])

// A unit takes ten seconds, so that the moments that a server needs change no decision.
const limits: Partial<Record<RateLimitStore.Name, number>> = { requests: 6, tokens: 6 }
const withLimits = (parts: ReadonlyArray<{ readonly name: RateLimitStore.Name; readonly amount: number }>) =>
  parts
    .filter((part, index) => parts.findIndex((other) => other.name === part.name) === index)
    .map((part): RateLimitStore.Part => ({ ...part, perMinute: limits[part.name] }))

let keys = 0

/** Runs what every store must pass. */
export const conforms = <E>(options: {
  readonly name: string
  readonly layer: Layer.Layer<RateLimitStore.RateLimitStore, E>
  readonly runs?: number
}): void => {
  describe(`the rate limit store over ${options.name}`, () => {
    const provided = <A, E1>(effect: Effect.Effect<A, E1, RateLimitStore.RateLimitStore>) =>
      Effect.provide(effect, options.layer)

    it.effect.prop(
      "does what its meters do, whatever is taken, given back and told",
      { moves: Schema.Array(Move).check(Schema.isMaxLength(20)) },
      ({ moves }) =>
        provided(
          Effect.gen(function* () {
            const store = yield* RateLimitStore.RateLimitStore
            const key = `k${keys++}`
            const own = new Map<RateLimitStore.Name, Meter.Meter>()
            const told = new Map<RateLimitStore.Name, ToldMeter.ToldMeter>()
            // The marks of the calls that took, one for each meter; a call before the first has none.
            const calls: Array<ReadonlyMap<RateLimitStore.Name, number | undefined>> = [new Map()]
            const markOf = (call: number, name: RateLimitStore.Name) => calls[call % calls.length]?.get(name)

            for (const move of moves) {
              if (move._tag === "Tell") {
                const report = { ...move, mark: markOf(move.call, move.name) }
                yield* store.tell(key, move.name, report)
                const meter = ToldMeter.learn(told.get(move.name), report, 60_000, 0)
                if (meter !== undefined) told.set(move.name, meter)
                continue
              }
              const parts = withLimits(move.parts)
              if (move._tag === "Give") {
                const given = parts.map((part) => ({
                  ...part,
                  amount: part.amount * move.sign,
                  mark: markOf(move.call, part.name)
                }))
                yield* store.give(key, given)
                for (const { amount, mark, name, perMinute } of given) {
                  const meter = told.get(name)
                  if (perMinute !== undefined) {
                    own.set(name, Meter.take(own.get(name) ?? Meter.perMinute(perMinute), -amount, 0))
                  } else if (meter !== undefined) told.set(name, ToldMeter.give(meter, amount, mark, 0))
                }
                continue
              }
              const waits = parts.map(({ amount, name, perMinute }) => {
                const meter = told.get(name)
                return perMinute !== undefined
                  ? Meter.waitFor(own.get(name) ?? Meter.perMinute(perMinute), amount, 0)
                  : meter === undefined
                    ? 0
                    : ToldMeter.waitFor(meter, amount, 0)
              })
              const expected = Math.max(0, ...waits)
              const result = yield* store.take(key, parts, move.maxWait)
              assert.closeTo(result.wait, expected, 4000)
              assert.strictEqual(result.taken, expected <= move.maxWait)
              parts.forEach(({ amount, name, perMinute }, index) => {
                const isTaken = result.taken
                const seen = result.left[index]
                let left: number | undefined
                if (perMinute !== undefined) {
                  const meter = own.get(name) ?? Meter.perMinute(perMinute)
                  const after = isTaken ? Meter.take(meter, amount, 0) : meter
                  own.set(name, after)
                  left = Meter.left(after, 0)
                } else {
                  const meter = told.get(name)
                  if (meter === undefined) return assert.isUndefined(seen)
                  const after = isTaken ? ToldMeter.take(meter, amount, 0) : meter
                  told.set(name, after)
                  left = ToldMeter.left(after, 0)
                  assert.strictEqual(result.marks[index], isTaken ? after.taken : undefined)
                }
                return left === Infinity
                  ? assert.strictEqual(seen, left)
                  : assert.closeTo(seen ?? Number.NaN, left, 0.4)
              })
              if (result.taken) calls.push(new Map(parts.map(({ name }, index) => [name, result.marks[index]])))
            }
          })
        ),
      { arbitrary: { runs: options.runs ?? 100 } }
    )

    it.effect("says which meter makes a call wait", () =>
      provided(
        Effect.gen(function* () {
          const store = yield* RateLimitStore.RateLimitStore
          const key = `k${keys++}`
          const parts = (tokens: number): ReadonlyArray<RateLimitStore.Part> => [
            { name: "requests", amount: 1, perMinute: 6 },
            { name: "tokens", amount: tokens, perMinute: 600 }
          ]
          assert.isUndefined((yield* store.take(key, parts(600), 0)).by)
          assert.strictEqual((yield* store.take(key, parts(300), 0)).by, "tokens")
        })
      )
    )

    it.effect("never lets two calls at once take the same unit", () =>
      provided(
        Effect.gen(function* () {
          const store = yield* RateLimitStore.RateLimitStore
          const key = `k${keys++}`
          const results = yield* Effect.all(
            Array.from({ length: 50 }, () => store.take(key, [{ name: "requests", amount: 1, perMinute: 6 }], 0)),
            { concurrency: "unbounded" }
          )
          assert.strictEqual(results.filter(({ taken }) => taken).length, 6)
        })
      )
    )

    it.effect("keeps keys apart", () =>
      provided(
        Effect.gen(function* () {
          const store = yield* RateLimitStore.RateLimitStore
          const take = (key: string) => store.take(key, [{ name: "requests", amount: 1, perMinute: 1 }], 0)
          const [one, two] = [`k${keys++}`, `k${keys++}`]
          const taken = yield* Effect.forEach([one, one, two], take)
          assert.deepStrictEqual(
            taken.map(({ taken }) => taken),
            [true, false, true]
          )
        })
      )
    )
  })
}
