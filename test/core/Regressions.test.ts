import { assert, describe, it } from "@effect/vitest"
import {
  Bulkhead,
  CircuitBreaker,
  Cooldown,
  Fallback,
  LlmRequest,
  LlmResilience,
  type LlmResponse,
  Policy,
  Provider,
  ResilienceEvent,
  Retry,
  Timeouts
} from "@llm-resilience/core"
import { ScriptedProvider } from "@llm-resilience/testing"
import { Clock, Duration, Effect, Exit, Fiber, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import { availabilityOf } from "../support/availability.ts"

// Each test is the smallest reproduction of a defect that a review found. They stay.

const request = LlmRequest.make({ prompt: "Hi" })
const within = (seconds: number) => LlmRequest.make({ prompt: "Hi", deadline: Duration.seconds(seconds) })

const scripted = (id: string, ...script: ReadonlyArray<ScriptedProvider.Step>) =>
  ScriptedProvider.make({ id, script: script.length === 0 ? [ScriptedProvider.answer(id)] : script })

const ends = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>, time: Duration.Input = "1 hour") {
  const start = yield* Clock.currentTimeMillis
  const fiber = yield* Effect.forkChild(
    Effect.flatMap(Effect.exit(effect), (exit) =>
      Effect.map(Clock.currentTimeMillis, (at) => ({ exit, at: at - start }))
    )
  )
  yield* TestClock.adjust(time)
  return yield* Fiber.join(fiber)
})

const servedOf = (exit: Exit.Exit<{ readonly served: LlmResponse.Served }, Provider.Failure>) =>
  Exit.isSuccess(exit) ? exit.value.served : undefined

const story = (served: LlmResponse.Served | undefined) =>
  served?.attempts.map((attempt) =>
    attempt._tag === "Failed"
      ? `${attempt.provider} ${attempt.error._tag === "APIError" ? attempt.error.reason : attempt.error._tag}`
      : `${attempt.provider} ${attempt._tag === "Skipped" ? attempt.reason._tag : attempt._tag}`
  )

/** Reads a stream to its end and gives the last record of how it was served. */
const streamed = (provider: Pick<Provider.Provider, "stream">, asked: LlmRequest.LlmRequest) =>
  Effect.flatMap(Stream.runCollect(provider.stream(asked)), (parts) => {
    const part = parts.findLast((part) => part.type === "served")
    return part?.type === "served" ? Effect.succeed({ served: part.served }) : Effect.die("no served part")
  })

const stateOf = (provider: Provider.Provider, id: string) =>
  Effect.flatMap(Effect.fromNullishOr(provider.circuits.get(id)), (circuit) => circuit.state)

describe("The share of a stream", () => {
  it.effect("is the step's own affair, so a hung provider opens its breaker", () =>
    Effect.gen(function* () {
      const hung = yield* scripted("hung", ScriptedProvider.hang)
      const self = yield* LlmResilience.standard()(hung)
      const chain = yield* Fallback.make([self, yield* scripted("b")])
      for (let calls = 0; calls < 7; calls++) yield* ends(streamed(chain, within(3)), "5 seconds")

      assert.strictEqual(yield* hung.count, 5)
      assert.strictEqual((yield* stateOf(self, "hung"))._tag, "Open")
    })
  )

  it.effect("is kept by retries: what does not fit is not waited for, and the error is not masked", () =>
    Effect.gen(function* () {
      const limited = yield* scripted("a", ScriptedProvider.fail("RateLimited", { retryAfter: "4500 millis" }))
      const chain = yield* Fallback.make([yield* Retry.policy()(limited), yield* scripted("b")])
      const { at, exit } = yield* ends(streamed(chain, within(6)))

      assert.strictEqual(at, 0)
      assert.deepStrictEqual(story(servedOf(exit)), ["a RateLimited"])
    })
  )

  it.effect("is handed on to a chain within the chain", () =>
    Effect.gen(function* () {
      const inner = yield* Fallback.make(
        [
          yield* scripted("a", ScriptedProvider.hang),
          yield* scripted("b", ScriptedProvider.delay("1 second", ScriptedProvider.answer("b")))
        ],
        { id: "inner" }
      )
      const chain = yield* Fallback.make([inner, yield* scripted("c")])
      const { exit } = yield* ends(streamed(chain, within(30)))

      assert.strictEqual(servedOf(exit)?.provider, "b")
      assert.deepStrictEqual(story(servedOf(exit)), ["a Timeout"])
    })
  )
})

