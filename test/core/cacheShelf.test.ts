import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Shelf from "../../packages/core/src/internal/cacheShelf.ts"

/** Numbers that a seed draws. */
const drawing = (seed: number) => {
  let state = seed
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return (state >>> 8) % below
  }
}

describe("a shelf", () => {
  const bounds = { maxEntries: 10_000, maxBytes: 1e9, maxEntriesPerScope: 10_000, maxBytesPerScope: 1e9 }
  const at = (scope: string, hash: string) => ({ scope, subject: "x", hash })

  it("removes what expired a part at a time, and all of it in the end", () => {
    const shelf = Shelf.make<number>(bounds)
    for (let i = 0; i < 3000; i++) shelf.put(at(`s${i % 7}`, String(i)), i, 1, i)

    const parts: Array<number> = []
    for (let gone = shelf.removeExpired(1999); gone.length > 0; gone = shelf.removeExpired(1999))
      parts.push(gone.length)

    assert.isAtMost(Math.max(...parts), 256)
    assert.strictEqual(shelf.size().entries, 1000)
    assert.isUndefined(shelf.get(at("s0", "0")))
    assert.strictEqual(shelf.get(at(`s${2000 % 7}`, "2000")), 2000)
  })

  it.prop("bounds the bytes of all by those who take most", { seed: Arbitrary.schema(Schema.Int) }, ({ seed }) => {
    const random = drawing(seed)
    const shelf = Shelf.make<number>({ ...bounds, maxBytes: 1000 })
    const bytes = new Map<string, number>()
    const sizes = new Map<string, number>()
    for (let step = 0; step < 300; step++) {
      const [scope, hash, size] = [`s${random(6)}`, `h${step}`, 1 + random(90)]
      bytes.set(scope, (bytes.get(scope) ?? 0) + size)
      sizes.set(hash, size)
      for (const gone of shelf.put(at(scope, hash), step, size, step)) {
        assert.strictEqual(bytes.get(gone.scope), Math.max(...bytes.values()))
        bytes.set(gone.scope, (bytes.get(gone.scope) ?? 0) - (sizes.get(gone.hash) ?? 0))
      }
      const total = [...bytes.values()].reduce((sum, one) => sum + one, 0)
      assert.isAtMost(total, 1000)
      assert.strictEqual(shelf.size().bytes, total)
    }
  })
})
