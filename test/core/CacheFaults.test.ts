import { assert, describe, it } from "@effect/vitest"
import {
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
