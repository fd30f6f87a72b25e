import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience, Policy, Provider, Timeouts, Vitals } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Effect, Fiber, Random, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })

const measured = Effect.fnUntraced(function* (script: ScriptedProvider.Script, options?: Vitals.Options) {
  const provider = yield* ScriptedProvider.make({ id: "p", script })
  const vitals = yield* Vitals.make(options)
  return { provider, vitals, guarded: vitals.guard(provider) }
})

const slow = (millis: number) => ScriptedProvider.delay(millis, ScriptedProvider.answer("Hello"))

const during = <A, E>(effect: Effect.Effect<A, E>, millis: number) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(Effect.exit(effect), { startImmediately: true })
    yield* TestClock.adjust(millis)
    return yield* Fiber.join(fiber)
  })

describe("Vitals", () => {
  it("wants sensible options", () => {
    for (const options of [{ halfLife: 0 }, { warmUp: 0 }, { warmUp: 129 }, { warmUp: 1.5 }]) {
      assert.throws(() => Effect.runSync(Vitals.make(options)), RangeError)
    }
  })

  it.effect("knows nothing at first, and says so without saying anything bad", () =>
    Effect.gen(function* () {
      const { vitals } = yield* measured([slow(1)])

      assert.deepStrictEqual(yield* vitals.reading, {
        calls: 0,
        successRatio: 1,
        inFlight: 0,
        hanging: false,
        measuredAt: { generate: -Infinity, stream: -Infinity },
        latency: { generate: undefined, stream: undefined },
        usual: { generate: undefined, stream: undefined },
        succeededAt: -Infinity,
        failedAt: -Infinity,
        lastError: undefined
      })
      assert.isUndefined(vitals.quantile("generate", 0.95))
    })
  )

  it.effect("forgets nothing with an endless half-life", () =>
    Effect.gen(function* () {
      const script = [slow(100), ScriptedProvider.fail("ServerError")]
      const { guarded, vitals } = yield* measured(script, { halfLife: Infinity })

      yield* during(guarded.generate(request), 100)
      yield* during(guarded.generate(request), 1_000_000)

      const { calls, latency, successRatio } = yield* vitals.reading
      assert.deepStrictEqual([calls, successRatio, latency.generate], [2, 0.5, 100])
    })
  )

  it.effect("counts what the decision table calls a failure, and nothing that is the caller's fault or wish", () =>
    Effect.gen(function* () {
      const script = [
        ScriptedProvider.answer("Hello"),
        ScriptedProvider.fail("ServerError"),
        ScriptedProvider.fail("InvalidRequest"),
        ScriptedProvider.fail("RateLimited"),
        ScriptedProvider.hang
      ]
      const { guarded, vitals } = yield* measured(script)
      for (let call = 0; call < 4; call++) yield* Effect.exit(guarded.generate(request))
      const leaving = yield* Effect.forkChild(guarded.generate(request), { startImmediately: true })
      assert.strictEqual((yield* vitals.reading).inFlight, 1)
      yield* Fiber.interrupt(leaving)

      const { calls, inFlight, lastError, successRatio } = yield* vitals.reading

      assert.deepStrictEqual({ calls, inFlight }, { calls: 3, inFlight: 0 })
      assert.closeTo(successRatio, 2 / 3, 1e-9)
      assert.strictEqual(lastError?._tag === "APIError" ? lastError.reason : undefined, "ServerError")
    })
  )

  it.effect("forgets half of what it saw in its half-life, but not how good it was", () =>
    Effect.gen(function* () {
      const { guarded, vitals } = yield* measured(
        (index) => (index % 2 === 0 ? ScriptedProvider.answer("Hello") : ScriptedProvider.fail("ServerError")),
        { halfLife: "10 seconds" }
      )
      for (let call = 0; call < 8; call++) yield* Effect.exit(guarded.generate(request))
      yield* TestClock.adjust("20 seconds")

      const { calls, successRatio } = yield* vitals.reading

      assert.closeTo(calls, 2, 1e-6)
      assert.closeTo(successRatio, 0.5, 1e-6)
    })
  )

  it.effect("lets new calls weigh more than old ones", () =>
    Effect.gen(function* () {
      const { guarded, provider, vitals } = yield* measured([slow(100)], { halfLife: "10 seconds" })
      for (let call = 0; call < 20; call++) yield* during(guarded.generate(request), 1000)
      yield* provider.setScript([slow(900)])
      for (let call = 0; call < 30; call++) yield* during(guarded.generate(request), 1000)

      const { latency, usual } = yield* vitals.reading

      assert.isAbove(latency.generate ?? 0, 700)
      assert.isBelow(usual.generate ?? 1000, 700)
    })
  )

  it.effect("takes the first content of a stream for its latency, apart from whole answers", () =>
    Effect.gen(function* () {
      const { guarded, vitals } = yield* measured([
        ScriptedProvider.stream([
          ScriptedProvider.pause("200 millis"),
          "Hel",
          ScriptedProvider.pause("5 seconds"),
          "lo"
        ]),
        slow(700)
      ])
      yield* during(Stream.runDrain(guarded.stream(request)), 10_000)
      yield* during(guarded.generate(request), 10_000)

      assert.deepStrictEqual((yield* vitals.reading).latency, { generate: 700, stream: 200 })
    })
  )

  it.effect("counts a stream as under way until its end, also when its reader leaves", () =>
    Effect.gen(function* () {
      const { guarded, vitals } = yield* measured([ScriptedProvider.stream(["Hello", ScriptedProvider.hang])])

      const reader = yield* Effect.forkChild(Stream.runDrain(guarded.stream(request)), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* vitals.reading).inFlight, 1)
      yield* Fiber.interrupt(reader)

      assert.strictEqual((yield* vitals.reading).inFlight, 0)
    })
  )

  it.effect("H08 gives the quantile of successes; fast failures do not enter", () =>
    Effect.gen(function* () {
      const { guarded, vitals } = yield* measured((index) =>
        index % 2 === 0 ? slow(10 * (index / 2 + 1)) : ScriptedProvider.fail("ServerError")
      )
      for (let call = 0; call < 200; call++) yield* during(guarded.generate(request), 2000)

      assert.strictEqual(vitals.quantile("generate", 0.95), 950)
      assert.strictEqual(vitals.quantile("generate", 0.5), 500)
    })
  )

  it.effect("H08 a call that was given up late enters, one that was given up early does not", () =>
    Effect.gen(function* () {
      const { guarded, provider, vitals } = yield* measured([slow(100)], { warmUp: 10 })
      for (let call = 0; call < 10; call++) yield* during(guarded.generate(request), 100)
      assert.strictEqual(vitals.quantile("generate", 0.95), 100)
      yield* provider.setScript([ScriptedProvider.hang])
      const giveUpAfter = (millis: number) =>
        Effect.gen(function* () {
          const fiber = yield* Effect.forkChild(guarded.generate(request), { startImmediately: true })
          yield* TestClock.adjust(millis)
          yield* Fiber.interrupt(fiber)
        })

      for (let call = 0; call < 10; call++) yield* giveUpAfter(50)
      assert.strictEqual((yield* vitals.reading).latency.generate, 100)
      for (let call = 0; call < 20; call++) yield* giveUpAfter(500)

      assert.strictEqual(vitals.quantile("generate", 0.95), 500)
    })
  )

  it.effect("keeps a bounded number of latencies, and their quantile is that of a sorted list", () =>
    Effect.gen(function* () {
      let millis = 0
      const { guarded, vitals } = yield* measured(() => slow(millis), { warmUp: 1 })
      const all: Array<number> = []
      for (let call = 0; call < 400; call++) {
        millis = yield* Random.nextIntBetween(1, 1000)
        all.push(millis)
        yield* during(guarded.generate(request), 1000)
        const kept = all.slice(-128).toSorted((left, right) => left - right)
        assert.strictEqual(vitals.quantile("generate", 0.9), kept[Math.ceil(0.9 * kept.length) - 1])
      }
    }).pipe(Random.withSeed("quantiles"))
  )

  it.effect("sees that calls hang when nothing that was sent after them is answered, and not when some are slow", () =>
    Effect.gen(function* () {
      const { guarded, provider, vitals } = yield* measured([slow(1000)])
      for (let call = 0; call < 20; call++) yield* during(guarded.generate(request), 1000)
      const hang = Effect.gen(function* () {
        yield* provider.setScript([ScriptedProvider.hang])
        for (let call = 0; call < 5; call++)
          yield* Effect.forkChild(guarded.generate(request), { startImmediately: true })
        yield* provider.setScript([slow(1)])
      })
      const hanging = Effect.map(vitals.reading, ({ hanging }) => hanging)

      yield* hang
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(yield* hanging)
      yield* during(guarded.generate(request), 1)
      assert.isFalse(yield* hanging)

      yield* hang
      yield* TestClock.adjust("2999 millis")
      assert.isFalse(yield* hanging)
      yield* TestClock.adjust("1 millis")
      assert.isTrue(yield* hanging)
    })
  )

  it.effect("tells its listeners of each end, until they stop listening", () =>
    Effect.gen(function* () {
      const { guarded, vitals } = yield* measured([slow(1000)])
      const heard: Array<number> = []
      const stop = vitals.listen((now) => heard.push(now))

      yield* during(guarded.generate(request), 1000)
      stop()
      yield* during(guarded.generate(request), 1000)

      const now = Number(yield* Clock.monotonicTimeNanos) / 1e6
      assert.deepStrictEqual(heard, [now - 1000])
    })
  )

  it.effect("sees a timeout as a failure in the standard policy", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang] })
      const standing = yield* LlmResilience.standard({ timeouts: { attempt: "5 seconds" }, retry: "off" })(provider)

      yield* during(standing.generate(request), 60_000)

      assert.strictEqual((yield* standing.vitals?.reading ?? Effect.die("no vitals")).successRatio, 0)
    })
  )
})

