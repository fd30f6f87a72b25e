import { assert, describe, it } from "@effect/vitest"
import {
  Attempt,
  Cooldown,
  Decision,
  LlmRequest,
  LlmResilience,
  LlmResponse,
  LlmUnavailable,
  Notice,
  Policy,
  Provider,
  ProviderError,
  ResilienceEvent,
  Retry
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Fiber, Option, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { availabilityOf } from "../support/availability.ts"

const request = LlmRequest.make({ prompt: "Hi" })

describe("Cooldown", () => {
  const cooled = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: Cooldown.Options) {
    const provider = yield* ScriptedProvider.make({ id: "p", script })
    return { provider, self: yield* Cooldown.policy(options)(provider) }
  })
  const restLeft = (self: Provider.Provider) =>
    Effect.map(availabilityOf(self, request), (reason) => {
      const left = reason === undefined ? undefined : Attempt.skipRetryAfter(reason)
      return left === undefined ? undefined : Duration.toMillis(left)
    })

  it.effect("rests a provider for all calls for as long as it asked", () =>
    Effect.gen(function* () {
      const { provider, self } = yield* cooled([
        ScriptedProvider.fail("RateLimited", { retryAfter: "20 seconds" }),
        ScriptedProvider.answer("ok")
      ])
      yield* Effect.ignore(self.generate(request))
      const refusal = yield* Effect.flip(self.generate(request))
      assert.strictEqual(refusal._tag, "LlmUnavailable")
      assert.strictEqual(yield* restLeft(self), 20_000)

      yield* TestClock.adjust("20 seconds")
      assert.isUndefined(yield* restLeft(self))
      assert.strictEqual((yield* self.generate(request)).text, "ok")
      assert.strictEqual(yield* provider.count, 2)
    })
  )

  it.effect("keeps the longer of two rests, whichever comes last, and caps it", () =>
    Effect.gen(function* () {
      const delays = [100, 1000, 2000]
      const retryAfters = ["40 seconds", "10 seconds", "114 hours"] as const
      const { self } = yield* cooled((index) =>
        ScriptedProvider.delay(
          Duration.millis(delays[index] ?? 0),
          ScriptedProvider.fail("RateLimited", { retryAfter: retryAfters[index] })
        )
      )
      yield* Effect.forEach(delays, () =>
        Effect.forkChild(Effect.ignore(self.generate(request)), { startImmediately: true })
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* restLeft(self), 39_100)

      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* restLeft(self), 60_000)
    })
  )

  it.effect("is not ended by a success that was under way before", () =>
    Effect.gen(function* () {
      const { self } = yield* cooled((index) =>
        index === 0
          ? ScriptedProvider.delay("2 seconds", ScriptedProvider.answer("late"))
          : ScriptedProvider.fail("RateLimited", { retryAfter: "30 seconds" })
      )
      yield* Effect.forkChild(self.generate(request), { startImmediately: true })
      yield* Effect.ignore(self.generate(request))
      yield* TestClock.adjust("2 seconds")

      assert.strictEqual(yield* restLeft(self), 28_000)
    })
  )

  it.effect("isolates a provider without quota until its reset, and one with bad credentials for five minutes", () =>
    Effect.gen(function* () {
      const quota = yield* cooled([ScriptedProvider.fail("QuotaExhausted", { retryAfter: "3 hours" })])
      const keys = yield* cooled([ScriptedProvider.fail("Authentication")])
      yield* Effect.ignore(quota.self.generate(request))
      yield* Effect.ignore(keys.self.generate(request))

      assert.deepStrictEqual(yield* availabilityOf(quota.self, request), {
        _tag: "Isolated",
        because: "QuotaExhausted",
        retryAfter: Duration.hours(3)
      })
      assert.strictEqual(yield* restLeft(keys.self), 300_000)
    })
  )

  it.effect("lets the retry through that waited out the Retry-After", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.fail("RateLimited", { retryAfter: "2 seconds" }), ScriptedProvider.answer("ok")]
      })
      const self = yield* Policy.all([Retry.policy({ schedule: Schedule.recurs(1) }), Cooldown.policy()])(provider)
      const fiber = yield* Effect.forkChild(self.generate(request))
      yield* TestClock.adjust("2 seconds")

      assert.strictEqual((yield* Fiber.join(fiber)).text, "ok")
    })
  )
})