describe("A retry", () => {
  it.live("is not refused by the rest that it waited out, although timers wake a little early", () =>
    Effect.gen(function* () {
      const limited = ScriptedProvider.fail("RateLimited", { retryAfter: "7 millis" })
      const policy = Policy.all([Retry.policy(), Cooldown.policy()])
      const served = yield* Effect.forEach(
        Array.from({ length: 60 }),
        () =>
          Effect.gen(function* () {
            const self = yield* policy(yield* scripted("a", limited, ScriptedProvider.answer("a")))
            const chain = yield* Fallback.make([self, yield* scripted("b")])
            return (yield* chain.generate(request)).served
          }),
        { concurrency: 10 }
      )

      assert.deepStrictEqual([...new Set(served.map(({ provider }) => provider))], ["a"])
    })
  )

  it.effect("is not waited for when its call would be refused, and the error of the provider stays", () =>
    Effect.gen(function* () {
      const policy = Policy.all([
        Retry.policy({ schedule: Schedule.spaced("3 seconds") }),
        CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })
      ])
      const chain = yield* Fallback.make([
        yield* policy(yield* scripted("a", ScriptedProvider.fail("ServerError"))),
        yield* scripted("b")
      ])
      const { at, exit } = yield* ends(chain.generate(request))

      assert.strictEqual(at, 0)
      assert.deepStrictEqual(story(servedOf(exit)), ["a ServerError"])
    })
  )

  it.effect("does not multiply the last resort", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a", ScriptedProvider.fail("ServerError"))
      const policy = Policy.all([
        Retry.policy({ schedule: Schedule.recurs(2) }),
        CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })
      ])
      const chain = yield* Fallback.make([yield* policy(a)])
      yield* Effect.ignore(chain.generate(request))
      yield* Effect.ignore(chain.generate(request))

      assert.strictEqual(yield* a.count, 2)
    })
  )

  it.effect("of a timeout leaves the other steps of an outer chain their turn", () =>
    Effect.gen(function* () {
      const eu = yield* scripted("eu", ScriptedProvider.hang)
      const inner = yield* Fallback.make([yield* LlmResilience.standard()(eu)], { id: "regions" })
      const chain = yield* Fallback.make([inner, yield* scripted("other")])
      const { at, exit } = yield* ends(chain.generate(request))

      assert.strictEqual(servedOf(exit)?.provider, "other")
      assert.strictEqual(at, 30_000)
      assert.strictEqual(yield* eu.count, 1)
    })
  )

  it.effect("fails the call when its schedule dies, and hangs nobody", () =>
    Effect.gen(function* () {
      const broken = Schedule.fromStep(Effect.succeed(() => Effect.die("broken schedule")))
      const self = yield* Retry.policy({ schedule: broken })(yield* scripted("a", ScriptedProvider.fail("ServerError")))

      assert.isTrue(Exit.hasDies(yield* Effect.exit(self.generate(request))))
    })
  )
})

describe("A chain within a chain", () => {
  it.effect("does not spend time on its last resort while the outer one has a healthy step", () =>
    Effect.gen(function* () {
      const open = CircuitBreaker.policy({ trip: CircuitBreaker.consecutive(1) })
      const eu = yield* open(yield* scripted("eu", ScriptedProvider.fail("ServerError"), ScriptedProvider.hang))
      const inner = yield* Fallback.make([eu], { id: "regions" })
      const chain = yield* Fallback.make([inner, yield* scripted("other")])
      yield* chain.generate(request)
      const { at, exit } = yield* ends(chain.generate(request), "5 seconds")

      assert.strictEqual(servedOf(exit)?.provider, "other")
      assert.strictEqual(at, 0)
      assert.strictEqual((yield* availabilityOf(inner, request))?._tag, "CircuitOpen")
    })
  )
})

