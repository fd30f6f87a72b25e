import { assert, describe, it } from "@effect/vitest"
import {
  AdaptiveConcurrency,
  Budget,
  Bulkhead,
  CircuitBreaker,
  Fallback,
  Hedge,
  LlmRequest,
  LlmResilience,
  Policy,
  ResilienceEvent,
  Retry,
  Throttle
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Effect, Fiber, Random, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Hi" })
const settings: Budget.Settings = { ratio: 0.1, floor: 10, halfLife: 10_000 }

/** Takes what the budget gives and says how much that was. */
const drain = (from: Budget.State, now: number, rules = settings): number => {
  let granted = 0
  for (let state = Budget.granted(rules, from, now); state !== undefined; state = Budget.granted(rules, state, now))
    granted++
  return granted
}

describe("Budget, as rules", () => {
  it("forgets nothing with an endless half-life", () => {
    const endless = { ...settings, halfLife: Infinity }
    let state = Budget.initial
    for (let call = 0; call < 50; call++) state = Budget.counted(endless, state, 1000 * call)

    assert.strictEqual(drain(state, 1e9, endless), 15)
  })

  it("R20 allows a thousand retries for ten thousand requests at ten per cent, and the floor", () => {
    let state = Budget.initial
    for (let call = 0; call < 10_000; call++) state = Budget.counted(settings, state, 0)

    assert.strictEqual(drain(state, 0), 1010)
  })

  it("allows the floor, and no more, to who has not called yet", () => {
    assert.strictEqual(drain(Budget.initial, 0), 10)
  })

  it("forgets half of everything in its half-life, what was earned and what was spent", () => {
    let state = Budget.initial
    for (let call = 0; call < 1000; call++) state = Budget.counted(settings, state, 0)
    assert.strictEqual(drain(state, 10_000), 60)
    for (let extra = 0; extra < 110; extra++) state = Budget.granted(settings, state, 0) ?? state
    assert.strictEqual(drain(state, 0), 0)
    assert.isAtLeast(drain(state, 10_000), 4)
  })

  it.effect("never grants more than the ratio of the calls and the floor, whatever happens in which order", () =>
    Effect.gen(function* () {
      for (let history = 0; history < 300; history++) {
        const rules = { ratio: yield* Random.next, floor: yield* Random.nextIntBetween(0, 5), halfLife: 1e12 }
        let state = Budget.initial
        let calls = 0
        let extras = 0
        for (let event = 0; event < 100; event++) {
          const kind = yield* Random.nextIntBetween(0, 3)
          if (kind === 0) {
            state = Budget.counted(rules, state, event)
            calls++
          } else if (kind === 1) {
            const next = Budget.granted(rules, state, event)
            if (next !== undefined) {
              state = next
              extras++
            }
          } else {
            const next = Budget.granted(rules, state, event)
            if (next !== undefined) state = Budget.restored(next)
          }
          assert.isAtMost(extras, rules.floor + rules.ratio * calls + 1e-3)
        }
      }
    }).pipe(Random.withSeed("budget"))
  )
})

describe("Budget", () => {
  it("wants sensible options", () => {
    for (const options of [{ ratio: -0.1 }, { ratio: 1.1 }, { floor: -1 }, { floor: Infinity }, { halfLife: 0 }]) {
      assert.throws(() => Effect.runSync(Budget.make({ ...options, name: "p" })), RangeError)
    }
  })

  it.effect("is shared by the retries of all calls, and says when it is used up", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const seen = yield* Effect.forkChild(
        Stream.runCollect(
          Stream.take(
            Stream.filter(hub.stream, (event) => event._tag === "BudgetExhausted"),
            7
          )
        ),
        { startImmediately: true }
      )
      const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.fail("ServerError")] })
      const retried = yield* Policy.all([
        Retry.policy({ schedule: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 1 })) }),
        Budget.policy({ floor: 3, ratio: 0 })
      ])(provider).pipe(Effect.provideService(ResilienceEvent.CurrentHub, hub))

      const calls = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 10 }), () => Effect.exit(retried.generate(request)), { concurrency: 10 })
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(calls)

      assert.strictEqual(yield* provider.count, 13)
      assert.deepStrictEqual(
        Array.from(yield* Fiber.join(seen)),
        Array.from({ length: 7 }, () => ({ _tag: "BudgetExhausted", provider: "p", extra: "retry" }))
      )
    })
  )

  it.effect("is shared by the providers of one account", () =>
    Effect.gen(function* () {
      const steadfast = Policy.all([Retry.policy({ schedule: Schedule.recurs(5) }), Budget.shared])
      const asked = yield* Effect.forEach(["large", "small"], (id) =>
        Effect.gen(function* () {
          const provider = yield* ScriptedProvider.make({ id, script: [ScriptedProvider.fail("ServerError")] })
          yield* Effect.exit((yield* steadfast(provider)).generate(request))
          return yield* provider.count
        })
      )

      assert.deepStrictEqual(asked, [4, 1])
    }).pipe(Effect.provide(Budget.layer({ name: "account", floor: 3, ratio: 0 })))
  )

  it.effect("is shared by retries and hedges", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.hang] })
      const budget = yield* Budget.make({ name: "p", floor: 2, ratio: 0 })
      const hedged = yield* Hedge.policy({ after: "1 second" })(budget.guard(provider))
      const now = Number(yield* Clock.monotonicTimeNanos) / 1e6
      assert.isDefined(budget.grant("retry", now))

      const calls = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 5 }), () => hedged.generate(request), { concurrency: 5 })
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.interrupt(calls)

      assert.strictEqual(yield* provider.count, 6)
    })
  )

  it.effect("gets back what a caller who leaves while waiting had taken", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.fail("ServerError")] })
      const budget = yield* Budget.make({ name: "p", floor: 5, ratio: 0 })
      const retried = yield* Retry.policy({ schedule: Schedule.spaced("1 second") })(budget.guard(provider))
      const allowance = { left: 7 }

      const fiber = yield* Effect.forkChild(retried.generate({ ...request, allowance }), { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      assert.strictEqual(yield* budget.left, 4)
      assert.strictEqual(allowance.left, 6)
      yield* Fiber.interrupt(fiber)

      assert.strictEqual(yield* budget.left, 5)
      assert.strictEqual(allowance.left, 7)
      assert.strictEqual(yield* provider.count, 1)
    })
  )
})

