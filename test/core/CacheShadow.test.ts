import { assert, describe, it } from "@effect/vitest"
import {
  CacheShadow,
  EmergencyCache,
  LlmRequest,
  LlmResilience,
  Provider,
  type ResilienceEvent,
  SimilarAnswers
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"

const settle = Effect.forEach(Array.from({ length: 40 }), () => Effect.yieldNow, { discard: true })

const observation: CacheShadow.Observation = {
  request: 1,
  question: "How do magnets work?",
  answer: "By aligned spins.",
  key: "k",
  match: "similar",
  similarity: 0.95,
  storedQuestion: "How does a magnet work?",
  storedAnswer: "by aligned spins"
}

/** Asks a chain that always answers, with a cache whose similar answers are only measured. */
const asking = (
  options: CacheShadow.Options,
  script: ScriptedProvider.Script,
  inputs: ReadonlyArray<LlmRequest.Input>
) =>
  Effect.gen(function* () {
    const provider = yield* ScriptedProvider.make({ script })
    const resilience = yield* LlmResilience.make({
      steps: [{ provider }],
      around: EmergencyCache.policy({ match: "exact" })
    })
    const events: Array<ResilienceEvent.ResilienceEvent> = []
    yield* Effect.forkScoped(
      Stream.runForEach(resilience.events, (event) => Effect.sync(() => events.push(event))),
      { startImmediately: true }
    )
    const texts: Array<string> = []
    for (const input of inputs) {
      texts.push((yield* resilience.generate(LlmRequest.make(input))).text)
      yield* settle
    }
    const { report } = yield* CacheShadow.CacheShadow
    return {
      texts,
      report: yield* report,
      verdicts: events.flatMap((event) => (event._tag === "CacheShadowed" ? [event.verdict] : []))
    }
  }).pipe(
    Effect.scoped,
    Effect.provide(
      EmergencyCache.layerMemory().pipe(
        Layer.provide(SimilarAnswers.layer()),
        Layer.provideMerge(CacheShadow.layer(options))
      )
    )
  )

const { answer } = ScriptedProvider

describe("CacheShadow", () => {
  it.effect("compares new answers with those that similar questions would have been served, and serves none", () =>
    Effect.gen(function* () {
      const { report, texts, verdicts } = yield* asking(
        {},
        [answer("Paris."), answer("paris"), answer("Lyon."), answer("Lyon!"), answer("Rome.")],
        [
          { prompt: "What is the capital of France?" },
          { prompt: "Hi, what's the capital of France?" },
          { prompt: "Please tell me what the capital of France is." },
          { prompt: "Please tell me what the capital of France is." },
          { prompt: "What is the capital of Italy?" }
        ]
      )

      assert.deepStrictEqual(texts, ["Paris.", "paris", "Lyon.", "Lyon!", "Rome."])
      assert.deepStrictEqual(report, {
        asked: 5,
        repeated: 1,
        hits: 2,
        skipped: 0,
        right: 1,
        wrong: 0,
        unsure: 1,
        hitRate: 0.4,
        errorRate: 0,
        errorRateAtMost: report.errorRateAtMost
      })
      assert.deepStrictEqual(verdicts, ["right", "unsure"])
    })
  )

  it.effect("never looks into another scope, nor where only exact answers are served", () =>
    Effect.gen(function* () {
      const prompt = "What is the capital of France?"
      const same = "Hi, what's the capital of France?"
      const { report } = yield* asking(
        {},
        [answer("Paris.")],
        [
          { prompt, scope: "acme" },
          { prompt: same, scope: "umbrella" },
          { prompt: same, scope: "acme", cacheMatch: "exact" },
          { prompt: same, scope: "acme", mayCache: false }
        ]
      )

      assert.deepStrictEqual([report.asked, report.hits], [2, 0])
    })
  )

  it.effect("reports the share of wrong answers, and how large it may still be", () =>
    Effect.gen(function* () {
      const verdicts: Array<CacheShadow.Verdict> = [...Array.from({ length: 29 }, () => "right" as const), "wrong"]
      const { observe, report } = yield* CacheShadow.make({ judge: () => Effect.succeed(verdicts.pop() ?? "unsure") })
      const none = yield* report
      assert.deepStrictEqual([none.hitRate, none.errorRate, none.errorRateAtMost], [undefined, undefined, undefined])

      for (let i = 0; i < 32; i++) {
        yield* observe(observation, undefined)
        yield* settle
      }
      const { errorRate, errorRateAtMost, right, unsure, wrong } = yield* report
      assert.deepStrictEqual([right, wrong, unsure], [29, 1, 2])
      assert.closeTo(errorRate ?? 1, 1 / 30, 1e-9)
      // By a table of the Wilson interval: 1 of 30.
      assert.closeTo(errorRateAtMost ?? 1, 0.1667, 1e-3)
    })
  )

  it.effect("is unsure when a judge fails, dies or takes too long, and skips when too many are at work", () => {
    const judges: Array<Effect.Effect<CacheShadow.Verdict, string>> = [
      Effect.fail("no"),
      Effect.die("bug"),
      Effect.never,
      Effect.never
    ]
    return Effect.gen(function* () {
      const { observe, report } = yield* CacheShadow.make({
        judge: () => judges.shift() ?? Effect.succeed("right"),
        maxJudging: 2,
        judgeWithin: "5 seconds"
      })
      for (let i = 0; i < 6; i++) {
        yield* observe(observation, undefined)
        yield* settle
      }
      assert.deepInclude(yield* report, { unsure: 2, skipped: 2 })

      yield* TestClock.adjust("5 seconds")
      assert.deepInclude(yield* report, { unsure: 4 })
      yield* observe(observation, undefined)
      yield* settle
      assert.deepInclude(yield* report, { right: 1 })
    })
  })

  it.effect("judges a sample", () =>
    Effect.gen(function* () {
      const { observe, report } = yield* CacheShadow.make({ sample: 0 })
      yield* observe(observation, undefined)

      assert.deepInclude(yield* report, { skipped: 1, right: 0 })
      assert.throws(() => Effect.runSync(Effect.scoped(CacheShadow.make({ sample: 2 }))), RangeError)
    })
  )

  it.effect("asks a model, and takes nothing for an answer but the three words", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [answer("RIGHT."), answer("wrong"), answer("Right, I think"), answer("RIGHT")]
      })
      const judge = yield* Effect.provideService(CacheShadow.judgeModel(), Provider.Provider, provider)
      const verdicts = []
      for (let i = 0; i < 3; i++) verdicts.push(yield* judge(observation))
      verdicts.push(yield* judge({ ...observation, storedAnswer: "x".repeat(9000) }))

      assert.deepStrictEqual(verdicts, ["right", "wrong", "unsure", "unsure"])
      const [call] = yield* provider.calls
      assert.isFalse(call?.request.mayCache)
      assert.include(JSON.stringify(call?.request.prompt), "How does a magnet work?")
    })
  )
})
