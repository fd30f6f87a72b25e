import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import { newest } from "../../packages/core/src/internal/newest.ts"

describe("the newest numbers", () => {
  it.prop(
    "have the quantiles of what was added last, however seldom anybody asks",
    { seed: Arbitrary.schema(Schema.Int) },
    ({ seed }) => {
      let state = seed
      const random = (below: number) => {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
        return (state >>> 8) % below
      }
      const most = 1 + random(12)
      const rarely = 1 + random(3 * most)
      const numbers = newest(most)
      const all: Array<number> = []
      for (let step = 0; step < 8 * most; step++) {
        // Few enough to come twice.
        const value = random(10)
        numbers.add(value)
        all.push(value)
        if (random(rarely) > 0) continue
        const sorted = all.slice(-most).toSorted((left, right) => left - right)
        assert.strictEqual(numbers.count(), sorted.length)
        for (const [place, value] of sorted.entries()) {
          assert.strictEqual(numbers.quantile((place + 1) / sorted.length), value)
        }
      }
    }
  )

  it("are none in the beginning", () => {
    const numbers = newest(3)

    assert.strictEqual(numbers.count(), 0)
    assert.strictEqual(numbers.quantile(0.5), 0)
  })
})
