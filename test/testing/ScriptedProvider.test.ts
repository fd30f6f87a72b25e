import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, Provider, ProviderError } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Effect, Exit, Fiber, Option, Stream } from "effect"
import { TestClock } from "effect/testing"

const hi = LlmRequest.make({ prompt: "Hi" })

const types = (provider: Provider.Provider) =>
  Effect.map(Stream.runCollect(provider.stream(hi)), (parts) => parts.map((part) => part.type))

/** Reads a stream and keeps what arrived, when, and how it ended. */
const watch = (provider: Provider.Provider) =>
  Effect.gen(function* () {
    const deltas: Array<readonly [at: number, delta: string]> = []
    const exit = yield* Effect.exit(
      Stream.runForEach(provider.stream(hi), (part) =>
        Effect.clockWith((clock) =>
          Effect.sync(() => {
            if (part.type === "text-delta") deltas.push([clock.currentTimeMillisUnsafe(), part.delta])
          })
        )
      )
    )
    return { deltas, exit }
  })

const overloaded = new ProviderError.APIError({ provider: "primary", reason: "Overloaded", description: "Busy" })

describe("ScriptedProvider", () => {
  it.effect("takes one step for each call, whole or streamed, and repeats the last", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.answer("one"), ScriptedProvider.answer("two"), ScriptedProvider.answer("three")]
      })

      const first = yield* provider.generate(hi)
      const second = yield* watch(provider)
      const third = yield* provider.generate(hi)
      const fourth = yield* provider.generate(hi)

      assert.strictEqual(first.text, "one")
      assert.deepStrictEqual(second.deltas, [[0, "two"]])
      assert.strictEqual(third.text, "three")
      assert.strictEqual(fourth.text, "three")
    })
  )

  it.effect("asks a function for the step of each call", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: (index, request) => ScriptedProvider.answer(`${index}: ${request.scope ?? "nobody"}`)
      })

      const first = yield* provider.generate(hi)
      const second = yield* provider.generate({ ...hi, scope: "ada" })

      assert.strictEqual(first.text, "0: nobody")
      assert.strictEqual(second.text, "1: ada")
    })
  )

  it.effect("starts a new script at its first step", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail("Network")] })
      yield* Effect.flip(provider.generate(hi))

      yield* provider.setScript([ScriptedProvider.answer("healed"), ScriptedProvider.answer("still well")])
      const first = yield* provider.generate(hi)
      const second = yield* provider.generate(hi)

      assert.strictEqual(first.text, "healed")
      assert.strictEqual(second.text, "still well")
      assert.strictEqual(yield* provider.count, 3)
    })
  )

  it.effect("fails with the error it was given", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail(overloaded)] })

      assert.strictEqual(yield* Effect.flip(provider.generate(hi)), overloaded)
      assert.strictEqual(yield* Effect.flip(Stream.runDrain(provider.stream(hi))), overloaded)
    })
  )

  it.effect("makes the plain error of a kind with its own id", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        id: "primary",
        script: [
          ScriptedProvider.fail("RateLimited", { retryAfter: "10 seconds" }),
          ScriptedProvider.fail("Timeout"),
          ScriptedProvider.fail("ServerError", { status: 500, retryAfter: "2 seconds", shouldRetry: false })
        ]
      })

      const limited = yield* Effect.flip(provider.generate(hi))
      const timeout = yield* Effect.flip(provider.generate(hi))
      const failed = yield* Effect.flip(provider.generate(hi))

      assert.deepInclude(limited, { _tag: "RateLimited", provider: "primary" })
      assert.isTrue(ProviderError.isProviderError(limited) && ProviderError.retryAfter(limited) !== undefined)
      assert.deepInclude(timeout, { _tag: "Timeout", provider: "primary", kind: "attempt" })
      assert.deepInclude(failed, { _tag: "APIError", reason: "ServerError", status: 500, shouldRetry: false })
    })
  )

  it.effect("delays a step on the clock of the caller", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.delay("1 minute", ScriptedProvider.answer("late"))]
      })

      const fiber = yield* Effect.forkChild(provider.generate(hi))
      yield* TestClock.adjust("59 seconds")
      const early = fiber.pollUnsafe()
      yield* TestClock.adjust("1 second")
      const response = yield* Fiber.join(fiber)

      assert.isUndefined(early)
      assert.strictEqual(response.text, "late")
      assert.deepStrictEqual(
        (yield* provider.calls).map(({ at, endedAt, outcome }) => ({ at, endedAt, outcome })),
        [{ at: 0, endedAt: 60_000, outcome: "answered" }]
      )
    })
  )

  it.effect("streams tokens with a time to the first and between them", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.tokens("one two three", { first: "1 second", every: "100 millis" })]
      })

      const fiber = yield* Effect.forkChild(watch(provider))
      yield* TestClock.adjust("2 seconds")
      const { deltas, exit } = yield* Fiber.join(fiber)

      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(deltas, [
        [1000, "one"],
        [1100, " two"],
        [1200, " three"]
      ])
    })
  )

  it.effect("takes as long for a whole answer as for its stream", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.tokens("one two three", { first: "1 second", every: "100 millis" })]
      })

      const fiber = yield* Effect.forkChild(provider.generate(hi))
      yield* TestClock.adjust("2 seconds")
      const response = yield* Fiber.join(fiber)
      const [call] = yield* provider.calls

      assert.strictEqual(response.text, "one two three")
      assert.strictEqual(response.finishReason, "stop")
      assert.strictEqual(call?.endedAt, 1200)
    })
  )

  it.effect("opens and closes a text block around texts and ends with finish", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [
          ScriptedProvider.stream([
            "a",
            "b",
            { type: "tool-call", id: "call", name: "search", params: {}, providerExecuted: false },
            "c"
          ])
        ]
      })

      const streamed = yield* types(provider)
      const whole = yield* provider.generate(hi)

      assert.deepStrictEqual(streamed, [
        "text-start",
        "text-delta",
        "text-delta",
        "text-end",
        "tool-call",
        "text-start",
        "text-delta",
        "text-end",
        "finish"
      ])
      assert.strictEqual(whole.text, "abc")
      assert.strictEqual(whole.finishReason, "tool-calls")
    })
  )

  it.effect("sends a finish part of its own instead of the usual one", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 3 }, outputTokens: { total: 1 } }
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.stream(["cut sho", { type: "finish", reason: "length", usage }])]
      })

      const whole = yield* provider.generate(hi)

      assert.strictEqual(whole.finishReason, "length")
      assert.deepStrictEqual(whole.usage, usage)
      assert.strictEqual((yield* types(provider)).filter((type) => type === "finish").length, 1)
    })
  )

  it.effect("reports limits with a whole answer, delayed or not", () =>
    Effect.gen(function* () {
      const limits = { requests: { limit: 10, remaining: 0 } }
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.delay("0 millis", ScriptedProvider.answer("ok", { limits }))]
      })

      const fiber = yield* Effect.forkChild(provider.generate(hi))
      yield* TestClock.adjust(1)

      assert.deepStrictEqual((yield* Fiber.join(fiber)).limits, limits)
    })
  )

  it.effect("breaks a stream in the middle with a typed error, streamed and whole", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.tokens("one two three", { broken: { after: 2, by: ScriptedProvider.cut } })]
      })

      const { deltas, exit } = yield* watch(provider)
      const error = yield* Effect.flip(provider.generate(hi))

      assert.deepStrictEqual(
        deltas.map(([, delta]) => delta),
        ["one", " two"]
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.deepInclude(error, { _tag: "APIError", reason: "StreamCut" })
      assert.deepStrictEqual(
        (yield* provider.calls).map((call) => [call.method, call.outcome]),
        [
          ["stream", "failed"],
          ["generate", "failed"]
        ]
      )
    })
  )

  it.effect("stalls in the middle of a stream until the reader leaves", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.tokens("one two three", { broken: { after: 1, by: ScriptedProvider.hang } })]
      })

      const fiber = yield* Effect.forkChild(watch(provider))
      yield* TestClock.adjust("1 hour")
      const during = yield* provider.running
      yield* Fiber.interrupt(fiber)
      const [call] = yield* provider.calls

      assert.strictEqual(during, 1)
      assert.strictEqual(yield* provider.running, 0)
      assert.deepInclude(call, { outcome: "interrupted", endedAt: 3_600_000 })
    })
  )

  it.effect("hangs until the caller leaves", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang] })

      const fiber = yield* Effect.forkChild(Effect.timeoutOption(provider.generate(hi), "5 seconds"))
      yield* provider.awaitCalls(1)
      yield* TestClock.adjust("5 seconds")
      const result = yield* Fiber.join(fiber)

      assert.isTrue(Option.isNone(result))
      assert.strictEqual(yield* provider.running, 0)
      assert.deepStrictEqual(
        (yield* provider.calls).map((call) => call.outcome),
        ["interrupted"]
      )
    })
  )

  it.effect("turns a defect into the error that the provider contract promises", () =>
    Effect.gen(function* () {
      const defect = new Error("a bug")
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.die(defect)] })

      const whole = yield* Effect.flip(provider.generate(hi))
      const streamed = yield* Effect.flip(Stream.runDrain(provider.stream(hi)))

      assert.deepInclude(whole, { reason: "ServerError", cause: defect })
      assert.deepInclude(streamed, { reason: "ServerError", cause: defect })
      assert.deepStrictEqual(
        (yield* provider.calls).map((call) => call.outcome),
        ["failed", "failed"]
      )
    })
  )

  it.effect("counts a reader that stops after finish as answered, one that stops before as interrupted", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("Hello")] })

      yield* provider.stream(hi).pipe(
        Stream.takeUntil((part) => part.type === "finish"),
        Stream.runDrain
      )
      yield* provider.stream(hi).pipe(Stream.take(1), Stream.runDrain)

      assert.deepStrictEqual(
        (yield* provider.calls).map((call) => call.outcome),
        ["answered", "interrupted"]
      )
      assert.strictEqual(yield* provider.running, 0)
    })
  )

  it.effect("counts calls that run at the same time", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.delay("1 second", ScriptedProvider.answer("ok"))]
      })

      const fiber = yield* Effect.forkChild(
        Effect.forEach([1, 2, 3], () => provider.generate(hi), { concurrency: "unbounded" })
      )
      yield* provider.awaitCalls(3)
      const during = yield* provider.running
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)

      assert.strictEqual(during, 3)
      assert.strictEqual(yield* provider.running, 0)
    })
  )

  it.effect("remembers no more calls than it may, and still counts them", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")], maxCalls: 2 })

      yield* Effect.forEach([1, 2, 3], () => provider.generate(hi))

      assert.deepStrictEqual(
        (yield* provider.calls).map((call) => call.index),
        [1, 2]
      )
      assert.strictEqual(yield* provider.count, 3)
    })
  )

  it.effect("does nothing until a call is run", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")] })

      provider.generate(hi)
      provider.stream(hi)

      assert.strictEqual(yield* provider.count, 0)
    })
  )

  it.effect("is provided by its layer as a provider and as itself", () =>
    Effect.gen(function* () {
      const provider = yield* Provider.Provider
      const scripted = yield* ScriptedProvider.ScriptedProvider

      yield* provider.generate(hi)

      assert.strictEqual(yield* scripted.count, 1)
      assert.strictEqual(provider.id, "backup")
    }).pipe(Effect.provide(ScriptedProvider.layer({ id: "backup", script: [ScriptedProvider.answer("ok")] })))
  )

  it("rejects a script without steps and bounds that make no sense", () => {
    assert.throws(() => ScriptedProvider.make({ script: [] }), RangeError)
    assert.throws(() => ScriptedProvider.make({ script: [ScriptedProvider.hang], maxCalls: 0 }), RangeError)
    assert.throws(
      () => ScriptedProvider.tokens("a", { broken: { after: -1, by: ScriptedProvider.cut } }),
      "broken.after must be an integer >= 0, got -1"
    )
  })
})
