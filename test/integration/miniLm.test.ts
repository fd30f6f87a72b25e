import { assert, describe, it } from "@effect/vitest"
import { Embedder, SimilarAnswers } from "@llm-resilience/core"
import { MiniLm } from "@llm-resilience/embedder-minilm"
import { Effect, Fiber, Option } from "effect"
import { TestClock } from "effect/testing"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Worker } from "node:worker_threads"

// The model itself, in its thread. Nothing here is timed; only the clock that spaces restarts is a virtual one.

const cosine = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((sum, x, at) => sum + x * (b[at] ?? 0), 0)

const refusal = (effect: Effect.Effect<unknown, Embedder.EmbeddingFailed>) =>
  Effect.map(Effect.flip(effect), ({ cause, embedder }) => ({ cause, embedder }))

describe("MiniLm", () => {
  it.effect("embeds texts in order, near where they mean the same", () =>
    Effect.gen(function* () {
      const { dimensions, embed } = yield* Embedder.Embedder
      const [cat = [], kitten = [], tax = []] = yield* embed([
        "How do I feed a cat?",
        "How do I feed my kitten?",
        "What is a tax?"
      ])

      assert.deepStrictEqual([cat.length, kitten.length, tax.length], [dimensions, dimensions, dimensions])
      assert.closeTo(cosine(cat, cat), 1, 1e-3)
      assert.isAbove(cosine(cat, kitten), 0.7)
      assert.isBelow(cosine(cat, tax), 0.3)
      assert.deepStrictEqual(yield* embed(["How do I feed a cat?"]), [cat])
      assert.deepStrictEqual(yield* embed([]), [])
    }).pipe(Effect.provide(MiniLm.layer()))
  )

  it.effect("has no false hit with the guard, where the model alone has many", () =>
    Effect.gen(function* () {
      const pairs = Fs.readFileSync(Path.join(import.meta.dirname, "../support/pairsHeldOut.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line): { a: string; b: string; same: boolean } => JSON.parse(line))
      const [row] = yield* SimilarAnswers.calibrate(pairs, { thresholds: [0.9] })

      assert.strictEqual(row?.wrong, 0)
      assert.isAtLeast(row?.recall ?? 0, 0.68)
      assert.isBelow(row?.unguarded ?? 1, 0.7)
    }).pipe(Effect.provide(MiniLm.layer()))
  )

  it.effect("recognises a question through the whole service", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "Who painted the Mona Lisa?", "k")
      // What is embedded in the background is done before this, for a thread does one text after the other.
      yield* Effect.flatMap(Embedder.Embedder, ({ embed }) => embed(["one", "two"]))

      const found = Option.getOrUndefined(yield* answers.find("a", "Which artist painted the Mona Lisa?"))
      assert.strictEqual(found?.match, "similar")
      assert.isAbove(found?.similarity ?? 0, 0.9)
      assert.isTrue(Option.isNone(yield* answers.find("a", "Which artist stole the Mona Lisa?")))
    }).pipe(Effect.provide(SimilarAnswers.layer()), Effect.provide(MiniLm.layer()))
  )

  it.effect("drops what exceeds its queue, and an interrupted call gives up its place", () =>
    Effect.gen(function* () {
      const { embed } = yield* Embedder.Embedder
      const first = yield* Effect.forkChild(embed(["a", "b", "c"]), { startImmediately: true })

      assert.deepStrictEqual(yield* refusal(embed(["d", "e"])), { embedder: MiniLm.id, cause: "3 texts wait already" })
      yield* Fiber.interrupt(first)
      assert.lengthOf(yield* embed(["d", "e", "f", "g"]), 4)
    }).pipe(Effect.provide(MiniLm.layer({ maxWaiting: 4 })))
  )

  it.effect("lets a single text go before many", () =>
    Effect.gen(function* () {
      const { embed } = yield* Embedder.Embedder
      const done: Array<string> = []
      const call = (name: string, texts: ReadonlyArray<string>) =>
        Effect.forkChild(
          Effect.tap(embed(texts), () => Effect.sync(() => done.push(name))),
          { startImmediately: true }
        )
      const fibers = [yield* call("many", ["a", "b", "c"]), yield* call("more", ["d", "e"]), yield* call("one", ["f"])]
      yield* Fiber.joinAll(fibers)

      assert.deepStrictEqual(done, ["one", "many", "more"])
    }).pipe(Effect.provide(MiniLm.layer()))
  )

  it.effect("fails what waits when its thread dies, and starts another when it is time", () => {
    const workers: Array<Worker> = []
    const seen = (worker: Worker) => void workers.push(worker)
    process.on("worker", seen)
    return Effect.gen(function* () {
      const { embed } = yield* Embedder.Embedder
      yield* embed(["a"])

      const waiting = yield* Effect.forkChild(Effect.flip(embed(["b", "c"])), { startImmediately: true })
      yield* Effect.promise(() => workers[0]?.terminate() ?? Promise.reject(new Error("no worker")))
      assert.strictEqual((yield* Fiber.join(waiting))._tag, "EmbeddingFailed")
      assert.deepStrictEqual(yield* refusal(embed(["d"])), { embedder: MiniLm.id, cause: "The thread died" })

      yield* TestClock.adjust("30 seconds")
      assert.lengthOf(yield* embed(["d"]), 1)
      assert.lengthOf(workers, 2)
    }).pipe(Effect.provide(MiniLm.layer()), Effect.ensuring(Effect.sync(() => process.off("worker", seen))))
  })

  it.effect("ends its thread with the scope", () =>
    Effect.gen(function* () {
      const embedder = yield* Effect.scoped(MiniLm.make())

      assert.deepStrictEqual(yield* refusal(embedder.embed(["a"])), {
        embedder: MiniLm.id,
        cause: "The embedder is closed"
      })
    })
  )

  it("refuses options that make no sense", () => {
    assert.throws(() => Effect.runSync(Effect.scoped(MiniLm.make({ maxWaiting: 0 }))), RangeError)
    assert.throws(() => Effect.runSync(Effect.scoped(MiniLm.make({ threshold: 1.5 }))), RangeError)
  })
})