describe("A step", () => {
  it.effect("has the whole deadline when nobody else would take the request", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a", ScriptedProvider.delay("25 seconds", ScriptedProvider.answer("a")))
      const b = yield* CircuitBreaker.policy()(yield* scripted("b"))
      const chain = yield* Fallback.make([a, b])
      yield* Effect.flatMap(Effect.fromNullishOr(chain.circuits.get("b")), (circuit) => circuit.isolate("incident"))
      const { at, exit } = yield* ends(chain.generate(within(30)))

      assert.strictEqual(servedOf(exit)?.provider, "a")
      assert.strictEqual(at, 25_000)
    })
  )

  it.effect("is called only after the one before has let go", () =>
    Effect.gen(function* () {
      const hung = yield* scripted("a", ScriptedProvider.hang)
      const seen: Array<number> = []
      const b = Provider.make({
        id: "b",
        model: "m",
        generate: () =>
          Effect.flatMap(hung.running, (running) => {
            seen.push(running)
            return Effect.succeed({ content: [{ type: "text", text: "b" }] })
          })
      })
      const chain = yield* Fallback.make([yield* Timeouts.policy({ attempt: "1 second", ending: "hard" })(hung), b])
      yield* ends(chain.generate(request))

      assert.deepStrictEqual(seen, [0])
    })
  )

  it.effect("that interrupts itself, or whose policy dies, is a failure of that step", () =>
    Effect.gen(function* () {
      const selfish = Provider.make({ id: "selfish", model: "m", generate: () => Effect.interrupt })
      const dying = yield* Policy.make(() => ({ generate: () => Effect.die("bug") }))(yield* scripted("dying"))
      const chain = yield* Fallback.make([selfish, dying, yield* scripted("c")])
      const response = yield* chain.generate(request)

      assert.deepStrictEqual(story(response.served), ["selfish ServerError", "dying ServerError"])
    })
  )
})

