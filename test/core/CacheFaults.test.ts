import { assert, describe, it } from "@effect/vitest"
import {
  type CacheKey,
  CacheStore,
  Embedder,
  EmergencyCache,
  LlmRequest,
  LlmResilience,
  QuestionStore,
  SimilarAnswers
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Context, Duration, Effect, Fiber, Layer, Result } from "effect"
import { KeyValueStore } from "effect/persistence"
import { TestClock } from "effect/testing"
import { type Fault, faulty, kinds } from "../support/faultyStore.ts"

/** Runs to its end in whatever time that takes, and says how long that was. */
const timed = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkDetach(Effect.timed(effect), { startImmediately: true })
    for (let step = 0; step < 400 && fiber.pollUnsafe() === undefined; step++) yield* TestClock.adjust("50 millis")
    assert.isDefined(fiber.pollUnsafe(), "it hangs")
    const [took, value] = yield* Fiber.join(fiber)
    return [Duration.toMillis(took), value] as const
  })

const embedder = Layer.succeed(Embedder.Embedder, {
  id: "blind",
  dimensions: 3,
  maxTokens: 64,
  threshold: 0.9,
  embed: (texts) => Effect.succeed(texts.map((text) => [1, 0, text.length / 10_000]))
})

/** Asks what nobody asked, what somebody asked, and removes, while one operation is ill; then all is as it should be. */
const outlives = Effect.fnUntraced(function* (
  of: "answers" | "questions",
  operation: string,
  fault: Fault,
  times: number
) {
  const answers = Context.get(yield* Layer.build(CacheStore.layerMemory()), CacheStore.CacheStore)
  const questions = yield* QuestionStore.makeMemory()
  let left = () => 0
  const broken = <S extends object>(store: S, error: unknown): S => {
    const ill = faulty(store, operation as keyof S, fault, { error, times })
    left = ill.left
    return ill.store
  }
  const cacheStore =
    of === "answers" ? broken(answers, new CacheStore.CacheStoreError({ operation: "get", cause: "gone" })) : answers
  const questionStore =
    of === "questions"
      ? broken(questions, new QuestionStore.QuestionStoreError({ operation: "put", cause: "gone" }))
      : questions
  const layer = EmergencyCache.layer().pipe(
    Layer.provideMerge(SimilarAnswers.layer()),
    Layer.provide(embedder),
    Layer.provide(Layer.succeed(CacheStore.CacheStore, cacheStore)),
    Layer.provide(Layer.succeed(QuestionStore.QuestionStore, questionStore))
  )
  const context = yield* Layer.build(layer)
  const cache = Context.get(context, EmergencyCache.EmergencyCache)
  const similar = Context.get(context, SimilarAnswers.SimilarAnswers)
  const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")] })
  const { generate } = yield* LlmResilience.make({
    steps: [{ provider, policy: LlmResilience.standard({ retry: "off", cooldown: "off", circuitBreaker: "off" }) }],
    around: EmergencyCache.policy({ mode: "read-through" })
  }).pipe(Effect.provide(context))
  const ask = (prompt: string) => generate(LlmRequest.make({ prompt, scope: "acme" }))
  const up = provider.setScript([ScriptedProvider.answer("ok")])
  const down = provider.setScript([ScriptedProvider.fail("Authentication")])

  const things = ["motor", "magnet", "battery", "laser", "mirror", "engine", "magnifier", "microscope"]
  for (const thing of things) {
    yield* up
    const [asking, { text }] = yield* timed(ask(`How does a ${thing} work?`))
    assert.strictEqual(text, "ok")
    assert.isAtMost(asking, 500)
    yield* TestClock.adjust("3 seconds")
    yield* down
    for (const prompt of [`How does a ${thing} work?`, `how does the ${thing} work`, `Why a ${thing}?`]) {
      const [inVain] = yield* timed(Effect.exit(ask(prompt)))
      assert.isAtMost(inVain, 500)
    }
    const [looking] = yield* timed(similar.statistics)
    assert.isAtMost(looking, 5000)
  }
  const isTold = of === "answers" && operation === "removeAll" && fault !== "takes two seconds"
  for (let isIll = true; isIll;) {
    isIll = left() > 0
    const [removing, removed] = yield* timed(Effect.result(cache.remove({ scope: "acme" })))
    assert.isAtMost(removing, 10_000)
    assert.strictEqual(Result.isFailure(removed), isTold && isIll)
  }
  yield* TestClock.adjust("5 minutes")

  yield* up
  for (const thing of things) yield* ask(`How do ${thing}s work?`)
  yield* TestClock.adjust("1 second")
  yield* down
  for (const thing of things) {
    assert.strictEqual((yield* ask(`How do ${thing}s work?`)).served.match, "exact")
    assert.strictEqual((yield* ask(`how do ${thing}s work`)).served.match, "canonical")
    assert.strictEqual((yield* ask(`How does a ${thing} work?`)).served.match, "similar")
  }
  yield* cache.remove({ scope: "acme" })
  assert.strictEqual((yield* Effect.flip(ask("How do motors work?")))._tag, "LlmUnavailable")
})

