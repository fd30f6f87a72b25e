import { assert, describe, it } from "@effect/vitest"
import { Embedder, ResilienceEvent, SimilarAnswers } from "@llm-resilience/core"
import { Effect, Fiber, Layer, Option, Stream } from "effect"
import { EmbeddingModel } from "effect/ai"
import { TestClock } from "effect/testing"

// Everything is alike to this model, so that only the guard is left.
const blind = (embed?: Embedder.Embedder["Service"]["embed"]) =>
  Layer.succeed(Embedder.Embedder, {
    id: "blind",
    dimensions: 3,
    maxTokens: 64,
    threshold: 0.9,
    embed: embed ?? ((texts) => Effect.succeed(texts.map((text) => [1, 0, text.length / 10_000])))
  })

const similar = (options?: SimilarAnswers.Options, embed?: Embedder.Embedder["Service"]["embed"]) =>
  SimilarAnswers.layer(options).pipe(Layer.provide(blind(embed)))

/** Lets what runs in the background come to rest. */
const settle = TestClock.adjust(1)

const keyOf = (found: Option.Option<SimilarAnswers.Match>) => Option.getOrUndefined(Option.map(found, ({ key }) => key))

describe("SimilarAnswers", () => {
  it.effect("finds the same question by its canonical key, without an embedder", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "What's a monad?", "k1")

      const found = yield* answers.find("a", "Hi, what is a monad? Thanks!")
      assert.deepStrictEqual(
        found,
        Option.some({ key: "k1", similarity: 1, match: "canonical", question: "What's a monad?" })
      )
      assert.isTrue(Option.isNone(yield* answers.find("a", "What are monads?")))
    }).pipe(Effect.provide(SimilarAnswers.layer()))
  )

  it.effect("never finds what another scope asked", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "How do magnets work?", "k1")
      yield* settle

      assert.isTrue(Option.isNone(yield* answers.find("b", "How do magnets work?")))
      assert.isTrue(Option.isNone(yield* answers.find("b", "How does a magnet work?")))
    }).pipe(Effect.provide(similar()))
  )

  it.effect("finds a similar question that the guard lets pass, and no other", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "How do motors work?", "motors")
      yield* answers.remember("a", "How do magnets work?", "magnets")
      yield* answers.remember("a", "How do batteries work?", "batteries")
      yield* settle

      const found = yield* answers.find("a", "How does a magnet work?")
      assert.strictEqual(keyOf(found), "magnets")
      assert.strictEqual(Option.getOrThrow(found).match, "similar")
      assert.isTrue(Option.isNone(yield* answers.find("a", "Explain how magnets don't work.")))
    }).pipe(Effect.provide(similar()))
  )

  it.effect("leads to the latest answer of a question, and to none that is forgotten", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "How do magnets work?", "old")
      yield* answers.remember("a", "How do magnets work?", "new")
      yield* answers.remember("b", "How do magnets work?", "other")
      yield* settle
      assert.strictEqual(keyOf(yield* answers.find("a", "How does a magnet work?")), "new")

      yield* answers.forget({ key: "old" })
      assert.strictEqual(keyOf(yield* answers.find("a", "How do magnets work?")), "new")
      yield* answers.forget({ key: "new" })
      assert.isTrue(Option.isNone(yield* answers.find("a", "How do magnets work?")))
      assert.isTrue(Option.isNone(yield* answers.find("a", "How does a magnet work?")))
      assert.strictEqual(keyOf(yield* answers.find("b", "How do magnets work?")), "other")
      yield* answers.forget({ scope: "b" })
      assert.isTrue(Option.isNone(yield* answers.find("b", "How do magnets work?")))
    }).pipe(Effect.provide(similar()))
  )

  it.effect("does not remember what was forgotten while it was embedded", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "How do magnets work?", "k")
      yield* settle
      yield* answers.forget({ scope: "a" })
      yield* TestClock.adjust("1 second")

      assert.isTrue(Option.isNone(yield* answers.find("a", "How does a magnet work?")))
    }).pipe(
      Effect.provide(similar({}, (texts) => Effect.delay(Effect.succeed(texts.map(() => [1, 0, 0])), "500 millis")))
    )
  )

  it.effect("waits for the embedder no longer than its deadline, even if that does not let go", () => {
    let calls = 0
    return Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "How do magnets work?", "k")
      yield* settle

      const asking = yield* Effect.forkChild(answers.find("a", "How does a magnet work?"))
      yield* TestClock.adjust("99 millis")
      assert.isUndefined(asking.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.isDefined(asking.pollUnsafe())
      yield* TestClock.adjust("10 seconds")
    }).pipe(
      Effect.provide(
        similar({}, (texts) =>
          calls++ === 0
            ? Effect.succeed(texts.map(() => [1, 0, 0]))
            : Effect.uninterruptible(Effect.delay(Effect.succeed([]), "10 seconds"))
        )
      )
    )
  })

  it.effect("finds nothing at once while too many wait for the embedder", () => {
    let calls = 0
    return Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", "How do magnets work?", "k")
      yield* settle
      yield* Effect.forkChild(answers.find("a", "How does a magnet work?"))
      yield* Effect.forkChild(answers.find("a", "How does a magnet work?"))
      yield* settle

      assert.isTrue(Option.isNone(yield* answers.find("a", "How does a magnet work?")))
      assert.strictEqual(calls, 3)
    }).pipe(
      Effect.provide(
        similar({ maxReading: 2 }, (texts) =>
          calls++ === 0 ? Effect.succeed(texts.map(() => [1, 0, 0])) : Effect.never
        )
      )
    )
  })

  it.effect("loses nothing but similar matches when the embedder fails, dies or answers nonsense", () => {
    let calls = 0
    const failures = [
      Effect.fail(new Embedder.EmbeddingFailed({ embedder: "blind", cause: "down" })),
      Effect.die("bug"),
      Effect.succeed([[1]])
    ]
    return Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      for (const [key, name] of ["motors", "magnets", "batteries"].entries()) {
        yield* answers.remember("a", `How do ${name} work?`, String(key))
        yield* settle
      }
      yield* answers.remember("a", "How do lasers work?", "lasers")
      yield* settle

      assert.strictEqual(keyOf(yield* answers.find("a", "how do magnets work")), "1")
      assert.isTrue(Option.isNone(yield* answers.find("a", "How does a magnet work?")))
      assert.strictEqual(keyOf(yield* answers.find("a", "How does a laser work?")), "lasers")
    }).pipe(Effect.provide(similar({}, (texts) => failures[calls++] ?? Effect.succeed(texts.map(() => [1, 0, 0])))))
  })

  it.effect("neither remembers nor finds what changes with the hour", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      for (const question of [
        "What is the weather in Rome?",
        "What is the price of gold?",
        "Who is the current pope?",
        "What's the latest iPhone?",
        "Wie wird das Wetter heute?"
      ]) {
        yield* answers.remember("a", question, "k")
        assert.isTrue(Option.isNone(yield* answers.find("a", question)), question)
      }
    }).pipe(Effect.provide(similar()))
  )

  it.effect("embeds nothing that the embedder would cut, and still knows it by its canonical key", () => {
    let longest = 0
    const long = `Explain this. ${"It goes on and on. ".repeat(20)}`
    return Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("a", long, "long")
      yield* answers.remember("a", "How do magnets work?", "k")
      yield* settle

      assert.strictEqual(keyOf(yield* answers.find("a", `Please ${long}`)), "long")
      assert.isTrue(Option.isNone(yield* answers.find("a", `${long} Why?`)))
      assert.isBelow(longest, 30)
    }).pipe(
      Effect.provide(
        similar({}, (texts) => {
          longest = Math.max(longest, ...texts.map((text) => text.length))
          return Effect.succeed(texts.map(() => [1, 0, 0]))
        })
      )
    )
  })

  it.effect("holds no more than its bound, and a busy scope drives out itself", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      yield* answers.remember("quiet", "How do magnets work?", "quiet")
      for (let i = 0; i < 50; i++) yield* answers.remember("busy", `How do ${i} magnets work?`, String(i))

      assert.strictEqual(keyOf(yield* answers.find("quiet", "how do magnets work")), "quiet")
      assert.isTrue(Option.isNone(yield* answers.find("busy", "how do 46 magnets work")))
      assert.strictEqual(keyOf(yield* answers.find("busy", "how do 49 magnets work")), "49")
    }).pipe(Effect.provide(SimilarAnswers.layer({ maxEntries: 4 })))
  )

  it.effect("counts what it did, and tells the one who asks why nothing was found", () => {
    let calls = 0
    const embed: Embedder.Embedder["Service"]["embed"] = (texts) => {
      if (++calls === 3) return Effect.fail(new Embedder.EmbeddingFailed({ embedder: "blind", cause: "down" }))
      return calls === 4 ? Effect.never : Effect.succeed(texts.map(() => [1, 0, 0]))
    }
    return Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      const events: Array<ResilienceEvent.ResilienceEvent> = []
      const hub = ResilienceEvent.makeHub()
      yield* Effect.forkScoped(
        Stream.runForEach(hub.stream, (event) => Effect.sync(() => events.push(event))),
        { startImmediately: true }
      )
      const find = (question: string) => answers.find("a", question, { request: 7, hub })
      yield* answers.remember("a", "How do magnets work?", "k")
      yield* settle

      yield* find("how do magnets work")
      yield* find("How do 2 magnets work?")
      yield* find("How do motors work?")
      const late = yield* Effect.forkChild(find("How do lasers work?"))
      yield* TestClock.adjust("100 millis")
      yield* Fiber.join(late)
      yield* find("How does a magnet work?")
      yield* find("What is the weather in Rome?")
      yield* settle

      assert.deepStrictEqual(yield* answers.statistics, {
        entries: 1,
        embedded: 1,
        waiting: 0,
        canonical: 1,
        similar: 1,
        none: 4,
        volatile: 1,
        refused: 1,
        dropped: 0,
        busy: 0,
        late: 1,
        failed: 1
      })
      assert.deepStrictEqual(
        events.map((event) => [event._tag, "reason" in event ? event.reason : "because" in event ? event.because : ""]),
        [
          ["SimilarRefused", "Number"],
          ["EmbedderFailed", "failed"],
          ["EmbedderFailed", "late"]
        ]
      )
    }).pipe(Effect.scoped, Effect.provide(similar({}, embed)))
  })

  it.effect("counts what it drops and whom it sends away, because the embedder is busy", () =>
    Effect.gen(function* () {
      const answers = yield* SimilarAnswers.SimilarAnswers
      for (let i = 0; i < 5; i++) {
        yield* answers.remember("a", `How do ${i} magnets work?`, String(i))
        // The first is being embedded, two wait, the others are dropped.
        if (i === 0) yield* settle
      }

      const { dropped, entries, waiting } = yield* answers.statistics
      assert.deepStrictEqual({ dropped, entries, waiting }, { dropped: 2, entries: 5, waiting: 2 })
    }).pipe(Effect.provide(similar({ maxWaiting: 2 }, () => Effect.never)))
  )

  it.effect("calibrates: precision and recall for each threshold, with and without the guard", () =>
    Effect.gen(function* () {
      const [row] = yield* SimilarAnswers.calibrate(
        [
          { a: "How do magnets work?", b: "How does a magnet work?", same: true },
          { a: "How do magnets work?", b: "What makes magnets stick?", same: true },
          { a: "How do 2 magnets work?", b: "How do 3 magnets work?", same: false },
          { a: "How do magnets work?", b: "How do magnets not work?", same: false }
        ],
        { thresholds: [0.9] }
      )

      assert.deepStrictEqual(row, {
        threshold: 0.9,
        hits: 1,
        wrong: 0,
        precision: 1,
        recall: 0.5,
        unguarded: 0.5
      })
    }).pipe(Effect.provide(blind()))
  )

  it.effect("takes any embedding model of effect/ai", () =>
    Effect.gen(function* () {
      const { embed, threshold } = yield* Embedder.Embedder

      assert.deepStrictEqual(yield* embed(["ab", "abc"]), [[2], [3]])
      assert.strictEqual(threshold, 0.92)
    }).pipe(
      Effect.provide(
        Embedder.layerEmbeddingModel({ id: "lengths", dimensions: 1 }).pipe(
          Layer.provide(
            Layer.effect(
              EmbeddingModel.EmbeddingModel,
              EmbeddingModel.make({
                embedMany: ({ inputs }) =>
                  Effect.succeed({ results: inputs.map((text) => [text.length]), usage: { inputTokens: undefined } })
              })
            )
          )
        )
      )
    )
  )

  it("refuses options that make no sense", () => {
    assert.throws(() => Embedder.fromEmbeddingModel({ id: "x", dimensions: 0 }), RangeError)
    assert.throws(() => Embedder.fromEmbeddingModel({ id: "x", dimensions: 3, threshold: 2 }), RangeError)
  })
})
