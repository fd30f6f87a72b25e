/** What every store of rate limits must do. */
import { assert, describe, it } from "@effect/vitest"
import { Meter, RateLimitStore } from "@llm-resilience/core"
import { Effect, type Layer, Schema } from "effect"

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))
const names = ["requests", "tokens", "told.requests", "told.tokens"] as const

const Parts = Schema.Array(Schema.Struct({ name: Schema.Literals(names), amount: between(0, 8) })).check(
  Schema.isMaxLength(4)
)

const Move = Schema.Union([
  Schema.TaggedStruct("Take", { parts: Parts, maxWait: Schema.Literals([5000, 25_000, 1e9]) }),
  Schema.TaggedStruct("Give", { parts: Parts, sign: Schema.Literals([1, -1]) }),
  Schema.TaggedStruct("Tell", {
    name: Schema.Literals(["told.requests", "told.tokens"]),
    limit: Schema.UndefinedOr(Schema.Literal(12)),
    remaining: Schema.UndefinedOr(Schema.Literals([0, 6, 12])),
    resetMillis: Schema.UndefinedOr(Schema.Literals([0, 120_000]))
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
            const meters = new Map<RateLimitStore.Name, Meter.Meter>()
            const meterOf = ({ name, perMinute }: RateLimitStore.Part) =>
              meters.get(name) ?? (perMinute === undefined ? undefined : Meter.perMinute(perMinute))

            for (const move of moves) {
              if (move._tag === "Tell") {
                yield* store.tell(key, move.name, move)
                const meter = Meter.learn(meters.get(move.name), move, 60_000, 0)
                if (meter !== undefined) meters.set(move.name, meter)
                continue
              }
              const parts = withLimits(move.parts)
              const known = parts.flatMap((part) => {
                const meter = meterOf(part)
                return meter === undefined ? [] : [{ part, meter }]
              })
              if (move._tag === "Give") {
                const given = parts.map((part) => ({ ...part, amount: part.amount * move.sign }))
                yield* store.give(key, given)
                for (const { meter, part } of known) {
                  meters.set(part.name, Meter.take(meter, -part.amount * move.sign, 0))
                }
                continue
              }
              const expected = Math.max(0, ...known.map(({ meter, part }) => Meter.waitFor(meter, part.amount, 0)))
              const result = yield* store.take(key, parts, move.maxWait)
              assert.closeTo(result.wait, expected, 4000)
              assert.strictEqual(result.taken, expected <= move.maxWait)
              if (result.taken)
                for (const { meter, part } of known) meters.set(part.name, Meter.take(meter, part.amount, 0))
              parts.forEach((part, index) => {
                const meter = meterOf(part)
                const seen = result.left[index]
                if (meter === undefined) return assert.isUndefined(seen)
                const left = Meter.left(meter, 0)
                return left === Infinity
                  ? assert.strictEqual(seen, left)
                  : assert.closeTo(seen ?? Number.NaN, left, 0.4)
              })
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