describe("Provider.make", () => {
  it.effect("collects a stream into a whole answer", () =>
    Effect.gen(function* () {
      const provider = Provider.make({
        id: "p",
        model: "m",
        stream: () =>
          Stream.fromIterable<LlmResponse.LlmStreamPart>([
            { type: "response-metadata", id: "r" },
            { type: "text-start", id: "0" },
            { type: "text-delta", id: "0", delta: "Hel" },
            { type: "text-delta", id: "0", delta: "lo" },
            { type: "text-end", id: "0" },
            { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage },
            { type: "text-delta", id: "1", delta: "noise after the end" }
          ])
      })

      assert.strictEqual((yield* provider.generate(request)).text, "Hello")
      const parts = yield* Stream.runCollect(provider.stream(request))
      assert.strictEqual(parts.at(-1)?.type, "finish")
    })
  )

  it.effect("takes what is no count of tokens for not told", () =>
    Effect.gen(function* () {
      const content = LlmResponse.textContent("Hi", {
        usage: {
          inputTokens: { total: 3, cacheRead: Infinity },
          outputTokens: { total: NaN, text: -1, reasoning: undefined }
        }
      })
      const counted = { inputTokens: { total: 3 }, outputTokens: { reasoning: undefined } }
      const whole = Provider.make({ id: "p", model: "m", generate: () => Effect.succeed({ content }) })
      const streaming = Provider.make({ id: "p", model: "m", stream: () => whole.stream(request) })
      const finish = (yield* Stream.runCollect(streaming.stream(request))).at(-1)

      assert.deepStrictEqual((yield* whole.generate(request)).usage, counted)
      assert.deepStrictEqual(finish?.type === "finish" && finish.usage, counted)
    })
  )

  it.effect("does not wait for the connection to close once the answer is finished", () =>
    Effect.gen(function* () {
      const provider = Provider.make({
        id: "p",
        model: "m",
        stream: () =>
          Stream.concat(
            Stream.fromIterable<LlmResponse.LlmStreamPart>([
              { type: "text-delta", id: "0", delta: "Hi" },
              { type: "finish", reason: "stop", usage: LlmResponse.unknownUsage }
            ]),
            Stream.never
          )
      })

      assert.strictEqual((yield* provider.generate(request)).text, "Hi")
    })
  )

  it.effect("turns whatever its code throws into an error of the provider", () =>
    Effect.gen(function* () {
      const throwing = (): never => {
        throw new Error("bug")
      }
      const provider = Provider.make({ id: "p", model: "m", generate: throwing, stream: throwing })
      const errors = [
        yield* Effect.flip(provider.generate(request)),
        yield* Effect.flip(Stream.runDrain(provider.stream(request)))
      ]

      for (const error of errors) {
        assert.strictEqual(error._tag === "APIError" ? error.reason : error._tag, "ServerError")
        assert.strictEqual(error._tag === "APIError" && error.cause instanceof Error ? error.cause.message : "", "bug")
      }
    })
  )
})

