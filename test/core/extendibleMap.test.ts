import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as ExtendibleMap from "../../packages/core/src/internal/extendibleMap.ts"

describe("an extendible map", () => {
  it.prop("holds what a map holds, whatever is set and removed", { seed: Arbitrary.schema(Schema.Int) }, ({ seed }) => {
    let state = seed
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
      return (state >>> 8) % below
    }
    const map = ExtendibleMap.make<number>()
    const model = new Map<string, number>()
    for (let step = 0; step < 4000; step++) {
      const key = `question number ${random(3000)}`
      if (random(4) === 0) assert.strictEqual(ExtendibleMap.remove(map, key), model.delete(key))
      else {
        ExtendibleMap.set(map, key, step)
        model.set(key, step)
      }
      assert.strictEqual(map.size, model.size)
    }
    for (let i = 0; i < 3000; i++) {
      const key = `question number ${i}`
      assert.strictEqual(ExtendibleMap.get(map, key), model.get(key))
    }
  })

  it("keeps each of its parts small", () => {
    const map = ExtendibleMap.make<number>()
    for (let i = 0; i < 50_000; i++) ExtendibleMap.set(map, `en what is the ${i}th of them`, i)

    const parts = new Set(map.buckets)
    assert.isAtMost(Math.max(...Array.from(parts, ({ entries }) => entries.size)), 512)
    assert.isBelow(parts.size, 400)
  })

  it("takes texts that were made up to be kept in the same part", () => {
    const map = ExtendibleMap.make<number>()
    // Of a long text only some letters tell where it is kept.
    const key = (i: number) => `${String(i).padStart(5, "0")}${"x".repeat(4000)}`
    const kept = new Set<unknown>()
    for (let i = 0; i < 2000; i++) ExtendibleMap.set(map, key(i), i)
    for (const { entries } of map.buckets) if (entries.size > 0) kept.add(entries)

    assert.strictEqual(map.size, 2000)
    for (let i = 0; i < 2000; i++) assert.strictEqual(ExtendibleMap.get(map, key(i)), i)
    assert.strictEqual(kept.size, 1)
  })
})
