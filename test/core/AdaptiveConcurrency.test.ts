import { assert, describe, it } from "@effect/vitest"
import { AdaptiveConcurrency, Congestion, LlmRequest, LlmResponse, Provider, ProviderError } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber, Option, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { congestion, fixed, gradient, scenarios, simulate } from "../support/congestion.ts"

const request = LlmRequest.make({ prompt: "Hi" })

const settings: Congestion.Settings = { min: 1, max: 200, initial: 10, tolerance: 1.5, backoff: 0.7, window: 20 }

/** A limit that is driven by hand, with windows of answers that are all alike. */
const drive = (overrides?: Partial<Congestion.Settings>) => {
  const rules = { ...settings, ...overrides }
  let state = Congestion.initial(rules)
  const limit = () => Congestion.limitOf(state)
  return {
    limit,
    window: (millis: number | undefined, options?: { readonly kind?: Congestion.Kind; readonly inFlight?: number }) => {
      const answers = Math.min(100, Math.max(rules.window, limit()))
      for (let answer = 0; answer < answers; answer++) {
        const latency = millis === undefined ? undefined : { kind: options?.kind ?? ("firstContent" as const), millis }
        state = Congestion.step(rules, state, { _tag: "Answered", inFlight: options?.inFlight ?? limit(), latency })
      }
      return limit()
    },
    reject: (sentAt: number, now: number) => {
      state = Congestion.step(rules, state, { _tag: "Rejected", sentAt, now })
      return limit()
    }
  }
}

describe("Congestion", () => {
  it("grows by half while nothing is wrong, and by one after the first sign of congestion", () => {
    const { limit, reject, window } = drive()

    assert.deepStrictEqual([window(100), window(100)], [15, 22])
    assert.strictEqual(reject(1, 2), 15)
    assert.deepStrictEqual([window(100), window(100), limit()], [16, 17, 17])
  })

  it("is back soon after an incident: by half, once it is well beyond where the last sign of congestion came", () => {
    const { limit, reject, window } = drive({ initial: 100 })
    for (let at = 1; limit() > 12; at++) reject(at * 2, at * 2 + 1)

    const limits = Array.from({ length: 16 }, () => window(100))
    assert.deepStrictEqual(limits, [12, 13, 14, 15, 16, 17, 18, 19, 20, 31, 46, 70, 105, 157, 200, 200])
  })

  it("is cut once for all calls that were sent before the cut", () => {
    const { reject } = drive({ initial: 100 })

    assert.deepStrictEqual([reject(5, 10), reject(6, 11), reject(10, 12), reject(11, 13)], [70, 70, 70, 49])
  })

  it("does not grow when nobody came close to it", () => {
    assert.strictEqual(drive().window(100, { inFlight: 7 }), 10)
    assert.strictEqual(drive().window(100, { inFlight: 8 }), 15)
  })

  it("is cut in proportion when the median latency is too far above the usual one", () => {
    for (const [millis, limit] of [
      [150, 100],
      [151, 90],
      [200, 75],
      [900, 70]
    ] as const) {
      const { window } = drive({ initial: 100 })
      window(100, { inFlight: 1 })
      assert.strictEqual(window(millis, { inFlight: 1 }), limit)
    }
  })

  it("takes a latency as usual when five cuts did not help", () => {
    const { window } = drive({ initial: 100 })
    window(100, { inFlight: 1 })

    const limits = Array.from({ length: 6 }, () => window(900, { inFlight: 1 }))
    assert.deepStrictEqual(limits, [70, 49, 34, 24, 16, 16])
  })

  it("does not call a latency usual because it crept up under load", () => {
    const { window } = drive({ initial: 100 })
    window(100)
    let millis = 100
    for (let windows = 0; windows < 200; windows++) {
      millis *= 1.02
      window(millis, { inFlight: 1 })
    }

    assert.isBelow(window(undefined, { inFlight: 1 }), 30)
  })

  it("never compares the time to the first content with the time for each token", () => {
    const { window } = drive({ initial: 100 })
    for (const [millis, kind] of [
      [1000, "firstContent"],
      [10, "perToken"],
      [1000, "firstContent"]
    ] as const) {
      assert.strictEqual(window(millis, { kind, inFlight: 1 }), 100)
    }
    assert.strictEqual(window(20, { kind: "perToken", inFlight: 1 }), 75)
  })

  it("grows on answers that say nothing about their time", () => {
    assert.strictEqual(drive().window(undefined), 15)
  })

  const Move = Schema.Union([
    Schema.TaggedStruct("Answered", {
      inFlight: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 300 })),
      millis: Schema.Literals([0, 1, 100, 10_000])
    }),
    Schema.TaggedStruct("Rejected", { age: Schema.Literals([0, 1, 10]) })
  ])

  it.effect.prop(
    "stays within its bounds whatever happens",
    { moves: Schema.Array(Move).check(Schema.isMaxLength(100)), window: Schema.Literals([1, 2, 20]) },
    ({ moves, window }) =>
      Effect.sync(() => {
        const rules = { ...settings, min: 3, max: 17, window }
        let state = Congestion.initial(rules)
        let now = 0
        for (const move of moves) {
          now += 1
          state = Congestion.step(
            rules,
            state,
            move._tag === "Rejected"
              ? { _tag: "Rejected", sentAt: now - move.age, now }
              : { ...move, latency: { kind: "firstContent", millis: move.millis } }
          )
          assert.isTrue(Congestion.limitOf(state) >= 3 && Congestion.limitOf(state) <= 17)
        }
      })
  )

  it("finds a limit in each of the simulated troubles where others fail in one", () => {
    const of = (name: string, limiter: Parameters<typeof simulate>[0]) => {
      const scenario = scenarios.find((scenario) => scenario.name === name)
      assert.isDefined(scenario)
      return simulate(limiter, scenario, 7)
    }
    const ours = () => congestion("ours", 1.5)

    // Nobody said "32". The latency is what is tolerated, and the first windows are too small to know the usual one exactly.
    const slow = of("slow beyond 32", ours())
    const best = of("slow beyond 32", fixed(32))
    assert.isBelow(slow.p50, best.p50 * 1.8)
    assert.isAbove(slow.answered, best.answered * 0.95)
    assert.isAbove(of("slow beyond 32", congestion("refusals only", Infinity)).p50, best.p50 * 4)

    // Latencies that spread by themselves hold a gradient down where there is room for three times as much.
    assert.isAbove(of("slow beyond 128", ours()).answered, 2 * of("slow beyond 128", gradient()).answered)

    // And it never learns from refusals.
    assert.isBelow(of("refuses beyond 32", ours()).rejected, of("refuses beyond 32", gradient()).rejected / 50)
  })
})

