import { assert, describe, it } from "@effect/vitest"
import {
  Budget,
  CircuitBreaker,
  LlmRequest,
  LlmResilience,
  Policy,
  type Provider,
  Retry,
  Timeouts
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Exit, Fiber, Random, Schedule, Scheduler, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })
const steps = (times: number) => Schedule.spaced("1 second").pipe(Schedule.upTo({ times }))

/** Calls the policy around a script on a running clock and reports how it ended and when the provider was asked. */
const run = Effect.fnUntraced(function* (
  script: ScriptedProvider.Script,
  options?: Retry.Options,
  asked: LlmRequest.LlmRequest = request
) {
  const provider = yield* ScriptedProvider.make({ script })
  const retried = yield* Retry.policy(options)(provider)
  const fiber = yield* Effect.forkChild(retried.generate(asked))
  yield* TestClock.adjust("10 minutes")
  const exit = yield* Fiber.await(fiber)
  const calls = yield* provider.calls
  return { exit, at: calls.map((call) => call.at), provider }
})

const errorOf = (exit: Exit.Exit<unknown, Provider.Failure>) => {
  const error = Exit.findErrorOption(exit)
  return error._tag === "Some" ? error.value : undefined
}

describe("Retry", () => {
  it.effect("R01 runs thirteen times at twelve retries", () =>
    Effect.gen(function* () {
      const { at } = yield* run([ScriptedProvider.fail("ServerError")], { schedule: steps(12) })

      assert.strictEqual(at.length, 13)
    })
  )

  it.effect("R02 gives the last error up unchanged when the retries are used up", () =>
    Effect.gen(function* () {
      const { at, exit } = yield* run(
        (index) => ScriptedProvider.fail("ServerError", { description: `failure ${index}` }),
        { schedule: steps(5) }
      )

      assert.strictEqual(at.length, 6)
      const error = errorOf(exit)
      assert.strictEqual(error?._tag === "APIError" ? error.description : undefined, "failure 5")
    })
  )

  it.effect("R07 waits as the schedule says", () =>
    Effect.gen(function* () {
      const linear = Schedule.duration("2 seconds").pipe(
        Schedule.concat(Schedule.duration("4 seconds")),
        Schedule.concat(Schedule.duration("6 seconds"))
      )
      const { at } = yield* run([ScriptedProvider.fail("ServerError")], { schedule: linear })

      assert.deepStrictEqual(at, [0, 2000, 6000, 12_000])
    })
  )

  it.effect("R08, R09 draws each delay between zero and a bound that doubles up to the cap and never explodes", () =>
    Effect.gen(function* () {
      for (let seed = 0; seed < 50; seed++) {
        const next = yield* Schedule.toStep(Retry.exponential({ retries: 1100 }))
        for (let attempt = 0; attempt < 1100; attempt++) {
          const [, delay] = yield* next(0, undefined)
          const millis = Duration.toMillis(delay)
          assert.isAtLeast(millis, 0)
          assert.isAtMost(millis, Math.min(8000, 500 * 2 ** attempt))
        }
      }
    }).pipe(Random.withSeed("jitter"))
  )

  it.effect("retries twice by default", () =>
    Effect.gen(function* () {
      const { at } = yield* run([ScriptedProvider.fail("Overloaded")])

      assert.strictEqual(at.length, 3)
      assert.isAtMost(at[1] ?? Infinity, 500)
    })
  )

  it.effect("R11 stops at an error that is not to be retried", () =>
    Effect.gen(function* () {
      const { at, exit } = yield* run([ScriptedProvider.fail("ServerError"), ScriptedProvider.fail("InvalidRequest")], {
        schedule: steps(5)
      })

      assert.strictEqual(at.length, 2)
      const error = errorOf(exit)
      assert.strictEqual(error?._tag === "APIError" ? error.reason : undefined, "InvalidRequest")
    })
  )

  it.effect("R14 does not hang on a schedule that throws, and its chain turns to the next step", () =>
    Effect.gen(function* () {
      const schedule = steps(5).pipe(
        Schedule.while(() => {
          throw new Error("a bug")
        })
      )
      const { at, exit } = yield* run([ScriptedProvider.fail("ServerError")], { schedule })
      assert.isTrue(Exit.hasDies(exit))
      assert.strictEqual(at.length, 1)

      const chain = yield* LlmResilience.make({
        policy: LlmResilience.standard({ retry: { schedule } }),
        steps: [
          { provider: yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("ServerError")] }) },
          { provider: yield* ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("ok")] }) }
        ]
      })
      assert.strictEqual((yield* chain.generate(request)).served.provider, "b")
    })
  )

  it.effect("asks once and waits for nothing when the first answer is good", () =>
    Effect.gen(function* () {
      const { at, exit } = yield* run([ScriptedProvider.answer("ok")])

      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(at, [0])
    })
  )

  it.effect("waits a short Retry-After out, as a floor under the schedule", () =>
    Effect.gen(function* () {
      const limited = ScriptedProvider.fail("RateLimited", { retryAfter: "3 seconds" })
      const { at } = yield* run([limited, ScriptedProvider.answer("ok")], { schedule: steps(2) })

      assert.deepStrictEqual(at, [0, 3000])
    })
  )

  it.effect("falls over at once on a Retry-After longer than five seconds", () =>
    Effect.gen(function* () {
      const { at } = yield* run([ScriptedProvider.fail("RateLimited", { retryAfter: "5001 millis" })])

      assert.deepStrictEqual(at, [0])
    })
  )

  it.effect("falls over at once on a rate limit that names no time", () =>
    Effect.gen(function* () {
      const { at } = yield* run([ScriptedProvider.fail("RateLimited")])

      assert.deepStrictEqual(at, [0])
    })
  )

  it.effect("does not wait for a delay that the deadline has no room for", () =>
    Effect.gen(function* () {
      const { at } = yield* run([ScriptedProvider.fail("RateLimited", { retryAfter: "4 seconds" })], undefined, {
        ...request,
        expiresAt: 4000
      })

      assert.deepStrictEqual(at, [0])
    })
  )

  it.effect("retries a timeout only when no other step is left", () =>
    Effect.gen(function* () {
      const script = [ScriptedProvider.fail("Timeout"), ScriptedProvider.answer("ok")]
      const last = yield* run(script, undefined, { ...request, stepsLeft: 0 })
      const notLast = yield* run(script, undefined, { ...request, stepsLeft: 1 })

      assert.strictEqual(last.at.length, 2)
      assert.strictEqual(notLast.at.length, 1)
    })
  )

  it.effect("follows the provider's own advice about retrying", () =>
    Effect.gen(function* () {
      const no = yield* run([
        ScriptedProvider.fail("ServerError", { shouldRetry: false }),
        ScriptedProvider.answer("ok")
      ])
      const yes = yield* run([
        ScriptedProvider.fail("InvalidRequest", { shouldRetry: true }),
        ScriptedProvider.answer("ok")
      ])

      assert.strictEqual(no.at.length, 1)
      assert.strictEqual(yes.at.length, 2)
    })
  )

  it.effect("B43 is one failure for a breaker outside, and as many as attempts for a breaker inside", () =>
    Effect.gen(function* () {
      const retry = Retry.policy({ schedule: Schedule.recurs(2) })
      const breaker = CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(3) })
      const failuresOf = Effect.fnUntraced(function* (policy: Policy.Policy) {
        const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.fail("ServerError")] })
        const self = yield* policy(provider)
        yield* Effect.ignore(self.generate(request))
        return yield* self.circuits.get("p")?.state ?? Effect.die("no circuit")
      })

      assert.deepStrictEqual(yield* failuresOf(Policy.all([breaker, retry])), { _tag: "Closed", failures: 1 })
      assert.strictEqual((yield* failuresOf(Policy.all([retry, breaker])))._tag, "Open")
    })
  )

  it.effect("T06 the timer of a finished attempt does not cancel the next one", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({
        script: [
          ScriptedProvider.delay("1 second", ScriptedProvider.fail("ServerError")),
          ScriptedProvider.delay("9 seconds", ScriptedProvider.answer("ok"))
        ]
      })
      const self = yield* Policy.all([
        Retry.policy({ schedule: steps(1) }),
        Timeouts.policy({ attempt: "10 seconds" })
      ])(provider)
      const fiber = yield* Effect.forkChild(self.generate(request))
      yield* TestClock.adjust("1 minute")

      assert.strictEqual((yield* Fiber.join(fiber)).text, "ok")
    })
  )

  it.effect("stops waiting at once when the caller leaves, and asks no more", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail("ServerError")] })
      const self = yield* Retry.policy({ schedule: steps(5) })(provider)
      const fiber = yield* Effect.forkChild(self.generate(request))
      yield* TestClock.adjust("1500 millis")
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("1 minute")

      assert.strictEqual(yield* provider.count, 2)
    })
  )

  describe("around a stream", () => {
    const read = Effect.fnUntraced(function* (script: ScriptedProvider.Script) {
      const provider = yield* ScriptedProvider.make({ script })
      const self = yield* Retry.policy({ schedule: steps(3) })(provider)
      const seen: Array<string> = []
      const fiber = yield* Effect.forkChild(
        Stream.runForEach(self.stream(request), (part) =>
          Effect.sync(() => {
            if (part.type === "text-delta") seen.push(part.delta)
            if (part.type === "finish") seen.push("|")
          })
        )
      )
      yield* TestClock.adjust("1 minute")
      return { exit: yield* Fiber.await(fiber), text: seen.join(""), count: yield* provider.count, provider }
    })

    it.effect("starts again while nothing but preamble has come, and the caller sees one stream", () =>
      Effect.gen(function* () {
        const preamble = { type: "response-metadata" as const, id: "r1" }
        const { count, exit, provider, text } = yield* read([
          ScriptedProvider.stream([preamble, ScriptedProvider.fail("Overloaded")]),
          ScriptedProvider.stream([preamble, "Hel", "lo"])
        ])

        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(text, "Hello|")
        assert.strictEqual(count, 2)
        assert.strictEqual(yield* provider.running, 0)
      })
    )

    it.effect("R23, E05 does not repeat anything once the first content was delivered", () =>
      Effect.gen(function* () {
        const { count, exit, text } = yield* read([
          ScriptedProvider.stream(["Hel", ScriptedProvider.cut]),
          ScriptedProvider.answer("Hello")
        ])

        assert.strictEqual(text, "Hel")
        assert.strictEqual(count, 1)
        const error = errorOf(exit)
        assert.strictEqual(error?._tag === "APIError" ? error.reason : undefined, "StreamCut")
      })
    )
  })
})