describe("Timeouts", () => {
  it.effect("guard the set-up of a stream as well as its pulls", () =>
    Effect.gen(function* () {
      const stuck = Provider.make({ id: "stuck", model: "m", stream: () => Stream.fromPull(Effect.never) })
      const self = yield* Timeouts.policy({ firstToken: "1 second" })(stuck)
      const { at, exit } = yield* ends(Stream.runDrain(self.stream(request)))

      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(at, 1000)
    })
  )

  it.effect("return on time with a hard ending, although what the stream acquired is slow to release", () =>
    Effect.gen(function* () {
      let released = false
      const slow = Provider.make({
        id: "slow",
        model: "m",
        stream: () =>
          Stream.unwrap(
            Effect.as(
              Effect.acquireRelease(Effect.void, () =>
                Effect.andThen(
                  Effect.sleep("3 seconds"),
                  Effect.sync(() => {
                    released = true
                  })
                )
              ),
              Stream.never
            )
          )
      })
      const self = yield* Timeouts.policy({ firstToken: "1 second", ending: "hard" })(slow)
      const { at } = yield* ends(Stream.runDrain(self.stream(request)))

      assert.strictEqual(at, 1000)
      assert.isTrue(released)
    })
  )

  it.effect("keep the caller who leaves until the call has cleaned up, with a deadline as without", () =>
    Effect.gen(function* () {
      for (const asked of [request, within(30)]) {
        let cleaned = false
        const cleaning = Effect.onInterrupt(Effect.never, () =>
          Effect.andThen(
            Effect.sleep("1 second"),
            Effect.sync(() => {
              cleaned = true
            })
          )
        )
        const provider = Provider.make({
          id: "a",
          model: "m",
          generate: () => cleaning,
          stream: () => Stream.fromEffect(cleaning)
        })
        const chain = yield* Fallback.make([yield* Timeouts.policy()(provider)])
        for (const call of [chain.generate(asked), Stream.runDrain(chain.stream(asked))]) {
          cleaned = false
          const fiber = yield* Effect.forkChild(call)
          yield* TestClock.adjust("10 millis")
          const leaving = yield* Effect.forkChild(Fiber.interrupt(fiber))
          yield* TestClock.adjust("500 millis")
          assert.isFalse(cleaned)
          assert.isUndefined(leaving.pollUnsafe())
          yield* TestClock.adjust("500 millis")
          yield* Fiber.join(leaving)
          assert.isTrue(cleaned)
        }
      }
    })
  )

  it.effect("leak no call when the caller is interrupted while it is being forked", () =>
    Effect.gen(function* () {
      let running = 0
      const provider = Provider.make({
        id: "a",
        model: "m",
        generate: () =>
          Effect.onExit(
            Effect.suspend(() => {
              running++
              return Effect.never
            }),
            () => {
              running--
              return Effect.void
            }
          )
      })
      const self = yield* Timeouts.policy()(provider)
      for (let operations = 2030; operations < 2060; operations++) {
        const busy = Effect.gen(function* () {
          for (let index = 0; index < operations; index++) yield* Effect.void
          return yield* self.generate(request)
        })
        const fiber = yield* Effect.forkChild(busy, { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(running, 0, `${operations} operations before`)
      }
    })
  )

  it.effect("and Retry keep a deadline also outside of a chain", () =>
    Effect.gen(function* () {
      const self = yield* Policy.all([Retry.policy(), Timeouts.policy()])(yield* scripted("a", ScriptedProvider.hang))
      const { at } = yield* ends(self.generate(within(5)))

      assert.strictEqual(at, 5000)
    })
  )

  it.effect("end a stream at its deadline although the next part is there already", () =>
    Effect.gen(function* () {
      const self = yield* Timeouts.policy()(yield* scripted("a", ScriptedProvider.tokens("a b c d e f")))
      const { at, exit } = yield* ends(
        Stream.runForEach(Stream.rechunk(self.stream(within(15)), 1), () => Effect.sleep("10 seconds"))
      )

      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(at, 20_000)
    })
  )
})

describe("The service", () => {
  it.effect("is as a provider what it is as a service: numbered, with the standing deadline", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a", ScriptedProvider.hang)
      const { provider } = yield* LlmResilience.make({ steps: [{ provider: a }], deadline: "5 seconds" })
      const { at } = yield* ends(provider.generate(request))
      const [call] = yield* a.calls

      assert.strictEqual(at, 5000)
      assert.strictEqual(call?.request.id, 1)
    })
  )

  it.effect("wakes an isolated provider when an operator resets it", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a", ScriptedProvider.fail("Authentication"), ScriptedProvider.answer("a"))
      const resilience = yield* LlmResilience.make({ steps: [{ provider: a }, { provider: yield* scripted("b") }] })
      assert.strictEqual((yield* resilience.generate(request)).text, "b")
      assert.strictEqual((yield* resilience.generate(request)).text, "b")
      yield* Effect.flatMap(Effect.fromNullishOr(resilience.circuits.get("a")), (circuit) => circuit.reset)

      assert.strictEqual((yield* resilience.generate(request)).text, "a")
    })
  )

  it.effect("shows what time has done to a circuit", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({ name: "a" })
      yield* breaker.isolate("lunch", { duration: "10 seconds" })
      yield* TestClock.adjust("10 seconds")

      assert.deepStrictEqual(yield* breaker.state, { _tag: "Closed", failures: 0 })
    })
  )

  it.effect("does not send the user away for hours when another step may be back any moment", () =>
    Effect.gen(function* () {
      const chain = yield* Fallback.make([
        yield* scripted("a", ScriptedProvider.fail("Network")),
        yield* scripted("b", ScriptedProvider.fail("QuotaExhausted", { retryAfter: "3 hours" }))
      ])
      const error = yield* Effect.flip(chain.generate(request))

      assert.strictEqual(error._tag === "LlmUnavailable" ? error.suggestion : error._tag, "Try again later.")
    })
  )

  it.effect("tells that it fell back also when the first step was skipped", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const resilience = yield* LlmResilience.make({
        hub,
        steps: [{ provider: yield* scripted("a") }, { provider: yield* scripted("b") }]
      })
      yield* Effect.flatMap(Effect.fromNullishOr(resilience.circuits.get("a")), (circuit) =>
        circuit.isolate("incident")
      )
      const tags: Array<string> = []
      yield* Effect.forkChild(
        Stream.runForEach(resilience.events, (event) => Effect.sync(() => tags.push(event._tag))),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      yield* resilience.generate(request)
      yield* TestClock.adjust("1 milli")

      assert.deepStrictEqual(tags.slice(0, 4), ["RequestStarted", "StepSkipped", "FellBack", "AttemptStarted"])
    })
  )

  it.effect("ends the events with its scope", () =>
    Effect.gen(function* () {
      const listener = yield* Effect.scoped(
        Effect.gen(function* () {
          const resilience = yield* LlmResilience.make({ steps: [{ provider: yield* scripted("a") }] })
          const fiber = yield* Effect.forkDetach(Stream.runDrain(resilience.events), { startImmediately: true })
          yield* Effect.yieldNow
          return fiber
        })
      )
      yield* Fiber.join(listener)
    })
  )
})

