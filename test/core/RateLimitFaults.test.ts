import { assert, describe, it } from "@effect/vitest"
import { Fallback, LlmRequest, RateLimit, RateLimitStore } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { type Fault, faulty, kinds } from "../support/faultyStore.ts"

const request = LlmRequest.make({ prompt: "Hi" })

/** Runs to its end, and says how many milliseconds it took. */
const timed = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.timed(effect), { startImmediately: true })
    for (let step = 0; step < 20 && fiber.pollUnsafe() === undefined; step++) yield* TestClock.adjust("50 millis")
    assert.isDefined(fiber.pollUnsafe(), "it hangs")
    const [took, value] = yield* Fiber.join(fiber)
    return [Duration.toMillis(took), value] as const
  })

const outlives = Effect.fnUntraced(function* (operation: keyof RateLimitStore.RateLimitStore["Service"], fault: Fault) {
  const error = new RateLimitStore.RateLimitStoreError({ operation: "take", cause: "gone" })
  const { left, store } = faulty(RateLimitStore.makeMemory(), operation, fault, { error, times: 5 })
  const limits = { requests: { limit: 100, remaining: 90, reset: Duration.minutes(1) } }
  const usage = { inputTokens: { total: 10 }, outputTokens: { total: 90 } }
  const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok", { limits, usage })] })
  const limited = yield* RateLimit.policyStored({
    requestsPerMinute: 6,
    tokensPerMinute: 6000,
    maxWait: 0,
    estimate: () => ({ input: 100, output: 100 })
  })(provider).pipe(Effect.provideService(RateLimitStore.RateLimitStore, store))
  const chain = yield* Fallback.make([limited])

  for (let round = 0; round < 10; round++) {
    const [took, { text }] = yield* timed(chain.generate(request))
    assert.strictEqual(text, "ok")
    assert.isAtMost(took, 250)
    const [looked] = yield* timed(chain.status)
    assert.isAtMost(looked, 250)
    yield* TestClock.adjust("12 seconds")
  }
  yield* TestClock.adjust("2 minutes")

  assert.strictEqual(left(), 0)
  // All is there again, and no more than that.
  const [status] = yield* limited.status
  assert.deepStrictEqual([status?.limits?.requests?.remaining, status?.limits?.tokens?.remaining], [6, 6000])
  for (let call = 0; call < 6; call++) yield* limited.generate(request)
  const { _tag } = yield* Effect.flip(limited.generate(request))
  assert.strictEqual(_tag, "LlmUnavailable")
})

describe("RateLimit over a store that is ill for a while", () => {
  for (const operation of ["take", "give", "tell"] as const) {
    it.effect.each(kinds)(`lets calls pass in time, and keeps its limit afterwards, when ${operation} %s`, (fault) =>
      outlives(operation, fault)
    )
  }

  it.effect("lets calls pass in time, and keeps its limit afterwards, when peek throws", () =>
    outlives("peek", "throws")
  )
})
