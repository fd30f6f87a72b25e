import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, ProviderError, ResilienceEvent } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber, Option, Scope, Exit, Stream } from "effect"
import { TestClock } from "effect/testing"
import { everyEvent, secret } from "../support/everyEvent.ts"

const started: ResilienceEvent.ResilienceEvent = { _tag: "RequestStarted", request: 1, method: "generate" }
const request = LlmRequest.make({ prompt: "Hi" })

describe("ResilienceEvent.Hub", () => {
  it.effect("calls a listener in the moment an event is published, and no more once its scope is closed", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const scope = yield* Scope.make()
      const heard: Array<string> = []
      yield* Scope.provide(
        hub.listen((event) => heard.push(event._tag)),
        scope
      )

      assert.isTrue(hub.active())
      hub.publish(started)
      assert.deepStrictEqual(heard, ["RequestStarted"])

      yield* Scope.close(scope, Exit.void)
      hub.publish(started)
      assert.isFalse(hub.active())
      assert.strictEqual(heard.length, 1)
    })
  )

  it.effect("tells a listener of the tags that it wants, and nothing else", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const heard: Array<string> = []
      yield* hub.listen((event) => heard.push(event._tag), ["CooledDown", "CacheHit"])
      for (const event of Object.values(everyEvent)) hub.publish(event)

      assert.deepStrictEqual(heard.toSorted(), ["CacheHit", "CooledDown"])
    })
  )

  it.effect("keeps going when a listener throws, tells the others, and counts the event as dropped", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const heard: Array<string> = []
      yield* hub.listen(() => {
        throw new Error("a bug of the listener")
      })
      yield* hub.listen((event) => heard.push(event._tag))

      hub.publish(started)

      assert.deepStrictEqual(heard, ["RequestStarted"])
      assert.strictEqual(hub.dropped(), 1)
    })
  )

  it.effect("does not disturb an event that is under way when a listener comes or goes", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const scope = yield* Scope.make()
      let late = 0
      yield* hub.listen(() =>
        Effect.runSync(
          Scope.provide(
            hub.listen(() => late++),
            scope
          )
        )
      )
      let heard = 0
      yield* hub.listen(() => heard++)

      hub.publish(started)

      assert.deepStrictEqual([heard, late], [1, 0])
      yield* Scope.close(scope, Exit.void)
    })
  )

  it.effect("drops the oldest of a slow stream and never waits for it", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub({ capacity: 2 })
      const reader = yield* Effect.forkChild(Stream.runCollect(Stream.take(hub.stream, 2)), { startImmediately: true })
      yield* Effect.yieldNow
      for (let request = 1; request <= 4; request++) hub.publish({ _tag: "RequestStarted", request, method: "stream" })

      const seen = yield* Fiber.join(reader)

      assert.strictEqual(seen.length, 2)
      assert.isAtLeast(hub.dropped(), 1)
    })
  )
})

describe("the words of events", () => {
  const all = Object.values(everyEvent)

  it("are one line each, different for every kind of event", () => {
    const lines = all.map(ResilienceEvent.format)

    assert.strictEqual(new Set(lines).size, all.length)
    assert.isTrue(lines.every((line) => line.length > 10 && !line.includes("\n")))
  })

  it("hold nothing that a provider, a cause or a user wrote", () => {
    for (const event of all) {
      const said = ResilienceEvent.format(event) + JSON.stringify(ResilienceEvent.facts(event))

      for (const word of secret.split(" ")) if (word.length > 5) assert.notInclude(said, word, event._tag)
    }
  })

  it("name what leads to the provider's support: the status and the id of its request", () => {
    assert.deepInclude(ResilienceEvent.facts(everyEvent.FellBack), {
      "llm_resilience.event": "FellBack",
      "llm_resilience.from": "a",
      "llm_resilience.to": "b",
      "llm_resilience.reason": "ServerError",
      "llm_resilience.status": 503,
      "llm_resilience.provider_request_id": "req_1",
      "llm_resilience.duration": 1.5
    })
  })

  it("name which limit was hit, and what kind of defect it was", () => {
    const limited = new ProviderError.RateLimited({ provider: "a", retryAfter: Option.none(), limit: "tokens" })
    const retried = { ...everyEvent.Retried, error: limited }

    assert.strictEqual(ResilienceEvent.facts(retried)["llm_resilience.limit"], "tokens")
    assert.include(ResilienceEvent.format(retried), "RateLimited (tokens)")
    assert.strictEqual(ResilienceEvent.facts(everyEvent.FellBack)["llm_resilience.cause"], "Error")
  })

  it("take of a cause its names and never an odd one", () => {
    const cause = { _tag: "drop table users; --", code: "ECONNRESET" }
    const line = ResilienceEvent.format({ _tag: "DefectCaught", provider: "a", cause })

    assert.strictEqual(line, "a: code around the provider died, ECONNRESET")
  })
})