describe("AdaptiveConcurrency", () => {
  const guarded = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: AdaptiveConcurrency.Options) {
    const provider = yield* ScriptedProvider.make({ script })
    const adaptive = yield* AdaptiveConcurrency.make({ initial: 100, ...options })
    const self = adaptive.guard(provider)
    return { adaptive, self, limit: Effect.map(adaptive.state, ({ limit }) => limit) }
  })

  const limitAfter = (script: ScriptedProvider.Script, input?: Partial<LlmRequest.LlmRequest>) =>
    Effect.gen(function* () {
      const { limit, self } = yield* guarded(script)
      yield* TestClock.adjust("1 second")
      yield* Effect.ignore(self.generate({ ...request, ...input }))
      return yield* limit
    })

  it.effect("is cut by what tells of load, and by nothing else", () =>
    Effect.gen(function* () {
      const rateLimited = (limit: "requests" | "tokens" | "concurrency" | undefined) =>
        ScriptedProvider.fail(new ProviderError.RateLimited({ provider: "p", limit, retryAfter: Option.none() }))
      const timeout = (kind: ProviderError.Timeout["kind"]) =>
        ScriptedProvider.fail(new ProviderError.Timeout({ provider: "p", kind, after: Duration.zero }))

      for (const fault of [
        ScriptedProvider.fail("Overloaded"),
        rateLimited(undefined),
        rateLimited("concurrency"),
        timeout("attempt"),
        timeout("firstToken"),
        timeout("idle")
      ]) {
        assert.strictEqual(yield* limitAfter([fault]), 70)
      }
      for (const fault of [
        ScriptedProvider.fail("ServerError"),
        ScriptedProvider.fail("InvalidRequest"),
        ScriptedProvider.die("bug"),
        rateLimited("requests"),
        rateLimited("tokens"),
        timeout("deadline"),
        ScriptedProvider.answer("ok")
      ]) {
        assert.strictEqual(yield* limitAfter([fault]), 100)
      }
    })
  )

  it.effect("says nothing about a provider whose caller left", () =>
    Effect.gen(function* () {
      const { adaptive, self } = yield* guarded([ScriptedProvider.hang])
      const fiber = yield* Effect.forkChild(self.generate(request), { startImmediately: true })
      yield* Fiber.interrupt(fiber)

      assert.deepStrictEqual(yield* adaptive.state, { inFlight: 0, waiting: 0, limit: 100 })
    })
  )

  it.effect("judges streams by their first content and whole answers by the time for each token", () =>
    Effect.gen(function* () {
      const usage = (total: number) => ({ inputTokens: {}, outputTokens: { total } })
      const whole = (seconds: number, total: number) =>
        ScriptedProvider.delay(Duration.seconds(seconds), ScriptedProvider.answer("ok", { usage: usage(total) }))
      const streamed = (first: Duration.Input, words: string) =>
        ScriptedProvider.tokens(words, { first, every: "1 second" })

      const after = Effect.fnUntraced(function* (
        steps: ReadonlyArray<ScriptedProvider.Step>,
        method: "generate" | "stream"
      ) {
        const { limit, self } = yield* guarded((index) => steps[Math.floor(index / 100)] ?? whole(1, 1))
        for (let calls = 0; calls < 100 * steps.length; calls++) {
          const call = method === "generate" ? self.generate(request) : Stream.runDrain(self.stream(request))
          const fiber = yield* Effect.forkChild(Effect.asVoid(call), { startImmediately: true })
          yield* TestClock.adjust("1 minute")
          yield* Fiber.join(fiber)
        }
        return yield* limit
      })
      assert.strictEqual(yield* after([whole(2, 60), whole(20, 960)], "generate"), 100)
      assert.strictEqual(yield* after([whole(2, 60), whole(20, 60)], "generate"), 70)
      assert.strictEqual(
        yield* after([streamed("1 second", "one"), streamed("1 second", "one two three four")], "stream"),
        100
      )
      assert.strictEqual(yield* after([streamed("1 second", "one"), streamed("2 seconds", "one")], "stream"), 75)
    })
  )

  it.effect("settles near what a provider takes, and opens again when it takes more", () =>
    Effect.gen(function* () {
      let capacity = 8
      let running = 0
      const provider = Provider.make({
        id: "p",
        model: "m",
        stream: () =>
          Stream.unwrap(
            Effect.gen(function* () {
              yield* Effect.acquireRelease(
                Effect.sync(() => running++),
                () => Effect.sync(() => running--)
              )
              yield* Effect.sleep(Duration.millis(100 * Math.max(1, running / capacity)))
              return Provider.replay(
                LlmResponse.make({ content: LlmResponse.textContent("ok"), served: LlmResponse.servedBy(provider) })
              )
            })
          )
      })
      const adaptive = yield* AdaptiveConcurrency.make({ queue: 100, maxWait: Infinity })
      const self = adaptive.guard(provider)
      yield* Effect.forEach(
        Array.from({ length: 60 }),
        () => Effect.forkScoped(Effect.forever(Stream.runDrain(self.stream(request)))),
        { discard: true }
      )

      yield* TestClock.adjust("30 seconds")
      const { limit } = yield* adaptive.state
      assert.isTrue(limit >= 8 && limit <= 20, `${limit}`)
      capacity = 40
      yield* TestClock.adjust("30 seconds")
      const { limit: later } = yield* adaptive.state
      assert.isAtLeast(later, 40)
    })
  )

  it("takes wrong options for what they are", () => {
    const wrong: ReadonlyArray<readonly [AdaptiveConcurrency.Options, string]> = [
      [{ min: 0 }, "min must be an integer >= 1, got 0"],
      [{ min: 5, max: 4 }, "max must be an integer >= min, got 4"],
      [{ initial: 300 }, "initial must be between min and max, got 300"],
      [{ tolerance: 1 }, "tolerance must be greater than 1, got 1"],
      [{ backoff: 1 }, "backoff must be in (0, 1), got 1"],
      [{ window: 101 }, "window must be an integer in [1, 100], got 101"],
      [{ queue: -1 }, "queue must be an integer >= 0, got -1"]
    ]
    for (const [options, message] of wrong) {
      assert.throws(() => AdaptiveConcurrency.policy(options), RangeError, `AdaptiveConcurrency.make: ${message}`)
    }
  })
})
