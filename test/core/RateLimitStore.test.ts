import { assert, describe, it } from "@effect/vitest"
import { RateLimitStore } from "@llm-resilience/core"
import { Effect } from "effect"
import { conforms } from "../support/limitStores.ts"

conforms({ name: "memory", layer: RateLimitStore.layerMemory() })

describe("RateLimitStore", () => {
  it.effect("in memory forgets the key that was not used for longest", () =>
    Effect.gen(function* () {
      const store = RateLimitStore.makeMemory({ maxKeys: 2 })
      const take = (key: string) =>
        Effect.map(store.take(key, [{ name: "requests", amount: 1, perMinute: 1 }], 0), ({ taken }) => taken)

      assert.deepStrictEqual(yield* Effect.forEach(["a", "b", "a", "c", "a", "b"], take), [
        true,
        true,
        false,
        true,
        false,
        true
      ])
      assert.throws(
        () => RateLimitStore.makeMemory({ maxKeys: 0 }),
        RangeError,
        "maxKeys must be an integer >= 1, got 0"
      )
    })
  )

  it.effect("in memory tells the wait without taking anything", () =>
    Effect.gen(function* () {
      const store = RateLimitStore.makeMemory()
      const parts = [{ name: "requests" as const, amount: 1, perMinute: 1 }]
      assert.strictEqual(store.peek("a", parts, 0), 0)
      assert.strictEqual(store.peek("a", parts, 0), 0)
      yield* store.take("a", parts, 0)
      assert.strictEqual(store.peek("a", parts, 0), 60_000)
    })
  )
})
