import { assert, describe, it } from "@effect/vitest"
import {
  CircuitBreaker,
  Fallback,
  HealthChecker,
  LlmRequest,
  LlmResilience,
  Policy,
  ResilienceEvent,
  Retry,
  Vitals
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Duration, Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { availabilityOf } from "../support/availability.ts"

const request = LlmRequest.make({ prompt: "Hi" })
const up = ScriptedProvider.answer("Hello")
const down = ScriptedProvider.fail("ServerError")

const rules: HealthChecker.Rules = {
  unhealthyAfter: 2,
  minimumCalls: 5,
  degradedBelow: 0.9,
  unhealthyBelow: 0.5,
  slowFactor: 3
}

const evidence = (
  more?: Omit<Partial<HealthChecker.Evidence>, "reading"> & { readonly reading?: Partial<Vitals.Reading> }
): HealthChecker.Evidence => ({
  failedChecks: 0,
  failingSince: Infinity,
  circuit: undefined,
  ...more,
  reading: {
    calls: 100,
    successRatio: 1,
    inFlight: 0,
    hanging: false,
    measuredAt: { generate: 0, stream: -Infinity },
    latency: { generate: 100, stream: undefined },
    usual: { generate: 100, stream: undefined },
    succeededAt: 1000,
    failedAt: -Infinity,
    lastError: undefined,
    ...more?.reading
  }
})

describe("The health of a provider, as a rule", () => {
  const cases: ReadonlyArray<readonly [string, HealthChecker.Evidence, HealthChecker.State, HealthChecker.Because]> = [
    ["all is well", evidence(), "healthy", "well"],
    ["nobody knows anything", { ...evidence(), reading: undefined }, "healthy", "well"],
    [
      "its circuit is open",
      evidence({ circuit: { _tag: "Isolated", because: "x", retryAfter: Duration.infinity } }),
      "unhealthy",
      "circuit open"
    ],
    [
      "it is being probed",
      evidence({ circuit: { _tag: "HalfOpen", probing: 1, openings: 1 } }),
      "degraded",
      "recovering"
    ],
    ["it starts slowly", evidence({ circuit: { _tag: "Closed", failures: 0, limit: 4 } }), "degraded", "recovering"],
    ["one check failed", evidence({ failedChecks: 1, failingSince: 2000 }), "degraded", "checks fail"],
    ["two checks failed", evidence({ failedChecks: 2, failingSince: 2000 }), "unhealthy", "checks fail"],
    ["a call succeeded since", evidence({ failedChecks: 9, failingSince: 500 }), "healthy", "well"],
    ["calls hang", evidence({ reading: { hanging: true } }), "unhealthy", "calls hang"],
    ["some calls fail", evidence({ reading: { successRatio: 0.8 } }), "degraded", "calls fail"],
    ["most calls fail", evidence({ reading: { successRatio: 0.4 } }), "unhealthy", "calls fail"],
    ["too few calls fail", evidence({ reading: { successRatio: 0, calls: 4 } }), "healthy", "well"],
    [
      "answers take longer than usual",
      evidence({ reading: { latency: { generate: 301, stream: undefined } } }),
      "degraded",
      "slow"
    ],
    [
      "first contents take longer than usual",
      evidence({ reading: { latency: { generate: 1, stream: 301 }, usual: { generate: 1, stream: 100 } } }),
      "degraded",
      "slow"
    ],
    [
      "it is slow, but always was",
      evidence({
        reading: { latency: { generate: 900, stream: undefined }, usual: { generate: 800, stream: undefined } }
      }),
      "healthy",
      "well"
    ]
  ]
  for (const [name, known, state, because] of cases) {
    it(`is ${state} when ${name}`, () => {
      assert.deepStrictEqual(HealthChecker.judge(rules, known), [state, because])
    })
  }
})

/** A provider behind a breaker, watched; and what the hub heard. */
const watched = Effect.fnUntraced(function* (
  script: ScriptedProvider.Script,
  options?: HealthChecker.Options & { readonly breaker?: CircuitBreaker.Options }
) {
  const hub = ResilienceEvent.makeHub()
  const events: Array<ResilienceEvent.ResilienceEvent> = []
  yield* Effect.forkScoped(
    Stream.runForEach(hub.stream, (event) => Effect.sync(() => events.push(event))),
    { startImmediately: true }
  )
  const provider = yield* ScriptedProvider.make({ id: "p", script })
  const { checker, stack } = yield* Effect.gen(function* () {
    const checker = yield* HealthChecker.make(options)
    const inner = yield* Policy.all([
      CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1), openFor: "60 seconds", ...options?.breaker }),
      Vitals.policy()
    ])(provider)
    return { checker, stack: yield* checker.watch(inner, { probe: provider }) }
  }).pipe(Effect.provideService(ResilienceEvent.CurrentHub, hub))
  const state = Effect.map(checker.states, ([health]) => health && `${health.state}: ${health.because}`)
  const circuit = stack.circuits.get("p")
  return {
    provider,
    checker,
    stack,
    events,
    state,
    circuit: Effect.map(circuit?.state ?? Effect.die("no circuit"), ({ _tag }) => _tag),
    call: Effect.exit(stack.generate(request))
  }
})