describe("Observers that share a pass", () => {
  const noting = (name: string, log: Array<string>, refuse = false): Policy.Policy =>
    Policy.make(
      Policy.observe<string>({
        admit: (_, now) => {
          log.push(`${name} admits at ${now}`)
          return refuse
            ? Effect.die("not reached by a ticket")
            : Effect.as(Effect.sleep("1 second"), `${name}'s ticket`)
        },
        settle: (ticket, outcome, now) =>
          Effect.sync(() => {
            log.push(`${name} gets ${ticket} back at ${now}: ${outcome._tag} after ${outcome.duration}`)
          }),
        commit: (ticket, duration) => `${ticket}, committed after ${duration}`
      })
    )

  const both = (log: Array<string>, refuse = false) =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [ScriptedProvider.stream([ScriptedProvider.pause("500 millis"), "Hello"])]
      })
      const stacked = yield* Policy.all([noting("outer", log), noting("inner", log, refuse)])(provider)
      return { provider, stacked }
    })

  it.effect("admit from outside to inside, settle from inside to outside, each from its own admission on", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const { stacked } = yield* both(log)

      yield* during(stacked.generate(request), 10_000)

      assert.deepStrictEqual(log, [
        "outer admits at 0",
        "inner admits at 1000",
        "inner gets inner's ticket back at 2500: Succeeded after 1500",
        "outer gets outer's ticket back at 2500: Succeeded after 2500"
      ])
    })
  )

  it.effect("do the same for a stream, and exchange their tickets at its first content", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const { stacked } = yield* both(log)

      yield* during(Stream.runDrain(stacked.stream(request)), 10_000)

      assert.deepStrictEqual(log, [
        "outer admits at 0",
        "inner admits at 1000",
        "inner gets inner's ticket, committed after 1500 back at 2500: Succeeded after 1500",
        "outer gets outer's ticket, committed after 2500 back at 2500: Succeeded after 2500"
      ])
    })
  )

  for (const method of ["generate", "stream"] as const) {
    it.effect(`give back what the outer one took when the inner one does not admit (${method})`, () =>
      Effect.gen(function* () {
        const log: Array<string> = []
        const { provider, stacked } = yield* both(log, true)

        const asked = method === "generate" ? stacked.generate(request) : Stream.runDrain(stacked.stream(request))
        yield* during(asked, 10_000)

        assert.deepStrictEqual(log, [
          "outer admits at 0",
          "inner admits at 1000",
          "outer gets outer's ticket back at 1000: Failed after 1000"
        ])
        assert.strictEqual(yield* provider.count, 0)
      })
    )
  }

  it.effect("are separate passes when something else stands between them", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.hang] })
      const stacked = yield* Policy.all([
        noting("outer", log),
        Timeouts.policy({ attempt: "3 seconds" }),
        noting("inner", log)
      ])(provider)

      yield* during(stacked.generate(request), 10_000)

      assert.deepStrictEqual(log, [
        "outer admits at 0",
        "inner admits at 1000",
        "inner gets inner's ticket back at 4000: Abandoned after 3000",
        "outer gets outer's ticket back at 4000: Failed after 4000"
      ])
    })
  )

  it.effect("work for a provider whose other method is not theirs", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const { stacked } = yield* both(log)
      const replayed: Provider.Provider = {
        ...stacked,
        stream: (asked) => Stream.unwrap(Effect.map(stacked.generate(asked), Provider.replay))
      }
      const again = yield* noting("outermost", log)(replayed)

      yield* during(Stream.runDrain(again.stream(request)), 10_000)

      assert.deepStrictEqual(
        log.map((line) => line.split(" ")[0]),
        ["outermost", "outer", "inner", "inner", "outer", "outermost"]
      )
    })
  )
})