describe("Policy.observe", () => {
  const seen: Array<string> = []
  const watching: Policy.Policy = Policy.make(
    Policy.observe<number>({
      admit: () => Effect.succeed(seen.push("admitted")),
      settle: (_, outcome) => Effect.sync(() => seen.push(outcome._tag))
    })
  )
  const run = Effect.fnUntraced(function* (
    step: ScriptedProvider.Step,
    call: (self: Provider.Provider) => Effect.Effect<unknown, unknown>
  ) {
    seen.length = 0
    const self = yield* watching(yield* ScriptedProvider.make({ script: [step] }))
    const fiber = yield* Effect.forkChild(Effect.exit(call(self)), { startImmediately: true })
    yield* TestClock.adjust("10 seconds")
    yield* Fiber.interrupt(fiber)
    return [...seen]
  })
  const whole = (self: Provider.Provider) => self.generate(request)
  const streamed = (self: Provider.Provider) => Stream.runDrain(self.stream(request))
  const stoppedEarly = (self: Provider.Provider) => Stream.runDrain(Stream.take(self.stream(request), 1))

  it.effect("settles every admitted call exactly once, however it ends", () =>
    Effect.gen(function* () {
      const tokens = ScriptedProvider.tokens("one two", { every: "1 second" })
      const cut = ScriptedProvider.stream(["one", ScriptedProvider.cut])
      assert.deepStrictEqual(yield* run(tokens, whole), ["admitted", "Succeeded"])
      assert.deepStrictEqual(yield* run(tokens, streamed), ["admitted", "Succeeded"])
      assert.deepStrictEqual(yield* run(tokens, stoppedEarly), ["admitted", "Abandoned"])
      assert.deepStrictEqual(yield* run(cut, whole), ["admitted", "Failed"])
      assert.deepStrictEqual(yield* run(cut, streamed), ["admitted", "Failed"])
      assert.deepStrictEqual(yield* run(ScriptedProvider.die("bug"), streamed), ["admitted", "Failed"])
      assert.deepStrictEqual(yield* run(ScriptedProvider.hang, whole), ["admitted", "Abandoned"])
      assert.deepStrictEqual(yield* run(ScriptedProvider.hang, streamed), ["admitted", "Abandoned"])
    })
  )

  const bug = (): never => {
    throw new Error("a bug")
  }
  const throwsAt = (moment: "admit" | "settle"): Policy.Policy =>
    Policy.make(
      Policy.observe<void>({
        admit: () => (moment === "admit" ? bug() : Effect.void),
        settle: () => (moment === "settle" ? bug() : Effect.void)
      })
    )
  for (const moment of ["admit", "settle"] as const) {
    it.effect(`gives every ticket back although another observer throws when it is to ${moment}`, () =>
      Effect.gen(function* () {
        for (const call of [whole, streamed]) {
          seen.length = 0
          const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")] })
          const self = yield* Policy.all([watching, throwsAt(moment), watching])(provider)
          yield* Effect.exit(call(self))

          const admitted = seen.filter((what) => what === "admitted").length
          assert.strictEqual(admitted, moment === "admit" ? 1 : 2)
          assert.strictEqual(seen.length, 2 * admitted)
        }
      })
    )
  }
})

describe("Policy.make", () => {
  it.effect("takes a step whose availability throws for one that is there, and tells its author", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const defects: Array<unknown> = []
      yield* hub.listen((event) => {
        if (event._tag === "DefectCaught") defects.push(event.cause)
      })
      const flag = Policy.make(() => ({
        availability: () => {
          throw new Error("no flags today")
        }
      }))
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("Hello")] })
      const chain = yield* LlmResilience.make({
        hub,
        steps: [{ provider, policy: Policy.all([flag, LlmResilience.standard()]) }]
      })

      assert.strictEqual((yield* chain.generate(request)).text, "Hello")
      assert.deepStrictEqual(defects, [new Error("no flags today")])
    })
  )
})

describe("Policy.all", () => {
  it.effect("reads as a call travels: the first policy is the outermost", () =>
    Effect.gen(function* () {
      const order: Array<string> = []
      const named = (name: string) =>
        Policy.make((self) => ({
          generate: (request) => Effect.suspend(() => (order.push(name), self.generate(request)))
        }))
      const self = yield* Policy.all([named("outer"), named("inner")])(
        yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")] })
      )
      yield* self.generate(request)

      assert.deepStrictEqual(order, ["outer", "inner"])
    })
  )
})

describe("Decision", () => {
  it("overrides single columns of a row and leaves the rest", () => {
    const table = Decision.override({ Timeout: { retry: "yes" } })

    assert.deepStrictEqual(table.Timeout, { ...Decision.defaults.Timeout, retry: "yes" })
    assert.deepStrictEqual(table.Network, Decision.defaults.Network)
  })

  it("refuses a row that does not exist", () => {
    const typo = { Overladen: { retry: "no" } } as Decision.Overrides

    assert.throws(() => Decision.override(typo), "there is no kind of error named Overladen")
  })
})