describe("The attempts of a request", () => {
  const chain = (ids: ReadonlyArray<string>, attempts: number | undefined) =>
    Effect.gen(function* () {
      const providers = yield* Effect.forEach(ids, (id) =>
        ScriptedProvider.make({ id, script: [ScriptedProvider.fail("ServerError")] })
      )
      const [first, ...others] = providers.map((provider) => ({ provider }))
      if (first === undefined) return yield* Effect.die("no provider")
      const resilience = yield* LlmResilience.make({
        steps: [first, ...others],
        policy: LlmResilience.standard({
          retry: { schedule: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 5 })) }
        })
      })
      const fiber = yield* Effect.forkChild(
        Effect.flip(resilience.generate(LlmRequest.make({ prompt: "Hi", attempts })))
      )
      yield* TestClock.adjust("10 minutes")
      return { error: yield* Fiber.join(fiber), counts: yield* Effect.forEach(providers, ({ count }) => count) }
    })

  it.effect("bound retries and fallbacks together, and leave one for every step", () =>
    Effect.gen(function* () {
      const { counts } = yield* chain(["a", "b", "c"], 5)

      assert.deepStrictEqual(counts, [3, 1, 1])
    })
  )

  it.effect("end the chain with a reason when they are used up", () =>
    Effect.gen(function* () {
      const { counts, error } = yield* chain(["a", "b", "c"], 2)

      assert.deepStrictEqual(counts, [1, 1, 0])
      assert.strictEqual(error._tag, "LlmUnavailable")
      assert.deepInclude(error._tag === "LlmUnavailable" ? error.attempts.at(-1) : undefined, {
        provider: "c",
        reason: { _tag: "NoAttemptsLeft" }
      })
    })
  )

  it.effect("are twelve unless somebody says otherwise", () =>
    Effect.gen(function* () {
      const { counts } = yield* chain(["a", "b", "c"], undefined)

      assert.strictEqual(
        counts.reduce((sum, count) => sum + count, 0),
        12
      )
    })
  )

  it("must be a whole number of at least one", () => {
    assert.throws(() => LlmRequest.make({ prompt: "Hi", attempts: 0 }), RangeError)
    assert.throws(() => LlmRequest.make({ prompt: "Hi", attempts: 1.5 }), RangeError)
  })
})

