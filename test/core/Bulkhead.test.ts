import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, Fallback, LlmRequest, LlmResponse, Provider, ResilienceEvent } from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Deferred, Duration, Effect, Fiber, Schema, Scheduler, Stream } from "effect"
import { TestClock } from "effect/testing"
import { availabilityOf } from "../support/availability.ts"

const request = LlmRequest.make({ prompt: "Hi" })
const ok = ScriptedProvider.answer("ok")
const slow = ScriptedProvider.delay("10 seconds", ok)

const skipped = (error: Provider.Failure): string => {
  const attempt = error._tag === "LlmUnavailable" ? error.attempts[0] : undefined
  return attempt?._tag === "Skipped" ? attempt.reason._tag : error._tag
}

const guarded = Effect.fnUntraced(function* (options: Bulkhead.Options, script: ScriptedProvider.Script = [slow]) {
  const provider = yield* ScriptedProvider.make({ id: "primary", script })
  const bulkhead = yield* Bulkhead.make(options)
  const self = bulkhead.guard(provider)
  const call = (input?: Partial<LlmRequest.LlmRequest>) =>
    Effect.forkChild(
      Effect.match(self.generate({ ...request, ...input }), { onSuccess: ({ text }) => text, onFailure: skipped }),
      { startImmediately: true }
    )
  return { provider, bulkhead, self, call }
})

/** The events so far, those of the gate only. */
const gateEvents = Effect.fnUntraced(function* () {
  const hub = ResilienceEvent.makeHub()
  const seen: Array<unknown> = []
  yield* Effect.forkChild(
    Stream.runForEach(hub.stream, (event) => Effect.sync(() => seen.push(event))),
    { startImmediately: true }
  )
  yield* Effect.yieldNow
  return { hub, seen }
})

