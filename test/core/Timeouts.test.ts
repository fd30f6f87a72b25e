import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, LlmRequest, Policy, type Provider, type ProviderError, Timeouts } from "@llm-resilience/core"
import { Provider as Providers, LlmResponse } from "@llm-resilience/core"
import { ScriptedProvider, VirtualTime } from "@llm-resilience/testing"
import { Clock, Duration, Effect, Exit, Fiber, Random, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })

const timeoutOf = (
  exit: Exit.Exit<unknown, Provider.Failure>
): readonly [ProviderError.Timeout["kind"], number] | undefined => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "Some" && error.value._tag === "Timeout"
    ? [error.value.kind, Duration.toMillis(error.value.after)]
    : undefined
}

const bounded = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: Timeouts.Options) {
  const provider = yield* ScriptedProvider.make({ script })
  return { provider, self: yield* Timeouts.policy(options)(provider) }
})

const ends = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>) {
  const fiber = yield* Effect.forkChild(
    Effect.flatMap(Effect.exit(effect), (exit) => Effect.map(Clock.currentTimeMillis, (at) => ({ exit, at })))
  )
  yield* TestClock.adjust("1 day")
  return yield* Fiber.join(fiber)
})

describe("Timeouts", () => {
  describe("of a whole answer", () => {
    it.effect("T02 fails with a typed error that says how long was waited, and aborts the call", () =>
      Effect.gen(function* () {
        const { provider, self } = yield* bounded([ScriptedProvider.hang], { attempt: "20 seconds" })
        const { at, exit } = yield* ends(self.generate(request))

        assert.deepStrictEqual(timeoutOf(exit), ["attempt", 20_000])
        assert.strictEqual(at, 20_000)
        assert.strictEqual(yield* provider.running, 0)
      })
    )

    it.effect("is thirty seconds by default", () =>
      Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.hang])

        assert.deepStrictEqual(timeoutOf((yield* ends(self.generate(request))).exit), ["attempt", 30_000])
      })
    )

    it.effect("lets an answer pass that comes a moment before", () =>
      Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.delay("29999 millis", ScriptedProvider.answer("ok"))])

        assert.isTrue(Exit.isSuccess((yield* ends(self.generate(request))).exit))
      })
    )

    it.effect("T01 is disabled by zero, less than zero and infinity", () =>
      Effect.gen(function* () {
        for (const attempt of [0, -5, Infinity]) {
          const { self } = yield* bounded([ScriptedProvider.delay("1 hour", ScriptedProvider.answer("ok"))], {
            attempt
          })

          assert.isTrue(Exit.isSuccess((yield* ends(self.generate(request))).exit), `attempt ${attempt}`)
        }
      })
    )

    it.effect("names the deadline when it ends first", () =>
      Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.hang])
        const { exit } = yield* ends(self.generate({ ...request, expiresAt: 7000 }))

        assert.deepStrictEqual(timeoutOf(exit), ["deadline", 7000])
      })
    )

    it.effect("B44 is a failure for the breaker outside", () =>
      Effect.gen(function* () {
        const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.hang] })
        const self = yield* Policy.all([
          CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) }),
          Timeouts.policy()
        ])(provider)
        const fiber = yield* Effect.forkChild(Effect.exit(self.generate(request)))
        yield* TestClock.adjust("30 seconds")
        yield* Fiber.join(fiber)

        assert.strictEqual((yield* self.circuits.get("p")?.state ?? Effect.die("no circuit"))._tag, "Open")
      })
    )
  })

  describe("and a loser that is slow to clean up", () => {
    const slowToLeave = Providers.make({
      id: "slow",
      model: "m",
      generate: () => Effect.onInterrupt(Effect.never, () => Effect.sleep("3 seconds"))
    })
    const deaf = Providers.make({
      id: "deaf",
      model: "m",
      generate: () =>
        Effect.uninterruptible(Effect.as(Effect.sleep("60 seconds"), { content: LlmResponse.textContent("late") }))
    })

    it.effect("waits for it by default, so that nothing is left behind", () =>
      Effect.gen(function* () {
        const self = yield* Timeouts.policy({ attempt: "1 second" })(slowToLeave)
        const { at, exit } = yield* ends(self.generate(request))

        assert.deepStrictEqual(timeoutOf(exit), ["attempt", 1000])
        assert.strictEqual(at, 4000)
      })
    )

    it("leaves no timer behind when what is late stops at once", () => {
      const asked = Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.hang], { attempt: "1 second" })
        const late = yield* Effect.exit(self.generate(LlmRequest.start({ ...request, expiresAt: 60_000 }, 0)))
        assert.deepStrictEqual(timeoutOf(late), ["attempt", 1000])
        return yield* Effect.never
      })
      const ending = VirtualTime.make().run(Effect.scoped(asked))

      assert.deepStrictEqual([ending._tag, ending.at], ["Deadlock", 1000])
    })

    it.effect("returns on time when the ending is hard", () =>
      Effect.gen(function* () {
        for (const provider of [slowToLeave, deaf]) {
          const start = yield* Clock.currentTimeMillis
          const self = yield* Timeouts.policy({ attempt: "1 second", ending: "hard" })(provider)
          const { at, exit } = yield* ends(self.generate(request))

          assert.deepStrictEqual(timeoutOf(exit), ["attempt", 1000])
          assert.strictEqual(at - start, 1000)
        }
      })
    )

    it.effect("T04 discards the late answer of a provider that cannot be interrupted, after waiting for it", () =>
      Effect.gen(function* () {
        const self = yield* Timeouts.policy({ attempt: "1 second" })(deaf)
        const { at, exit } = yield* ends(self.generate(request))

        assert.deepStrictEqual(timeoutOf(exit), ["attempt", 1000])
        assert.strictEqual(at, 60_000)
      })
    )
  })

  describe("of a stream", () => {
    const drain = (self: Provider.Provider, asked = request) => ends(Stream.runDrain(self.stream(asked)))

    it.effect("runs the first-token clock from the moment of sending, through preamble", () =>
      Effect.gen(function* () {
        const preamble = { type: "response-metadata" as const, id: "r1" }
        for (const items of [
          [ScriptedProvider.hang],
          [ScriptedProvider.pause("8 seconds"), preamble, ScriptedProvider.pause("8 seconds"), "late"]
        ]) {
          const { provider, self } = yield* bounded([ScriptedProvider.stream(items)], { firstToken: "10 seconds" })
          const { exit } = yield* drain(self)

          assert.deepStrictEqual(timeoutOf(exit), ["firstToken", 10_000])
          assert.strictEqual(yield* provider.running, 0)
        }
      })
    )

    it.effect("ends a provider that gives no sign of life at all with the connect clock", () =>
      Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.hang], { connect: "2 seconds" })

        assert.deepStrictEqual(timeoutOf((yield* drain(self)).exit), ["connect", 2000])
      })
    )

    it.effect("E04 ends a stalled stream with an error, never as a shorter success", () =>
      Effect.gen(function* () {
        const { provider, self } = yield* bounded([ScriptedProvider.stream(["Hel", ScriptedProvider.hang])], {
          idle: "5 seconds"
        })
        const { at, exit } = yield* drain(self)

        assert.deepStrictEqual(timeoutOf(exit), ["idle", 5000])
        assert.strictEqual(at, 5000)
        assert.strictEqual(yield* provider.running, 0)
      })
    )

    it.effect("lets a slow but living stream be as long as it likes", () =>
      Effect.gen(function* () {
        const words = Array.from({ length: 100 }, (_, index) => `w${index}`).join(" ")
        const { self } = yield* bounded([ScriptedProvider.tokens(words, { every: "4900 millis" })], {
          attempt: "30 seconds",
          idle: "5 seconds"
        })

        assert.isTrue(Exit.isSuccess((yield* drain(self)).exit))
      })
    )

    it.effect("ends even a living stream at the deadline", () =>
      Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.tokens("a b c d e f", { every: "4 seconds" })])
        const { at, exit } = yield* drain(self, { ...request, expiresAt: 10_000 })

        assert.deepStrictEqual(timeoutOf(exit), ["deadline", 10_000])
        assert.strictEqual(at, 10_000)
      })
    )

    it.effect("does not take a slow reader for a slow provider", () =>
      Effect.gen(function* () {
        const { self } = yield* bounded([ScriptedProvider.tokens("a b c")], { idle: "1 second" })
        const { exit } = yield* ends(
          Stream.runForEach(Stream.rechunk(self.stream(request), 1), () => Effect.sleep("1 minute"))
        )

        assert.isTrue(Exit.isSuccess(exit))
      })
    )

    it.effect("does not clean up in front of a slow reader whose deadline has passed", () =>
      Effect.gen(function* () {
        const tenSeconds = Effect.sleep("10 seconds")
        const slow = Providers.make({
          id: "slow to stop",
          model: "m",
          stream: () =>
            Stream.concat(
              Stream.succeed<LlmResponse.LlmStreamPart>({ type: "text-delta", id: "0", delta: "Hello" }),
              Stream.never
            ).pipe(Stream.ensuring(tenSeconds))
        })
        const self = yield* Timeouts.deadline(slow)
        const reading = Stream.runForEach(self.stream(LlmRequest.make({ prompt: "Hi", deadline: "1 second" })), () =>
          Effect.sleep("3 seconds")
        )
        const { at, exit } = yield* ends(reading)

        assert.deepStrictEqual(timeoutOf(exit), ["deadline", 3000])
        assert.strictEqual(at, 3000)
      })
    )

    it.effect("returns on time from a stalled stream that is slow to clean up when the ending is hard", () =>
      Effect.gen(function* () {
        const stubborn = Providers.make({
          id: "stubborn",
          model: "m",
          stream: () => Stream.fromEffect(Effect.onInterrupt(Effect.never, () => Effect.sleep("3 seconds")))
        })
        const times: Array<number> = []
        for (const ending of ["cooperative", "hard"] as const) {
          const start = yield* Clock.currentTimeMillis
          const self = yield* Timeouts.policy({ firstToken: "1 second", ending })(stubborn)
          times.push((yield* drain(self)).at - start)
        }

        assert.deepStrictEqual(times, [4000, 1000])
      })
    )
  })

  describe("of many calls", () => {
    it.effect("each end at their own time, whatever the others do", () =>
      Effect.gen(function* () {
        for (let history = 0; history < 100; history++) {
          const start = yield* Clock.currentTimeMillis
          const callers = yield* Effect.forEach(Array.from({ length: 12 }), () =>
            Effect.gen(function* () {
              const begins = yield* Random.nextIntBetween(0, 1500)
              const attempt = yield* Random.nextIntBetween(1, 1500)
              const answers = yield* Random.nextIntBetween(1, 3000)
              const { self } = yield* bounded([ScriptedProvider.delay(answers, ScriptedProvider.answer("Hello"))], {
                attempt
              })
              const fiber = yield* Effect.forkChild(
                Effect.sleep(begins).pipe(
                  Effect.andThen(Effect.exit(self.generate(request))),
                  Effect.flatMap(() => Clock.currentTimeMillis)
                )
              )
              return { expected: start + begins + Math.min(attempt, answers), fiber }
            })
          )
          yield* TestClock.adjust("1 minute")

          for (const { expected, fiber } of callers) assert.strictEqual(yield* Fiber.join(fiber), expected)
        }
      }).pipe(Random.withSeed("bells"))
    )

    it.effect("end in groups, a little late, where thousands hang, because whoever wakes looks at all of them", () =>
      Effect.gen(function* () {
        const inner = yield* Clock.Clock
        let sleeps = 0
        const sleep: Clock.Clock["sleep"] = (duration) => {
          sleeps++
          return inner.sleep(duration)
        }
        const clock: Clock.Clock = Object.create(inner, { sleep: { value: sleep } })
        const { self } = yield* bounded([ScriptedProvider.hang], { attempt: Infinity })
        const callers = yield* Effect.forEach(Array.from({ length: 4000 }), (_, index) => {
          const call = Effect.exit(self.generate({ ...request, deadline: Duration.millis(30_000 + index) }))
          return Effect.forkChild(
            Effect.andThen(Effect.provideService(call, Clock.Clock, clock), Clock.currentTimeMillis),
            { startImmediately: true }
          )
        })
        yield* TestClock.adjust("1 minute")
        const ended = yield* Effect.forEach(callers, Fiber.join)

        assert.isBelow(sleeps, 3000)
        const late = ended.map((at, index) => at - 30_000 - index)
        assert.isTrue(Math.min(...late) > -0.001 && Math.max(...late) < 4)
      })
    )
  })
})