describe("Called", () => {
  const listening = Effect.fnUntraced(function* (resilience: LlmResilience.LlmResilience) {
    const calls: Array<ResilienceEvent.Of<"Called">> = []
    yield* resilience.listen((event) => {
      if (event._tag === "Called") calls.push(event)
    })
    return calls
  })

  it.effect("is told of every call, also of those that retries and guards hide", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 1_000_000, cacheRead: 400_000 }, outputTokens: { total: 100_000 } }
      const provider = yield* ScriptedProvider.make({
        id: "a",
        script: [
          ScriptedProvider.fail("ServerError"),
          ScriptedProvider.answer("", { usage }),
          ScriptedProvider.answer("Hello!", { usage })
        ]
      })
      const price = { inputPerMillion: 10, outputPerMillion: 50, cachedInputPerMillion: 1 }
      const resilience = yield* LlmResilience.make({
        steps: [{ provider: { ...provider, capabilities: { price } } }]
      })
      const calls = yield* listening(resilience)
      const answer = yield* Effect.forkChild(resilience.generate(request))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(answer)

      assert.deepStrictEqual(
        calls.map(({ costUsd, outcome }) => [outcome, costUsd]),
        [
          ["failed", undefined],
          ["succeeded", 11.4],
          ["succeeded", 11.4]
        ]
      )
    })
  )

  it.effect("tells of a stream once, however it ends", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        id: "a",
        script: [
          ScriptedProvider.delay("50 millis", ScriptedProvider.tokens("one two three", { every: "100 millis" })),
          ScriptedProvider.stream(["one ", ScriptedProvider.cut]),
          ScriptedProvider.tokens("one two three", { every: "100 millis" }),
          ScriptedProvider.stream(["one ", ScriptedProvider.hang])
        ]
      })
      const resilience = yield* LlmResilience.make({ steps: [{ provider }], fallback: { recovery: "fail" } })
      const calls = yield* listening(resilience)
      const whole = yield* Effect.forkChild(Stream.runDrain(resilience.stream(request)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(whole)
      yield* Effect.exit(Stream.runDrain(resilience.stream(request)))
      // A reader that has enough.
      const short = yield* Effect.forkChild(Stream.runDrain(Stream.take(resilience.stream(request), 2)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(short)
      const gone = yield* Effect.forkChild(Stream.runDrain(resilience.stream(request)), { startImmediately: true })
      yield* Fiber.interrupt(gone)

      assert.deepStrictEqual(
        calls.map(({ outcome }) => outcome),
        ["succeeded", "failed", "abandoned", "abandoned"]
      )
      assert.strictEqual(calls[0]?.method, "stream")
      assert.strictEqual(Duration.toMillis(calls[0]?.firstContentAfter ?? 0), 50)
    })
  )

  it.effect("costs nothing while nobody listens", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("Hello!")] })
      let asked = 0
      const resilience = yield* LlmResilience.make({
        hub: { ...ResilienceEvent.makeHub(), publish: () => asked++ },
        steps: [{ provider }]
      })
      yield* resilience.generate(request)
      yield* Stream.runDrain(resilience.stream(request))

      assert.strictEqual(asked, 0)
    })
  )
})

it.effect("an attempt whose stream broke has its real duration", () =>
  Effect.gen(function* () {
    const first = yield* ScriptedProvider.make({
      id: "first",
      script: [ScriptedProvider.stream(["one ", ScriptedProvider.pause("700 millis"), "two ", ScriptedProvider.cut])]
    })
    const second = yield* ScriptedProvider.make({ id: "second", script: [ScriptedProvider.answer("one two three")] })
    const resilience = yield* LlmResilience.make({ steps: [{ provider: first }, { provider: second }] })
    const fiber = yield* Effect.forkChild(Stream.runCollect(resilience.stream(request)))
    yield* TestClock.adjust("1 second")
    const parts = yield* Fiber.join(fiber)
    const served = parts.findLast((part) => part.type === "served")?.served

    assert.deepStrictEqual(
      served?.attempts.map((attempt) => attempt._tag === "Failed" && Duration.toMillis(attempt.duration)),
      [700]
    )
  })
)
