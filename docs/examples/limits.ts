/**
 * An hour in which there is not room for everybody: a bulkhead with priorities, a limit that finds itself, and a rate limit that learns.
 *
 *   npm run example docs/examples/limits.ts
 *
 * No account is needed: the providers follow a script, and so does the clock.
 */
import {
  AdaptiveConcurrency,
  Bulkhead,
  LlmRequest,
  LlmResponse,
  type Policy,
  Provider,
  ProviderError,
  RateLimit
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Console, Duration, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"

const answer = ScriptedProvider.answer("ok", { usage: { inputTokens: { total: 20 }, outputTokens: { total: 80 } } })

const around = (policy: Policy.Policy, script: ScriptedProvider.Script) =>
  Effect.flatMap(ScriptedProvider.make({ id: "model", script }), policy)

const outcome = (call: Effect.Effect<LlmResponse.LlmResponse, Provider.Failure>) =>
  Effect.match(call, {
    onSuccess: ({ text }) => text,
    onFailure: (error) => {
      const attempt = error._tag === "LlmUnavailable" ? error.attempts[0] : undefined
      return attempt?._tag === "Skipped" ? `turned away: ${attempt.reason._tag}` : error._tag
    }
  })

const start = (self: Provider.Provider, priority: LlmRequest.Priority = "normal") =>
  Effect.forkChild(outcome(self.generate(LlmRequest.make({ prompt: "Hi", priority }))), { startImmediately: true })

// A provider that answers in a second and refuses what is too much for it.
const taking = (most: number): Provider.Provider => {
  let running = 0
  return Provider.make({
    id: "model",
    model: "model-1",
    generate: () =>
      Effect.acquireUseRelease(
        Effect.sync(() => ++running),
        (calls) =>
          calls > most
            ? Effect.fail(new ProviderError.APIError({ provider: "model", reason: "Overloaded", description: "529" }))
            : Effect.delay(Effect.succeed({ content: LlmResponse.textContent("ok") }), "1 second"),
        () => Effect.sync(() => --running)
      )
  })
}

const program = Effect.gen(function* () {
  yield* Console.log("A bulkhead with two permits and a line of three, asked by seven at once:")
  const bulkhead = yield* around(Bulkhead.policy({ permits: 2, queue: 3, maxWait: "1 minute" }), [
    ScriptedProvider.delay("5 seconds", answer)
  ])
  const priorities = ["normal", "normal", "batch", "batch", "normal", "critical", "batch"] as const
  const calls = yield* Effect.forEach(priorities, (priority) => start(bulkhead, priority))
  for (let seconds = 5; seconds <= 15; seconds += 5) {
    yield* TestClock.adjust("5 seconds")
    const answered = priorities.filter((_, index) => {
      const exit = calls[index]?.pollUnsafe()
      return exit !== undefined && Exit.isSuccess(exit) && exit.value === "ok"
    })
    yield* Console.log(`  answered after ${seconds} s: ${answered.join(", ")}`)
  }
  const ends = yield* Effect.forEach(calls, Fiber.join)
  const shed = priorities.filter((_, index) => ends[index] !== "ok")
  yield* Console.log(`  turned away: ${shed.join(", ")}`)

  yield* Console.log("\nA limit that nobody chose, in front of a provider that takes 12 calls at a time:")
  const adaptive = yield* AdaptiveConcurrency.policy({ queue: 100, maxWait: "1 hour" })(taking(12))
  for (let round = 1; round <= 6; round++) {
    for (let call = 0; call < 40; call++) yield* start(adaptive)
    yield* TestClock.adjust("1 minute")
    const [status] = yield* adaptive.status
    yield* Console.log(`  after ${40 * round} calls: ${status?.load?.limit} at a time`)
  }

  yield* Console.log("\nA rate limit of 1000 tokens a minute; each request may take 300 and takes 100:")
  const limited = yield* around(
    RateLimit.policy({ tokensPerMinute: 1000, estimate: () => ({ input: 20, output: 280 }) }),
    [answer]
  )
  for (let call = 1; call <= 9; call++) {
    const said = yield* Effect.flatMap(start(limited), Fiber.join)
    const [status] = yield* limited.status
    yield* Console.log(`  call ${call}: ${said}, ${status?.limits?.tokens?.remaining} tokens left`)
  }

  yield* Console.log("\nA provider that says what is left, and nobody configured anything:")
  const limits = { requests: { limit: 60, remaining: 0, reset: Duration.seconds(60) } }
  const learning = yield* around(RateLimit.policy(), [ScriptedProvider.answer("ok", { limits }), answer])
  yield* Effect.flatMap(start(learning), Fiber.join)
  const waiting = yield* start(learning)
  yield* Console.log(`  the second call is ${waiting.pollUnsafe() === undefined ? "waiting" : "answered"}`)
  yield* TestClock.adjust("1 second")
  yield* Console.log(`  a second later it is ${waiting.pollUnsafe() === undefined ? "waiting" : "answered"}`)
})

await Effect.runPromise(Effect.scoped(Effect.provide(program, TestClock.layer())))