describe("Bulkhead", () => {
  it.effect(
    "K01 with two permits and two places serves four in the order in which they came and turns the fifth away",
    () =>
      Effect.gen(function* () {
        const { bulkhead, call, provider, self } = yield* guarded({ permits: 2, queue: 2, maxWait: "1 minute" })
        const fibers = yield* Effect.forEach([1, 2, 3, 4], (id) => call({ id }))

        assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 2, waiting: 2, limit: 2 })
        assert.strictEqual((yield* availabilityOf(self, request))?._tag, "Saturated")
        assert.strictEqual(skipped(yield* Effect.flip(self.generate(request))), "Saturated")

        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 2, waiting: 0, limit: 2 })
        assert.isUndefined(yield* availabilityOf(self, request))
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* Effect.forEach(fibers, Fiber.join), ["ok", "ok", "ok", "ok"])
        assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 0, waiting: 0, limit: 2 })
        assert.deepStrictEqual(
          (yield* provider.calls).map((call) => [call.request.id, call.at]),
          [
            [1, 0],
            [2, 0],
            [3, 10_000],
            [4, 10_000]
          ]
        )
      })
  )

  it.effect("K02 skips a waiter that was interrupted and lets the next one pass", () =>
    Effect.gen(function* () {
      const { bulkhead, call, provider } = yield* guarded({ permits: 1, queue: 2, maxWait: "1 minute" })
      yield* call({ id: 1 })
      const second = yield* call({ id: 2 })
      const third = yield* call({ id: 3 })

      yield* Fiber.interrupt(second)
      assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 1, waiting: 1, limit: 1 })
      yield* TestClock.adjust("20 seconds")

      assert.strictEqual(yield* Fiber.join(third), "ok")
      assert.deepStrictEqual(
        (yield* provider.calls).map((call) => call.request.id),
        [1, 3]
      )
      assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 0, waiting: 0, limit: 1 })
    })
  )

  it.effect(
    "gives the permit back when a waiter is interrupted between the moment it gets one and the moment it runs",
    () =>
      Effect.gen(function* () {
        const { bulkhead, call, provider } = yield* guarded({ permits: 1 }, [ScriptedProvider.hang])
        const first = yield* call()
        const second = yield* call()

        yield* Effect.sync(() => {
          first.interruptUnsafe()
          second.interruptUnsafe()
        })
        yield* Fiber.await(second)

        assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 0, waiting: 0, limit: 1 })
        assert.strictEqual(yield* provider.count, 1)
      })
  )

  it.effect("gives the permit back when a call is interrupted, fails or dies", () =>
    Effect.gen(function* () {
      const { bulkhead, call } = yield* guarded({ permits: 1, queue: 0 }, [
        ScriptedProvider.hang,
        ScriptedProvider.fail("ServerError"),
        ScriptedProvider.die("bug"),
        ok
      ])
      yield* Fiber.interrupt(yield* call())

      const outcomes = yield* Effect.forEach([1, 2, 3], () => Effect.flatMap(call(), Fiber.join))
      assert.deepStrictEqual(outcomes, ["APIError", "APIError", "ok"])
      assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 0, waiting: 0, limit: 1 })
    })
  )

  it.effect("turns a waiter away when its time is over, and not a tick before", () =>
    Effect.gen(function* () {
      const { bulkhead, call } = yield* guarded({ permits: 1, maxWait: "3 seconds" })
      yield* call()
      const waiter = yield* call()

      yield* TestClock.adjust("2999 millis")
      assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 1, waiting: 1, limit: 1 })
      yield* TestClock.adjust("1 milli")
      assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 1, waiting: 0, limit: 1 })
      assert.strictEqual(yield* Fiber.join(waiter), "Saturated")
    })
  )

  it.effect("waits no longer than the deadline, or the time for the first content, allows", () =>
    Effect.gen(function* () {
      const { bulkhead, call } = yield* guarded({ permits: 1, queue: 9, maxWait: "1 minute" })
      yield* call()
      const waiters = yield* Effect.forEach(
        [
          { deadline: Duration.seconds(2) },
          { expiresAt: 2000 },
          { commitBy: 2000 },
          { expiresAt: 0 },
          { deadline: Duration.zero }
        ],
        call
      )
      assert.strictEqual((yield* bulkhead.state).waiting, 3)

      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(
        yield* Effect.forEach(waiters, Fiber.join),
        waiters.map(() => "Saturated")
      )
      assert.strictEqual((yield* bulkhead.state).waiting, 0)
    })
  )

  it.effect("waits for ever when asked to, and never when not", () =>
    Effect.gen(function* () {
      const patient = yield* guarded({ permits: 1, maxWait: Infinity }, [
        ScriptedProvider.delay("1 day", ok),
        ScriptedProvider.answer("at last")
      ])
      yield* patient.call()
      const waiter = yield* patient.call()
      yield* TestClock.adjust("1 day")
      assert.strictEqual(yield* Fiber.join(waiter), "at last")

      for (const options of [{ maxWait: 0 }, { queue: 0 }]) {
        const { call, self } = yield* guarded({ permits: 1, ...options })
        yield* call()
        assert.strictEqual((yield* availabilityOf(self, { ...request, priority: "critical" }))?._tag, "Saturated")
        assert.strictEqual(yield* Effect.flatMap(call({ priority: "critical" }), Fiber.join), "Saturated")
      }
    })
  )

  it.effect("holds the permit of a stream until its end, or until its reader leaves", () =>
    Effect.gen(function* () {
      const { bulkhead, self } = yield* guarded({ permits: 2 }, [
        ScriptedProvider.tokens("one two three", { every: "1 second" })
      ])
      const opened = yield* Deferred.make<void>()
      const whole = yield* Effect.forkChild(Stream.runDrain(self.stream(request)), { startImmediately: true })
      const left = yield* self.stream(request).pipe(
        Stream.filter(LlmResponse.isContent),
        Stream.tap(() => Deferred.succeed(opened, undefined)),
        Stream.take(1),
        Stream.runDrain,
        Effect.forkChild({ startImmediately: true })
      )
      yield* Deferred.await(opened)
      yield* Fiber.join(left)
      assert.strictEqual((yield* bulkhead.state).inFlight, 1)

      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(whole)
      assert.strictEqual((yield* bulkhead.state).inFlight, 0)
    })
  )

  it.effect("sheds a waiter that matters less, and tells who waited and who was shed", () =>
    Effect.gen(function* () {
      const { hub, seen } = yield* gateEvents()
      const { call } = yield* Effect.provideService(
        guarded({ permits: 1, queue: 1, maxWait: "1 minute" }),
        ResilienceEvent.CurrentHub,
        hub
      )
      yield* call({ id: 1 })
      const batch = yield* call({ id: 2, priority: "batch" })
      const critical = yield* call({ id: 3, priority: "critical" })

      assert.strictEqual(yield* Fiber.join(batch), "Saturated")
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(yield* Fiber.join(critical), "ok")
      assert.deepStrictEqual(seen, [
        { _tag: "Shed", request: 2, provider: "primary", priority: "batch" },
        { _tag: "Throttled", request: 3, provider: "primary", limit: "concurrency", wait: Duration.seconds(10) }
      ])
    })
  )

  it.effect("keeps a share free of batch work once other work was seen", () =>
    Effect.gen(function* () {
      const { bulkhead, call, provider } = yield* guarded({ permits: 5, queue: 20, maxWait: "1 minute" })
      yield* Effect.flatMap(call(), Fiber.interrupt)
      for (let calls = 0; calls < 8; calls++) yield* call({ priority: "batch" })

      assert.deepStrictEqual(yield* bulkhead.state, { inFlight: 4, waiting: 4, limit: 5 })
      yield* call({ id: 7 })
      assert.strictEqual((yield* provider.calls).at(-1)?.request.id, 7)
    })
  )

  it.effect("shares one limit between the providers that it guards, and shows it in the status of each", () =>
    Effect.gen(function* () {
      const one = yield* ScriptedProvider.make({ id: "one", script: [slow] })
      const two = yield* ScriptedProvider.make({ id: "two", script: [ok] })
      const [first, second] = yield* Effect.all([Bulkhead.shared(one), Bulkhead.shared(two)])
      yield* Effect.forkChild(first.generate(request), { startImmediately: true })

      assert.strictEqual(skipped(yield* Effect.flip(second.generate(request))), "Saturated")
      const load = { inFlight: 1, waiting: 0, limit: 1 }
      assert.deepStrictEqual(yield* second.status, [{ provider: "two", model: "scripted-1", load }])
    }).pipe(Effect.provide(Bulkhead.layer({ permits: 1, queue: 0 })))
  )

  it.effect("makes a chain ask the next step when there is no room, without calling the first", () =>
    Effect.gen(function* () {
      const { call, provider, self } = yield* guarded({ permits: 1, queue: 0 })
      const backup = yield* ScriptedProvider.make({ id: "backup", script: [ok] })
      const chain = yield* Fallback.make([self, backup])
      yield* call()

      const { served } = yield* chain.generate(request)
      assert.strictEqual(served.provider, "backup")
      assert.deepStrictEqual(served.attempts, [
        { _tag: "Skipped", provider: "primary", model: "scripted-1", reason: { _tag: "Saturated" } }
      ])
      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("never loses a waiter whose fiber yields on its way into the line", () =>
    Effect.gen(function* () {
      const bulkhead = yield* Bulkhead.make({ permits: 1, queue: 1, maxWait: Infinity })
      const self = bulkhead.guard(
        Provider.make({
          id: "instant",
          model: "m",
          generate: ({ id }) =>
            Array.from({ length: id }).reduce<Effect.Effect<{ readonly content: LlmResponse.LlmResponse["content"] }>>(
              (rest) => Effect.flatMap(Effect.void, () => rest),
              Effect.succeed({ content: LlmResponse.textContent("ok") })
            )
        })
      )
      // With fewer operations between two yields no fiber gets anywhere.
      for (let ops = 3; ops <= 8; ops++) {
        for (let id = 0; id <= 30; id++) {
          const calls = Effect.all([self.generate({ ...request, id }), self.generate(request)], { concurrency: 2 })
          yield* Effect.provideService(calls, Scheduler.MaxOpsBeforeYield, ops)
        }
      }
    })
  )

  it.effect("wakes a long line of short calls without running out of stack", () =>
    Effect.gen(function* () {
      const gate = yield* Deferred.make<void>()
      const provider = Provider.make({
        id: "instant",
        model: "m",
        generate: ({ id }) =>
          Effect.as(id === 1 ? Deferred.await(gate) : Effect.void, { content: LlmResponse.textContent("ok") })
      })
      const self = (yield* Bulkhead.make({ permits: 1, queue: 20_000, maxWait: Infinity })).guard(provider)
      const fibers = yield* Effect.forEach(
        Array.from({ length: 5001 }, (_, index) => index + 1),
        (id) => Effect.forkChild(self.generate({ ...request, id }), { startImmediately: true })
      )
      yield* Deferred.succeed(gate, undefined)

      assert.isTrue((yield* Fiber.joinAll(fibers)).every(({ text }) => text === "ok"))
    })
  )

  it("takes wrong options for what they are", () => {
    const wrong: ReadonlyArray<readonly [Bulkhead.Options, string]> = [
      [{ permits: 0 }, "Bulkhead.make: permits must be an integer >= 1, got 0"],
      [{ permits: 1.5 }, "Bulkhead.make: permits must be an integer >= 1, got 1.5"],
      [{ permits: 1, queue: -1 }, "Bulkhead.make: queue must be an integer >= 0, got -1"],
      [{ permits: 1, reserved: 1 }, "Bulkhead.make: reserved must be in [0, 1), got 1"],
      [{ permits: 1, maxWait: Duration.millis(-1) }, "Bulkhead.make: maxWait must not be negative, got -1 ms"]
    ]
    for (const [options, message] of wrong) assert.throws(() => Bulkhead.policy(options), RangeError, message)
  })

  const priority = Schema.Literals(["critical", "normal", "batch"])
  const Move = Schema.Union([
    Schema.TaggedStruct("Call", {
      priority,
      takes: Schema.Literals([0, 1, 5, 30]),
      deadline: Schema.Literals([2, 20])
    }),
    Schema.TaggedStruct("Stream", { priority, takes: Schema.Literals([0, 1, 5, 30]) }),
    Schema.TaggedStruct("Interrupt", { nth: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30 })) }),
    Schema.TaggedStruct("Advance", { seconds: Schema.Literals([0, 1, 3]) })
  ])

  it.effect.prop(
    "gives back exactly what it took, however admissions, ends and interruptions are interleaved",
    {
      permits: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4 })),
      queue: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 4 })),
      moves: Schema.Array(Move).check(Schema.isMaxLength(40))
    },
    ({ moves, permits, queue }) =>
      Effect.gen(function* () {
        let most = 0
        let running = 0
        const bulkhead = yield* Bulkhead.make({ permits, queue, maxWait: "4 seconds" })
        const work = (seconds: number) =>
          Effect.acquireUseRelease(
            Effect.sync(() => {
              most = Math.max(most, ++running)
            }),
            () => (seconds === 0 ? Effect.void : Effect.sleep(Duration.seconds(seconds))),
            () => Effect.sync(() => running--)
          )
        const self = bulkhead.guard(
          Provider.make({
            id: "p",
            model: "m",
            generate: ({ id }) => Effect.as(work(id), { content: LlmResponse.textContent("ok") })
          })
        )
        const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
        for (const move of moves) {
          if (move._tag === "Advance") yield* TestClock.adjust(Duration.seconds(move.seconds))
          else if (move._tag === "Interrupt") {
            const fiber = fibers[move.nth % Math.max(1, fibers.length)]
            // Not awaited: others go on while it cleans up.
            fiber?.interruptUnsafe()
          } else {
            const asked = { ...request, id: move.takes, priority: move.priority }
            const effect =
              move._tag === "Call"
                ? self.generate({ ...asked, deadline: Duration.seconds(move.deadline) })
                : Stream.runDrain(self.stream(asked))
            fibers.push(yield* Effect.forkChild(effect, { startImmediately: true }))
          }
          const state = yield* bulkhead.state
          assert.isAtMost(state.inFlight, permits)
          assert.isAtMost(state.waiting, queue)
          assert.isAtLeast(state.inFlight, running)
        }
        yield* TestClock.adjust("2 hours")
        for (const fiber of fibers) yield* Fiber.await(fiber)
        assert.isAtMost(most, permits)
        assert.deepStrictEqual([running, yield* bulkhead.state], [0, { inFlight: 0, waiting: 0, limit: permits }])
      })
  )
})