const checksAt = (provider: ScriptedProvider.ScriptedProvider) =>
  Effect.map(provider.calls, (calls) =>
    calls.filter((call) => call.request.settings.maxOutputTokens === 16).map(({ at }) => at)
  )

describe("HealthChecker", () => {
  it("wants sensible options", () => {
    for (const options of [
      { unhealthyAfter: 0 },
      { minimumCalls: 0 },
      { degradedBelow: 1.1 },
      { unhealthyBelow: -0.1 },
      { slowFactor: 1 }
    ]) {
      assert.throws(() => Effect.runSync(Effect.scoped(HealthChecker.make(options))), RangeError)
    }
  })

  it.effect("checks every 30 s, give or take a fifth, while nobody calls", () =>
    Effect.gen(function* () {
      const { provider } = yield* watched([up])

      yield* TestClock.adjust("10 minutes")

      const at = yield* checksAt(provider)
      const gaps = at.map((time, index) => time - (at[index - 1] ?? 0))
      assert.isTrue(gaps.every((gap) => gap >= 24_000 && gap <= 36_000))
      assert.isAbove(new Set(gaps).size, 5)
    })
  )

  it.effect("checks every 10 s while the provider is down, so that its recovery is noticed soon", () =>
    Effect.gen(function* () {
      const { provider } = yield* watched([down])
      yield* TestClock.adjust("2 minutes")
      const before = (yield* checksAt(provider)).length

      yield* TestClock.adjust("10 minutes")

      const gaps = (yield* checksAt(provider)).slice(before).map((time, index, all) => time - (all[index - 1] ?? time))
      assert.isTrue(gaps.slice(1).every((gap) => gap >= 8000 && gap <= 12_000))
    })
  )

  it.effect("leaves a check out while real calls succeed", () =>
    Effect.gen(function* () {
      const { call, provider } = yield* watched([up])

      for (let time = 0; time < 60; time++) {
        yield* call
        yield* TestClock.adjust("10 seconds")
      }

      assert.deepStrictEqual(yield* checksAt(provider), [])
    })
  )

  it.effect("leaves a check out while the provider has asked for rest", () =>
    Effect.gen(function* () {
      const limited = ScriptedProvider.fail("RateLimited", { retryAfter: "10 minutes" })
      const provider = yield* ScriptedProvider.make({ id: "p", script: [limited] })
      const checker = yield* HealthChecker.make()
      const stack = yield* LlmResilience.standard({ cooldown: { maxRest: "10 minutes" } })(provider)
      const stepped = yield* checker.watch(stack, { probe: provider })
      yield* Effect.exit(stepped.generate(request))

      yield* TestClock.adjust("9 minutes")

      assert.strictEqual(yield* provider.count, 1)
    })
  )

  it.effect("can be switched off for a provider that costs", () =>
    Effect.gen(function* () {
      const { provider } = yield* watched([up], { checks: "off" })

      yield* TestClock.adjust("1 hour")

      assert.strictEqual(yield* provider.count, 0)
    })
  )

  it.effect("B38 tells when checks fail, and takes the provider out after the second", () =>
    Effect.gen(function* () {
      const { checker, events, provider, stack, state } = yield* watched([down])
      const changes = yield* Effect.forkChild(Stream.runCollect(Stream.take(checker.changes, 3)), {
        startImmediately: true
      })

      yield* TestClock.adjust("37 seconds")
      assert.strictEqual(yield* state, "degraded: checks fail")
      assert.isUndefined(yield* availabilityOf(stack, request))
      yield* TestClock.adjust("37 seconds")
      assert.strictEqual(yield* state, "unhealthy: checks fail")
      assert.deepStrictEqual(yield* availabilityOf(stack, request), { _tag: "Unhealthy" })
      assert.deepStrictEqual(yield* checker.getHealthyProviders, [])
      yield* provider.setScript([up])
      yield* TestClock.adjust("37 seconds")

      assert.strictEqual(yield* state, "healthy: well")
      assert.isUndefined(yield* availabilityOf(stack, request))
      assert.deepStrictEqual(yield* checker.getHealthyProviders, ["p"])
      assert.deepStrictEqual(
        Array.from(yield* Fiber.join(changes), ({ from, to }) => `${from} to ${to}`),
        ["healthy to degraded", "degraded to unhealthy", "unhealthy to healthy"]
      )
      const tags = events.map(({ _tag }) => _tag)
      assert.strictEqual(tags.filter((tag) => tag === "HealthChanged").length, 3)
      assert.isAtLeast(tags.filter((tag) => tag === "HealthChecked").length, 3)
    })
  )

  it.effect("counts a check that does not answer in time as failed", () =>
    Effect.gen(function* () {
      const { checker, provider } = yield* watched([ScriptedProvider.hang], { timeout: "10 seconds" })

      yield* TestClock.adjust("100 seconds")

      const [health] = yield* checker.states
      assert.strictEqual(health?.state, "unhealthy")
      assert.strictEqual(health?.lastError?._tag, "Timeout")
      assert.isAtMost(yield* provider.running, 1)
    })
  )

  it.effect("counts a defect of a check as failed, and goes on", () =>
    Effect.gen(function* () {
      const { provider, state } = yield* watched([up], { check: () => Effect.die("bug") })

      yield* TestClock.adjust("5 minutes")

      assert.strictEqual(yield* state, "unhealthy: checks fail")
      assert.strictEqual(yield* provider.count, 0)
    })
  )

  it.effect("learns nothing from a rate limit, and that it is well from a complaint about the check", () =>
    Effect.gen(function* () {
      const limited = yield* watched([ScriptedProvider.fail("RateLimited")])
      const picky = yield* watched([ScriptedProvider.fail("InvalidRequest")])
      const locked = yield* watched([ScriptedProvider.fail("Authentication")])

      yield* TestClock.adjust("5 minutes")

      assert.strictEqual(yield* limited.state, "healthy: well")
      assert.strictEqual(yield* picky.state, "healthy: well")
      assert.strictEqual(yield* locked.state, "unhealthy: checks fail")
    })
  )

  it.effect("lets the next call try an open circuit after a good check, before its time", () =>
    Effect.gen(function* () {
      const { call, circuit, provider } = yield* watched([down, up], { breaker: { openFor: "10 minutes" } })
      yield* call
      assert.strictEqual(yield* circuit, "Open")

      yield* TestClock.adjust("13 seconds")
      assert.strictEqual(yield* circuit, "HalfOpen")
      assert.isTrue(Exit.isSuccess(yield* call))

      assert.strictEqual(yield* circuit, "Closed")
      assert.strictEqual(yield* provider.count, 3)
    })
  )

  it.effect("keeps a circuit open while checks fail, so that no user pays for finding out", () =>
    Effect.gen(function* () {
      const { call, circuit, provider } = yield* watched([down])
      yield* call

      for (let time = 0; time < 59; time++) {
        yield* TestClock.adjust("10 seconds")
        yield* call
      }

      assert.strictEqual(yield* circuit, "Open")
      assert.strictEqual(yield* provider.count, 1 + (yield* checksAt(provider)).length)
    })
  )

  it.effect("sends checks past the breaker and whatever else is around the provider", () =>
    Effect.gen(function* () {
      const provider = yield* ScriptedProvider.make({ id: "p", script: [down] })
      const program = Effect.gen(function* () {
        yield* HealthChecker.policy(Retry.policy())(provider)
        yield* TestClock.adjust("37 seconds")
        return yield* provider.count
      })

      assert.strictEqual(yield* Effect.provide(program, HealthChecker.layer()), 1)
    })
  )

  it.effect("sends no check after its scope is closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { provider } = yield* Scope.provide(watched([up]), scope)
      yield* TestClock.adjust("1 minute")
      const before = yield* provider.count
      yield* Scope.close(scope, Exit.void)

      yield* TestClock.adjust("1 hour")

      assert.isAbove(before, 0)
      assert.strictEqual(yield* provider.count, before)
    })
  )

  it.effect("interrupts a check under way when its scope is closed", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { provider } = yield* Scope.provide(watched([ScriptedProvider.hang], { timeout: "1 hour" }), scope)
      yield* TestClock.adjust("37 seconds")
      assert.strictEqual(yield* provider.running, 1)

      yield* Scope.close(scope, Exit.void)

      assert.strictEqual(yield* provider.running, 0)
    })
  )
})