describe("EmergencyCache over stores that are ill for a while", () => {
  for (const operation of ["get", "set"] as const) {
    it.effect.each(kinds)(`costs no answer and no time, and remembers afterwards, when ${operation} %s`, (fault) =>
      outlives("answers", operation, fault, 2).pipe(Effect.scoped)
    )
  }

  it.effect.each(["fails", "loses its answer", "takes two seconds", "dies", "throws"] as const)(
    "costs no answer and no time, and tells who removes, when removeAll %s",
    (fault) => outlives("answers", "removeAll", fault, 2).pipe(Effect.scoped)
  )

  for (const [operation, times] of Object.entries({ put: 2, find: 2, embed: 2, nearest: 2, forget: 8, sizes: 2 })) {
    it.effect.each(kinds)(
      `costs no answer and no time, and finds similar ones afterwards, when ${operation} %s`,
      (fault) => outlives("questions", operation, fault, times).pipe(Effect.scoped)
    )
  }
})

describe("CacheStore over key-value stores that are ill for a while", () => {
  const addressOf = (name: string): CacheKey.Address => ({
    scope: "a".repeat(32),
    subject: "b".repeat(32),
    hash: name.repeat(64)
  })

  /** A store in files that are written in two steps, with what is in them. */
  const files = () => {
    const inodes = new Map<string, { text: string }>()
    const store = KeyValueStore.make({
      get: (name) => Effect.sync(() => inodes.get(name)?.text),
      getUint8Array: () => Effect.undefined,
      set: (name, value) =>
        Effect.suspend(() => {
          const written = { text: String(value).slice(0, 10) }
          inodes.set(name, written)
          return Effect.map(Effect.sleep("1 second"), () => {
            written.text = String(value)
          })
        }),
      remove: (name) => Effect.sync(() => void inodes.delete(name)),
      clear: Effect.void,
      size: Effect.sync(() => inodes.size),
      keys: Effect.sync(() => Array.from(inodes.keys()))
    })
    return { inodes, store }
  }
  const built = (store: KeyValueStore.KeyValueStore, options?: CacheStore.Options) =>
    Effect.map(
      Layer.build(
        CacheStore.layerKeyValueStore(options).pipe(
          Layer.provide(Layer.succeed(KeyValueStore.KeyValueStore, store)),
          Layer.fresh
        )
      ),
      (context) => Context.get(context, CacheStore.CacheStore)
    )

  it.effect("does not lose what is read while it is written", () =>
    Effect.gen(function* () {
      const store = yield* built(files().store)
      const writing = yield* Effect.forkChild(store.set(addressOf("1"), "an answer", 1_000_000), {
        startImmediately: true
      })
      const half = yield* Effect.exit(store.get(addressOf("1")))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(writing)

      assert.strictEqual(half._tag, "Failure")
      assert.strictEqual(yield* store.get(addressOf("1")), "an answer")
    })
  )

  it.effect.each(kinds)("erases in the end what expired, was evicted or removed, when remove %s", (fault) =>
    Effect.gen(function* () {
      const { inodes, store: sound } = files()
      const error = new KeyValueStore.KeyValueStoreError({ method: "remove", message: "gone" })
      const { left, store: ill } = faulty(sound, "remove", fault, { error, times: 3 })
      const store = yield* built(ill, { maxEntries: 2 })
      for (const name of ["1", "2", "3", "4"]) {
        const setting = yield* Effect.forkDetach(Effect.exit(store.set(addressOf(name), "an answer", 60_000)))
        yield* TestClock.adjust("15 seconds")
        assert.isDefined(setting.pollUnsafe(), "it hangs")
      }
      const removing = yield* Effect.forkDetach(Effect.exit(store.remove(addressOf("4"))))
      yield* TestClock.adjust("15 seconds")
      assert.isDefined(removing.pollUnsafe(), "it hangs")
      for (let minute = 0; minute < 30; minute++) yield* TestClock.adjust("1 minute")

      assert.strictEqual(left(), 0)
      assert.strictEqual(inodes.size, 0)
    })
  )
})
