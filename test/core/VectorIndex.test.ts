import { assert, describe, it } from "@effect/vitest"
import { VectorIndex } from "@llm-resilience/core"

// A generator of its own, so that a failure repeats itself.
const generator = (seed: number) => {
  let state = seed
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  return () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next())
}

const vectorsOf = (seed: number, dimensions: number) => {
  const gauss = generator(seed)
  return {
    random: () => Float32Array.from({ length: dimensions }, gauss),
    near: (vector: Float32Array, noise: number) => vector.map((value) => value + noise * gauss())
  }
}

const cosine = (left: Float32Array, right: Float32Array) => {
  const dot = (a: Float32Array, b: Float32Array) => {
    let sum = 0
    for (let at = 0; at < a.length; at++) sum += (a[at] ?? 0) * (b[at] ?? 0)
    return sum
  }
  return dot(left, right) / Math.sqrt(dot(left, left) * dot(right, right))
}

describe("VectorIndex", () => {
  it("finds the true nearest at or above the threshold, as a full comparison does", () => {
    const { near, random } = vectorsOf(7, 384)
    const index = VectorIndex.make({ dimensions: 384 })
    const centres = Array.from({ length: 30 }, random)
    const stored = Array.from({ length: 1200 }, (_, i) => near(centres[i % 30] ?? random(), 0.7))
    stored.forEach((vector, i) => index.add("scope", String(i), vector))

    for (let i = 0; i < 60; i++) {
      const query = near(stored[i * 20] ?? random(), 0.2 + i / 120)
      const [found] = index.search("scope", query, { limit: 8, threshold: 0.85 })
      const truth = stored
        .map((vector, id) => ({ id: String(id), similarity: cosine(vector, query) }))
        .reduce((best, other) => (other.similarity > best.similarity ? other : best))
      assert.strictEqual(found?.id, truth.similarity >= 0.85 ? truth.id : undefined)
      if (found !== undefined) assert.closeTo(found.similarity, truth.similarity, 1e-5)
    }
  })

  it("orders neighbours by similarity and gives no more than asked for", () => {
    const index = VectorIndex.make({ dimensions: 2 })
    index.add("s", "far", [0.8, 0.6])
    index.add("s", "same", [2, 0])
    index.add("s", "near", [0.99, 0.1])
    index.add("s", "behind", [-1, 0])

    const ids = (limit: number, threshold: number) =>
      index.search("s", [1, 0], { limit, threshold }).map(({ id }) => id)
    assert.deepStrictEqual(ids(8, 0.5), ["same", "near", "far"])
    assert.deepStrictEqual(ids(2, 0.5), ["same", "near"])
    assert.deepStrictEqual(ids(8, 0.9), ["same", "near"])
  })

  it("never looks into another scope", () => {
    const index = VectorIndex.make({ dimensions: 2 })
    index.add("a", "1", [1, 0])

    assert.deepStrictEqual(index.search("b", [1, 0], { limit: 8, threshold: 0 }), [])
  })

  it("forgets what is removed, over many insertions and removals", () => {
    const { random } = vectorsOf(3, 256)
    const index = VectorIndex.make({ dimensions: 256 })
    const vectors = Array.from({ length: 1300 }, random)
    vectors.forEach((vector, i) => index.add("s", String(i), vector))
    for (let i = 0; i < 1300; i += 2) assert.isTrue(index.remove(String(i)))

    assert.strictEqual(index.size(), 650)
    assert.isFalse(index.remove("0"))
    vectors.forEach((vector, i) => {
      const found = index.search("s", vector, { limit: 1, threshold: 0.99 })
      assert.deepStrictEqual(
        found.map(({ id }) => id),
        i % 2 === 0 ? [] : [String(i)]
      )
    })
    index.removeScope("s")
    assert.strictEqual(index.size(), 0)
    assert.strictEqual(index.bytes(), 0)
  })

  it("replaces a vector with the same id, whatever its scope was", () => {
    const index = VectorIndex.make({ dimensions: 2 })
    index.add("a", "1", [1, 0])
    index.add("b", "1", [0, 1])

    assert.strictEqual(index.size(), 1)
    assert.deepStrictEqual(index.search("a", [1, 0], { limit: 8, threshold: -1 }), [])
    assert.deepStrictEqual(index.search("b", [0, 1], { limit: 8, threshold: 0.9 }), [{ id: "1", similarity: 1 }])
  })

  it("evicts the oldest of the scope that has more than its share", () => {
    const index = VectorIndex.make({ dimensions: 2, maxEntries: 4 })
    index.add("small", "s1", [1, 0])
    for (const id of ["l1", "l2", "l3"]) index.add("large", id, [1, 0])

    assert.strictEqual(index.add("large", "l4", [1, 0]), "l1")
    assert.strictEqual(index.add("small", "s2", [1, 0]), "l2")
    assert.strictEqual(index.size(), 4)
  })

  it("refuses what has no direction, and throws at what has another length", () => {
    const index = VectorIndex.make({ dimensions: 2 })
    index.add("s", "zero", [0, 0])
    index.add("s", "not a number", [Number.NaN, 1])

    assert.strictEqual(index.size(), 0)
    assert.throws(() => index.add("s", "1", [1]), RangeError)
    assert.throws(() => VectorIndex.make({ dimensions: 0 }), RangeError)
  })
})
