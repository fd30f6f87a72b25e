import { assert, describe, it } from "@effect/vitest"
import { Meter } from "@llm-resilience/core"
import { Effect, Schema } from "effect"

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

describe("Meter", () => {
  it("lets a minute's worth pass at once and then one by one", () => {
    let meter = Meter.perMinute(4)
    const waits = [0, 0, 0, 0, 0, 0].map(() => {
      const wait = Meter.waitFor(meter, 1, 1000)
      meter = Meter.take(meter, 1, 1000)
      return wait
    })

    assert.deepStrictEqual(waits, [0, 0, 0, 0, 15_000, 30_000])
    assert.strictEqual(Meter.left(meter, 1000), -2)
    assert.strictEqual(Meter.left(meter, 31_000), 0)
    assert.strictEqual(Meter.waitFor(meter, 1, 31_000), 15_000)
  })

  it("is never fuller than full", () => {
    const meter = Meter.take(Meter.perMinute(4), -100, 0)

    assert.strictEqual(Meter.left(meter, 0), 4)
    assert.strictEqual(Meter.left(meter, 1_000_000), 4)
  })

  it("lets more pass than it holds when it is full, and makes the next one wait for it", () => {
    const full = Meter.perMinute(4)
    assert.strictEqual(Meter.waitFor(full, 10, 0), 0)

    const overdrawn = Meter.take(full, 10, 0)
    assert.strictEqual(Meter.waitFor(overdrawn, 1, 0), 7 * 15_000)
    assert.strictEqual(Meter.waitFor(Meter.take(full, 1, 0), 10, 0), 15_000)
  })

  it.effect.prop(
    "does what a bucket does that is filled drop by drop",
    {
      limit: between(1, 60),
      moves: Schema.Array(
        Schema.Union([
          Schema.TaggedStruct("Take", { amount: between(0, 20) }),
          Schema.TaggedStruct("Give", { amount: between(-20, 20) }),
          Schema.TaggedStruct("Pass", { seconds: between(0, 30) })
        ])
      ).check(Schema.isMaxLength(40))
    },
    ({ limit, moves }) =>
      Effect.sync(() => {
        let meter = Meter.perMinute(limit)
        let level = limit
        let now = 0
        const fill = (millis: number) => Math.min(limit, level + (millis * limit) / 60_000)
        for (const move of moves) {
          if (move._tag === "Pass") {
            now += move.seconds * 1000
            level = fill(move.seconds * 1000)
          } else {
            const amount = move._tag === "Take" ? move.amount : -move.amount
            const missing = Math.min(amount, limit) - level
            const wait = missing <= 0 ? 0 : (missing * 60_000) / limit
            assert.closeTo(Meter.waitFor(meter, amount, now), wait, 1e-3)
            meter = Meter.take(meter, amount, now)
            level = Math.min(limit, level - amount)
          }
          assert.closeTo(Meter.left(meter, now), level, 1e-6)
        }
      })
  )
})
