/** What every store of similar questions must do. */
import { assert, describe, it } from "@effect/vitest"
import { QuestionStore } from "@llm-resilience/core"
import { Effect, type Layer } from "effect"
import { TestClock } from "effect/testing"

/** A kind of store. Each layer for a new table is an empty store; it may exceed its bound by `slack` entries. */
export interface Kind {
  readonly name: string
  readonly slack: number
  readonly layer: (options: {
    readonly table: string
    readonly maxEntries?: number
  }) => Layer.Layer<QuestionStore.QuestionStore>
}

type Store = QuestionStore.QuestionStore["Service"]

let tables = 0
/** The name of a table that nobody has used. */
export const newTable = () => `questions_${tables++}`

export const about = (scope: string, question: string, key = `key of ${question}`): QuestionStore.Question => ({
  scope,
  question,
  canonical: question.toLowerCase(),
  key
})

/** Numbers between -1 and 1, the same in each run. */
const noiseOf = (seed: number) => {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    return state / 2 ** 31
  }
}

const cosine = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  const dot = (x: ArrayLike<number>, y: ArrayLike<number>) =>
    Array.from(x).reduce((sum, v, at) => sum + v * (y[at] ?? 0), 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

/** Runs what every store must pass. */
export const conforms = ({ layer, name, slack }: Kind): void => {
  const over = <A, E>(use: (store: Store) => Effect.Effect<A, E>, maxEntries?: number) =>
    Effect.suspend(() =>
      Effect.flatMap(QuestionStore.QuestionStore, use).pipe(
        Effect.provide(layer({ table: newTable(), ...(maxEntries === undefined ? {} : { maxEntries }) }))
      )
    )
  const near = { limit: 8, threshold: 0.9 }
  const keysOf = (found: ReadonlyArray<QuestionStore.Near>) => found.map(({ key }) => key)

  describe(`the store of questions over ${name}`, () => {
    it.effect("finds a question by its canonical form, in its scope only", () =>
      over((store) =>
        Effect.gen(function* () {
          const odd = about("a", "What's '日本語' 🙂; DROP TABLE x; -- ".repeat(300))
          yield* store.put(odd, undefined)
          yield* store.put(about("a", "Why?"), undefined)

          assert.deepInclude((yield* store.find("a", odd.canonical, undefined)).same, odd)
          assert.deepStrictEqual(yield* store.find("b", odd.canonical, "e"), { same: undefined, others: false })
          assert.deepStrictEqual(yield* store.find("a", "how?", "e"), { same: undefined, others: false })
          assert.deepStrictEqual(yield* store.sizes, { entries: 2, embedded: 0 })
        })
      )
    )

    it.effect("keeps the vector of a question that is asked again, and of no other way to write it", () =>
      over((store) =>
        Effect.gen(function* () {
          const first = yield* store.put(about("a", "Why?", "old"), "e")
          assert.isTrue(first.bare)
          yield* store.embed(first.stored, "e", [1, 0])

          assert.isFalse((yield* store.put(about("a", "Why?", "new"), "e")).bare)
          assert.deepStrictEqual(keysOf(yield* store.nearest("a", "e", [1, 0], near)), ["new"])
          assert.isTrue((yield* store.find("a", "?", "e")).others)

          const other = yield* store.put(about("a", "WHY?", "third"), "e")
          assert.isTrue(other.bare)
          assert.deepStrictEqual(yield* store.nearest("a", "e", [1, 0], near), [])
          yield* store.embed(first.stored, "e", [1, 0])
          assert.deepStrictEqual(yield* store.nearest("a", "e", [1, 0], near), [])
          yield* store.embed(other.stored, "e", [0, 1])
          assert.deepStrictEqual(keysOf(yield* store.nearest("a", "e", [0, 1], near)), ["third"])
        })
      )
    )

    it.effect("asks again for a vector that it was never given", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* store.put(about("a", "Why?"), undefined)
          yield* store.put(about("a", "Why?"), "e")
          const { bare, stored } = yield* store.put(about("a", "Why?"), "e")
          assert.isTrue(bare)
          yield* store.embed(stored, "e", [1, 0])
          assert.isFalse((yield* store.put(about("a", "Why?"), "e")).bare)
          assert.isTrue((yield* store.put(about("a", "Why?"), "f")).bare)
        })
      )
    )

    it.effect("never mixes scopes or embedders", () =>
      over((store) =>
        Effect.gen(function* () {
          for (const [scope, embedder] of [
            ["a", "e"],
            ["a", "f"],
            ["b", "e"]
          ] as const) {
            const { stored } = yield* store.put(about(scope, `${scope} ${embedder}`), embedder)
            yield* store.embed(stored, embedder, [1, 0.01])
          }

          assert.deepStrictEqual(keysOf(yield* store.nearest("a", "e", [1, 0], near)), ["key of a e"])
          assert.deepStrictEqual(keysOf(yield* store.nearest("a", "f", [1, 0], near)), ["key of a f"])
          assert.deepStrictEqual(yield* store.nearest("b", "f", [1, 0], near), [])
          assert.isFalse((yield* store.find("b", "?", "f")).others)
        })
      )
    )

    it.effect("finds the true nearest at or above the threshold, the nearest first", () =>
      over((store) =>
        Effect.gen(function* () {
          const noise = noiseOf(7)
          const centre = Array.from({ length: 384 }, noise)
          const vectors = Array.from({ length: 200 }, (_, at) =>
            centre.map((value) => value + noise() * (0.2 + at / 200))
          )
          for (const [at, vector] of vectors.entries()) {
            const { stored } = yield* store.put(about("a", `${at}`, `${at}`), "e")
            yield* store.embed(stored, "e", vector)
          }
          for (let round = 0; round < 5; round++) {
            const query = centre.map((value) => value + noise() * 0.2)
            const all = vectors.map((vector, at) => ({ key: `${at}`, similarity: cosine(query, vector) }))
            const expected = all
              .filter(({ similarity }) => similarity >= 0.9)
              .toSorted((x, y) => y.similarity - x.similarity)
            const found = yield* store.nearest("a", "e", query, near)

            assert.isAbove(expected.length, 8)
            assert.lengthOf(found, 8)
            assert.strictEqual(found[0]?.key, expected[0]?.key)
            assert.closeTo(found[0]?.similarity ?? 0, expected[0]?.similarity ?? 1, 1e-5)
            assert.deepStrictEqual(keysOf(found), keysOf(found.toSorted((x, y) => y.similarity - x.similarity)))
          }
          assert.deepStrictEqual(
            yield* store.nearest(
              "a",
              "e",
              centre.map(() => 0),
              near
            ),
            []
          )
        })
      )
    )

    it.effect("forgets a scope, or all that leads to a key, and takes no vector for what is forgotten", () =>
      over((store) =>
        Effect.gen(function* () {
          const one = yield* store.put(about("a", "One?", "k"), "e")
          const two = yield* store.put(about("a", "Two?", "k"), "e")
          const three = yield* store.put(about("a", "Three?", "l"), "e")
          const four = yield* store.put(about("b", "Four?", "k2"), "e")
          for (const { stored } of [one, three, four]) yield* store.embed(stored, "e", [1, 0])

          yield* store.forget({ key: "k" })
          yield* store.embed(two.stored, "e", [1, 0])
          assert.deepStrictEqual(keysOf(yield* store.nearest("a", "e", [1, 0], near)), ["l"])
          assert.isUndefined((yield* store.find("a", "two?", "e")).same)
          yield* store.forget({ scope: "a" })
          assert.deepStrictEqual(yield* store.sizes, { entries: 1, embedded: 1 })
          assert.deepStrictEqual(keysOf(yield* store.nearest("b", "e", [1, 0], near)), ["k2"])
        })
      )
    )

    it.effect("holds no more than its bound, and a busy scope drives out itself", () =>
      over(
        (store) =>
          Effect.gen(function* () {
            yield* store.put(about("quiet", "Why?"), undefined)
            for (let at = 0; at < 520; at++) {
              yield* TestClock.adjust(1)
              yield* store.put(about("busy", `${at}`), undefined)
            }

            const { entries } = yield* store.sizes
            assert.isAtMost(entries, 10 + slack)
            assert.isDefined((yield* store.find("quiet", "why?", undefined)).same)
            assert.isDefined((yield* store.find("busy", "519", undefined)).same)
            assert.isUndefined((yield* store.find("busy", "0", undefined)).same)
          }),
        10
      )
    )
  })
}