describe("LlmResilience.standard", () => {
  it("refuses times that are none", () => {
    const wrong = (options: LlmResilience.StandardOptions) => () => LlmResilience.standard(options)

    assert.throws(wrong({ cooldown: { rest: "-1 second" } }), "rest must not be negative, got -1000 ms")
  })
})

describe("LlmRequest", () => {
  it("refuses settings that make no sense", () => {
    assert.throws(
      () => LlmRequest.make({ prompt: "Hi", settings: { maxOutputTokens: 0 } }),
      /settings.maxOutputTokens must be an integer >= 1, got 0/
    )
  })

  it("refuses words that mean nothing: one would pass every bulkhead, the other would be answered by anything similar", () => {
    const wrong = (input: object) => () => LlmRequest.make({ prompt: "Hi", ...input })

    assert.throws(wrong({ priority: "urgent" }), 'priority must be one of critical, normal, batch, got "urgent"')
    assert.throws(wrong({ cacheMatch: "fuzzy" }), 'cacheMatch must be one of exact, canonical, similar, got "fuzzy"')
  })

  it("takes an infinite deadline for none, and keeps the earlier end of two", () => {
    assert.isUndefined(LlmRequest.make({ prompt: "Hi", deadline: Duration.infinity }).deadline)

    const past = LlmRequest.make({ prompt: "Hi", deadline: Duration.negativeInfinity })
    assert.strictEqual(LlmRequest.start(past, 1000).expiresAt, -Infinity)

    const started = LlmRequest.start(LlmRequest.make({ prompt: "Hi", deadline: "10 seconds" }), 1000)
    assert.strictEqual(started.expiresAt, 11_000)
    assert.strictEqual(LlmRequest.start({ ...started, deadline: Duration.seconds(1) }, 2000).expiresAt, 3000)
    assert.strictEqual(LlmRequest.start({ ...started, deadline: Duration.seconds(60) }, 2000).expiresAt, 11_000)
  })
})

describe("Notice", () => {
  it("says durations as a person would, and never too short", () => {
    const spoken = [
      Duration.millis(1),
      Duration.seconds(1),
      Duration.seconds(61),
      Duration.minutes(60),
      Duration.hours(25)
    ].map(Notice.spoken)

    assert.deepStrictEqual(spoken, ["1 second", "1 second", "2 minutes", "1 hour", "2 days"])
  })
})

describe("errors", () => {
  it("send nobody away for ever, or into the past", () => {
    const after = (retryAfter: Duration.Duration) => {
      const error = LlmUnavailable.make([], { retryAfter })
      return [error.retryAfter, error.suggestion]
    }

    assert.deepStrictEqual(after(Duration.infinity), [undefined, "Try again later."])
    assert.deepStrictEqual(after(Duration.seconds(-5)), [Duration.zero, "Try again in 1 second."])
  })

  it.effect("survive being encoded, for queues and remote callers", () =>
    Effect.gen(function* () {
      const error = LlmUnavailable.make([
        {
          _tag: "Failed",
          provider: "a",
          model: "m",
          error: new ProviderError.RateLimited({ provider: "a", retryAfter: Option.some(Duration.seconds(7)) }),
          duration: Duration.millis(12)
        },
        { _tag: "Skipped", provider: "b", model: "m", reason: { _tag: "CircuitOpen", retryAfter: Duration.seconds(3) } }
      ])
      const codec = Schema.toCodecJson(LlmUnavailable.LlmUnavailable)
      const json: unknown = JSON.parse(JSON.stringify(yield* Schema.encodeEffect(codec)(error)))
      const back = yield* Schema.decodeUnknownEffect(codec)(json)

      assert.deepStrictEqual(back.attempts, error.attempts)
      assert.deepStrictEqual(back.retryAfter, Duration.seconds(3))
      assert.strictEqual(
        back.message,
        "No provider could answer (a failed: RateLimited after 12ms; b skipped: CircuitOpen for 3s)"
      )
    })
  )
})