describe("What the provider never saw", () => {
  const lasting = { name: "p", floor: 10, ratio: 0, halfLife: "1000 hours" } as const

  it.effect("comes back from a hedge that waited in a line until it was over", () =>
    Effect.gen(function* () {
      const slow = ScriptedProvider.delay(1500, ScriptedProvider.answer("Hello"))
      const provider = yield* ScriptedProvider.make({ script: [slow] })
      const budget = yield* Budget.make(lasting)
      const hedged = yield* Policy.all([
        Hedge.policy({ after: "1 second" }),
        AdaptiveConcurrency.policy({ initial: 1, max: 1, maxWait: "10 seconds" })
      ])(budget.guard(provider))
      const allowance = { left: 5 }

      const call = yield* Effect.forkChild(hedged.generate({ ...request, allowance }))
      yield* TestClock.adjust("1200 millis")
      assert.strictEqual(allowance.left, 4)
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(call)

      assert.strictEqual(yield* provider.count, 1)
      assert.closeTo(yield* budget.left, 10, 0.001)
      assert.strictEqual(allowance.left, 5)
    })
  )

  it.effect("comes back from a hedge that a bulkhead refused, without a budget as well", () =>
    Effect.gen(function* () {
      const slow = ScriptedProvider.delay(1500, ScriptedProvider.answer("Hello"))
      const provider = yield* ScriptedProvider.make({ script: [slow] })
      const line = Bulkhead.policy({ permits: 1, queue: 1, maxWait: "100 millis" })
      const hedged = yield* Policy.all([Hedge.policy({ after: "1 second" }), line])(provider)
      const allowance = { left: 5 }

      const call = yield* Effect.forkChild(hedged.generate({ ...request, allowance }))
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(call)

      assert.strictEqual(yield* provider.count, 1)
      assert.strictEqual(allowance.left, 5)
    })
  )

  it.effect("comes back from a retry that a circuit refused", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ id: "p", script: [ScriptedProvider.fail("ServerError")] })
      const budget = yield* Budget.make(lasting)
      const retried = yield* Policy.all([
        Retry.policy({ schedule: Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 2 })) }),
        CircuitBreaker.policy()
      ])(budget.guard(provider))
      const allowance = { left: 5 }

      const call = yield* Effect.forkChild(Effect.exit(retried.generate({ ...request, allowance })))
      yield* TestClock.adjust("100 millis")
      yield* Effect.flatMap(Effect.fromNullishOr(retried.circuits.get("p")), (circuit) => circuit.isolate("incident"))
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(call)

      assert.strictEqual(yield* provider.count, 1)
      assert.closeTo(yield* budget.left, 10, 0.001)
      assert.strictEqual(allowance.left, 5)
    })
  )

  it.effect("comes back from retries that a throttle refused", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ script: [ScriptedProvider.fail("Overloaded")] })
      const budget = yield* Budget.make({ ...lasting, floor: 1000 })
      const retried = yield* Policy.all([
        Retry.policy({ schedule: Schedule.recurs(1) }),
        Throttle.policy({ minimumCalls: 1, maxRate: 0.99, halfLife: "1 hour" })
      ])(budget.guard(provider))
      let sent = 0
      for (let call = 0; call < 200; call++) {
        const before = yield* provider.count
        yield* Effect.exit(retried.generate(request))
        sent += Math.max(0, (yield* provider.count) - before - 1)
      }

      assert.isBelow(sent, 200)
      assert.closeTo(yield* budget.left, 1000 - sent, 0.001)
    }).pipe(Random.withSeed("throttle"))
  )
})

