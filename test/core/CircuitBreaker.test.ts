import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, LlmRequest, type LlmUnavailable, type Provider } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Exit, Fiber, Layer, Option, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { availabilityOf } from "../support/availability.ts"

const request = LlmRequest.make({ prompt: "Hi" })

const guarded = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: CircuitBreaker.Options) {
  const provider = yield* ScriptedProvider.make({ id: "primary", script })
  const breaker = yield* CircuitBreaker.make({ ...options, name: "primary" })
  const self = breaker.guard(provider)
  return { provider, breaker, call: Effect.result(self.generate(request)), self }
})

const failing = [ScriptedProvider.fail("ServerError")]

const skipReason = (error: Provider.Failure): string | undefined => {
  if (error._tag !== "LlmUnavailable") return undefined
  const attempt = error.attempts[0]
  return attempt?._tag === "Skipped" ? attempt.reason._tag : undefined
}

describe("CircuitBreaker", () => {
  it.effect("opens after five failures in a row and then calls nobody for sixty seconds", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded(failing)
      for (let calls = 0; calls < 8; calls++) yield* call

      assert.strictEqual(yield* provider.count, 5)
      assert.deepStrictEqual(yield* breaker.state, {
        _tag: "Open",
        retryAfter: Duration.seconds(60),
        openings: 1
      })

      yield* TestClock.adjust("59999 millis")
      yield* call
      assert.strictEqual(yield* provider.count, 5)

      yield* TestClock.adjust("1 milli")
      yield* call
      assert.strictEqual(yield* provider.count, 6)
    })
  )

  it.effect("rejects with the time that is left, without calling and without counting the rejection as a failure", () =>
    Effect.gen(function* () {
      const { call } = yield* guarded(failing, { trip: CircuitBreaker.consecutive(1) })
      yield* call
      yield* TestClock.adjust("30 seconds")

      const rejection = yield* Effect.flip(Effect.fromResult(yield* call))

      assert.strictEqual(rejection._tag, "LlmUnavailable")
      assert.deepStrictEqual((rejection as LlmUnavailable.LlmUnavailable).retryAfter, Duration.seconds(30))
      assert.strictEqual(skipReason(rejection), "CircuitOpen")
    })
  )

  it.effect("says so before a call, so that a chain can skip it", () =>
    Effect.gen(function* () {
      const { call, self } = yield* guarded(failing, { trip: CircuitBreaker.consecutive(1) })
      assert.isUndefined(yield* availabilityOf(self, request))
      yield* call

      assert.strictEqual((yield* availabilityOf(self, request))?._tag, "CircuitOpen")
    })
  )

  it.effect("publishes each real transition once", () =>
    Effect.gen(function* () {
      const { breaker, call } = yield* guarded([ScriptedProvider.fail("ServerError"), ScriptedProvider.answer("ok")], {
        trip: CircuitBreaker.consecutive(1)
      })
      const transitions = yield* Effect.forkChild(
        breaker.transitions.pipe(
          Stream.map(({ from, to }) => `${from} > ${to}`),
          Stream.take(3),
          Stream.runCollect
        ),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      yield* call
      yield* call
      yield* TestClock.adjust("60 seconds")
      yield* call
      yield* call

      assert.deepStrictEqual(yield* Fiber.join(transitions), ["Closed > Open", "Open > HalfOpen", "HalfOpen > Closed"])
    })
  )

  it.effect("takes no notice of errors that say nothing about the provider's health", () =>
    Effect.gen(function* () {
      const { breaker, call } = yield* guarded(
        [
          ScriptedProvider.fail("ServerError"),
          ScriptedProvider.fail("RateLimited"),
          ScriptedProvider.fail("QuotaExhausted"),
          ScriptedProvider.fail("ServerError")
        ],
        { trip: CircuitBreaker.consecutive(3) }
      )
      for (let calls = 0; calls < 4; calls++) yield* call

      assert.deepStrictEqual(yield* breaker.state, { _tag: "Closed", failures: 2 })
    })
  )

  it.effect("takes an invalid request as a sign of health, also as the result of a probe", () =>
    Effect.gen(function* () {
      const { breaker, call } = yield* guarded(
        [ScriptedProvider.fail("ServerError"), ScriptedProvider.fail("InvalidRequest")],
        { trip: CircuitBreaker.consecutive(1) }
      )
      yield* call
      yield* TestClock.adjust("60 seconds")
      yield* call

      assert.strictEqual((yield* breaker.state)._tag, "Closed")
    })
  )

  it.effect("counts a defect of the provider's code as a failure", () =>
    Effect.gen(function* () {
      const { breaker, call } = yield* guarded([ScriptedProvider.die("bug")], { trip: CircuitBreaker.consecutive(1) })
      yield* call

      assert.strictEqual((yield* breaker.state)._tag, "Open")
    })
  )

  it.effect("E01 frees the probe when the probing caller is interrupted; the next call probes", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded(
        [ScriptedProvider.fail("ServerError"), ScriptedProvider.hang, ScriptedProvider.answer("ok")],
        { trip: CircuitBreaker.consecutive(1) }
      )
      yield* call
      yield* TestClock.adjust("60 seconds")
      const prober = yield* Effect.forkChild(call)
      yield* provider.awaitCalls(2)
      assert.deepStrictEqual(yield* breaker.state, { _tag: "HalfOpen", probing: 1, openings: 1 })

      yield* Fiber.interrupt(prober)
      assert.deepStrictEqual(yield* breaker.state, { _tag: "HalfOpen", probing: 0, openings: 1 })

      yield* call
      assert.strictEqual((yield* breaker.state)._tag, "Closed")
      assert.strictEqual(yield* provider.running, 0)
    })
  )

  it.effect("counts nothing against the provider when the caller leaves", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded([ScriptedProvider.hang], {
        trip: CircuitBreaker.consecutive(1)
      })
      const caller = yield* Effect.forkChild(call)
      yield* provider.awaitCalls(1)
      yield* Fiber.interrupt(caller)

      assert.deepStrictEqual(yield* breaker.state, { _tag: "Closed", failures: 0 })
    })
  )

  it.effect("E10 does not wedge on a probe that hangs: its lease runs out and another probe follows", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded(
        [ScriptedProvider.fail("ServerError"), ScriptedProvider.hang, ScriptedProvider.answer("ok")],
        { trip: CircuitBreaker.consecutive(1), probeLease: "10 seconds", openFor: "60 seconds" }
      )
      yield* call
      yield* TestClock.adjust("60 seconds")
      yield* Effect.forkChild(call)
      yield* provider.awaitCalls(2)

      yield* TestClock.adjust("70 seconds")
      yield* call

      assert.strictEqual((yield* breaker.state)._tag, "Closed")
    })
  )

  it.effect("E08 is not fooled by a wall clock that steps back an hour", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("2 hours")
      const { call, provider } = yield* guarded(failing, { trip: CircuitBreaker.consecutive(1) })
      yield* call
      yield* TestClock.setTime(Duration.toMillis("1 hour"))
      yield* TestClock.adjust("60 seconds")
      yield* call

      assert.strictEqual(yield* provider.count, 2)
    })
  )

  it.effect("never lets two probes run at once, however callers come and go", () =>
    Effect.gen(function* () {
      const { call, provider } = yield* guarded(
        (index) =>
          index === 0
            ? ScriptedProvider.fail("ServerError")
            : ScriptedProvider.delay("1 second", ScriptedProvider.hang),
        { trip: CircuitBreaker.consecutive(1) }
      )
      yield* call
      yield* TestClock.adjust("60 seconds")
      const callers = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(call))
      yield* provider.awaitCalls(2)
      for (const caller of callers) {
        assert.isAtMost(yield* provider.running, 1)
        yield* Fiber.interrupt(caller)
        yield* Effect.forkChild(call)
        yield* Effect.yieldNow
      }

      assert.isAtMost(yield* provider.running, 1)
    })
  )

  it.effect("B45 opens for longer and longer by a schedule, keeps its last value, and starts anew after a close", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded(
        (index) => (index === 4 ? ScriptedProvider.answer("ok") : ScriptedProvider.fail("ServerError")),
        {
          trip: CircuitBreaker.consecutive(1),
          openFor: Schedule.exponential("10 seconds").pipe(Schedule.upTo({ times: 3 }))
        }
      )
      const opening = Effect.map(breaker.state, (state) =>
        state._tag === "Open" ? Duration.toSeconds(state.retryAfter) : state._tag
      )
      const seen: Array<number | string> = []
      for (let calls = 0; calls < 6; calls++) {
        yield* call
        const state = yield* opening
        seen.push(state)
        if (typeof state === "number") yield* TestClock.adjust(Duration.seconds(state))
      }

      assert.deepStrictEqual(seen, [10, 20, 40, 40, "Closed", 10])
      assert.strictEqual(yield* provider.count, 6)
    })
  )

  it.effect("isolates by hand until it is reset", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded([ScriptedProvider.answer("ok")])
      yield* breaker.isolate("incident 42")
      yield* TestClock.adjust("1 day")
      assert.strictEqual(skipReason(yield* Effect.flip(Effect.fromResult(yield* call))), "Isolated")

      yield* breaker.reset
      yield* call
      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("B30 refuses to half-open a closed circuit by hand", () =>
    Effect.gen(function* () {
      const { breaker, call, provider } = yield* guarded(failing, { trip: CircuitBreaker.consecutive(1) })
      const refusal = yield* Effect.flip(breaker.halfOpen)
      assert.strictEqual(refusal.message, "A circuit cannot go from Closed to HalfOpen by hand")

      yield* call
      yield* breaker.halfOpen
      yield* call
      assert.strictEqual(yield* provider.count, 2)
    })
  )

  it.effect("B39 restores an opening with the time that was left", () =>
    Effect.gen(function* () {
      const before = yield* guarded(failing, { trip: CircuitBreaker.consecutive(1) })
      yield* before.call
      yield* TestClock.adjust("20 seconds")
      const restore = yield* before.breaker.snapshot

      const after = yield* guarded([ScriptedProvider.answer("ok")], { trip: CircuitBreaker.consecutive(1), restore })

      assert.deepStrictEqual(yield* after.breaker.state, {
        _tag: "Open",
        retryAfter: Duration.seconds(40),
        openings: 1
      })
    })
  )

  it.effect("restores the opening that a probe has caused whose lease is over", () =>
    Effect.gen(function* () {
      const options = { trip: CircuitBreaker.consecutive(1), probeLease: "10 seconds" } as const
      const before = yield* guarded([ScriptedProvider.fail("ServerError"), ScriptedProvider.hang], options)
      yield* before.call
      yield* TestClock.adjust("60 seconds")
      yield* Effect.forkChild(before.call, { startImmediately: true })
      yield* TestClock.adjust("30 seconds")
      const restore = yield* before.breaker.snapshot

      const after = yield* guarded([ScriptedProvider.answer("ok")], { ...options, restore })

      assert.deepStrictEqual(
        [yield* before.breaker.state, yield* after.breaker.state].map((state) => state._tag),
        ["Open", "Open"]
      )
      assert.deepStrictEqual(restore, { _tag: "Open", remaining: 40_000, openings: 2 })
    })
  )

  it.effect("B46 refuses every call once its scope is closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { call, provider } = yield* Scope.provide(guarded([ScriptedProvider.answer("ok")]), scope)
      yield* Scope.close(scope, Exit.void)

      const refusal = yield* Effect.flip(Effect.fromResult(yield* call))

      assert.strictEqual(skipReason(refusal), "Isolated")
      assert.strictEqual(yield* provider.count, 0)
    })
  )

  it.effect("lets two models behind one account share a breaker", () =>
    Effect.gen(function* () {
      const large = yield* ScriptedProvider.make({ id: "large", script: failing })
      const small = yield* ScriptedProvider.make({ id: "small", script: [ScriptedProvider.answer("ok")] })
      const [one, two] = yield* Effect.all([CircuitBreaker.shared(large), CircuitBreaker.shared(small)])
      yield* Effect.ignore(one.generate(request))

      assert.strictEqual(skipReason(yield* Effect.flip(two.generate(request))), "CircuitOpen")
    }).pipe(Effect.provide(CircuitBreaker.layer({ name: "account", trip: CircuitBreaker.consecutive(1) })))
  )

  describe("around a stream", () => {
    it.effect("counts a stream that is cut after its first content as a failure", () =>
      Effect.gen(function* () {
        const { breaker, self } = yield* guarded([ScriptedProvider.stream(["Hel", ScriptedProvider.cut])], {
          trip: CircuitBreaker.consecutive(1)
        })
        yield* Effect.ignore(Stream.runDrain(self.stream(request)))

        assert.strictEqual((yield* breaker.state)._tag, "Open")
      })
    )

    it.effect("counts neither way when the reader stops early, and gives the probe back", () =>
      Effect.gen(function* () {
        const { breaker, call, self } = yield* guarded(
          [ScriptedProvider.fail("ServerError"), ScriptedProvider.tokens("one two three", { every: "1 second" })],
          { trip: CircuitBreaker.consecutive(1) }
        )
        yield* call
        yield* TestClock.adjust("60 seconds")
        const head = yield* Stream.runHead(self.stream(request))

        // The first part is the start of a block, not yet content.
        assert.isTrue(Option.isSome(head))
        assert.deepStrictEqual(yield* breaker.state, { _tag: "HalfOpen", probing: 0, openings: 1 })
      })
    )

    it.effect(
      "takes the first content for the verdict of a probe, so that nobody waits for the end of a long answer",
      () =>
        Effect.gen(function* () {
          const { breaker, call, self } = yield* guarded(
            [ScriptedProvider.fail("ServerError"), ScriptedProvider.tokens("a b c d e f", { every: "80 seconds" })],
            { trip: CircuitBreaker.consecutive(1), probeLease: "10 seconds" }
          )
          yield* call
          yield* TestClock.adjust("60 seconds")
          const reader = yield* Effect.forkChild(Stream.runDrain(self.stream(request)))
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* breaker.state)._tag, "Closed")

          yield* TestClock.adjust("10 minutes")
          yield* Fiber.join(reader)
          assert.strictEqual((yield* breaker.state)._tag, "Closed")
        })
    )

    it.effect("counts a probe that is cut after its first content as a failure of the closed circuit", () =>
      Effect.gen(function* () {
        const { breaker, call, self } = yield* guarded(
          [ScriptedProvider.fail("ServerError"), ScriptedProvider.stream(["Hel", ScriptedProvider.cut])],
          { trip: CircuitBreaker.consecutive(1) }
        )
        yield* call
        yield* TestClock.adjust("60 seconds")
        yield* Effect.ignore(Stream.runDrain(self.stream(request)))

        assert.deepStrictEqual(yield* breaker.state, { _tag: "Open", retryAfter: Duration.seconds(60), openings: 1 })
      })
    )

    it.effect("measures slowness up to the first content, because the rest is as slow as its reader", () =>
      Effect.gen(function* () {
        const { breaker, self } = yield* guarded(
          [ScriptedProvider.tokens("a b", { first: "1 second", every: "1 hour" })],
          {
            trip: CircuitBreaker.countWindow({ size: 1, slowAfter: "2 seconds" })
          }
        )
        const reader = yield* Effect.forkChild(Stream.runDrain(self.stream(request)))
        yield* TestClock.adjust("2 hours")
        yield* Fiber.join(reader)

        assert.strictEqual((yield* breaker.state)._tag, "Closed")
      })
    )
  })

  it("rejects options that make no sense with a message that names them", () => {
    const messages = [
      () => CircuitBreaker.consecutive(0),
      () => CircuitBreaker.countWindow({ size: 0 }),
      () => CircuitBreaker.countWindow({ size: 10, minimumCalls: 11 }),
      () => CircuitBreaker.timeWindow({ failureRate: 1.5 }),
      () => CircuitBreaker.timeWindow({ duration: 0 }),
      () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ name: "x", probes: 0 }))),
      () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ name: "x", openFor: 0 })))
    ].map((act) => {
      try {
        act()
        return "accepted"
      } catch (error) {
        return error instanceof Error ? error.message : String(error)
      }
    })

    assert.deepStrictEqual(messages, [
      "CircuitBreaker.consecutive: failures must be an integer >= 1, got 0",
      "CircuitBreaker.countWindow: size must be an integer in [1, 1000], got 0",
      "CircuitBreaker.countWindow: minimumCalls must be an integer in [1, 10], got 11",
      "CircuitBreaker.timeWindow: failureRate must be in (0, 1], got 1.5",
      "CircuitBreaker.timeWindow: duration must be positive and finite, got 0 ms",
      "CircuitBreaker.make: probes must be an integer >= 1, got 0",
      "CircuitBreaker.make: openFor must be longer than zero, got 0 ms"
    ])
  })

  it("is a layer, so that it can be provided", () => {
    assert.isTrue(Layer.isLayer(CircuitBreaker.layer({ name: "account" })))
  })
})

describe("A stream in slow start", () => {
  it.effect("gives its place back at its first content, not at its end", () =>
    Effect.gen(function* () {
      const long = ScriptedProvider.stream(["a", ScriptedProvider.pause("60 seconds"), "b"])
      const { call, provider, self } = yield* guarded(
        [ScriptedProvider.fail("ServerError"), long, ScriptedProvider.hang],
        {
          trip: CircuitBreaker.consecutive(1),
          openFor: "1 second",
          slowStart: "30 seconds"
        }
      )
      yield* call
      yield* TestClock.adjust("1 second")

      for (const count of [2, 3, 4]) {
        yield* Effect.forkChild(Stream.runDrain(self.stream(request)))
        yield* TestClock.adjust("10 millis")
        assert.strictEqual(yield* provider.count, count)
      }
    })
  )
})