describe("A newcomer", () => {
  it.effect("may pass a deadline that has passed already: nobody is asked", () =>
    Effect.gen(function* () {
      const a = yield* scripted("a")
      const resilience = yield* LlmResilience.make({ steps: [{ provider: a }] })
      const late = LlmRequest.make({ prompt: "Hi", deadline: Duration.millis(-3) })
      const error = yield* Effect.flip(resilience.generate(late))

      assert.strictEqual(error._tag, "LlmUnavailable")
      assert.match(error.message, /NoTimeLeft/)
      assert.strictEqual(yield* a.count, 0)
    })
  )

  it.effect("is told at once that a chain needs a step", () =>
    Effect.gen(function* () {
      const none = [] as unknown as readonly [Provider.Provider]
      const exit = yield* Effect.exit(Fallback.make(none))

      assert.isTrue(Exit.hasDies(exit))
    })
  )

  it.effect("sees no incident when the layer ends", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const tags: Array<string> = []
      yield* Effect.forkChild(
        Stream.runForEach(hub.stream, (event) => Effect.sync(() => tags.push(event._tag))),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      yield* Effect.scoped(Effect.asVoid(LlmResilience.make({ hub, steps: [{ provider: yield* scripted("a") }] })))
      yield* Effect.yieldNow

      assert.deepStrictEqual(tags, [])
    })
  )

  it.effect("learns from the events who was asked to finish a broken stream", () =>
    Effect.gen(function* () {
      const hub = ResilienceEvent.makeHub()
      const events: Array<string> = []
      yield* Effect.forkChild(
        Stream.runForEach(hub.stream, (event) =>
          Effect.sync(() => events.push("provider" in event ? `${event._tag} ${event.provider}` : event._tag))
        ),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      const [a, b, c] = yield* Effect.all([
        scripted("a", ScriptedProvider.stream(["Hello", ScriptedProvider.cut])),
        scripted("b", ScriptedProvider.fail("Overloaded")),
        scripted("c", ScriptedProvider.answer("Hello there"))
      ])
      const chain = yield* Effect.provideService(Fallback.make([a, b, c]), ResilienceEvent.CurrentHub, hub)
      yield* Stream.runDrain(chain.stream(request))
      yield* TestClock.adjust("1 milli")

      assert.deepStrictEqual(events, [
        "AttemptStarted a",
        "AttemptSucceeded a",
        "Committed a",
        "AttemptStarted b",
        "AttemptFailed b",
        "AttemptStarted c",
        "AttemptSucceeded c",
        "Recovered"
      ])
    })
  )
})

describe("Provider.make", () => {
  it.effect("gives an answer without an end one, so that its stream has one too", () =>
    Effect.gen(function* () {
      const provider = Provider.make({
        id: "a",
        model: "m",
        generate: () => Effect.succeed({ content: [{ type: "text", text: "Hi" }] })
      })
      const parts = yield* Stream.runCollect(provider.stream(request))

      assert.strictEqual(parts.at(-1)?.type, "finish")
    })
  )
})

describe("A settle that dies", () => {
  it.effect("keeps nobody's permit", () =>
    Effect.gen(function* () {
      const dying = Policy.observe<void>({ admit: () => Effect.void, settle: () => Effect.die("a metric is broken") })
      const bulkhead = yield* Bulkhead.make({ permits: 2, queue: 0 })
      const before = yield* bulkhead.state
      const provider = yield* scripted("p")
      const self = bulkhead.guard({ ...provider, ...dying(provider) })
      for (let call = 0; call < 3; call++) yield* Effect.exit(self.generate(request))
      for (let call = 0; call < 3; call++) yield* Effect.exit(Stream.runDrain(self.stream(request)))

      assert.deepStrictEqual(yield* bulkhead.state, before)
      assert.strictEqual(yield* provider.count, 6)
    })
  )
})

describe("A policy that throws instead of failing", () => {
  it.effect("is the failure of its step, and keeps no last resort", () =>
    Effect.gen(function* () {
      const bug = (): never => {
        throw new Error("a bug")
      }
      const first = yield* Policy.make(() => ({
        generate: bug,
        stream: bug,
        keepsDeadline: true,
        availability: ({ lastResort }) => (lastResort ? undefined : { _tag: "CoolingDown", retryAfter: Duration.zero })
      }))(yield* scripted("first"))
      const alone = yield* Fallback.make([first], { lastResortEvery: 0 })
      const throwing = yield* Policy.make(() => ({ generate: bug, stream: bug, keepsDeadline: true }))(
        yield* scripted("throwing")
      )
      const healthy = yield* Fallback.make([throwing, yield* scripted("second")])

      for (let call = 0; call < 2; call++) {
        const error = yield* Effect.flip(alone.generate(request))
        assert.deepStrictEqual(error._tag === "LlmUnavailable" ? error.attempts.map(({ _tag }) => _tag) : error._tag, [
          "Skipped",
          "Failed"
        ])
      }
      assert.strictEqual((yield* healthy.generate(request)).served.provider, "second")
    })
  )
})