describe("A step that only refuses", () => {
  const full = Effect.fnUntraced(function* (id: string) {
    const provider = yield* ScriptedProvider.make({ id, script: [ScriptedProvider.hang] })
    const step = yield* Bulkhead.policy({ permits: 1, queue: 5, maxWait: "100 millis" })(provider)
    yield* Effect.forkChild(step.generate(request), { startImmediately: true })
    return step
  })

  it.effect("costs a request no attempt", () =>
    Effect.gen(function* () {
      const c = yield* ScriptedProvider.make({ id: "c", script: [ScriptedProvider.answer("from c")] })
      const chain = yield* Fallback.make([yield* full("a"), yield* full("b"), c])

      const call = yield* Effect.forkChild(chain.generate({ ...request, allowance: { left: 0 } }))
      yield* TestClock.adjust("1 second")

      assert.strictEqual((yield* Fiber.join(call)).text, "from c")
    })
  )

  it.effect("costs none in a chain within the chain, either", () =>
    Effect.gen(function* () {
      const inner = yield* Fallback.make([yield* full("a"), yield* full("b")], { id: "inner" })
      const c = yield* ScriptedProvider.make({ id: "c", script: [ScriptedProvider.answer("from c")] })
      const chain = yield* Fallback.make([inner, c], { id: "outer" })

      const call = yield* Effect.forkChild(chain.generate({ ...request, allowance: { left: 0 } }))
      yield* TestClock.adjust("1 second")

      assert.strictEqual((yield* Fiber.join(call)).text, "from c")
    })
  )

  it.effect("costs none behind one that failed in a chain within the chain", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("ServerError")] })
      const inner = yield* Fallback.make([a, yield* full("b")], { id: "inner" })
      const c = yield* ScriptedProvider.make({ id: "c", script: [ScriptedProvider.answer("from c")] })
      const chain = yield* Fallback.make([inner, c], { id: "outer" })

      const call = yield* Effect.forkChild(chain.generate({ ...request, allowance: { left: 1 } }))
      yield* TestClock.adjust("1 second")

      assert.strictEqual((yield* Fiber.join(call)).text, "from c")
    })
  )
})

describe("Chains within chains", () => {
  const failing = (ids: ReadonlyArray<string>) =>
    Effect.forEach(ids, (id) => ScriptedProvider.make({ id, script: [ScriptedProvider.fail("ServerError")] }))

  it.effect("share the attempts of the request", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([failing(["a1", "a2"]), failing(["b1", "b2"])])
      const inner = (id: string, [one, two]: ReadonlyArray<ScriptedProvider.ScriptedProvider>) =>
        one === undefined || two === undefined
          ? Effect.die("two steps")
          : Effect.map(LlmResilience.make({ steps: [{ provider: one }, { provider: two }] }), ({ provider }) => ({
              provider: { ...provider, id }
            }))
      const resilience = yield* LlmResilience.make({ attempts: 2, steps: [yield* inner("a", a), yield* inner("b", b)] })

      const call = yield* Effect.forkChild(Effect.exit(resilience.generate(request)))
      yield* TestClock.adjust("5 minutes")
      yield* Fiber.join(call)

      const counts = yield* Effect.forEach([...a, ...b], ({ count }) => count)
      assert.strictEqual(
        counts.reduce((sum, count) => sum + count, 0),
        2
      )
    })
  )

  it.effect("obey the attempts of the request without a facade, too", () =>
    Effect.gen(function* () {
      const [a, b] = yield* Effect.all([
        ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("ServerError")] }),
        ScriptedProvider.make({ id: "b", script: [ScriptedProvider.fail("ServerError")] })
      ])
      const chain = yield* Fallback.make([a, b])
      yield* Effect.exit(chain.generate(LlmRequest.make({ prompt: "Hi", attempts: 1 })))

      assert.deepStrictEqual([yield* a.count, yield* b.count], [1, 0])
    })
  )
})