describe("A chain whose steps are watched", () => {
  const chainOf = Effect.fnUntraced(function* (options?: HealthChecker.Options) {
    const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.answer("from a")] })
    const b = yield* ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("from b")] })
    const blind = () => Effect.die("the check itself is broken")
    const resilience = yield* LlmResilience.make({
      health: { check: blind, ...options },
      steps: [{ provider: a }, { provider: b }]
    })
    return { a, b, resilience }
  })

  it.effect("passes over whom a check holds for unhealthy", () =>
    Effect.gen(function* () {
      const { a, resilience } = yield* chainOf({
        check: (provider) => (provider.id === "a" ? Effect.die("down") : Effect.void)
      })
      yield* TestClock.adjust("2 minutes")

      const { served } = yield* resilience.generate(request)

      assert.strictEqual(served.provider, "b")
      assert.deepInclude(served.attempts[0], { provider: "a", reason: { _tag: "Unhealthy" } })
      assert.strictEqual(yield* a.count, 0)
    })
  )

  it.effect("turns to the next step while calls hang, long before their timeouts, and back when one is answered", () =>
    Effect.gen(function* () {
      const { a, b, resilience } = yield* chainOf({ checks: "off" })
      const ask = resilience.generate(request)
      for (let call = 0; call < 20; call++) yield* ask
      yield* a.setScript([ScriptedProvider.delay("20 seconds", ScriptedProvider.answer("late"))])
      yield* TestClock.adjust("1 second")
      const hung = yield* Effect.forEach(Array.from({ length: 5 }), () =>
        Effect.forkChild(ask, { startImmediately: true })
      )

      yield* TestClock.adjust("2900 millis")
      const waiting = yield* Effect.forkChild(ask)
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* b.count, 0)
      assert.strictEqual((yield* ask).text, "from b")
      assert.deepStrictEqual(
        (yield* resilience.health.states).map(({ because }) => because),
        ["calls hang", "well"]
      )
      yield* TestClock.adjust("20 seconds")
      yield* a.setScript([ScriptedProvider.answer("from a")])

      assert.strictEqual((yield* ask).text, "from a")
      for (const fiber of [...hung, waiting]) assert.strictEqual((yield* Fiber.join(fiber)).text, "late")
    })
  )

  it.effect("asks a step again after a while although a wrong check keeps failing", () =>
    Effect.gen(function* () {
      const { a, b, resilience } = yield* chainOf({
        check: (provider) => (provider.id === "a" ? Effect.die("the check is wrong") : Effect.void)
      })
      yield* TestClock.adjust("2 minutes")
      for (let call = 0; call < 600; call++) {
        yield* resilience.generate(request)
        yield* TestClock.adjust("6 seconds")
      }

      assert.isAtLeast(yield* a.count, 5)
      assert.strictEqual((yield* a.count) + (yield* b.count), 600)
    })
  )

  it.effect("opens a half-open circuit again when a check fails", () =>
    Effect.gen(function* () {
      let well = true
      const { a, resilience } = yield* chainOf({
        check: () => (well ? Effect.void : Effect.die("down")),
        interval: "10 seconds"
      })
      yield* a.setScript([down])
      const circuit = yield* Effect.fromNullishOr(resilience.circuits.get("a"))
      const calls = Effect.forEach(Array.from({ length: 5 }), () => Effect.exit(resilience.generate(request)))
      const asking = yield* Effect.forkChild(calls)
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(asking)
      assert.strictEqual((yield* circuit.state)._tag, "Open")

      yield* TestClock.adjust("35 seconds")
      assert.strictEqual((yield* circuit.state)._tag, "HalfOpen")
      well = false
      yield* TestClock.adjust("25 seconds")
      assert.strictEqual((yield* circuit.state)._tag, "Open")
    })
  )

  it.effect("is not stopped by checks that are wrong by themselves", () =>
    Effect.gen(function* () {
      const { resilience } = yield* chainOf()
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* resilience.health.getHealthyProviders, [])

      const answers = yield* Effect.forEach(Array.from({ length: 50 }), () => resilience.generate(request), {
        concurrency: 50
      })

      assert.isTrue(answers.every(({ text }) => text === "from a"))
      assert.deepStrictEqual(yield* resilience.health.getHealthyProviders, ["a"])
    })
  )

  it.effect("asks the spared one before it gives up, and says both", () =>
    Effect.gen(function* () {
      const { a, b, resilience } = yield* chainOf({
        check: (provider) => (provider.id === "a" ? Effect.die("down") : Effect.void)
      })
      yield* b.setScript([ScriptedProvider.fail("Authentication")])
      yield* TestClock.adjust("2 minutes")

      const { served, text } = yield* resilience.generate(request)

      assert.strictEqual(text, "from a")
      assert.deepStrictEqual(
        served.attempts.map(({ _tag, provider }) => `${provider} ${_tag}`),
        ["a Skipped", "b Failed"]
      )
      assert.strictEqual(yield* a.count, 1)
    })
  )

  it.effect("sends nothing that no user asked for unless it is told to", () =>
    Effect.gen(function* () {
      const a = yield* ScriptedProvider.make({ id: "a", script: [up] })
      const resilience = yield* LlmResilience.make({ steps: [{ provider: a }] })

      yield* TestClock.adjust("1 hour")

      assert.strictEqual(yield* a.count, 0)
      assert.deepStrictEqual(
        (yield* resilience.health.states).map(({ provider, state }) => `${provider} ${state}`),
        ["a healthy"]
      )
    })
  )

  it.effect("lets a recovered step come back gradually, but not at the cost of a call that nobody else can take", () =>
    Effect.gen(function* () {
      const slowly = ScriptedProvider.delay("1 second", ScriptedProvider.answer("from a"))
      const a = yield* ScriptedProvider.make({ id: "a", script: [ScriptedProvider.fail("ServerError"), slowly] })
      const b = yield* ScriptedProvider.make({ id: "b", script: [ScriptedProvider.answer("from b")] })
      const chain = yield* Effect.flatMap(
        CircuitBreaker.policy({
          trip: CircuitBreaker.consecutive(1),
          openFor: "10 seconds",
          slowStart: "20 seconds"
        })(a),
        (guarded) => Fallback.make([guarded, b])
      )
      const ten = Effect.gen(function* () {
        const fiber = yield* Effect.forkChild(
          Effect.forEach(Array.from({ length: 10 }), () => chain.generate(request), { concurrency: 10 })
        )
        yield* TestClock.adjust("2 seconds")
        return (yield* Fiber.join(fiber)).filter(({ text }) => text === "from a").length
      })
      assert.strictEqual(yield* ten, 0)
      yield* TestClock.adjust("10 seconds")

      const shares = [yield* ten, yield* ten, yield* ten, yield* ten]
      assert.deepStrictEqual(shares, [1, 2, 4, 8])

      yield* TestClock.adjust("1 minute")
      yield* a.setScript([ScriptedProvider.fail("ServerError"), slowly])
      yield* ten
      yield* b.setScript([ScriptedProvider.fail("Authentication")])
      yield* TestClock.adjust("10 seconds")
      yield* Effect.exit(chain.generate(request)).pipe(Effect.forkChild)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* ten, 10)
    })
  )
})
