import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Fallback,
  LlmRequest,
  LlmResponse,
  Provider,
  RateLimit,
  RateLimitStore,
  ResilienceEvent,
  Timeouts
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Duration, Effect, Exit, Fiber, Layer, Schema, Stream } from "effect"
import { Prompt } from "effect/ai"
import { TestClock } from "effect/testing"
import { availabilityOf } from "../support/availability.ts"

const request = LlmRequest.make({ prompt: "Hi" })
const ok = ScriptedProvider.answer("ok")
const used = (input: number, output: number) =>
  ScriptedProvider.answer("ok", { usage: { inputTokens: { total: input }, outputTokens: { total: output } } })

const retryAfter = (error: Provider.Failure): number | string => {
  const attempt = error._tag === "LlmUnavailable" ? error.attempts[0] : undefined
  return attempt?._tag === "Skipped" && attempt.reason._tag === "Saturated"
    ? Duration.toMillis(attempt.reason.retryAfter ?? 0)
    : error._tag
}

const guarded = Effect.fnUntraced(function* (options?: RateLimit.Options, script: ScriptedProvider.Script = [ok]) {
  const provider = yield* ScriptedProvider.make({ id: "primary", script })
  const limit = yield* RateLimit.make(options)
  const self = limit.guard(provider)
  const call = (input?: Partial<LlmRequest.LlmRequest>) =>
    Effect.match(self.generate({ ...request, ...input }), { onSuccess: ({ text }) => text, onFailure: retryAfter })
  const left = Effect.map(limit.state, ({ requests, tokens }) => [requests?.remaining, tokens?.remaining])
  return { provider, limit, self, call, left }
})

// One token in, ten out, unless a test says otherwise.
const tokens = (tokensPerMinute: number, more?: RateLimit.Options): RateLimit.Options => ({
  tokensPerMinute,
  estimate: () => ({ input: 10, output: 90 }),
  ...more
})

