import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, LlmRequest, LlmResilience, Situation } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import { everyEvent } from "../support/everyEvent.ts"

const request = LlmRequest.make({ prompt: "Hi" })

const well = (provider: string) => ({ provider, model: "m" })
const out = (provider: string, seconds: number) => ({
  provider,
  model: "m",
  unavailable: { _tag: "CircuitOpen", retryAfter: Duration.seconds(seconds) } as const
})

describe("Situation", () => {
  it.effect("tells the story of an outage: who is out since when, who answers, how much slower", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({
          id: "primary",
          script: [
            ScriptedProvider.delay("400 millis", ScriptedProvider.answer("Hello!")),
            ScriptedProvider.fail("Network"),
            ScriptedProvider.delay("400 millis", ScriptedProvider.answer("Hello again!"))
          ]
        }),
        ScriptedProvider.make({
          id: "backup",
          script: [ScriptedProvider.delay("700 millis", ScriptedProvider.answer("Hello!"))]
        })
      ])
      const policy = LlmResilience.standard({
        retry: "off",
        circuitBreaker: { trip: CircuitBreaker.consecutive(1), openFor: "5 minutes" }
      })
      const resilience = yield* LlmResilience.make({ policy, steps: [{ provider: a }, { provider: b }] })
      const context = yield* Layer.build(
        Situation.layer.pipe(Layer.provide(Layer.succeed(LlmResilience.LlmResilience, resilience)))
      )
      const text = Effect.map(Situation.report, (report) => report.text).pipe(Effect.provide(context))
      const ask = Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(resilience.generate(request))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
      })

      yield* ask
      assert.strictEqual(yield* text, "Answers come from primary.")
      yield* ask
      yield* TestClock.adjust("4 minutes")
      assert.strictEqual(
        yield* text,
        "primary has been out for 5 minutes; answers come from backup, about 0.3 s slower."
      )
      yield* TestClock.adjust("1 minute")
      yield* ask
      assert.strictEqual(yield* text, "Answers come from primary.")
    })
  )

  it("says who is expected back when nobody can answer", () => {
    const report = Situation.describe(Situation.nothing, [out("primary", 40), out("backup", 20)], 0)

    assert.strictEqual(report.level, "down")
    assert.strictEqual(
      report.text,
      "primary is out, backup is out; nobody can answer; backup is expected back in 20 seconds."
    )
  })

  it("says that the cache helps only while it does", () => {
    const steps = [out("primary", 40)]
    const hit = Situation.observe(Situation.nothing, everyEvent.CacheHit, 100)
    const unanswered = Situation.observe(hit, everyEvent.RequestFailed, 200)

    assert.include(Situation.describe(hit, steps, 300).text, "answers come from the cache")
    assert.include(Situation.describe(unanswered, steps, 300).text, "nobody can answer")
  })

  it("mentions a backup that is out while the primary answers, and a primary that fails at times", () => {
    const failing = Situation.observe(Situation.nothing, everyEvent.AttemptFailed, 0)

    assert.strictEqual(
      Situation.describe(Situation.nothing, [well("a"), out("b", 10)], 0).text,
      "Answers come from a. b is out."
    )
    assert.deepStrictEqual(
      [
        Situation.describe(failing, [well("a"), well("b")], 90_000).level,
        Situation.describe(failing, [well("a"), well("b")], 90_000).text
      ],
      ["degraded", "a has failed at times for 2 minutes."]
    )
  })

  it("remembers no more than a few numbers for each provider, whatever happens", () => {
    let memory = Situation.nothing
    for (let round = 0; round < 1000; round++) {
      for (const event of Object.values(everyEvent)) memory = Situation.observe(memory, event, round)
    }

    assert.strictEqual(memory.providers.size, 1)
  })
})