describe("Retry and the notice Slower", () => {
  const { answer, delay, fail } = ScriptedProvider
  const schedule = Schedule.spaced("600 millis").pipe(Schedule.upTo({ times: 3 }))
  const chain = (...steps: ReadonlyArray<{ readonly id: string; readonly script: ScriptedProvider.Script }>) =>
    Effect.gen(function* () {
      const [first, ...more] = yield* Effect.forEach(steps, (step) => ScriptedProvider.make(step))
      const policy = LlmResilience.standard({ retry: { schedule } })
      assert.isDefined(first)
      return yield* LlmResilience.make({
        steps: [{ provider: first, policy }, ...more.map((provider) => ({ provider, policy }))]
      })
    })
  const noticeOf = Effect.fnUntraced(function* (resilience: LlmResilience.LlmResilience) {
    const request = LlmRequest.make({ prompt: "Hi" })
    const whole = yield* Effect.forkChild(resilience.generate(request))
    yield* TestClock.adjust("1 minute")
    return (yield* Fiber.join(whole)).served.notice?._tag
  })

  it.effect("is given when retries cost a second or more", () =>
    Effect.gen(function* () {
      const once = yield* chain({ id: "a", script: [fail("Overloaded"), answer("ok")] })
      const twice = yield* chain({ id: "a", script: [fail("Overloaded"), fail("Overloaded"), answer("ok")] })
      const slow = yield* chain({ id: "a", script: [delay("10 seconds", answer("ok"))] })

      assert.isUndefined(yield* noticeOf(once))
      assert.strictEqual(yield* noticeOf(twice), "Slower")
      // A long answer is not a late one.
      assert.isUndefined(yield* noticeOf(slow))
    }).pipe(Effect.scoped)
  )

  it.effect("is given with the first part of a stream", () =>
    Effect.gen(function* () {
      const twice = yield* chain({ id: "a", script: [fail("Overloaded"), fail("Overloaded"), answer("ok")] })

      const running = yield* Effect.forkChild(Stream.runCollect(twice.stream(LlmRequest.make({ prompt: "Hi" }))))
      yield* TestClock.adjust("1 minute")
      const [head] = yield* Fiber.join(running)

      assert.strictEqual(head?.type === "served" && head.served.notice?._tag, "Slower")
    }).pipe(Effect.scoped)
  )

  it.effect("gives way to that of a backup service", () =>
    Effect.gen(function* () {
      const resilience = yield* chain(
        { id: "a", script: [fail("Authentication")] },
        { id: "b", script: [fail("Overloaded"), fail("Overloaded"), answer("ok")] }
      )

      assert.strictEqual(yield* noticeOf(resilience), "BackupService")
    }).pipe(Effect.scoped)
  )
})

describe("A retry that is interrupted", () => {
  for (const operations of [3, 4, 5, 6]) {
    it.effect(`gives all that it took back at every point, at ${operations} operations a turn`, () =>
      Effect.gen(function* () {
        for (let turns = 1; turns < 80; turns++) {
          const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail("ServerError")] })
          const budget = yield* Budget.make({ name: "p", floor: 10, ratio: 0 })
          const retried = yield* Retry.policy({ schedule: Schedule.spaced("10 seconds") })(budget.guard(provider))
          const allowance = { left: 5 }

          const call = yield* retried
            .generate({ ...request, allowance })
            .pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, operations), Effect.forkChild)
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* Fiber.interrupt(call)

          assert.strictEqual(yield* budget.left, 10, `after ${turns} turns`)
          assert.strictEqual(allowance.left, 5, `after ${turns} turns`)
        }
      })
    )
  }
})