describe("RateLimit", () => {
  it.effect("K06 refuses at once, without taking anything, what would have to wait too long", () =>
    Effect.gen(function* () {
      const { call, left, provider } = yield* guarded({ requestsPerMinute: 2, maxWait: "10 seconds" })
      yield* call()
      yield* call()

      assert.deepStrictEqual([yield* call(), yield* call(), yield* left], [30_000, 30_000, [0, undefined]])
      yield* TestClock.adjust("20 seconds")
      const waiter = yield* Effect.forkChild(call(), { startImmediately: true })
      assert.strictEqual(yield* provider.count, 2)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(waiter), "ok")
      assert.deepStrictEqual(
        (yield* provider.calls).map(({ at }) => at),
        [0, 0, 30_000]
      )
    })
  )

  it.effect("E02 gives back what a waiter had taken when it is interrupted", () =>
    Effect.gen(function* () {
      const { call, left, provider } = yield* guarded(tokens(100, { requestsPerMinute: 1, maxWait: "1 hour" }))
      yield* call()
      const before = yield* left
      const waiters = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(call(), { startImmediately: true }))
      assert.deepStrictEqual(
        [before, yield* left],
        [
          [0, 0],
          [-3, -300]
        ]
      )

      for (const waiter of waiters) yield* Fiber.interrupt(waiter)
      assert.deepStrictEqual([yield* left, yield* provider.count], [before, 1])
    })
  )

  it.effect("waits a second for the last step and not at all while somebody else could answer", () =>
    Effect.gen(function* () {
      const { call, self } = yield* guarded({ requestsPerMinute: 60 })
      for (let calls = 0; calls < 60; calls++) yield* call()

      assert.strictEqual(yield* call({ stepsLeft: 1 }), 1000)
      assert.strictEqual((yield* availabilityOf(self, { ...request, stepsLeft: 1 }))?._tag, "Saturated")
      assert.isUndefined(yield* availabilityOf(self, request))
      const waiter = yield* Effect.forkChild(call(), { startImmediately: true })
      assert.strictEqual(yield* call(), 2000)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(waiter), "ok")
    })
  )

  it.effect("never waits beyond the deadline or the time for the first content", () =>
    Effect.gen(function* () {
      const { call } = yield* guarded({ requestsPerMinute: 1, maxWait: "1 hour" })
      yield* call()

      for (const input of [{ deadline: Duration.seconds(59) }, { expiresAt: 59_000 }, { commitBy: 59_000 }]) {
        assert.strictEqual(yield* call(input), 60_000)
      }
    })
  )

  it.effect("settles the estimate with what the answer says that it used, whole and streamed", () =>
    Effect.gen(function* () {
      for (const method of ["generate", "stream"] as const) {
        const { left, self } = yield* guarded(tokens(1000), [used(10, 20), used(10, 490), ok])
        const call = method === "generate" ? self.generate(request) : Stream.runDrain(self.stream(request))
        const seen: Array<unknown> = []
        for (let calls = 0; calls < 3; calls++) {
          yield* call
          seen.push((yield* left)[1])
        }

        // A refund, a debt, and an answer that says nothing.
        assert.deepStrictEqual(seen, [970, 470, 370])
      }
    })
  )

  it.effect("charges a call for what was done for it", () =>
    Effect.gen(function* () {
      const after = Effect.fnUntraced(function* (step: ScriptedProvider.Step) {
        const { left, self } = yield* guarded(tokens(1000, { requestsPerMinute: 10 }), [step])
        yield* Effect.ignore(self.generate(request))
        return yield* left
      })
      for (const kind of ["RateLimited", "Overloaded", "InvalidRequest", "QuotaExhausted"] as const) {
        assert.deepStrictEqual(yield* after(ScriptedProvider.fail(kind)), [9, 1000], kind)
      }
      for (const kind of ["ServerError", "Timeout", "StreamCut", "Network"] as const) {
        assert.deepStrictEqual(yield* after(ScriptedProvider.fail(kind)), [9, 900], kind)
      }

      const { left, self } = yield* guarded(tokens(1000, { requestsPerMinute: 10 }), [ScriptedProvider.hang])
      yield* Effect.flatMap(Effect.forkChild(self.generate(request), { startImmediately: true }), Fiber.interrupt)
      assert.deepStrictEqual(yield* left, [9, 900])
    })
  )

  it.effect("charges nothing for a call that another policy did not let through", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail("Overloaded")] })
      const breaker = yield* CircuitBreaker.make({ name: "p", trip: CircuitBreaker.consecutive(1) })
      const limit = yield* RateLimit.make({ requestsPerMinute: 10 })
      const self = limit.guard(breaker.guard(provider))
      for (let calls = 0; calls < 5; calls++) yield* Effect.ignore(self.generate(request))

      assert.strictEqual((yield* limit.state).requests?.remaining, 9)
    })
  )

  it.effect("estimates from the prompt, its files and tools, and from what the answer may take", () =>
    Effect.gen(function* () {
      const costOf = Effect.fnUntraced(function* (input: LlmRequest.Input, options?: RateLimit.Options) {
        const { left, self } = yield* guarded({ tokensPerMinute: 10_000, ...options }, [ScriptedProvider.hang])
        yield* Effect.forkChild(self.generate(LlmRequest.make(input)), { startImmediately: true })
        return 10_000 - ((yield* left)[1] ?? 0)
      })
      const prompt = Prompt.make([
        { role: "system", content: "x".repeat(40) },
        {
          role: "user",
          content: [
            { type: "text", text: "x".repeat(40) },
            { type: "file", mediaType: "image/png", data: new Uint8Array(5) }
          ]
        },
        {
          role: "assistant",
          content: [{ type: "tool-call", id: "1", name: "t", params: { a: 1 }, providerExecuted: false }]
        },
        {
          role: "tool",
          content: [{ type: "tool-result", id: "1", name: "t", isFailure: false, result: "x".repeat(33) }]
        }
      ])

      assert.strictEqual(yield* costOf({ prompt: "x".repeat(40) }), 510)
      assert.strictEqual(yield* costOf({ prompt: "x".repeat(40), settings: { maxOutputTokens: 90 } }), 100)
      assert.strictEqual(yield* costOf({ prompt: "x".repeat(40) }, { outputTokens: 20 }), 30)
      assert.strictEqual(yield* costOf({ prompt }, { outputTokens: 1 }), 1031)
      assert.strictEqual(yield* costOf({ prompt }, { estimate: () => ({ input: 2, output: 3 }) }), 5)
    })
  )

  it.effect(
    "lets a request pass that is larger than the limit, when nothing else was taken, and then waits for it",
    () =>
      Effect.gen(function* () {
        const { call } = yield* guarded(tokens(50))

        assert.deepStrictEqual([yield* call(), yield* call()], ["ok", 120_000])
      })
  )

  it.effect("learns from the provider what is left, without any limit of its own", () =>
    Effect.gen(function* () {
      const limits = { requests: { limit: 60, remaining: 0, reset: Duration.seconds(60) } }
      const { call, self } = yield* guarded({ maxWait: 0 }, [ScriptedProvider.answer("ok", { limits }), ok])
      assert.deepStrictEqual([yield* call(), yield* call()], ["ok", 1000])
      assert.strictEqual((yield* availabilityOf(self, request))?._tag, "Saturated")
      assert.deepStrictEqual((yield* self.status)[0]?.limits, { requests: { remaining: 0 } })

      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([yield* call(), yield* call()], ["ok", 1000])
    })
  )

  it.effect(
    "lets the last resort find out whether a report still holds, but not whether a limit of your own does",
    () =>
      Effect.gen(function* () {
        const limits = { requests: { limit: 10, remaining: 0, reset: Duration.minutes(10) } }
        const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok", { limits })] })
        const learning = yield* RateLimit.policy()(provider)
        const limited = yield* RateLimit.policy({ requestsPerMinute: 1 })(provider)
        for (const guarded of [learning, limited]) yield* guarded.generate(request)
        const urgent = { ...request, lastResort: true }

        assert.strictEqual((yield* Effect.exit(learning.generate(request)))._tag, "Failure")
        assert.strictEqual((yield* Effect.exit(learning.generate(urgent)))._tag, "Success")
        assert.isUndefined(yield* availabilityOf(learning, urgent))
        const fiber = yield* Effect.forkChild(Effect.exit(limited.generate(urgent)))
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "Failure")
      })
  )

  it.effect("believes what the last resort finds out", () =>
    Effect.gen(function* () {
      const told = (remaining: number) =>
        ScriptedProvider.answer("ok", { limits: { requests: { limit: 10, remaining, reset: Duration.minutes(10) } } })
      const { call } = yield* guarded({}, [told(2), told(0), told(9)])
      assert.deepStrictEqual([yield* call(), yield* call(), yield* call()], ["ok", "ok", 60_000])
      assert.deepStrictEqual([yield* call({ lastResort: true }), yield* call()], ["ok", "ok"])
    })
  )

  it.effect("learns the limits of input and output tokens as well", () =>
    Effect.gen(function* () {
      for (const name of ["tokens", "inputTokens", "outputTokens"] as const) {
        const limits = { [name]: { limit: 600, remaining: 0, reset: Duration.seconds(60) } }
        const { call } = yield* guarded({ maxWait: 0, estimate: () => ({ input: 10, output: 90 }) }, [
          ScriptedProvider.answer("ok", { limits })
        ])
        yield* call()
        assert.strictEqual(yield* call(), { tokens: 10_000, inputTokens: 1000, outputTokens: 9000 }[name])
      }
    })
  )

  it.effect("gives nothing back to a limit that it learnt of after the call was sent", () =>
    Effect.gen(function* () {
      const limits = { tokens: { limit: 1000, remaining: 500, reset: Duration.days(1) } }
      const { left, self } = yield* guarded(tokens(1e6, { estimate: () => ({ input: 0, output: 100 }) }), (index) =>
        index === 0 ? ScriptedProvider.delay("1 milli", used(0, 30)) : ScriptedProvider.answer("ok", { limits })
      )
      const first = yield* Effect.forkChild(self.generate(request), { startImmediately: true })
      yield* self.generate(request)
      yield* TestClock.adjust("1 milli")
      yield* Fiber.join(first)

      assert.strictEqual((yield* left)[1], 500)
    })
  )

  it.effect("tells who waited, for what and how long", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const seen: Array<unknown> = []
      yield* Effect.forkChild(
        Stream.runForEach(hub.stream, (event) => Effect.sync(() => seen.push(event))),
        { startImmediately: true }
      )
      const limited = (options: RateLimit.Options) =>
        Effect.gen(function* () {
          const { call } = yield* guarded(options)
          yield* call({ id: 1 })
          const waiter = yield* Effect.forkChild(call({ id: 2 }), { startImmediately: true })
          yield* TestClock.adjust("1 minute")
          yield* Fiber.join(waiter)
        }).pipe(Effect.provideService(ResilienceEvent.CurrentHub, hub))
      yield* limited({ requestsPerMinute: 1, maxWait: "1 hour" })
      yield* limited(tokens(100, { maxWait: "1 hour" }))
      yield* Effect.yieldNow

      const event = { _tag: "Throttled", request: 2, provider: "primary", wait: Duration.minutes(1) }
      assert.deepStrictEqual(seen, [
        { ...event, limit: "requests" },
        { ...event, limit: "tokens" }
      ])
    })
  )

  it.effect("counts four characters a token where an estimate of your own throws or is no number", () =>
    Effect.gen(function* () {
      const estimates = [
        () => {
          throw new Error("special token")
        },
        () => ({ input: NaN, output: 0 }),
        () => ({ input: -1000, output: 0 }),
        () => ({ input: Infinity, output: 0 })
      ]
      for (const estimate of estimates) {
        const provider = yield* ScriptedProvider.make({ script: [ok] })
        const self = yield* RateLimit.policy({ tokensPerMinute: 1000, outputTokens: 99, maxWait: 0, estimate })(
          provider
        )
        const outcomes = yield* Effect.forEach(Array.from({ length: 12 }), () =>
          Effect.isSuccess(self.generate(request))
        )
        assert.strictEqual(outcomes.filter((passed) => passed).length, 10)
      }
    })
  )

  it.effect("keeps its limit although a provider reports tokens that are no number", () =>
    Effect.gen(function* () {
      const usage = { inputTokens: { total: 10 }, outputTokens: { total: NaN } }
      const content = LlmResponse.textContent("ok", { usage })
      const provider = Provider.make({ id: "p", model: "m", generate: () => Effect.succeed({ content }) })
      const self = yield* RateLimit.policy({ tokensPerMinute: 1000, outputTokens: 100, maxWait: 0 })(provider)
      const outcomes = yield* Effect.forEach(Array.from({ length: 12 }), () => Effect.isSuccess(self.generate(request)))

      assert.strictEqual(outcomes.filter((passed) => passed).length, 9)
    })
  )

  it.effect("makes a chain ask the next step at once, and tells when the first is back", () =>
    Effect.gen(function* () {
      const { call, self } = yield* guarded({ requestsPerMinute: 60 })
      for (let calls = 0; calls < 62; calls++) yield* Effect.forkChild(call(), { startImmediately: true })
      const backup = yield* ScriptedProvider.make({ id: "backup", script: [ok] })
      const chain = yield* Fallback.make([self, backup])

      const { served } = yield* chain.generate(request)
      assert.strictEqual(served.provider, "backup")
      assert.deepStrictEqual(served.attempts, [
        {
          _tag: "Skipped",
          provider: "primary",
          model: "scripted-1",
          reason: { _tag: "Saturated", retryAfter: Duration.seconds(2) }
        }
      ])
    })
  )

  it.effect("lets calls pass, and says so, when the store fails, dies or hangs", () =>
    Effect.gen(function* () {
      const broken = new RateLimitStore.RateLimitStoreError({ operation: "take", cause: "down" })
      for (const failing of [Effect.fail(broken), Effect.die("bug"), Effect.never]) {
        const hub = ResilienceEvent.makeHub()
        const seen: Array<string> = []
        yield* Effect.forkChild(
          Stream.runForEach(hub.stream, (event) => Effect.sync(() => seen.push(event._tag))),
          { startImmediately: true }
        )
        yield* Effect.yieldNow
        const store = Layer.succeed(RateLimitStore.RateLimitStore, {
          take: () => failing,
          give: () => failing,
          tell: () => failing,
          peek: () => 0
        })
        const limits = { requests: { limit: 1, remaining: 0, reset: Duration.seconds(1) } }
        const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok", { limits })] })
        const self = yield* RateLimit.policyStored({ requestsPerMinute: 1 })(provider).pipe(
          Effect.provide(store),
          Effect.provideService(ResilienceEvent.CurrentHub, hub)
        )
        const fiber = yield* Effect.forkChild(self.generate(request), { startImmediately: true })
        yield* TestClock.adjust("250 millis")
        assert.strictEqual((yield* Fiber.join(fiber)).text, "ok")
        yield* TestClock.adjust("250 millis")
        assert.deepStrictEqual(seen, ["LimitStoreFailed", "LimitStoreFailed"])
      }
    })
  )

  // A store in memory that answers a tenth of a second later.
  const faraway = Effect.gen(function* () {
    const memory = RateLimitStore.makeMemory()
    const take: typeof memory.take = (...args) => Effect.delay(memory.take(...args), "100 millis")
    const provider = yield* ScriptedProvider.make({ script: [ok] })
    const bounded = yield* Timeouts.policy()(provider)
    const self = yield* RateLimit.policyStored({ key: "far", requestsPerMinute: 2, maxWait: "1 minute" })(bounded).pipe(
      Effect.provideService(RateLimitStore.RateLimitStore, { ...memory, take })
    )
    const left = Effect.map(
      memory.take("far", [{ name: "requests", amount: 0, perMinute: 2 }], Infinity),
      ({ left }) => left[0]
    )
    const call = (deadline?: Duration.Duration) =>
      Effect.map(
        Effect.timed(
          Effect.match(self.generate({ ...request, deadline }), {
            onSuccess: ({ text }) => text,
            onFailure: retryAfter
          })
        ),
        ([duration, said]) => [Duration.toMillis(duration), said]
      )
    return { provider, call, left }
  })

  it.effect("waits for a store no longer than the deadline, and gives back what it took later", () =>
    Effect.gen(function* () {
      const { call, left, provider } = yield* faraway
      const fiber = yield* Effect.forkChild(call(Duration.millis(30)), { startImmediately: true })
      yield* TestClock.adjust("30 millis")
      assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed([30, "Timeout"]))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([yield* left, yield* provider.count], [2, 0])
    })
  )

  it.effect("waits no longer than the deadline when the store took a part of the time", () =>
    Effect.gen(function* () {
      const { call } = yield* faraway
      const fibers = yield* Effect.forEach([undefined, undefined, Duration.millis(30_050)], (deadline) =>
        Effect.forkChild(call(deadline), { startImmediately: true })
      )
      yield* TestClock.adjust("30050 millis")
      assert.deepStrictEqual(fibers[2]?.pollUnsafe(), Exit.succeed([30_050, "Timeout"]))
    })
  )

  it.effect("gives back what was taken for a caller who left while the store was asked", () =>
    Effect.gen(function* () {
      const { call, left, provider } = yield* faraway
      const fiber = yield* Effect.forkChild(call(), { startImmediately: true })
      yield* TestClock.adjust("50 millis")
      const leaving = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(leaving)
      assert.deepStrictEqual([yield* left, yield* provider.count], [2, 0])
    })
  )

  it.effect("leaves a store alone for a while that failed three times in a row", () =>
    Effect.gen(function* () {
      const memory = RateLimitStore.makeMemory()
      let asked = 0
      let up = false
      const take: typeof memory.take = (...args) =>
        Effect.suspend(() => {
          asked++
          return up ? memory.take(...args) : Effect.never
        })
      const provider = yield* ScriptedProvider.make({ script: [ok] })
      const self = yield* RateLimit.policyStored({ requestsPerMinute: 60 })(provider).pipe(
        Effect.provideService(RateLimitStore.RateLimitStore, { ...memory, take })
      )
      const took = Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(Effect.timed(self.generate(request)), { startImmediately: true })
        yield* TestClock.adjust("250 millis")
        const [duration] = yield* Fiber.join(fiber)
        return [Duration.toMillis(duration), asked]
      })

      assert.deepStrictEqual(yield* Effect.all([took, took, took, took]), [
        [250, 1],
        [250, 2],
        [250, 3],
        [0, 3]
      ])
      assert.deepStrictEqual((yield* self.status)[0]?.limits, undefined)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Effect.all([took, took]), [
        [250, 4],
        [0, 4]
      ])
      up = true
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Effect.all([took, took]), [
        [0, 5],
        [0, 6]
      ])
    })
  )

  it.effect("shares one limit between the providers that it guards", () =>
    Effect.gen(function* () {
      const [one, two] = yield* Effect.forEach(["one", "two"], (id) =>
        Effect.flatMap(ScriptedProvider.make({ id, script: [ok] }), RateLimit.shared)
      )
      if (one === undefined || two === undefined) throw new Error("unreachable")
      yield* one.generate(request)

      assert.strictEqual(retryAfter(yield* Effect.flip(two.generate(request))), 60_000)
    }).pipe(Effect.provide(RateLimit.layer({ requestsPerMinute: 1 })))
  )

  it("takes wrong options for what they are", () => {
    for (const name of ["requestsPerMinute", "tokensPerMinute", "outputTokens"] as const) {
      for (const value of [0, -1, Infinity, Number.NaN]) {
        assert.throws(
          () => RateLimit.policy({ [name]: value }),
          RangeError,
          `RateLimit.make: ${name} must be a number > 0, got ${value}`
        )
      }
    }
  })

  const Move = Schema.Union([
    Schema.TaggedStruct("Call", { takes: Schema.Literals([0, 5, 40]) }),
    Schema.TaggedStruct("Interrupt", { nth: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30 })) }),
    Schema.TaggedStruct("Advance", { seconds: Schema.Literals([0, 1, 7]) })
  ])

  it.effect.prop(
    "never sends more than a full meter and its filling allow, and loses nothing, however calls and interruptions are interleaved",
    { moves: Schema.Array(Move).check(Schema.isMaxLength(40)) },
    ({ moves }) =>
      Effect.gen(function* () {
        const sentAt: Array<number> = []
        const provider = Provider.make({
          id: "p",
          model: "m",
          generate: ({ id }) =>
            Effect.gen(function* () {
              sentAt.push(yield* Clock.currentTimeMillis)
              if (id > 0) yield* Effect.sleep(Duration.seconds(id))
              return { content: LlmResponse.textContent("ok") }
            })
        })
        const limit = yield* RateLimit.make({ requestsPerMinute: 6, maxWait: "25 seconds" })
        const self = limit.guard(provider)
        const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
        let now = 0
        for (const move of moves) {
          if (move._tag === "Advance") {
            yield* TestClock.adjust(Duration.seconds(move.seconds))
            now += move.seconds * 1000
          } else if (move._tag === "Interrupt") fibers[move.nth % Math.max(1, fibers.length)]?.interruptUnsafe()
          else {
            const call = self.generate({ ...request, id: move.takes })
            fibers.push(yield* Effect.forkChild(call, { startImmediately: true }))
          }
          assert.isAtMost(sentAt.length, 6 + now / 10_000)
        }
        yield* Fiber.interruptAll(fibers)

        // What is left is what only the calls that were sent have left, in a bucket that is filled drop by drop (in milliseconds).
        let level = 60_000
        let last = 0
        for (const at of sentAt) {
          level = Math.min(60_000, level + at - last) - 10_000
          last = at
        }
        const remaining = Math.floor(Math.min(60_000, level + now - last) / 10_000)
        assert.deepStrictEqual(yield* limit.state, { requests: { limit: 6, remaining } })
      })
  )
})
